import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import classification


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_losses_are_those_of_the_formula(classes: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Moderate enough for the direct formula, which overflows where ours must not.
    logits = random.uniform(-30, 30, (rows, classes)).astype(np.float32)
    labels = random.integers(0, classes, rows).astype(np.int32)
    wanted = [
        -math.log(math.exp(row[label]) / math.fsum(math.exp(x) for x in row))
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    found = classification.losses(logits, labels)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_huge_logits_neither_overflow_nor_vanish() -> None:
    logits = np.array([[1e30, 0, -1e30], [3e4, 2e4, 0]], np.float32)
    found = classification.losses(logits, np.array([1, 0], np.int32))
    np.testing.assert_allclose(found, [np.float64(np.float32(1e30)), 0])


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=60))
def test_the_confusion_matrix_counts_every_image_once(
    classes: int, pairs: list[tuple[int, int]]
) -> None:
    pairs = [(a % classes, b % classes) for a, b in pairs]
    labels = np.array([a for a, _ in pairs], np.int32)
    predicted = np.array([b for _, b in pairs], np.int64)
    matrix = classification.confusion(predicted, labels, classes)
    assert matrix.shape == (classes, classes)
    for i in range(classes):
        for j in range(classes):
            assert matrix[i, j] == pairs.count((i, j))
    assert np.trace(matrix) == (predicted == labels).sum()


def test_precision_and_recall() -> None:
    # Rows are labels. Class 2 has no images; class 3 is never answered.
    matrix = np.array([[8, 2, 0, 0], [1, 3, 1, 0], [0, 0, 0, 0], [4, 0, 0, 0]])
    precision, recall = classification.precision_recall(matrix)
    assert precision.tolist() == pytest.approx([8 / 13, 3 / 5, 0, 0])
    assert recall.tolist() == pytest.approx([8 / 10, 3 / 5, 0, 0])


def test_precision_and_recall_of_nothing_are_zero() -> None:
    precision, recall = classification.precision_recall(np.zeros((3, 3), np.int64))
    assert precision.tolist() == recall.tolist() == [0, 0, 0]


def test_means_are_over_the_classes_that_have_images() -> None:
    labels = np.array([1, 1, 2, 2, 2, 2], np.int32)
    logits = np.eye(5, dtype=np.float32)[[1, 1, 2, 2, 2, 3]]  # classes 0, 3 and 4 have no image
    quality = classification.judge(logits, labels)
    assert quality.means == pytest.approx((1.0, 0.875, (1 + 6 / 7) / 2))
    assert classification.judge(logits[:0], labels[:0]).means == (0, 0, 0)


def test_f1_is_zero_where_precision_and_recall_are() -> None:
    precision, recall = np.array([0.5, 0.0, 1.0]), np.array([1.0, 0.0, 1.0])
    assert classification.f1(precision, recall).tolist() == pytest.approx([2 / 3, 0, 1])


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_probabilities_agree_with_the_losses(classes: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.uniform(-200, 200, (rows, classes)).astype(np.float32)
    labels = random.integers(0, classes, rows).astype(np.int32)
    found = classification.probabilities(logits)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    of_labels = found[np.arange(rows), labels]
    np.testing.assert_allclose(of_labels, np.exp(-classification.losses(logits, labels)), rtol=1e-9)


def test_calibration() -> None:
    confidence = np.array([0.5, 0.45, 0.41, 0.95, 1.0])
    right = np.array([True, False, False, True, True])
    low, high = classification.calibration(confidence, right)
    assert (low.images, high.images) == (3, 2)
    assert (low.confidence, low.accuracy) == pytest.approx((1.36 / 3, 1 / 3))
    assert (high.confidence, high.accuracy) == pytest.approx((0.975, 1.0))
    wanted = (3 * (1.36 - 1) / 3 + 2 * 0.025) / 5
    assert classification.calibration_error([low, high]) == pytest.approx(wanted)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 15))
def test_every_image_is_in_the_bin_of_its_probability(seed: int, count: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    confidence, right = random.uniform(0, 1, count), random.integers(0, 2, count) > 0
    found = classification.calibration(confidence, right, bins)
    assert sum(each.images for each in found) == count
    places = [int(each.confidence * bins) for each in found]
    assert places == sorted(set(places))
    hits = sum(each.images * each.accuracy for each in found)
    assert hits == pytest.approx(right.sum())
    assert 0 <= classification.calibration_error(found) <= 1


def test_the_interval_is_wilsons() -> None:
    assert classification.Bin(10, 0.5, 0.9).interval == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert classification.Bin(1, 0.5, 1.0).interval[1] == pytest.approx(1)
    assert classification.Bin(1, 0.5, 0.0).interval[0] == pytest.approx(0)


def test_calibration_of_nothing() -> None:
    assert classification.calibration(np.zeros(0), np.zeros(0, np.bool_)) == []
    assert classification.calibration_error([]) == 0
