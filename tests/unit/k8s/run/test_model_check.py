"""A user's model tried before a run is sent: what passes, and what a pod would end with."""

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from k8s import run_file
from k8s.run import model_check
from tests.support import warm
from tests.support.runfiles import PLAIN

pytestmark = [pytest.mark.tensorflow, pytest.mark.process]

SOURCE = """import keras
from keras import layers


def net(input_shape, classes):
    return keras.Sequential(
        [keras.Input(input_shape), layers.Flatten(), layers.Dense(classes)])


def compiled(input_shape, classes):
    model = net(input_shape, classes)
    model.compile("sgd", "mse")
    return model


def elsewhere(input_shape, classes):
    import only_on_the_laptop
"""


@pytest.fixture(autouse=True)
def warm_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a model built by a fork of a process that has loaded TensorFlow."""
    requests = warm.lend(tmp_path / "python")
    run = partial(subprocess.run, pass_fds=[requests])
    expired = subprocess.TimeoutExpired
    monkeypatch.setattr(model_check, "subprocess", SimpleNamespace(run=run, TimeoutExpired=expired))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


def examine(folder: Path, function: str) -> tuple[str, str]:
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src" / "mymodels.py").write_text(SOURCE)
    values = {**PLAIN, "code": "src", "train": {"model": f"mymodels:{function}"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return model_check.examine(run_file.read(str(folder / "run.yaml")), (6, 5, 1), 4)


def test_a_model_is_built_as_a_pod_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examine(tmp_path, "net") == ("ok", "mymodels:net: images 6x5x1 to 4 logits, 124 weights")
    state, words = examine(tmp_path, "compiled")
    assert state == "warning"
    assert words.startswith("model: mymodels:compiled: was compiled; its loss, optimizer and")
    # What is importable here only is not there in a pod.
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "only_on_the_laptop.py").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "here"))
    state, words = examine(tmp_path, "elsewhere")
    assert state == "failed"
    assert "mymodels.py:17: imports 'only_on_the_laptop', which is not there" in words


def test_where_tensorflow_is_not_installed_nothing_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert examine(tmp_path, "net") == (
        "ok",
        "mymodels:net: not tried, as TensorFlow is not installed here",
    )
