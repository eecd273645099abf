"""Exact figures from a model's logits: pure functions of numpy arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Score:
    """Figures over a whole split.

    Attributes:
        loss: mean cross-entropy, nats.
        accuracy: share of images whose class has the largest logit.
        images: number of images.
    """

    loss: float
    accuracy: float
    images: int


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
    """Return how often class i was taken for class j, int64 [classes, classes]."""
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def precision_recall(
    matrix: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return precision and recall of each class, float64 [classes]; 0 where undefined."""
    hits = np.diag(matrix).astype(np.float64)
    return hits / np.maximum(matrix.sum(axis=0), 1), hits / np.maximum(matrix.sum(axis=1), 1)
