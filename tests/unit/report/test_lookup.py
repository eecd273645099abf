"""Test images in a page: which, and that its numbers, classes and pictures belong together."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

from tests.support.folders import digits
from trainer import classification
from trainer.report import lookup
from trainer.runs.predictions import Predictions


def array(text: str, kind: str) -> npt.NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), kind)


def predicted(classes: int, count: int, size: int = 8) -> tuple[Predictions, Any]:
    images, labels = digits(classes, size, count)
    logits = np.random.default_rng(1).normal(0, 3, (len(labels), classes)).astype(np.float32)
    return Predictions(1, "", logits, labels.astype(np.int32)), images[..., None]


def test_a_page_has_classes_pictures_and_probabilities_of_the_same_images() -> None:
    found, images = predicted(10, 90, 28)
    panel = lookup.panel(found, images)
    assert panel["total"] == 100
    np.testing.assert_array_equal(array(panel["labels"], "u1"), found.labels)
    np.testing.assert_array_equal(array(panel["predicted"], "u1"), found.logits.argmax(axis=1))
    places = array(panel["places"], "<u4")
    assert places.tolist() == list(range(100))
    shares = array(panel["shares"], "<u2").reshape(-1, 10) / 65535
    np.testing.assert_allclose(shares, classification.probabilities(found.logits), atol=1e-4)
    sheet = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(panel["sheet"].split(",")[1]))))
    across, (width, height) = panel["across"], panel["cell"]
    for cell, place in enumerate(places):
        top, left = cell // across * height, cell % across * width
        shown = sheet[top : top + height, left : left + width].mean(axis=-1)
        # WebP loses some; which image it is stays clear: each has a bright column of its own.
        assert np.corrcoef(shown.ravel(), images[place].ravel())[0, 1] > 0.5


def test_of_many_images_the_wrong_ones_come_first_and_the_page_stays_small() -> None:
    wrong = np.zeros(1000, bool)
    wrong[[3, 500, 999]] = True
    some = lookup.chosen(wrong, 10)
    assert len(some) == 10
    assert {3, 500, 999} <= set(some.tolist())
    assert some.tolist() == sorted(some.tolist())
    assert len(lookup.chosen(~wrong, 10)) == 10
    assert lookup.chosen(wrong, 5000).tolist() == list(range(1000))
    found, images = predicted(100, 70_000, 2)
    panel = lookup.panel(found, np.repeat(images, 16, axis=1))
    assert sum(len(str(value)) for value in panel.values()) < 500_000
    assert len(array(panel["labels"], "u1")) == lookup.MOST_LISTED
    assert len(array(panel["places"], "<u4")) == lookup.MOST_SHARES // 100


@pytest.mark.parametrize("shape", [(1, 1, 1), (200, 5, 1), (3, 300, 3), (40, 40, 4)])
def test_images_of_any_shape_fit_their_cells(shape: tuple[int, int, int]) -> None:
    labels = np.array([0, 1, 1, 0, 1], np.int32)
    images = np.full((5, *shape), 200, np.uint8)
    panel = lookup.panel(Predictions(1, "", np.eye(2, dtype=np.float32)[labels], labels), images)
    width, height = panel["cell"]
    assert min(width, height) >= 1
    assert max(width, height) <= 64
    sheet = PIL.Image.open(io.BytesIO(base64.b64decode(panel["sheet"].split(",")[1])))
    assert sheet.size == (2 * width, 3 * height)
