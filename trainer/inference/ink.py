"""Finds what is drawn on a picture: the paper is estimated and taken away."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from trainer.inference.paper import CELLS, find_sheets, to_grid

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]  # left, top, right and bottom in pixels; the last two outside

GRID = 96  # pixels of the longer side of the grid on which the ink's colour is looked for
FINE = 320  # and on which the width of strokes is
WIDTHS = np.geomspace(1 / 32, 1 / 2, 9)  # of squares that no stroke fills, of the side
MORE = 1.12  # times the ink within the next larger square, below which the strokes are thinner
CORNERS = 0.01  # of the ink, that is narrower than a square where only a stroke's corners are
ACROSS = 0.2  # of ink, that lies on either side of a sheet's edge, at least, if it goes beyond
FILLED = 0.98  # of a stroke that is ink, at least; of a figure's image with a digit on it less is
CLOSED = 0.75  # of what is around a hole in a stroke, that is ink, at least
DRAFT = 400  # pixels of the longer side at which is seen what is ink if all is paper
ALIKE = 0.3  # of the largest sheet, that a sheet is large, at least
STROKE = 0.15  # of the picture, that a stroke or a hole in a digit takes, at most
GAIN = 2.5  # of what is in shadow, at most


class Ink(NamedTuple):
    """What differs from the paper.

    Attributes:
        strength: float32 [h, w]; the paper is about 0 and ink positive, in shares of the range
            of brightness.
        threshold: above it is ink.
        noise: standard deviation of the paper's strength.
        inside: bool [h, w], where the paper is; None where it is everywhere.
    """

    strength: Floats
    threshold: float
    noise: float
    inside: Mask | None = None


def find_ink(pixels: Floats) -> Ink | None:
    """Return what is drawn on a picture, [h, w, c] in [0, 1]; None where nothing is."""
    height, width = pixels.shape[:2]
    cells, squares = _to_grid(pixels, CELLS), _to_grid(pixels * pixels, CELLS)
    rough = np.sqrt(np.clip(squares - cells * cells, 0, None)).max(axis=2)
    found: list[tuple[Mask, Ink]] = []
    candidates = find_sheets(cells, rough, 1 / min(1.0, CELLS / max(height, width)))
    whole = _difference(_to_grid(pixels, DRAFT)) if candidates else None
    for sheet in candidates:
        if any((inside & sheet.inside).any() for inside, _ in found):
            continue  # a sheet with ink lies on it
        if whole is not None and _of_a_digit(sheet.inside, whole):
            continue
        here = to_grid(sheet.inside, height, width)[..., None]
        colours = resize(sheet.colours, height, width, Image.Resampling.BILINEAR)
        ink = _difference(np.where(here, pixels, colours))
        found += [(sheet.inside, ink)] if ink is not None else []
    largest = max((inside for inside, _ in found), key=np.sum, default=np.zeros((1, 1), bool))
    sheets = [
        (inside, ink)
        for inside, ink in found
        if inside.sum() > ALIKE * largest.sum() and _at_edge(inside) <= _at_edge(largest)
    ]
    if not sheets:
        return _difference(pixels)
    page = to_grid(np.any([inside for inside, _ in sheets], axis=0), height, width)
    strength = np.zeros((height, width), np.float32)
    for inside, ink in sheets:
        strength += np.where(to_grid(inside, height, width), ink.strength / ink.threshold, 0)
    return Ink(strength, 1.0, max(ink.noise / ink.threshold for _, ink in sheets), page)


def _at_edge(inside: Mask) -> bool:
    """Return whether part of a picture reaches its edge."""
    return bool(inside[[0, -1]].any() or inside[:, [0, -1]].any())


def _of_a_digit(inside: Mask, whole: Ink) -> bool:
    """Return whether ``inside`` is a stroke, a hole in a digit, or paper that a digit goes beyond.

    Args:
        inside: bool [h, w] of the grid.
        whole: what is ink if all of the picture is paper.
    """
    inked = whole.strength > whole.threshold
    part = to_grid(inside, *inked.shape)
    unit = max(1, max(inked.shape) // 80)
    core = ndimage.binary_erosion(part, iterations=unit)
    near, far, farther = (
        ndimage.binary_dilation(part, iterations=times * unit) for times in (1, 2, 5)
    )
    filled = _share(inked, part) > FILLED or _share(inked, farther & ~far) > CLOSED
    if inside.mean() < STROKE and filled:
        return True
    labels, count = ndimage.label(inked, np.ones((3, 3), bool))
    areas, within, outside = (
        np.bincount(labels[where], minlength=count + 1)[1:]
        for where in (inked, inked & core, inked & ~near)
    )
    across = (within > ACROSS * areas) & (outside > ACROSS * areas)
    return bool(within[across].sum() > ACROSS * within.sum())


def _share(mask: Mask, where: Mask) -> float:
    return float(mask[where].mean()) if where.any() else 0.0


def resize(values: Floats, height: int, width: int, how: Image.Resampling) -> Floats:
    """Return float32 [height, width, c] from [h, w, c]."""
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), how))
        for plane in np.moveaxis(values.astype(np.float32, copy=False), 2, 0)
    ]
    return np.stack(planes, axis=2)


def _difference(pixels: Floats) -> Ink | None:
    """Return what differs from the paper, or None where nothing does.

    Ink differs from the paper in one direction, in colour: it may be darker or lighter than the
    paper, or of another colour and equally bright. Along that direction, the paper is what squares
    reach that no stroke fills (a morphological opening): unlike means, it keeps the edges of
    shadows and of sheets.
    """
    axis = _main_direction(pixels)
    along: Floats = pixels @ axis
    side = max(along.shape) * _wide(along)
    paper = _opened(along, side)
    strength = along - paper
    # Light falls off by the same factor on paper and on ink.
    brightness = pixels.mean(axis=2) - strength * axis.mean()
    bright = float(np.quantile(brightness[::4, ::4], 0.9))
    strength *= np.clip(bright / np.maximum(brightness, 1e-3), 1, GAIN)
    strength -= np.median(strength)
    threshold = _otsu(strength)
    inked = strength > threshold
    free = ~ndimage.binary_dilation(strength > 0.5 * threshold)
    if not inked.any() or not free.any():
        return None
    off = float(np.median(strength[free]))
    noise = 1.4826 * float(np.median(np.abs(strength[free] - off)))
    contrast = float(np.median(strength[inked]))
    if contrast < 0.02 or contrast < 6 * noise:
        return None
    return Ink(strength, min(threshold, 0.6 * contrast), noise)


def _to_grid(values: Floats, longest: int) -> Floats:
    """Return values [h, w, c] averaged over the cells of a grid."""
    height, width = values.shape[:2]
    shrink = min(1.0, longest / max(height, width))
    rows, columns = max(1, round(height * shrink)), max(1, round(width * shrink))
    return resize(values, rows, columns, Image.Resampling.BOX)


def _main_direction(pixels: Floats) -> Floats:
    """Return the direction [c], of length 1, in which most of what is drawn differs from paper."""
    cells = _to_grid(pixels, GRID)
    samples = np.zeros((33, 33, 1), bool)
    samples[::4, ::4] = True
    rest = cells - ndimage.median_filter(cells, footprint=samples, mode="nearest")
    away = np.sqrt((rest * rest).sum(axis=2))
    far = rest[away >= _otsu(away)]
    # Ink goes one way from the paper; noise and the paper's misfit go all ways.
    axis = np.linalg.eigh(far.T.astype(np.float64) @ far)[1][:, -1]
    if (far @ axis).sum() < 0:
        axis = -axis
    return axis.astype(np.float32)


def _wide(along: Floats) -> float:
    """Return the side of a square that no stroke fills, in shares of the longer side.

    What is narrower than squares grows with them, until they are as wide as the strokes, and again
    where they reach the width of shadows. Between, over the longest range of widths, it stays.
    """
    cells = _to_grid(along[..., None], FINE)[..., 0]
    longer = max(cells.shape)
    sides = np.unique(np.maximum(1, np.rint(WIDTHS * longer / 2))) * 2 + 1
    rests = [cells - _opened(cells, side) for side in sides]
    least = 0.3 * float(rests[-1].max())
    masses = [float(np.clip(rest - least, 0, None).sum()) + 1e-9 for rest in rests]
    best, longest = float(sides[-1]), 1.0
    for first, side in enumerate(sides):
        if masses[first] < CORNERS * masses[-1]:
            continue
        last = first
        while last + 1 < len(masses) and masses[last + 1] < MORE * masses[last]:
            last += 1
        if sides[last] / side > longest:
            best, longest = float(side), sides[last] / side
    return float(1.5 * best / longer)


def _opened(values: Floats, side: float) -> Floats:
    """Return values [h, w] without what is narrower than a square; the edge continues outwards."""
    reach = max(1, round(side // 2))
    padded = np.pad(values, reach, mode="edge")
    opened: Floats = ndimage.grey_opening(padded, size=(2 * reach + 1, 2 * reach + 1))
    return opened[reach:-reach, reach:-reach]


def _otsu(values: Floats) -> float:
    """Return the threshold that splits values above 0 into two classes as far apart as can be.

    Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    top = float(values.max())
    if top <= 0:
        return 0.0
    counts, edges = np.histogram(np.clip(values, 0, None), 256, (0, top))
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    mass = np.cumsum(counts * middle)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    apart[~np.isfinite(apart)] = 0
    best = np.flatnonzero(apart >= apart.max() * (1 - 1e-9))
    return float(edges[1:][best].mean())
