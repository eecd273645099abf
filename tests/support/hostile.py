"""Pictures of MNIST's digits as people might send them: anything but prepared as MNIST's are.

``make`` turns an image into a file's bytes, by kind and at random. A digit is drawn at some scale
on paper of some size, in some colours, under some light, and encoded.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Floats = npt.NDArray[np.floating[Any]]
Random = np.random.Generator
LUMA = np.array([0.299, 0.587, 0.114])
FINE = 8  # pixels of the grid on which strokes are changed, for each of the image's


@dataclass(frozen=True)
class Drawing:
    """How a digit is drawn, lit and stored.

    Attributes:
        scale: pixels for each of the image's.
        pen: "as it is", "thin" or "thick".
        border: of paper around the image, in sides of it: left, top, right, bottom.
        ink, paper: red, green and blue in [0, 1].
        light: factor on the brightness, of (height, width).
        noise: standard deviation, in shares of the range of brightness.
        transparent: what is not there: nothing, the "paper" or the "ink".
        encoding: Pillow's format and settings.
    """

    scale: float
    pen: str = "as it is"
    border: tuple[float, float, float, float] = (0, 0, 0, 0)
    ink: tuple[float, ...] = (1, 1, 1)
    paper: tuple[float, ...] = (0, 0, 0)
    light: Callable[[int, int], Floats] | None = None
    noise: float = 0.0
    transparent: str = "nothing"
    encoding: dict[str, Any] = field(default_factory=lambda: {"format": "PNG"})


def scaled(drawing: Drawing, random: Random) -> Drawing:
    """0.3 to 8 times, every doubling as often as the next."""
    return replace(drawing, scale=_log_uniform(random, 0.3, 8))


def inverted(drawing: Drawing, random: Random) -> Drawing:
    """Dark on light, not quite black on white."""
    paper, ink = random.uniform(0.75, 1), random.uniform(0, 0.3)
    return replace(drawing, ink=(ink,) * 3, paper=(paper,) * 3)


def off_centre(drawing: Drawing, random: Random) -> Drawing:
    """On paper up to twice as wide and high, anywhere."""
    x, y = random.uniform(0.3, 1, 2)
    left, top = x * random.uniform(), y * random.uniform()
    return replace(drawing, border=(left, top, x - left, y - top))


def large_border(drawing: Drawing, random: Random) -> Drawing:
    """On paper three to five times as wide and high."""
    return replace(drawing, border=tuple(random.uniform(1, 2, 4)))


def coloured(drawing: Drawing, random: Random) -> Drawing:
    """Any two colours that differ by 0.4 or more, 1 being the range of each primary."""
    while True:
        ink, paper = random.uniform(0, 1, (2, 3))
        if np.linalg.norm(ink - paper) > 0.4:
            return replace(drawing, ink=tuple(ink), paper=tuple(paper))


def equal_luminance(drawing: Drawing, random: Random) -> Drawing:
    """Two colours that are the same grey, and differ by 0.4 or more."""
    while True:
        ink, paper = random.uniform(0, 1, (2, 3))
        paper += (LUMA @ (ink - paper)) / LUMA.sum()
        if np.linalg.norm(ink - paper) > 0.4 and paper.min() >= 0 and paper.max() <= 1:
            return replace(drawing, ink=tuple(ink), paper=tuple(paper))


def transparent(drawing: Drawing, random: Random) -> Drawing:
    """Ink of any colour on nothing, or a hole of its form in paper of any colour."""
    drawn = replace(coloured(drawing, random), transparent=str(random.choice(["paper", "ink"])))
    return replace(drawn, encoding={"format": str(random.choice(["PNG", "WEBP"]))})


def jpeg(drawing: Drawing, random: Random) -> Drawing:
    """JPEG of quality 20, in dark on light or light on dark."""
    drawn = inverted(drawing, random) if random.uniform() < 0.5 else drawing
    return replace(drawn, transparent="nothing", encoding={"format": "JPEG", "quality": 20})


def uneven_light(drawing: Drawing, random: Random) -> Drawing:
    """Dark on light paper under a lamp, a vignette or a soft shadow, with a sensor's noise."""
    drawn = inverted(drawing, random)
    light = random.choice(np.array([gradient, vignette, shadow], dtype=object))(random)
    return replace(drawn, light=light, noise=random.uniform(0.005, 0.03))


def thin(drawing: Drawing, random: Random) -> Drawing:
    """A pen of a quarter to three quarters of the image's pixel; no smaller than 2 times."""
    return replace(drawing, pen="thin", scale=_log_uniform(random, 2, 8))


def thick(drawing: Drawing, random: Random) -> Drawing:
    """Up to 1.5 of the image's pixels more on either side, as long as loops stay open."""
    del random
    return replace(drawing, pen="thick")


def combined(drawing: Drawing, random: Random) -> Drawing:
    """A pen, a place, colours or light, and an encoding, each at random."""
    for choices in (
        (as_it_is, as_it_is, thin, thick),
        (off_centre, large_border),
        (inverted, coloured, equal_luminance, uneven_light, transparent),
        (as_it_is, jpeg),
    ):
        drawing = choices[random.integers(len(choices))](drawing, random)
        if drawing.light is not None or drawing.transparent != "nothing":
            break
    return drawing


def as_it_is(drawing: Drawing, random: Random) -> Drawing:
    """Nothing."""
    del random
    return drawing


KINDS: dict[str, Callable[[Drawing, Random], Drawing]] = {
    "scaled 0.3 to 8 times": scaled,
    "inverted": inverted,
    "off centre": off_centre,
    "large border": large_border,
    "coloured": coloured,
    "equal luminance": equal_luminance,
    "transparent": transparent,
    "JPEG of quality 20": jpeg,
    "uneven light": uneven_light,
    "thin strokes": thin,
    "thick strokes": thick,
    "several of these": combined,
}


def make(image: npt.NDArray[np.uint8], kind: str, random: Random) -> bytes:
    """Return the file of an image, uint8 [28, 28], made hostile."""
    return draw(image, KINDS[kind](Drawing(_log_uniform(random, 1, 8)), random), random)


def draw(image: npt.NDArray[np.uint8], drawing: Drawing, random: Random) -> bytes:
    """Return the file of an image, uint8 [28, 28], drawn so."""
    ink = _ink(image, drawing, random)
    paper = np.array(drawing.paper)
    colour = paper + ink[..., None] * (np.array(drawing.ink) - paper)
    if drawing.light:
        colour *= drawing.light(*ink.shape)[..., None]
    if drawing.noise:
        colour += random.normal(0, drawing.noise, colour.shape)
    if drawing.transparent == "paper":
        colour[:] = drawing.ink
    alpha = {"nothing": np.ones_like(ink), "paper": ink, "ink": 1 - ink}[drawing.transparent]
    pixels = np.concatenate([colour, alpha[..., None]], axis=2)
    picture = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8), "RGBA")
    if drawing.transparent == "nothing":
        picture = picture.convert("RGB")
    return encoded(picture, **drawing.encoding)


def encoded(picture: Image.Image, **encoding: Any) -> bytes:
    """Return a picture's file."""
    file = io.BytesIO()
    picture.save(file, **encoding)
    return file.getvalue()


def gradient(random: Random) -> Callable[[int, int], Floats]:
    """Light that falls to less than half from one side to the other."""
    angle, low = random.uniform(0, 2 * np.pi), random.uniform(0.35, 0.6)

    def light(height: int, width: int) -> Floats:
        along = _along(height, width, angle)
        falling: Floats = 1 - (1 - low) * (along - along.min()) / np.ptp(along)
        return falling

    return light


def vignette(random: Random) -> Callable[[int, int], Floats]:
    """Light that falls towards the corners."""
    loss = random.uniform(0.3, 0.6)

    def light(height: int, width: int) -> Floats:
        x, y = _along(height, width, 0), _along(height, width, np.pi / 2)
        falling: Floats = 1 - loss * (x**2 + y**2) * 2
        return falling

    return light


def shadow(random: Random) -> Callable[[int, int], Floats]:
    """A half in soft shadow."""
    angle, at = random.uniform(0, 2 * np.pi), random.uniform(-0.25, 0.25)
    soft, dark = random.uniform(0.05, 0.15), random.uniform(0.25, 0.45)

    def light(height: int, width: int) -> Floats:
        edge: Floats = 1 - dark / (1 + np.exp(-(_along(height, width, angle) - at) / soft))
        return edge

    return light


def _along(height: int, width: int, angle: float) -> Floats:
    """Return how far each pixel lies in a direction, -0.5 to 0.5 along an axis."""
    y, x = np.mgrid[0:height, 0:width]
    along: Floats = np.cos(angle) * ((x + 0.5) / width - 0.5)
    along += np.sin(angle) * ((y + 0.5) / height - 0.5)
    return along


def _log_uniform(random: Random, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _ink(image: npt.NDArray[np.uint8], drawing: Drawing, random: Random) -> Floats:
    """Return ink in [0, 1] on its paper."""
    source: Floats = image.astype(np.float32) / 255
    if drawing.pen == "thin":
        source = thinned(image, random.uniform(0.25, 0.75))
    elif drawing.pen == "thick":
        source = thickened(image, random.uniform(0.5, 1.5))
    side = max(1, round(28 * drawing.scale))
    how = Image.Resampling.BICUBIC
    ink = np.clip(np.asarray(Image.fromarray(source).resize((side, side), how)), 0, 1)
    left, top, right, bottom = (round(side * share) for share in drawing.border)
    return np.pad(ink.astype(np.float64), ((top, bottom), (left, right)))


def fine(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the image's ink, [28 * FINE, 28 * FINE]."""
    size = tuple(side * FINE for side in image.shape)
    ink = Image.fromarray(image.astype(np.float32) / 255)
    return np.asarray(ink.resize(size, Image.Resampling.BICUBIC))


def thinned(image: npt.NDArray[np.uint8], width: float) -> npt.NDArray[np.float32]:
    """Return the middle of the strokes drawn with a round pen, its width in the image's pixels."""
    away = ndimage.distance_transform_edt(~skeleton(fine(image) > 0.5))
    line: npt.NDArray[np.float32] = np.clip(width * FINE / 2 - away + 0.5, 0, 1).astype(np.float32)
    return line


def thickened(image: npt.NDArray[np.uint8], by: float) -> npt.NDArray[np.float32]:
    """Return the strokes, thicker on either side by so many of the image's pixels.

    By less where a loop would close.
    """
    mask = fine(image) > 0.5
    away = ndimage.distance_transform_edt(~mask)
    loops = _loops(mask)
    grow = by * FINE
    while grow > 1 and _loops(away <= grow + 1) != loops:
        grow *= 0.8
    return np.clip(grow - away + 0.5, 0, 1).astype(np.float32)


def _loops(mask: npt.NDArray[np.bool_]) -> int:
    return int(ndimage.label(np.pad(~mask, 1, constant_values=True))[1]) - 1


def skeleton(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return lines one pixel wide with the mask's branches and loops.

    Zhang and Suen, A fast parallel algorithm for thinning digital patterns, 1984.
    """
    left = np.pad(mask, 1)
    while True:
        before = left.sum()
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            # The eight neighbours, clockwise from the one above.
            around = [
                np.roll(left, shift, (0, 1))
                for shift in ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
            ]
            count = np.sum(around, axis=0)
            turns = np.sum([~around[i] & around[(i + 1) % 8] for i in range(8)], axis=0)
            open_first = ~np.logical_and.reduce([around[i] for i in first])
            open_second = ~np.logical_and.reduce([around[i] for i in second])
            left &= ~((count >= 2) & (count <= 6) & (turns == 1) & open_first & open_second)
        if left.sum() == before:
            return left[1:-1, 1:-1]
