import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import DataError
from trainer.runs import predictions, run_folder
from trainer.runs.predictions import Predictions
from trainer.storage.local import LocalStorage


def some(images: int = 40, classes: int = 3) -> Predictions:
    random = np.random.default_rng(images)
    return Predictions(
        step=7,
        images_sha256="ab" * 32,
        logits=random.normal(size=(images, classes)).astype(np.float32),
        labels=random.integers(0, classes, images).astype(np.int32),
    )


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path))


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (40, 3), (0, 2)])
def test_what_is_written_is_read_again(storage: LocalStorage, images: int, classes: int) -> None:
    given_ones = some(images, classes)
    storage.replace(run_folder.PREDICTIONS, predictions.encode(given_ones))
    found = predictions.read(storage)
    assert found is not None
    assert (found.step, found.images_sha256) == (7, "ab" * 32)
    assert np.array_equal(found.logits, given_ones.logits)
    assert np.array_equal(found.labels, given_ones.labels)


def test_a_run_that_goes_on_has_none(storage: LocalStorage) -> None:
    assert predictions.read(storage) is None


def test_what_does_not_fit_together_is_refused(storage: LocalStorage) -> None:
    good = some()
    logits: Any
    for logits, labels in (
        (good.logits, good.labels[1:]),
        (good.logits[:, :1], good.labels),
        (np.zeros((2, 400_000), np.float32), good.labels[:2]),
        (np.zeros((0, 0), np.float32), good.labels[:0]),
        (good.logits.astype(np.float64), good.labels),
        (np.full_like(good.logits, np.nan), good.labels),
        (good.logits, good.labels - 5),
    ):
        bad = Predictions(7, "ab" * 32, logits, labels)
        storage.replace(run_folder.PREDICTIONS, predictions.encode(bad))
        with pytest.raises(DataError, match=r"predictions\.safetensors: damaged; delete it"):
            predictions.read(storage)


@pytest.mark.parametrize("step", ["Infinity", "-1", "1.5", "NaN", "true", "1e999", str(10**40)])
def test_a_step_that_is_none_is_refused(storage: LocalStorage, step: str) -> None:
    arrays = {"logits": some().logits, "labels": some().labels}
    facts = f'{{"step": {step}, "images_sha256": ""}}'
    storage.create(run_folder.PREDICTIONS, safetensors.numpy.save(arrays, {"trainyard": facts}))
    with pytest.raises(DataError, match=r"predictions\.safetensors: damaged; delete it"):
        predictions.read(storage)


@given(data=st.data())
def test_damage_is_told_or_read_as_numbers(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    storage = LocalStorage(str(tmp_path_factory.getbasetemp() / "damaged"))
    bytes_ = bytearray(predictions.encode(some()))
    for _ in range(data.draw(st.integers(1, 4))):
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
    storage.replace(run_folder.PREDICTIONS, bytes(bytes_[: data.draw(st.integers(0, len(bytes_)))]))
    found = None
    with contextlib.suppress(DataError):
        found = predictions.read(storage)
    assert found is None or len(found.labels) == len(found.logits)


def test_images_have_one_digest_whatever_their_dimensions() -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    assert predictions.images_sha256(images) == predictions.images_sha256(images[..., None])
    assert predictions.images_sha256(images) != predictions.images_sha256(images + 1)
