"""Finds paper on a picture: sheets that lie on something else, and parts in light and in shadow."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import ConvexHull

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer[Any]]

CELLS = 160  # of the longer side of the grid that separates the parts of a picture
STEP = 0.035  # difference of neighbouring cells of one part, at most
JUMP = 16  # cells between two cells of a part: a stroke or a printed line may lie between them
PART = 0.015  # share of the picture that a part takes, at least
MOST = 16  # parts that are looked at, the largest
ROUGH = 0.06  # of paper's pixels, in shares of the range of brightness; tables have a grain
CONVEX = 0.3  # share of its convex hull that a sheet fills
SOLID = 0.82  # share of the tightest rectangle that a sheet fills; a disc fills 0.785
SHEET = 32  # pixels of a sheet's shorter side, at least
SAME = 0.25  # share of what lies around a sheet that is like it, at most
AROUND = 20  # cells around a sheet in which something else is seen; strokes are narrower
WHOLE = 0.97  # share of the picture from which on a sheet is all of it


class Sheet(NamedTuple):
    """A sheet of paper that lies on something else.

    Attributes:
        inside: bool [h, w] of the grid.
        colours: float32 [h, w, c] of the grid, the sheet's without what is drawn on it, and
            outside of it those nearest to it.
    """

    inside: Mask
    colours: Floats


def find_sheets(cells: Floats, rough: Floats, across: float) -> list[Sheet]:
    """Return what looks like a sheet of paper and is not all of the picture, the smallest first.

    Args:
        cells: float32 [h, w, c] in [0, 1], a picture of at most CELLS by CELLS.
        rough: float32 [h, w], standard deviation of the pixels in a cell.
        across: pixels of a cell.
    """
    even = ndimage.median_filter(cells, (5, 5, 1), mode="nearest")
    smooth = ndimage.percentile_filter(rough, 30, (5, 5), mode="nearest") < ROUGH
    cores = _cores(_linked(even, smooth))
    sheets = []
    for number, core in enumerate(cores):
        if any(_shadow(even, each, core) for each in cores if each is not core):
            continue
        others = np.zeros(core.shape, bool)
        shaded = core.copy()
        for other, each in enumerate(cores):
            if other != number and _shadow(even, core, each):
                shaded |= each
            elif other != number:
                others |= each
        for parts, strange in ((shaded, others), (core, others | shaded & ~core)):
            shape = _sheet(parts, strange, across)
            colours = _spread(even, parts)
            if shape is not None and _ends(shape, np.abs(even - colours).max(axis=2)):
                sheets.append(Sheet(shape, colours))
                break
    return sorted(sheets, key=lambda sheet: int(sheet.inside.sum()))


def _ends(inside: Mask, away: Floats) -> bool:
    """Whether what lies around a sheet differs from it, nearly all the way.

    Args:
        inside: bool [h, w], the sheet.
        away: float32 [h, w], how much a cell differs from the sheet's nearest.
    """
    around = ndimage.binary_dilation(inside, iterations=AROUND)
    around &= ~ndimage.binary_dilation(inside, iterations=1)
    return not around.any() or float((away[around] < 2 * STEP).mean()) < SAME


def _spread(even: Floats, known: Mask) -> Floats:
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    spread: Floats = even[tuple(nearest)]
    return spread


def _linked(even: Floats, smooth: Mask) -> Labels:
    """Return the parts' numbers [h, w]: cells are linked to equal ones nearby."""
    height, width = even.shape[:2]
    flat = smooth & (np.ptp(_around(even), axis=0).max(axis=2) < 2 * STEP)
    number = np.arange(height * width).reshape(height, width)
    ones, others = [number[:0, 0]], [number[:0, 0]]
    planes = np.ascontiguousarray(np.moveaxis(even, 2, 0))  # NumPy's maximum is slow on short axes
    for turned in (False, True):
        colours, flats, numbers = (
            each.swapaxes(-2, -1) if turned else each for each in (planes, flat, number)
        )
        clear = flats.copy()  # no other colour lies between a cell and the one a step away
        for step in range(1, min(JUMP, len(flats) - 1) + 1):
            equal = np.abs(colours[:, step:] - colours[:, :-step]).max(axis=0) < STEP
            clear = clear[: len(equal)]
            joined = clear & equal & flats[step:]
            ones.append(numbers[step:][joined])
            others.append(numbers[:-step][joined])
            clear &= equal | np.logical_not(flats[step:])
    first, second = np.concatenate(ones), np.concatenate(others)
    links = sparse.coo_array((np.ones(len(first), bool), (first, second)), (number.size,) * 2)
    labels: Labels = csgraph.connected_components(links, directed=False)[1].reshape(height, width)
    return labels


def _around(even: Floats) -> Floats:
    """Return each cell's least and greatest neighbour, [2, h, w, c]."""
    size = (3, 3, 1)
    return np.stack([ndimage.minimum_filter(even, size), ndimage.maximum_filter(even, size)])


def _cores(labels: Labels) -> list[Mask]:
    """Return the large parts, the largest first."""
    areas = np.bincount(labels.ravel())
    largest = np.argsort(-areas)[:MOST]
    return [labels == number for number in largest if areas[number] >= PART * labels.size]


def _sheet(parts: Mask, strange: Mask, across: float) -> Mask | None:
    """Return the sheet that parts of a picture are seen of, or None if they look like no sheet.

    Its sides are straight and its corners about right; nothing strange lies in it but what
    something is drawn around.
    """
    core = ndimage.binary_opening(parts, iterations=1)
    points = np.argwhere(core)
    if len(points) < 9 or min(np.ptp(points, axis=0)) * across < SHEET:
        return None
    if min(np.ptp(points, axis=0)) < 4:
        return None
    hull = ConvexHull(points)
    y, x = np.indices(parts.shape)
    inside = np.ones(parts.shape, bool)
    for down, right, away in hull.equations:
        inside &= down * y + right * x + away <= 0.01
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(core, 3), iterations=3))
    seen = filled[3:-3, 3:-3] | parts
    area = float(inside.sum())
    if (
        area > WHOLE * inside.size
        or (seen & inside).sum() < CONVEX * area
        or (strange & ~seen & inside).sum() > 0.07 * area
        or area < SOLID * _tightest(inside)
    ):
        return None
    return inside


def _tightest(mask: Mask) -> float:
    """Return the area of the smallest rectangle around a mask, to 2 degrees, cells."""
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    angles = np.radians(np.arange(0, 90, 2))
    along = points @ np.stack([np.cos(angles), np.sin(angles)])
    across = points @ np.stack([-np.sin(angles), np.cos(angles)])
    return float(((np.ptp(along, axis=0) + 1) * (np.ptp(across, axis=0) + 1)).min())


def _shadow(even: Floats, light: Mask, dark: Mask) -> bool:
    """Whether one part is another's colour in shadow, and beside it."""
    near = ndimage.binary_dilation(light, iterations=8)
    there = dark & near
    if there.sum() < 5:
        return False
    here = light & ndimage.binary_dilation(there, iterations=10)
    if not here.any():
        return False
    one, other = np.median(even[here], axis=0), np.median(even[there], axis=0)
    ratio = other / np.maximum(one, 0.02)
    return bool(0.35 < ratio.mean() < 0.97 and np.ptp(ratio) < 0.12)


def to_grid(values: Mask, height: int, width: int) -> Mask:
    """Return the grid's values at every pixel, bool [height, width]."""
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    pixels: Mask = values[rows][:, columns]
    return pixels
