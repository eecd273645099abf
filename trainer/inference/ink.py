"""Finds what is drawn on a picture: the paper is estimated and taken away."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]  # left, top, right and bottom in pixels; the last two outside

GRID = 96  # pixels of the longer side of the grid on which the paper is estimated
SOLID = 0.9  # share of the tightest rectangle that a sheet of paper fills; a disc fills 0.785
SHEET = 100  # pixels of its shorter side, at least: a smaller one is a digit with thick strokes


class Ink(NamedTuple):
    """What differs from the paper.

    Attributes:
        strength: float32 [h, w]; the paper is about 0 and ink positive, in shares of the range
            of brightness.
        threshold: above it is ink.
        noise: standard deviation of the paper's strength.
    """

    strength: Floats
    threshold: float
    noise: float


def find_ink(pixels: Floats) -> Ink | None:
    """Return what is drawn on a picture, or on the sheet that lies in it; None where nothing is.

    Args:
        pixels: float32 [h, w, c] in [0, 1].
    """
    found = _difference(pixels)
    sheet = None if found is None else _without_table(pixels, found)
    return found if sheet is None else _difference(sheet) or found


def resize(values: Floats, height: int, width: int, how: Image.Resampling) -> Floats:
    """Return float32 [height, width, c] from [h, w, c]."""
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), how))
        for plane in np.moveaxis(values.astype(np.float32, copy=False), 2, 0)
    ]
    return np.stack(planes, axis=2)


def _difference(pixels: Floats) -> Ink | None:
    """Return what differs from the paper, or None where nothing does.

    The paper is a smooth field: first a quadratic of x and y that pays little heed to outliers,
    then, for what the quadratic missed, such as the edge of a shadow, weighted means over a
    twelfth of the picture. Ink is the difference from it along the direction, in colour, in which
    it differs most: so it may be darker or lighter than the paper, or of another colour and
    equally bright.
    """
    rest = pixels - _quadratic_paper(pixels)
    for _ in range(3):
        away = np.sqrt((rest * rest).sum(axis=2))
        rest = rest - _smooth(rest, _trust(away, 0.03))
    strength = _along_main_direction(rest)
    threshold = _otsu(strength)
    inked = strength > threshold
    paper = ~ndimage.binary_dilation(strength > 0.5 * threshold)
    if not inked.any() or not paper.any():
        return None
    off = float(np.median(strength[paper]))
    noise = 1.4826 * float(np.median(np.abs(strength[paper] - off)))
    contrast = float(np.median(strength[inked]))
    if contrast < 0.02 or contrast < 6 * noise:
        return None
    return Ink(strength, threshold, noise)


def _without_table(pixels: Floats, ink: Ink) -> Floats | None:
    """Return the picture with the sheet's paper all over it, or None where no sheet is seen.

    Where the "ink" is one large rectangle, turned as it may be, it is a sheet on a table.

    Args:
        pixels: float32 [h, w, c].
        ink: of them.
    """
    labels, _ = ndimage.label(ink.strength > ink.threshold)
    areas = np.bincount(labels.ravel())[1:]
    sheet = np.asarray(ndimage.binary_fill_holes(labels == 1 + int(areas.argmax())))
    rows, columns = np.flatnonzero(sheet.any(axis=1)), np.flatnonzero(sheet.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    margin = max(2, min(height, width) // 25)
    inner = ndimage.binary_erosion(sheet, iterations=margin)
    large = min(height / sheet.shape[0], width / sheet.shape[1]) > 0.3
    large = large and min(height, width) >= SHEET
    if not large or not inner.any() or sheet.sum() < SOLID * _tightest(sheet):
        return None
    nearest = ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True)
    spread: Floats = pixels[tuple(nearest)]
    return spread


def _tightest(mask: Mask) -> float:
    """Return the area of the smallest rectangle around a mask, to 2 degrees, pixels."""
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    angles = np.radians(np.arange(0, 90, 2))
    along = points @ np.stack([np.cos(angles), np.sin(angles)])
    across = points @ np.stack([-np.sin(angles), np.cos(angles)])
    return float(((np.ptp(along, axis=0) + 1) * (np.ptp(across, axis=0) + 1)).min())


def _to_grid(values: Floats) -> Floats:
    """Return values [h, w, c] averaged over the cells of the paper's grid."""
    height, width = values.shape[:2]
    shrink = min(1.0, GRID / max(height, width))
    rows, columns = max(1, round(height * shrink)), max(1, round(width * shrink))
    return resize(values, rows, columns, Image.Resampling.BOX)


def _quadratic_paper(pixels: Floats) -> Floats:
    """Return the paper as a quadratic of x and y, [h, w, c], fitted to most of the picture.

    The first guess is the median of the picture's edge, where there is seldom ink; then weighted
    least squares, where cells count the less the farther they are from the last fit.
    """
    cells = _to_grid(pixels)
    height, width = cells.shape[:2]
    frame = max(1, min(height, width) // 16)
    edge = np.ones((height, width), bool)
    edge[frame:-frame, frame:-frame] = False
    terms = np.stack([term + np.zeros((height, width)) for term in _terms(height, width)], axis=2)
    fit = np.broadcast_to(np.median(cells[edge], axis=0), cells.shape)
    for _ in range(12):
        root = _trust(np.sqrt(((cells - fit) ** 2).sum(axis=2)), 1 / 100)[..., None]
        left, right = (terms * root).reshape(-1, 6), (cells * root).reshape(len(terms) * width, -1)
        coefficients = np.linalg.lstsq(left, right, rcond=None)[0]
        fit = terms @ coefficients
    full = np.zeros_like(pixels)
    for term, factor in zip(_terms(*pixels.shape[:2]), coefficients, strict=True):
        full += (term[..., None] * factor).astype(np.float32)
    return full


def _terms(height: int, width: int) -> tuple[npt.NDArray[np.float64], ...]:
    """Return 1, x, y, x**2, x*y and y**2 of every pixel, each broadcastable to [h, w]."""
    y = ((np.arange(height) + 0.5) / height - 0.5)[:, None]
    x = ((np.arange(width) + 0.5) / width - 0.5)[None, :]
    return np.ones((1, 1)), x, y, x * x, x * y, y * y


def _trust(away: npt.NDArray[Any], least: float) -> npt.NDArray[Any]:
    """Return how much a pixel at this distance from the paper counts as paper, in (0, 1].

    Half at two and a half times the distance of the nearer 40%, at least at ``least``.
    """
    scale = max(2.5 * float(np.quantile(away, 0.4)), least)
    weight: npt.NDArray[Any] = 1 / (1 + (away / scale) ** 2)
    return weight


def _smooth(rest: Floats, trust: Floats) -> Floats:
    """Return the smooth part of the rest, [h, w, c], by weighted means."""
    height, width = trust.shape
    share = trust[..., None]
    both = _to_grid(np.concatenate([rest * share, share], axis=2))
    sigma = max(both.shape[:2]) / 12
    both = ndimage.gaussian_filter(both, (sigma, sigma, 0), mode="nearest")
    return resize(both[..., :-1] / both[..., -1:], height, width, Image.Resampling.BILINEAR)


def _along_main_direction(rest: Floats) -> Floats:
    """Return the rest's component in the direction in which most of its far pixels lie, [h, w]."""
    away = np.sqrt((rest * rest).sum(axis=2))
    far = rest[away >= _otsu(away)]
    # Ink goes one way from the paper; noise and the paper's misfit go all ways.
    axis = np.linalg.eigh(far.T.astype(np.float64) @ far)[1][:, -1]
    if (far @ axis).sum() < 0:
        axis = -axis
    strength: Floats = rest @ axis.astype(np.float32)
    return strength


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
