"""The main job on real input: whole runs in processes of their own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import warm
from trainer.cli import train as train_command
from trainer.config import parse
from trainer.data import dataset, idx, sampler, sources
from trainer.runs import checkpoint, run_folder
from trainer.storage.base import open_storage

SHORT = ("--validation", "400", "--steps", "60", "--chunk-steps", "20", "--checkpoint-steps", "20")


def result(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "result.json").read_text())
    return values


def test_a_run_leaves_results_and_says_where(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = (
        *("train", "--preset", "mlp-100", *SHORT, "--xla", "auto"),
        *("--data", str(digits), "--run", str(run)),
    )
    code, out, err = warm.run(*arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"results in {run}/"
    assert "\ndevice: CPU, threads: 1, XLA: on, layers: reordered\n" in out
    values = result(run)
    assert 0.5 < values["test_accuracy"] <= 1
    assert f"test accuracy {values['test_accuracy']:.2%}" in out
    assert (values["steps"], values["workers"], values["preset"]) == (60, 1, "mlp-100")
    assert values["epochs"] == pytest.approx(60 * 32 / 1600)
    assert {"test_loss", "train_accuracy", "wall_seconds", "images_per_second"} <= values.keys()
    [rank] = values["ranks"]
    assert rank["peak_memory_bytes"] > 100e6
    assert rank["cpu_seconds"] > 0.1
    start = json.loads((run / "start.json").read_text())
    assert (start["device"], start["workers"], start["xla"]) == ("CPU", 1, True)
    assert sum(layer["weights"] for layer in start["model"]) == 784 * 100 + 100 + 100 * 10 + 10
    assert start["model"][-1]["output"] == [10]
    assert (run / "model/architecture.json").exists()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in metrics if "loss" in line]
    assert steps == [1, 2, 4, 8, 16, 20, 40, 50, 60]
    assert checkpoint.steps(open_storage(str(run)))[0] == 60

    code, out, err = warm.run(*arguments)
    assert (code, err) == (0, "")
    assert out.startswith(f"this run is finished: {run}\n")
    assert result(run) == values

    code, out, err = warm.run(*arguments, "--learning-rate", "0.01")
    assert code == 2
    assert err.count("\n") == 1
    assert "learning_rate (0.001 there, 0.01 here)" in err

    code, out, err = warm.run("evaluate", "--run", str(run), "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["accuracy"] == pytest.approx(values["test_accuracy"])
    assert report["loss"] == pytest.approx(values["test_loss"], rel=1e-5)
    assert np.sum(report["confusion"]) == 500


def test_other_data_get_a_folder_beside_the_first_one(digits: Path, tmp_path: Path) -> None:
    other, moved = tmp_path / "other", tmp_path / "moved"
    sources.put("digits", str(other), train_count=50, test_count=10, seed=4)
    shutil.copytree(digits, moved)

    def placed(data: Path, name: str = "{digest}") -> str:
        config = parse({"data": str(data), "run": f"{tmp_path}/{name}"})
        return train_command._beside_other_data(config).run.removeprefix(f"{tmp_path}/")

    first = placed(digits)
    assert "{" not in first
    loaded = dataset.load(str(digits), 0)
    config = parse({"data": str(digits), "run": f"{tmp_path}/{{digest}}"})
    run_folder.claim(open_storage(run_folder.uri(config)), config, loaded.sha256)
    assert placed(digits) == placed(moved) == first
    sha256 = dataset.load(str(other), 0).sha256
    assert placed(other) == f"{first}-{sha256[:8]}"
    assert placed(tmp_path / "absent") == first  # which the run reports
    assert placed(other, "mine") == "mine"


def test_two_workers_see_the_samples_of_one_and_get_its_losses(
    digits: Path, tmp_path: Path
) -> None:
    losses = {}
    for workers in (1, 2):
        run = tmp_path / str(workers)
        code, _, err = warm.run(
            *("train", "--preset", "mlp-100", "--workers", str(workers), "--validation", "0"),
            *("--steps", "100", "--chunk-steps", "1", "--batch-size", "64", "--eval-epochs", "0"),
            *("--checkpoint-steps", "100", "--data", str(digits), "--run", str(run)),
        )
        assert (code, err) == (0, "")
        lines = (run / "metrics.jsonl").read_text().splitlines()
        losses[workers] = [json.loads(line)["loss"] for line in lines]
    assert len(losses[1]) == 100
    np.testing.assert_allclose(losses[2], losses[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("workers", [1, 2])
def test_each_step_takes_the_samples_of_the_order(workers: int, tmp_path: Path) -> None:
    """Sample i lights pixel i alone, so a step moves the weights of its samples and no others."""
    samples, batch, steps = 64, 8, 24
    images = np.eye(samples, dtype=np.uint8).reshape(samples, 8, 8) * 255
    labels = (np.arange(samples) % 10).astype(np.uint8)
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        (tmp_path / name).write_bytes(idx.encode(array))
        (tmp_path / name.replace("train", "t10k")).write_bytes(idx.encode(array))
    run = tmp_path / "run"
    code, _, err = warm.run(
        *("train", "--preset", "softmax", "--workers", str(workers), "--validation", "0"),
        *("--batch-size", str(batch), "--steps", str(steps), "--chunk-steps", "1", "--seed", "3"),
        *("--checkpoint-steps", "1", "--keep-checkpoints", "100"),
        *("--data", str(tmp_path), "--run", str(run)),
    )
    assert (code, err) == (0, "")
    storage = open_storage(str(run))
    expected = sampler.batches(3, samples, batch, 0, steps)
    done = sorted(checkpoint.steps(storage))
    before = np.zeros((samples, 10), np.float32)
    first = 0
    for step in done:
        data = storage.read(checkpoint.object_name(step))
        kernels = [
            a for a in checkpoint.decode(data, "").arrays.values() if a.shape == before.shape
        ]
        moved = np.flatnonzero((kernels[0] != before).any(axis=1))
        assert set(moved) == set(expected[first:step].ravel())
        before, first = kernels[0], step
    assert len(done) > 1  # an upload on its way makes some steps share one
