"""Finds what is drawn on a picture: the paper is estimated and taken away."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from trainer.inference.paper import CELLS, find_sheets, to_grid

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]  # left, top, right and bottom in pixels; the last two outside

SQUARES = (1, 2, 4, 8)  # eighths of their sides, cells
MORE = 1.3  # times what differs from the medians, below which it is strokes, not shadows
GRID = 96  # pixels of the longer side of the grid on which the paper is estimated


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
    """Return what is drawn on the paper of a picture; None where nothing is.

    Args:
        pixels: float32 [h, w, c] in [0, 1].
    """
    height, width = pixels.shape[:2]
    shrink = min(1.0, CELLS / max(height, width))
    cells = resize(
        pixels, max(1, round(height * shrink)), max(1, round(width * shrink)), Image.Resampling.BOX
    )
    strength = np.zeros((height, width), np.float32)
    page, noise = np.zeros(cells.shape[:2], bool), 0.0
    squares = resize(pixels * pixels, cells.shape[0], cells.shape[1], Image.Resampling.BOX)
    rough = np.sqrt(np.clip(squares - cells * cells, 0, None)).max(axis=2)
    for sheet in find_sheets(cells, rough, 1 / shrink):
        if (page & sheet.inside).any():
            continue  # a sheet with ink lies on it
        here = to_grid(sheet.inside, height, width)[..., None]
        colours = resize(sheet.colours, height, width, Image.Resampling.BILINEAR)
        ink = _difference(np.where(here, pixels, colours))
        if ink is not None:
            page |= sheet.inside
            strength += np.where(here[..., 0], ink.strength / ink.threshold, 0)
            noise = max(noise, ink.noise / ink.threshold)
    if not page.any():
        return _difference(pixels)
    return Ink(strength, 1.0, noise, to_grid(page, height, width))


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
    raw = pixels - _quadratic_paper(pixels)
    rest = raw
    for _ in range(3):
        rest = _smoother(rest)
    rest = _smoother(raw - _uneven(raw, rest))
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


def _smoother(rest: Floats) -> Floats:
    away = np.sqrt((rest * rest).sum(axis=2))
    return rest - _smooth(rest, _trust(away, 0.03))


def _uneven(raw: Floats, rest: Floats) -> Floats:
    """Return what is uneven about the paper, such as a shadow and its edge, [h, w, c].

    Medians over squares: unlike means they keep edges. The square is so large that smaller ones
    take away strokes, not only shadows: hardly less of the picture differs from their medians.
    """
    height, width = rest.shape[:2]
    cells = _to_grid(raw)
    medians, masses = [], []
    for step in SQUARES:
        samples = np.zeros((8 * step + 1, 8 * step + 1, 1), bool)
        samples[::step, ::step] = True
        medians.append(ndimage.median_filter(cells, footprint=samples, mode="nearest"))
        masses.append(_mass(cells - medians[-1]))
    masses.append(_mass(_to_grid(rest)))
    chosen = raw - rest
    for square, mass, larger in zip(medians[::-1], masses[-2::-1], masses[::-1], strict=False):
        if larger < MORE * mass:
            break
        chosen = square
    return (
        chosen
        if chosen.shape == raw.shape
        else resize(chosen, height, width, Image.Resampling.BILINEAR)
    )


def _mass(rest: Floats) -> float:
    """Return how much there is on the grid that is no noise."""
    return float(np.clip(np.sqrt((rest * rest).sum(axis=2)) - 0.03, 0, None).sum()) + 1e-9


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
