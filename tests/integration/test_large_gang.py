"""More workers than have one digit: where text order and numeric order part."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import processes, series, warm
from trainer.runs import checkpoint
from trainer.runs import run_folder as runs
from trainer.storage.base import open_storage

WORKERS = series.length(11, 16)
KILLS = series.length(1, 3)
BATCH, STEPS, CHUNK = 240, 600 if series.LONG else 240, 20


def job(data: Path, run: Path, workers: int) -> tuple[str, ...]:
    return (
        *("train", "--model", "tiny_models:linear", "--workers", str(workers)),
        *("--batch-size", str(BATCH - BATCH % workers), "--learning-rate", "0.01"),
        *("--validation", "300", "--steps", str(STEPS), "--chunk-steps", str(CHUNK)),
        *("--checkpoint-steps", str(CHUNK), "--eval-epochs", "4"),
        *("--data", str(data), "--run", str(run)),
    )


def newest(run: Path) -> int:
    return max(checkpoint.steps(open_storage(str(run))), default=0)


def renewed(pid: int, struck: set[int]) -> bool:
    """Whether every rank has a worker that was not there before."""
    now = processes.workers(pid).values()
    return len(now) == WORKERS and struck.isdisjoint(now)


def ended(run: Path) -> tuple[list[float], dict[str, Any]]:
    """Training losses by chunk, and the result."""
    storage = open_storage(str(run))
    lines = runs.read_metrics(storage, STEPS)
    return [line["loss"] for line in lines if "loss" in line], runs.read_result(storage) or {}


@pytest.mark.early
def test_the_number_of_workers_may_change_to_more_than_ten_and_back(
    digits: Path, tmp_path: Path
) -> None:
    alone, run = tmp_path / "alone", tmp_path / "run"
    batch = ("--batch-size", str(BATCH - BATCH % (3 * WORKERS)))
    assert warm.run(*job(digits, alone, 1), *batch)[0] == 0
    sizes = (1, WORKERS, 3)
    for workers in sizes:
        with warm.running(*job(digits, run, workers), *batch) as gang:
            if workers != sizes[-1]:
                _await_steps(run)
                gang.send_signal(signal.SIGTERM)
            code, _, err = processes.finish(gang)
        assert code == (0 if workers == sizes[-1] else 75), err
    attempts = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    causes = [attempt["cause"] and attempt["cause"]["kind"] for attempt in attempts]
    assert causes == ["stopped", "stopped", None]
    (losses_alone, one), (losses, many) = ended(alone), ended(run)
    np.testing.assert_allclose(losses, losses_alone, rtol=1e-3)
    assert many["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=0.005)
    model = ("--model", "tiny_models:linear")
    code, out, _ = warm.run("evaluate", "--run", str(run), *model, "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == many["test_accuracy"]


def _await_steps(run: Path) -> None:
    step = newest(run) + 2 * CHUNK
    processes.wait_until(lambda: newest(run) >= step, 250)


@series.only_long
def test_a_gang_of_more_than_ten_that_is_killed_trains_as_one_worker_does(
    digits: Path, tmp_path: Path
) -> None:
    alone, whole, killed = (tmp_path / name for name in ("alone", "whole", "killed"))
    batch = ("--batch-size", str(BATCH - BATCH % WORKERS))
    assert warm.run(*job(digits, alone, 1), *batch)[0] == 0
    assert warm.run(*job(digits, whole, WORKERS))[::2] == (0, "")
    seed = series.seed("TRAINYARD_KILL_SEED")
    moments = random.Random(seed)
    with warm.running(*job(digits, killed, WORKERS)) as gang:
        for kill in range(KILLS):
            step = newest(killed) + moments.randrange(CHUNK, STEPS // (KILLS + 2))
            processes.wait_until(lambda: newest(killed) >= step, 250)  # noqa: B023
            workers = set(processes.workers(gang.pid).values())
            os.kill(moments.choice(sorted(workers)), signal.SIGKILL)
            if kill < KILLS - 1:  # a gang that is struck again before it trains counts one fault
                processes.wait_until(lambda: renewed(gang.pid, workers), 250)  # noqa: B023
        assert processes.finish(gang)[0] == 0
    attempts = (killed / "attempts.jsonl").read_text().splitlines()
    assert len(attempts) == KILLS + 1
    (losses_alone, one), (losses, many), (_, again) = map(ended, (alone, whole, killed))
    np.testing.assert_allclose(losses, losses_alone, rtol=1e-4)
    assert many["weights_sha256"] == again["weights_sha256"], seed
    assert many["test_loss"] == again["test_loss"]
    assert many["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=0.005)
