"""Pictures of digits as people make them, to images prepared as MNIST's were.

A model that reads 99% of MNIST reads little else, and a photograph looks like none of it. So the
paper is estimated and taken away, whatever its light and colour (ink.py), the ink that is left is
split into digits (segmentation.py), and each is made as MNIST's are (mnist_style.py).
"""

import io
import math
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer.common.text import one_line
from trainer.errors import ConfigError, DataError
from trainer.inference.ink import Box, Floats, find_ink, resize
from trainer.inference.mnist_style import Bytes, centred, inked
from trainer.inference.segmentation import split

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
KINDS = "PNG, JPEG, WebP, GIF, TIFF or BMP"
LONGEST = 1600  # pixels of a picture's longer side; larger ones are scaled down to it


class Digit(NamedTuple):
    """One digit of a picture.

    Attributes:
        image: uint8 [size, size], as MNIST's: full ink 255, background 0.
        box: where its ink is in the picture, upright as it is shown.
    """

    image: Bytes
    box: Box


def decode(data: bytes, name: str) -> Image.Image:
    """Return the first picture in a file, turned upright as its EXIF says.

    Raises:
        DataError: it is of none of ``FORMATS``, damaged, or too large; ``name`` is the file's.
    """
    if not data:
        raise DataError(f"{name}: empty file; give a picture, {KINDS}")
    if data[4:8] == b"ftyp":
        raise DataError(
            f"{name}: a HEIC or AVIF picture; save it as JPEG, for example with "
            "magick IN.heic OUT.jpg"
        )
    if b"<svg" in data[:2000].lower():
        raise DataError(
            f"{name}: an SVG drawing; save it as PNG, for example with "
            "rsvg-convert IN.svg -o OUT.png"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            picture.load()
            return ImageOps.exif_transpose(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{name}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; give a smaller picture"
        ) from None
    except UnidentifiedImageError:
        raise DataError(f"{name}: not a picture that can be read; give {KINDS}") from None
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        reason = one_line(error) or type(error).__name__
        raise DataError(f"{name}: damaged picture: {reason}; save it again") from None


def resized(picture: Image.Image, shape: tuple[int, int, int]) -> Bytes:
    """Return the whole picture scaled to a model's images, uint8 ``shape``, and nothing else.

    Transparent parts become black. A large picture is scaled in two steps, for the memory's sake.

    Raises:
        ConfigError: the images have neither 1, 3 nor 4 channels.
    """
    height, width, channels = shape
    if channels not in (1, 3, 4):
        raise ConfigError(f"the model takes {channels} channels; a picture has 1, 3 or 4")
    colour, alpha = _channels(shrunk(picture, max(LONGEST, 4 * max(height, width))))
    full = alpha[..., None]
    values = np.concatenate([colour * full, full], axis=2)
    if channels == 1:
        values = values[..., :3] @ np.array([[0.299], [0.587], [0.114]], np.float32)
    scaled = resize(values[..., :channels], height, width, Image.Resampling.BILINEAR)
    return _bytes(scaled)


def visible(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, what is transparent on a chequered ground."""
    colour, alpha = _channels(picture)
    y, x = np.indices(alpha.shape) // 8
    ground = np.where((x + y) % 2, np.float32(0.55), np.float32(0.65))[..., None]
    return Image.fromarray(_bytes(ground + (colour - ground) * alpha[..., None]))


def digits(picture: Image.Image, name: str, size: int = 28) -> tuple[list[Digit], list[str]]:
    """Return the digits of a picture, line by line and left to right, at least one, and notes.

    A note is a line on what was left out or is doubtful.

    Raises:
        DataError: there is no ink, or there are more pieces of it than digits in any picture.
    """
    small = shrunk(picture, LONGEST)
    found = find_ink(flattened(*_channels(small)))
    if found is None:
        raise DataError(
            f"{name}: blank: nothing on it stands out from the paper; give a picture of a digit"
        )
    across, down = picture.width / small.width, picture.height / small.height
    digits, notes = split(found, name)
    images = [
        Digit(
            centred(inked(found, mask, box), size),
            (
                math.floor(box[0] * across),
                math.floor(box[1] * down),
                math.ceil(box[2] * across),
                math.ceil(box[3] * down),
            ),
        )
        for box, mask in digits
    ]
    return images, notes


def shrunk(picture: Image.Image, longest: int) -> Image.Image:
    """Return the picture, scaled down so that neither side has more pixels than ``longest``."""
    if max(picture.size) <= longest:
        return picture
    small = picture.convert("RGBA") if picture.mode in ("P", "PA", "1") else picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.BOX, reducing_gap=None)
    return small


def flattened(colour: Floats, alpha: Floats) -> Floats:
    """Return a picture without its transparency, float32 [h, w, c], ink standing out from paper.

    Where all that is visible has one colour, or less than half of the picture is visible, what is
    drawn is the transparency itself. Otherwise the transparent parts count as paper.

    Args:
        colour: float32 [h, w, 3] in [0, 1].
        alpha: float32 [h, w] in [0, 1], 0 where nothing is seen.
    """
    if alpha.max() - alpha.min() < 0.1:
        return colour
    seen = colour[alpha > 0.5 * alpha.max()]
    if len(seen) < 0.5 * alpha.size or seen.std(axis=0).max() < 0.1:
        return alpha[..., None]
    full = alpha[..., None]
    mixed: Floats = colour * full + np.median(seen, axis=0) * (1 - full)
    return mixed


def _bytes(values: Floats) -> Bytes:
    rounded: Bytes = np.floor(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
    return rounded


def _channels(picture: Image.Image) -> tuple[Floats, Floats]:
    """Return colour [h, w, 3] and opacity [h, w], both in [0, 1]."""
    if picture.mode in ("I;16", "I;16B", "I", "F"):  # 16 bit grey
        grey: Floats = np.asarray(picture, np.float32)
        grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-30)
        return np.repeat(grey[..., None], 3, axis=2), np.ones_like(grey)
    pixels: Floats = np.asarray(picture.convert("RGBA"), np.float32) / np.float32(255)
    return pixels[..., :3], pixels[..., 3]
