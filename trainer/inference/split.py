"""Splits the ink of a picture into digits, in reading order."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from trainer.errors import DataError
from trainer.inference.ink import Box, Floats, Ink, Mask, Numbers

MOST_PIECES = 300  # of ink in one picture


def split(ink: Ink, name: str) -> Iterator[tuple[Box, Mask]]:
    """Return the digits' boxes and their ink, bool [h, w] of the box.

    Connected ink makes a digit, with what is above and below it. Specks are dropped, and what
    runs from edge to edge of the picture, as the lines of a notebook do.

    Raises:
        DataError: there are more pieces of ink than any picture of digits has.
    """
    strength = ink.strength
    full = float(np.percentile(strength[strength > ink.threshold], 75))
    low = max(0.6 * ink.threshold, min(3 * ink.noise, 0.9 * ink.threshold))
    for level in (low, ink.threshold, (ink.threshold + full) / 2, low):
        labels, boxes, peaks, areas = _pieces(strength, level)
        sides = boxes[:, 2:] - boxes[:, :2]
        crossing = (sides >= 0.95 * np.array(strength.shape[::-1])).any(axis=1)
        if not crossing.any():
            break  # lines are fainter than ink; where not even this level is above them, the last
    kept = peaks > ink.threshold
    if (kept & ~crossing).any():
        kept &= ~crossing
    longer = sides.max(axis=1)
    kept &= (areas > 0.02 * areas[kept].max()) & (longer > 0.12 * longer[kept].max())
    if kept.sum() > MOST_PIECES:
        raise DataError(
            f"{name}: {kept.sum()} pieces of ink, above the limit of {MOST_PIECES}; "
            "crop it to the digits"
        )
    groups = _grouped(boxes[kept], [[int(n)] for n in np.flatnonzero(kept) + 1])
    tall = max(box[3] - box[1] for box, _ in groups)
    groups = [(box, own) for box, own in groups if box[3] - box[1] > 0.3 * tall]
    return (
        (box, np.isin(labels[box[1] : box[3], box[0] : box[2]], own))
        for box, own in _in_reading_order(groups)
    )


def _pieces(
    strength: Floats, level: float
) -> tuple[npt.NDArray[Any], Numbers, npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the connected pieces above a level: labels [h, w], boxes [n, 4], peaks and areas."""
    labels, count = ndimage.label(strength > level, np.ones((3, 3), bool))
    found = ndimage.find_objects(labels)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in found])
    peaks = np.array(ndimage.maximum(strength, labels, np.arange(1, count + 1)))
    return labels, boxes, peaks, np.bincount(labels.ravel())[1:]


def _grouped(boxes: Numbers, owners: list[list[int]]) -> list[tuple[Box, list[int]]]:
    """Join pieces of one digit, those first that overlap most, until all are digits."""
    while len(boxes) > 1:
        overlap = _of_one_digit(boxes)
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        if overlap[i, j] == -np.inf:
            break
        boxes[i, :2] = np.minimum(boxes[i, :2], boxes[j, :2])
        boxes[i, 2:] = np.maximum(boxes[i, 2:], boxes[j, 2:])
        owners[i] = owners[i] + owners.pop(int(j))
        boxes = np.delete(boxes, j, axis=0)
    return [
        ((int(box[0]), int(box[1]), int(box[2]), int(box[3])), own)
        for box, own in zip(boxes, owners, strict=True)
    ]


def _of_one_digit(boxes: Numbers) -> npt.NDArray[np.float64]:
    """Return by how much of their width two boxes overlap, [n, n], -inf unless of one digit.

    Pieces of one digit are near each other, and one is above the other: by most of its width, or
    because one is too low for a digit, or because they hardly overlap in height, as those of a
    broken stroke. Where neither is low they have to be nearer: two digits may be as near as a digit
    is to its upper stroke, one line below the other.
    """
    left, top, right, bottom = boxes.T
    # Overlaps; negative ones are gaps.
    across = np.minimum.outer(right, right) - np.maximum.outer(left, left)
    down = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    together = np.maximum.outer(bottom, bottom) - np.minimum.outer(top, top)
    low = np.minimum.outer(bottom - top, bottom - top)
    tall = np.maximum.outer(bottom - top, bottom - top)
    overlap = across / np.minimum.outer(right - left, right - left)
    stroke = low < 0.5 * tall
    near = (-down <= np.where(stroke, 0.2 * together, 0.15 * low)) & (-across <= 0.2 * tall)
    one = near & ((overlap > 0.5) | stroke | (down < 0.2 * low))
    return np.where(np.triu(one, 1), overlap, -np.inf)


def _in_reading_order(groups: list[tuple[Box, list[int]]]) -> list[tuple[Box, list[int]]]:
    """Sort by line, then from left to right; a line is what overlaps its first digit by half."""
    rest = sorted(groups, key=lambda group: group[0][1])
    ordered: list[tuple[Box, list[int]]] = []
    while rest:
        _, top, _, bottom = rest[0][0]
        line = [
            group
            for group in rest
            if min(bottom, group[0][3]) - max(top, group[0][1])
            > 0.5 * min(bottom - top, group[0][3] - group[0][1])
        ]
        ordered += sorted(line, key=lambda group: group[0][0])
        rest = [group for group in rest if group not in line]
    return ordered
