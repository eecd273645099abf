"""Finds printed lines among ink: those of a notebook, squares, and boxes around digits."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]

LONG = 0.7  # share of its piece that a printed line spans, at least
FINE = 400  # pixels of the longer side at which lines are looked for
DOWN = 0.85  # share of the page's height that a margin's line spans, at least
SLANT = 0.3  # of a line, at most: 17 degrees
MOST = 12  # pieces that are looked at, the largest
THIN = 0.11  # share of a box's shorter side that its lines are thick; those of digits are thicker
LEAST = 24  # pixels of the shorter side of a box


def printed_lines(mask: Mask, page: Mask | None = None) -> Mask:
    """Return the pixels of printed lines, bool [h, w], but for those where a stroke crosses.

    A piece has printed lines where straight ones in two directions span it, as squares and boxes
    do, where thin ones lie across much of the picture, as the lines of a notebook do, or where one
    stands from its top to its bottom, as a margin does.

    Args:
        mask: bool [h, w], true where ink is.
        page: bool [h, w], where the paper is; None where it is everywhere.
    """
    down = len(mask) if page is None else int(page.any(axis=1).sum())
    labels, _ = ndimage.label(mask, np.ones((3, 3), bool))
    found = ndimage.find_objects(labels)
    sizes = np.array([(y.stop - y.start) * (x.stop - x.start) for y, x in found])
    lines = np.zeros(mask.shape, bool)
    for number in np.argsort(-sizes)[:MOST]:
        place = found[number]
        high, wide = (each.stop - each.start for each in place)
        if max(high, wide) < LEAST or min(high, wide) < 3:
            continue
        lines[place] |= _of_piece(labels[place] == number + 1, down, mask.shape[1])
    return lines


def _of_piece(piece: Mask, down: int, across: int) -> Mask:
    height, width = piece.shape
    lying, count, thick = _straight(piece)
    standing, standing_count, standing_thick = _straight(piece.T)
    squares = count >= 2 and standing_count >= 2 and min(height, width) >= LEAST
    squares &= max(thick, standing_thick) < THIN * min(height, width)
    ruled = width > 0.4 * across and thick < 0.02 * width
    ruled &= count >= 2 or (count == 1 and width > 2 * height)
    margin = standing_count > 0 and height > DOWN * down and standing_thick < 0.02 * height
    none = np.zeros(piece.shape, bool)
    return (lying if squares or ruled else none) | (standing.T if squares or margin else none)


def _straight(piece: Mask) -> tuple[Mask, int, float]:
    """Return the pixels of lines that lie, how many lines there are, and how thick they are.

    Sums along lines of every slant: those that ink fills, from end to end, are straight.
    """
    height, width = piece.shape
    step = max(1, -(-max(piece.shape) // FINE))
    padded = np.pad(piece, ((0, -height % step), (0, -width % step)))
    small = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    cells = small.any(axis=(1, 3))
    rows, columns = np.nonzero(cells)
    wide = cells.shape[1]
    offset = int(SLANT * wide) + 1
    on = np.zeros(len(rows), bool)
    most, straightest, middles = 0, on, []
    for slant in np.arange(-SLANT, SLANT, 1 / wide):
        line = rows - np.rint(slant * np.arange(wide)).astype(int)[columns] + offset
        counts = np.bincount(line, minlength=cells.shape[0] + 2 * offset)
        full = counts >= LONG * wide
        if full.any():
            on |= full[line]
            middles += [np.flatnonzero(full) - offset + slant * wide / 2]
            if counts.max() > most:
                most, straightest = int(counts.max()), full[line]
    if not on.any():
        return np.zeros(piece.shape, bool), 0, 0.0
    count = 1 + int((np.diff(np.sort(np.concatenate(middles))) > 2).sum())
    runs = _runs(piece)

    def inked(cells_on: Mask) -> Mask:
        lines = np.zeros(cells.shape, bool)
        lines[rows[cells_on], columns[cells_on]] = True
        return lines.repeat(step, axis=0).repeat(step, axis=1)[:height, :width] & piece

    fine = inked(on)
    thick = float(np.quantile(runs[inked(straightest)], 0.4))
    around = ndimage.binary_dilation(fine, np.ones((3, 1), bool), iterations=max(1, round(thick)))
    return piece & around & (runs <= 1.7 * thick + 1), count, thick


def _runs(mask: Mask) -> npt.NDArray[np.intp]:
    """Return the length of the run of ink that every pixel is in, down its column; 0 off ink."""
    columns = np.pad(mask, ((0, 1), (0, 0))).T.ravel()
    labels, _ = ndimage.label(columns)
    lengths = np.bincount(labels)
    lengths[0] = 0
    runs: npt.NDArray[np.intp] = lengths[labels].reshape(mask.shape[1], mask.shape[0] + 1)
    return runs[:, :-1].T
