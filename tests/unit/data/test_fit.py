"""Settings of several runs against the dataset that they share."""

from pathlib import Path
from typing import Any

import pytest

from trainer.config import parse
from trainer.data import fit, sources
from trainer.errors import ConfigError
from trainer.storage.base import open_storage


def load(folder: Path, *settings: dict[str, Any], replicas: int = 1) -> int:
    """Return how many images are left to train on if the most are set aside."""
    configs = [parse({"validation": 0, **each}) for each in settings]
    return fit.load(open_storage(str(folder)), configs, replicas).samples


@pytest.mark.parametrize("split", [0, 2])
def test_every_runs_batch_and_validation_must_fit(tmp_path: Path, split: int) -> None:
    sources.put("digits", str(tmp_path), train_count=400, test_count=10, seed=0, split=split)
    window = {"batch_size": 400, "shuffle_shards": 2}
    assert load(tmp_path, window, {**window, "batch_size": 300, "validation": 100}) == 300
    with pytest.raises(ConfigError, match="batch_size: 400: more than the 399 training images"):
        load(tmp_path, {}, {**window, "validation": 1})
    with pytest.raises(ConfigError, match="validation 400: "):
        load(tmp_path, {}, {"validation": 400})
    with pytest.raises(ConfigError, match="batch_size: 33: not divisible"):
        load(tmp_path, {}, {"batch_size": 33}, replicas=2)


def test_every_runs_window_of_shards_must_hold_a_batch(tmp_path: Path) -> None:
    sources.put("digits", str(tmp_path), train_count=400, test_count=10, seed=0, split=2)
    one = {"shuffle_shards": 1, "batch_size": 150}
    assert load(tmp_path, one, {**one, "validation": 50}) == 350
    with pytest.raises(ConfigError, match="150: more than the 149 images of the smallest window"):
        load(tmp_path, {**one, "batch_size": 100, "validation": 60}, {**one, "validation": 51})


def test_every_runs_preset_must_take_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.put("digits", str(tmp_path), train_count=400, test_count=10, seed=0)
    monkeypatch.setattr("trainer.data.dataset.Dataset.input_shape", (12, 13, 1))
    with pytest.raises(ConfigError, match="preset: cnn: cannot take images of 12 x 13 pixels"):
        load(tmp_path, {"preset": "softmax"}, {"preset": "cnn"})
