"""Makes a digit's ink into an image as MNIST's are: strokes, size and centre.

MNIST's digits are light ink on black, cropped to the ink, scaled with anti-aliasing into 20 x 20
pixels keeping their aspect ratio, and moved in 28 x 28 so that their centre of mass is in the
middle (http://yann.lecun.com/exdb/mnist/).
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from trainer.inference.ink import Box, Floats, Ink, Mask, resize

Bytes = npt.NDArray[np.uint8]


LEVEL = np.float32(0.05)  # ink above which a pixel counts when a digit is cropped


# Widths of strokes, in shares of the digit's longer side. Those of nine in ten of MNIST's digits
# are within (600 test images, ten times enlarged); what is without is brought to the limit.
THIN, THICK = 0.075, 0.19


MOST_TIMES = 40  # that ink is enlarged; what is smaller than four pixels has no shape to keep


def inked(ink: Ink, mask: Mask, box: Box) -> Floats:
    """Return one digit's ink, float32 [h, w] from 0, paper, to 1, its strokes as wide as MNIST's.

    Args:
        ink: of the whole picture.
        mask: bool [h, w] of the box, true where the ink is this digit's.
        box: of the digit.
    """
    left, top, right, bottom = box
    edge = max(2, max(right - left, bottom - top) // 10)
    rows = slice(max(0, top - edge), bottom + edge)
    columns = slice(max(0, left - edge), right + edge)
    window = ink.strength[rows, columns]
    own = np.zeros(window.shape, bool)
    own[top - rows.start :, left - columns.start :][: mask.shape[0], : mask.shape[1]] = mask
    strength = np.where(ndimage.binary_dilation(own, np.ones((3, 3), bool)), window, 0)
    full = float(np.percentile(strength[strength > ink.threshold], 60))
    zero = min(2 * ink.noise, 0.3 * full)
    values = np.clip((strength - zero) / (full - zero), 0, 1).astype(np.float32)
    values = np.pad(values, edge)
    side = max(right - left, bottom - top)
    if side < 20:
        values = _enlarged(values, min(MOST_TIMES, math.ceil(160 / side)))
    return _usual_strokes(values)


def centred(ink: Floats, size: int = 28) -> Bytes:
    """Return an image as MNIST's are made, uint8 [size, size], full ink 255.

    Exactly, for who does the same elsewhere, with ``inner = floor(size * 20 / 28 + 0.5)``:

    1. Crop to the rows and columns with a pixel above LEVEL. Without any, all is 0.
    2. Scale by ``inner / max(h, w)``; each new side is ``floor(side * inner / max(h, w) + 0.5)``,
       at least 1. The filter is Pillow's BILINEAR on mode "F", first along rows, then along
       columns: with ``scale = old / new``, ``f = max(scale, 1)`` and
       ``centre = (o + 0.5) * scale``, pixel ``o`` is the mean of the pixels ``i`` from
       ``max(0, trunc(centre - f + 0.5))`` to before ``min(old, trunc(centre + f + 0.5))`` with
       weights ``max(0, 1 - abs((i + 0.5 - centre) / f))``.
    3. Divide by the largest pixel, so that it is 1.
    4. With the centre of mass (row, column) in indices of pixels, put its first pixel at
       ``ceil(size / 2 - 0.5 - row)`` and so for columns, or as near as the image allows: whole
       pixels, so that the mass is in [13.5, 14.5) of 28, where it is in all of MNIST's images.
    5. ``floor(255 * value + 0.5)``.

    Args:
        ink: float32 [h, w] from 0, paper, to 1.
        size: of the image, pixels; MNIST's is 28.
    """
    image = np.zeros((size, size), np.uint8)
    above = ink > LEVEL
    if not above.any():
        return image
    rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inner, longer = math.floor(size * 20 / 28 + 0.5), max(crop.shape)
    height, width = (max(1, math.floor(side * inner / longer + 0.5)) for side in crop.shape)
    small = resize(crop[..., None], height, width, Image.Resampling.BILINEAR)[..., 0]
    small = small / small.max()
    top, left = (
        min(max(0, math.ceil(size / 2 - 0.5 - _mean_index(small.sum(axis=1 - axis)))), size - side)
        for axis, side in enumerate((height, width))
    )
    image[top : top + height, left : left + width] = np.floor(small * 255 + 0.5)
    return image


def _mean_index(mass: Floats) -> float:
    wide = mass.astype(np.float64)
    return float((wide * np.arange(len(wide))).sum() / wide.sum())


def _enlarged(values: Floats, times: int) -> Floats:
    height, width = values.shape
    large = resize(values[..., None], height * times, width * times, Image.Resampling.LANCZOS)
    return np.clip(large[..., 0], 0, 1)


def _usual_strokes(values: Floats) -> Floats:
    """Return the ink with strokes that are too thin or too thick for MNIST at the limit."""
    rows, columns = (np.flatnonzero((values > 0.5).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return values
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    times = math.ceil(200 / side)
    # Four pixels more than the ink's: the filter reaches three.
    inner = [slice(max(0, each[0] - 4), each[-1] + 5) for each in (rows, columns)]
    fine = _enlarged(values[inner[0], inner[1]], times) if times > 1 else values
    side *= times
    # The blur takes away stairs of pixels, whose edge is up to 4 / pi longer than the stroke's.
    width = _stroke_width(ndimage.gaussian_filter(fine, 0.015 * side)) / side
    if THIN <= width <= THICK:
        return values
    grow = ((THIN if width < THIN else THICK) - width) * side / 2
    mask = np.pad(fine > 0.5, math.ceil(max(0, grow)) + 1)
    inside = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    grown: Floats = np.clip(inside + grow + 0.5, 0, 1).astype(np.float32)
    return grown if grown.any() else values


def _stroke_width(values: Floats) -> float:
    """Return the mean width of strokes, pixels: twice their area by the length of their edges.

    The length is the total variation of the ink, which changes little where a hole in it is about
    to close; only its middle greys count, so that noise on paper or ink adds nothing.
    """
    steep = np.clip(2 * np.pad(values, 2) - 0.5, 0, 1)
    down, across = np.gradient(steep)
    edges = float(np.hypot(down, across).sum())
    return 2 * float(steep.sum()) / edges if edges else 0.0
