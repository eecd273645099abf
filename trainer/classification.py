"""Exact metrics from a model's logits: pure functions of numpy arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len

from trainer.common.text import class_label

MOST_WRONG = 36  # wrong predictions that Quality keeps
LONGEST_NAME = 30  # columns of a class in a terminal
_SHORTEST_NAME = 10  # columns below which rows of a matrix have numbers instead of names


@dataclass(frozen=True)
class Score:
    """Metrics of a whole split: mean cross-entropy in nats, and share classified as labelled."""

    loss: float
    accuracy: float
    images: int


def score(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> Score:
    """Return the score of logits [n, classes]."""
    correct = int((logits.argmax(axis=1) == labels).sum())
    return Score(float(losses(logits, labels).mean()), correct / len(labels), len(labels))


def losses(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Return the cross-entropy of every image in nats, float64 [n], from logits [n, classes]."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(wide - top).sum(axis=1))
    result: npt.NDArray[np.float64] = log_sum - wide[np.arange(len(labels)), labels]
    return result


def confusion(
    predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], classes: int
) -> npt.NDArray[np.int64]:
    """Return how often class i was predicted as class j, int64 [classes, classes]."""
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def precision_recall(
    matrix: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return precision and recall of each class, float64 [classes]; 0 where undefined."""
    hits = np.diag(matrix).astype(np.float64)
    return hits / np.maximum(matrix.sum(axis=0), 1), hits / np.maximum(matrix.sum(axis=1), 1)


def f1(
    precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the harmonic mean of precision and recall, by class; 0 where both are 0."""
    total = precision + recall
    result: npt.NDArray[np.float64] = 2 * precision * recall / np.where(total > 0, total, 1)
    return result


def probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the softmax of logits [n, classes], float64 of the same shape."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


@dataclass(frozen=True)
class Bin:
    """Images whose predicted class got about the same probability.

    ``confidence`` is the mean of it, ``accuracy`` the share of them classified correctly.
    """

    images: int
    confidence: float
    accuracy: float

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy (E. B. Wilson, 1927)."""
        z2, n, p = 1.96**2, self.images, self.accuracy
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
        return middle - half, middle + half


def calibration(
    confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], bins: int = 10
) -> list[Bin]:
    """Return the non-empty bins of equal width over [0, 1], lowest first.

    Args:
        confidence: probability of the predicted class of each image, [n].
        right: whether that class is the true one, [n].
        bins: how many; each includes its upper edge, as in Guo et al., "On Calibration of Modern
            Neural Networks" (2017).
    """
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    chosen = (places == place for place in np.unique(places))
    return [
        Bin(int(each.sum()), float(confidence[each].mean()), float(right[each].mean()))
        for each in chosen
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error: mean of |accuracy - confidence| over the images."""
    images = sum(each.images for each in bins)
    return sum(each.images * abs(each.accuracy - each.confidence) for each in bins) / max(images, 1)


@dataclass(frozen=True)
class Wrong:
    """A test image, by its place in the test files, that was predicted as another class.

    ``probability`` is that of the predicted class.
    """

    index: int
    label: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Quality:
    """How good predictions of labelled images are.

    Attributes:
        loss: mean cross-entropy, nats.
        matrix: how often class i (row) was predicted as class j (column), int64.
        precision: share of the images predicted as class i that are of class i, by class.
        recall: share of the images of class i that are predicted as it, by class.
        f1: harmonic mean of the two, by class.
        bins: of the probability of the predicted class.
        wrong: at most MOST_WRONG of the wrong predictions, the most confident first.
    """

    loss: float
    matrix: npt.NDArray[np.int64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]
    bins: list[Bin]
    wrong: list[Wrong]

    @property
    def support(self) -> npt.NDArray[np.int64]:
        """Return the number of images of each class."""
        result: npt.NDArray[np.int64] = self.matrix.sum(axis=1)
        return result

    @property
    def images(self) -> int:
        """Return the number of images."""
        return int(self.matrix.sum())

    @property
    def errors(self) -> int:
        """Return the number of wrong predictions."""
        return self.images - int(np.trace(self.matrix))

    @property
    def accuracy(self) -> float:
        """Return the share of right predictions."""
        return float(np.trace(self.matrix)) / max(self.images, 1)

    @property
    def confidence(self) -> float:
        """Return the mean probability of the predicted class."""
        return sum(each.images * each.confidence for each in self.bins) / max(self.images, 1)

    @property
    def means(self) -> tuple[float, float, float]:
        """Return mean precision, recall and F1 over the classes that have images."""
        there = self.support > 0
        shares = (self.precision, self.recall, self.f1)
        precision, recall, f1 = (
            float(each[there].mean()) if there.any() else 0.0 for each in shares
        )
        return precision, recall, f1

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """Return (class, predicted as, times) of the commonest errors, the commonest first."""
        errors = self.matrix - np.diag(np.diag(self.matrix))
        order = np.argsort(-errors, axis=None, kind="stable")[:most]
        places = (divmod(int(place), len(errors)) for place in order)
        return [(i, j, int(errors[i, j])) for i, j in places if errors[i, j]]


def judge(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> Quality:
    """Return the quality of logits [n, classes] of images with these labels."""
    shares = probabilities(logits)
    predicted = logits.argmax(axis=1)
    confidence = shares[np.arange(len(predicted)), predicted]
    right = predicted == labels
    matrix = confusion(predicted, labels, logits.shape[1])
    precision, recall = precision_recall(matrix)
    misses = np.flatnonzero(~right)
    misses = misses[np.argsort(-confidence[misses], kind="stable")][:MOST_WRONG]
    return Quality(
        loss=float(losses(logits, labels).mean()) if len(labels) else 0.0,
        matrix=matrix,
        precision=precision,
        recall=recall,
        f1=f1(precision, recall),
        bins=calibration(confidence, right),
        wrong=[
            Wrong(int(i), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in misses
        ],
    )


def matrix_lines(matrix: npt.NDArray[np.int64], names: Sequence[str], columns: int) -> list[str]:
    """Return a confusion matrix for a terminal, none where it is wider than ``columns``.

    Rows have the names of their classes, if there are any and room for them.
    """
    cells = [[str(count) for count in row] for row in matrix.tolist()]
    width = max(len(cell) for row in [*cells, [str(len(cells))]] for cell in row) + 1
    room = columns - 1 - width * len(cells)
    if room < 3:
        return []
    called = names if room >= _SHORTEST_NAME else ()
    labels = [
        class_label(label, called, min(room, LONGEST_NAME), cell_len) for label in range(len(cells))
    ]
    margin = max(3, *map(cell_len, labels)) + 1
    lines = [" " * margin + "".join(f"{label:>{width}}" for label in range(len(cells)))]
    for label, row in zip(labels, cells, strict=True):
        indent = " " * (margin - 1 - cell_len(label))
        lines.append(f"{indent}{label} " + "".join(f"{cell:>{width}}" for cell in row))
    return lines
