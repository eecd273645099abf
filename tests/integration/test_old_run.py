"""A run that an earlier version began resumes, reports, predicts, exports, compares, evaluates."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import processes, warm
from trainer import presets
from trainer.data import dataset
from trainer.report import network
from trainer.train import models

OLD = processes.ROOT / "tests/data/old_run"
# Trained with two workers by commit 365353b; of the same run without an interruption.
WEIGHTS = "1a1d62b69631042ef384001a3105055cb2188d81ef427ee5b127ca34c3b8dd11"
SETTINGS = (
    *("--preset", "softmax", "--workers", "2", "--validation", "60", "--batch-size", "40"),
    *("--steps", "3000", "--chunk-steps", "60", "--checkpoint-steps", "240"),
    *("--keep-checkpoints", "2", "--eval-epochs", "20", "--tensorboard", "histograms"),
    *("--xla", "auto"),
)


def trainer(*arguments: str) -> str:
    code, out, err = warm.run(*arguments)
    assert (code, err) == (0, "")
    return out


def test_an_old_run_resumes_to_the_weights_of_its_version(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    data = str(OLD / "data")
    shutil.copytree(OLD / "run", run)
    assert "interrupted" in trainer("report", "--run", run, "--text")

    trainer("train", *SETTINGS, "--data", data, "--run", run, "--report")
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["weights_sha256"] == WEIGHTS
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert (min(steps), max(steps)) == (60, 3000)
    page = (tmp_path / "run/report.html").read_text()
    assert "asked to stop" in page
    assert "test accuracy 66.00%" in page

    report = json.loads(trainer("evaluate", "--run", run, "--data", data, "--json"))
    assert report["accuracy"] == result["test_accuracy"] == 0.66
    [row] = json.loads(trainer("compare", "--json", run))
    assert (row["accuracy"], row["steps"], row["restarts"]) == (0.66, 3000, 1)

    picture = tmp_path / "digit.png"
    images = dataset.load(data, 60).train
    Image.fromarray(images.images[0, ..., 0]).save(picture)
    [seen] = json.loads(trainer("predict", "--run", run, "--output", "json", str(picture)))
    assert seen["digit"] == images.labels[0]
    trainer("export", "--run", run, "--format", "keras", "--to", str(tmp_path / "exported"))
    assert (tmp_path / "exported/model.keras").exists()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("module", ["trainer.augment", "trainer.train.warp"])
def test_an_old_architecture_that_warps_is_in_the_page(module: str) -> None:
    model = models.build(presets.configure({"preset": "cnn-best"}, {}), (28, 28, 1), 10)
    arrays = {f"parameters/{v.path}": np.asarray(v) for v in model.trainable_variables}
    arrays |= {f"buffers/{v.path}": np.asarray(v) for v in model.non_trainable_variables}
    old = (OLD / "cnn-best-architecture.json").read_text()
    assert "trainer.augment" in old
    old = old.replace("trainer.augment", module)
    described = network.describe(json.loads(old), arrays, (28, 28, 1), 10)
    assert described == network.describe(json.loads(model.to_json()), arrays, (28, 28, 1), 10)
    assert isinstance(described, dict)
    assert described["layers"][-1]["output"] == [10]
