"""Whole runs on data in shards: killed, as a gang, on damaged data, within their memory."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import processes, series, warm
from trainer.data import dataset, idx, shards, sources
from trainer.runs import checkpoint
from trainer.storage.base import open_storage

# 4,000 images in 5 shards of 800, 25 steps each; 122 steps are an epoch.
COMMON = ("train", "--preset", "mlp-100", "--batch-size", "32", "--shuffle-shards", "2")
STEPS = 300 if series.LONG else 160


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    sources.put("digits", str(folder), train_count=4000, test_count=300, split=5)
    return folder


def job(data: Path, run: Path, *more: str) -> tuple[str, ...]:
    settings = ("--validation", "100", "--steps", str(STEPS), "--chunk-steps", "7")
    places = ("--checkpoint-steps", "7", "--memory", "4", "--data", str(data), "--run", str(run))
    return (*COMMON, *settings, *places, *more)


def result(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "result.json").read_text())
    return values


def train(*arguments: str) -> None:
    code, _, err = warm.run(*arguments)
    assert (code, err) == (0, "")


def test_killed_within_a_window_a_run_ends_with_the_same_weights(
    sharded: Path, tmp_path: Path
) -> None:
    train(*job(sharded, tmp_path / "whole", "--xla", "auto"))
    whole = result(tmp_path / "whole")
    assert whole["train_accuracy_images"] == 3900
    assert whole["epochs"] == pytest.approx(STEPS * 32 / 3900, abs=1e-4)
    assert min(whole["train_accuracy"], whole["validation_accuracy"]) > 0.7

    run = tmp_path / "run"
    with warm.running(*job(sharded, run, "--xla", "auto")) as trainer:
        processes.wait_until(lambda: checkpoint.steps(open_storage(str(run)))[:1] >= [20])
        processes.kill_all(trainer.pid)
    killed_at = checkpoint.steps(open_storage(str(run)))[0]
    assert killed_at < STEPS
    train(
        *job(sharded, run, "--memory", "400", "--xla", "auto")
    )  # where everything fits, and is kept
    assert result(run)["weights_sha256"] == whole["weights_sha256"]

    code, out, _ = warm.run("evaluate", "--run", str(run), "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == pytest.approx(whole["test_accuracy"])

    code, _, err = warm.run(*job(sharded, run, "--xla", "auto"), "--shuffle-shards", "1")
    assert code == 2
    assert "shuffle_shards (2 there, 1 here)" in err


@pytest.mark.early
def test_two_workers_see_the_samples_of_one_and_a_killed_one_costs_nothing(
    sharded: Path, tmp_path: Path
) -> None:
    losses = {}
    for workers in (1, 2):
        run = tmp_path / str(workers)
        train(*job(sharded, run, "--chunk-steps", "1", "--workers", str(workers)))
        lines = (run / "metrics.jsonl").read_text().splitlines()
        losses[workers] = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert len(losses[1]) == STEPS
    np.testing.assert_allclose(losses[2], losses[1], rtol=0, atol=1e-3)
    whole = result(tmp_path / "2")
    one = result(tmp_path / "1")
    np.testing.assert_allclose(whole["train_accuracy"], one["train_accuracy"], atol=0.01)

    run = tmp_path / "killed"
    with warm.running(*job(sharded, run, "--workers", "2")) as gang:
        processes.wait_until(lambda: checkpoint.steps(open_storage(str(run)))[:1] >= [20])
        os.kill(processes.workers(gang.pid)[1], signal.SIGKILL)
        code, _, _ = processes.finish(gang)
    assert code == 0
    assert result(run)["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize(("number", "workers"), [(0, 1), (2, 1), (4, 2)])
def test_a_damaged_shard_is_told_in_one_line(
    number: int, workers: int, sharded: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in sharded.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    name = shards.names(number, 5)[0]
    (data / name).write_bytes(b"\0" * (data / name).stat().st_size)
    code, _, err = warm.run(*job(data, tmp_path / "run", "--workers", str(workers)))
    assert (code, err.count("\n")) == (65, 1)
    assert f"{data}/{name}: " in err


def test_what_cannot_fit_is_refused_before_anything_is_written(
    sharded: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, _, err = warm.run(*job(sharded, run, "--memory", "1"))
    assert (code, err.count("\n")) == (2, 1)
    assert "memory: 1 MiB: two windows of 2 of the 5 shards" in err
    assert not run.exists()


def peak(data: Path, run: Path, *more: str) -> float:
    """Return the most memory that a worker had while it trained, MiB."""
    most = 0.0
    with warm.running(*COMMON[:3], "--data", str(data), "--run", str(run), *more) as trainer:
        while trainer.poll() is None:
            for worker in processes.workers(trainer.pid).values():
                most = max(most, _high_water(worker))
            time.sleep(0.02)
        code, _, err = processes.finish(trainer)
    assert (code, err) == (0, "")
    return most


def _high_water(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def test_a_worker_does_not_grow_with_its_data(tmp_path: Path) -> None:
    """Twelve shards of 15 MB take no more than three of them."""
    pixels = np.random.default_rng(1).integers(0, 256, (15_000, 32, 32)).astype(np.uint8)
    labels = (np.arange(15_000) % 10).astype(np.uint8)
    listed = shards.Shard(15_000, idx.sha256(pixels), idx.sha256(labels))
    most = {}
    for count in (3, 12):
        data = tmp_path / str(count)
        data.mkdir()
        for number in range(count):
            for name, array in zip(shards.names(number, count), (pixels, labels), strict=True):
                (data / name).write_bytes(idx.encode(array))
        index = shards.Index((32, 32, 1), 10, (listed,) * count)
        (data / shards.INDEX).write_bytes(shards.encode(index))
        for name, array in zip(dataset.FILES[2:], (pixels[:100], labels[:100]), strict=True):
            (data / name).write_bytes(idx.encode(array))
        settings = ("--validation", "0", "--batch-size", "1000", "--epochs", "1", "--memory", "50")
        most[count] = peak(data, tmp_path / f"run-{count}", *settings)
    assert most[12] < most[3] + 30  # 9 shards more are 138 MB
