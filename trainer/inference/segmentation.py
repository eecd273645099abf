"""Splits the ink of a picture into digits, in reading order."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from trainer.common.text import plural
from trainer.errors import DataError
from trainer.inference.ink import Box, Floats, Ink, Mask, Numbers
from trainer.inference.ruled_lines import printed_lines

WIDE = 1.3  # times its height that two digits which touch are wide, at least
BLOB = 2.5  # squares of its thickness that what is no stroke takes, at most
MOST_PIECES = 300  # of ink in one picture


class Split(NamedTuple):
    """The digits of a picture, in reading order, and what was left out.

    Attributes:
        digits: box and ink, bool [h, w] of the box.
        notes: what was left out or is doubtful, each a few words.
    """

    digits: list[tuple[Box, Mask]]
    notes: list[str]


def split(ink: Ink, name: str) -> Split:
    """Return the digits of a picture, one at least.

    Connected ink makes a digit, with what is above and below it. Printed lines are taken away,
    specks are left out, and what comes in from the edge of the picture unless it is a stroke.

    Raises:
        DataError: there are more pieces of ink than any picture of digits has.
    """
    level = max(0.6 * ink.threshold, min(3 * ink.noise, 0.9 * ink.threshold))
    inked = ink.strength > level
    lines = printed_lines(inked, ink.inside)
    notes = ["printed lines"] if lines.any() else []
    pieces = _pieces(ink.strength, inked & ~lines)
    if not pieces.large(ink.threshold).any():  # of a sign that is made of straight lines
        pieces, notes = _pieces(ink.strength, inked), []
    tall = pieces.large(ink.threshold)
    dirt = tall & _from_the_edge(pieces, ink, tall)
    if (tall & ~dirt).any():
        tall &= ~dirt
        notes += [plural(int(dirt.sum()), "mark") + " at the edge"] if dirt.any() else []
    longer = (pieces.boxes[:, 2:] - pieces.boxes[:, :2]).max(axis=1)
    areas = pieces.areas
    kept = tall & (areas > 0.02 * areas[tall].max()) & (longer > 0.12 * longer[tall].max())
    if kept.sum() > MOST_PIECES:
        raise DataError(
            f"{name}: {kept.sum()} pieces of ink, above the limit of {MOST_PIECES}; "
            "crop it to the digits"
        )
    numbers = np.flatnonzero(kept)
    for kind, find in (("ring", _rings), ("underline", _underlines)):
        marks = find(pieces.boxes[numbers])
        notes += [plural(int(marks.sum()), kind)] if marks.any() else []
        numbers = numbers[~marks]
    groups = _grouped(pieces.boxes[numbers], [[int(n)] for n in numbers + 1])
    highest = max(box[3] - box[1] for box, _ in groups)
    digits = [(box, own) for box, own in groups if box[3] - box[1] > 0.3 * highest]
    specks = int((tall & ~kept).sum()) + len(groups) - len(digits)
    notes += [plural(specks, "speck")] if specks else []
    notes += ["what lies around the paper"] if ink.inside is not None else []
    notes = [f"left out {', '.join(notes)}"] if notes else []
    wide = sum(box[2] - box[0] > WIDE * (box[3] - box[1]) for box, _ in digits)
    if wide:
        notes.append(f"{plural(wide, 'place')} where digits seem to touch; write them apart")
    return Split(
        [
            (box, np.isin(pieces.labels[box[1] : box[3], box[0] : box[2]], own))
            for box, own in _in_reading_order(digits)
        ],
        notes,
    )


def _from_the_edge(pieces: "Pieces", ink: Ink, large: Mask) -> Mask:
    """Return which pieces come in from the edge of the paper and are no strokes, bool [n].

    They lie along the edge, or are much thicker than the other pieces' strokes. A piece as thick
    and as strong as the others is a stroke all the same.
    """
    border = np.ones(ink.strength.shape, bool)
    border[1:-1, 1:-1] = False
    if ink.inside is not None:
        border |= ink.inside & ndimage.binary_dilation(~ink.inside)
        border |= ~ink.inside
    at_edge = np.bincount(pieces.labels[border], minlength=len(pieces.boxes) + 1)[1:]
    touching = large & (at_edge > 0)
    result = np.zeros(len(pieces.boxes), bool)
    if not touching.any():
        return result
    longer = (pieces.boxes[:, 2:] - pieces.boxes[:, :2]).max(axis=1)
    free = large & ~touching & (longer > 0.3 * longer[large].max())
    pen = [_thickness(pieces, int(n)) for n in np.flatnonzero(free)[:50]]
    strong = [pieces.peaks[n] for n in np.flatnonzero(free)]
    for number in np.flatnonzero(touching):
        thick = _thickness(pieces, int(number))
        area = pieces.areas[number]
        along = area / at_edge[number] < 1.5 * thick or area < BLOB * thick * thick
        if pen:
            usual, peak = float(np.median(pen)), float(np.median(strong))
            alike = 0.6 * usual < thick < 1.6 * usual
            alike &= area > BLOB * thick * thick
            alike &= 0.8 * peak < pieces.peaks[number] < 1.25 * peak
            result[number] = thick > 2.2 * usual or (along and not alike)
        else:
            result[number] = along
    return result


def _rings(boxes: Numbers) -> Mask:
    """Return which pieces are drawn around a digit, bool [n]: a tall one is within, and free."""
    left, top, right, bottom = boxes[:, None].T  # [1, n], of what may lie within
    high = bottom - top
    free = np.minimum(
        np.minimum(left - left.T, top - top.T), np.minimum(right.T - right, bottom.T - bottom)
    )
    around: Mask = ((free > 0.04 * high.T) & (high > 0.35 * high.T)).any(axis=1)
    return around


def _underlines(boxes: Numbers) -> Mask:
    """Return which pieces are lines below digits, bool [n].

    They are flat and about as wide as a taller piece, which is above and nearer than any below.
    """
    left, top, right, bottom = boxes.T
    wide, high = right - left, bottom - top
    result = np.zeros(len(boxes), bool)
    for n in np.flatnonzero(wide > 4 * high):
        there = (high > 2 * high[n]) & (left < right[n]) & (right > left[n])
        over = there & (top < top[n]) & (bottom < bottom[n] + 0.2 * high)
        under = there & ~over
        if over.any():
            gap = int((top[n] - bottom[over]).min())
            result[n] = gap < min(
                0.35 * high[over].max(), (top[under] - bottom[n]).min(initial=1 << 30)
            ) and bool(wide[n] > 0.8 * wide[over].min())
    return result


def _thickness(pieces: "Pieces", number: int) -> float:
    """Return the width of a piece where it is widest, pixels."""
    left, top, right, bottom = pieces.boxes[number]
    own = pieces.labels[top:bottom, left:right] == number + 1
    return 2 * float(ndimage.distance_transform_edt(np.pad(own, 1)).max())


class Pieces(NamedTuple):
    """Connected ink.

    Attributes:
        labels: [h, w], 0 where there is none, or the piece's number from 1 on.
        boxes: [n, 4].
        peaks: [n], strength.
        areas: [n], pixels.
    """

    labels: npt.NDArray[Any]
    boxes: Numbers
    peaks: npt.NDArray[Any]
    areas: npt.NDArray[Any]

    def large(self, threshold: float) -> Mask:
        """Return which pieces are ink, bool [n]."""
        kept: Mask = self.peaks > threshold
        return kept


def _pieces(strength: Floats, inked: Mask) -> Pieces:
    labels, count = ndimage.label(inked, np.ones((3, 3), bool))
    found = ndimage.find_objects(labels)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in found]).reshape(-1, 4)
    peaks = np.full(count, -np.inf, np.float32)
    np.maximum.at(peaks, labels[inked] - 1, strength[inked])
    return Pieces(labels, boxes, peaks, np.bincount(labels.ravel(), minlength=1)[1:])


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
    """Sort by line, then from left to right; lines slant as makes them fewest."""
    slants = np.tan(np.radians([0, -4, 4, -8, 8, -12, 12, -16, 16, -20, 20]))
    lines = min((_lines(groups, float(slant)) for slant in slants), key=len)
    return [group for line in lines for group in sorted(line, key=lambda group: group[0][0])]


def _lines(groups: list[tuple[Box, list[int]]], slant: float) -> list[list[tuple[Box, list[int]]]]:
    """Return lines from the top on; a line is what overlaps its first digit by half.

    ``slant``: pixels that lines go down for each to the right.
    """

    def reach(group: tuple[Box, list[int]]) -> tuple[float, float]:
        left, top, right, bottom = group[0]
        down = slant * (left + right) / 2
        return top - down, bottom - down

    rest = sorted(groups, key=reach)
    lines = []
    while rest:
        top, bottom = reach(rest[0])
        line = []
        for group in rest:
            high, low = reach(group)
            if min(bottom, low) - max(top, high) > 0.5 * min(bottom - top, low - high):
                line.append(group)
        lines.append(line)
        rest = [group for group in rest if group not in line]
    return lines
