"""Photographs of MNIST's digits drawn on paper, each a picture's file and what stands on it.

``make`` draws digits as ink on a page, lays the page on a table, takes a picture of it at an angle
under some light, and saves it: sixty pictures of 200 digits, of the kinds in ``KINDS``.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

from tests.support.hostile import encoded, fine, thinned

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Random = np.random.Generator
DEGREES = np.pi / 180
PENS = {
    "blue": (30, 45, 130),
    "black": (25, 25, 30),
    "red": (170, 30, 40),
    "pencil": (105, 105, 108),
    "green": (20, 100, 60),
}
VIRIDIS = np.array(
    [
        (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140),
        (40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37),
    ],
    float,
)  # fmt: skip


@dataclass(frozen=True)
class Photograph:
    """How a page is drawn, laid down, lit and saved.

    Attributes:
        height: of the digits, pixels of the page.
        rows: of digits on the page.
        pen: red, green and blue.
        paper: its colour.
        stroke: width of the pen in pixels of MNIST's images, 0 where it is as it is.
        print: draws on the page's RGB image [h, w, 3], given the digits' boxes, before the ink.
        spread: page around the digits, in their height.
        table: its colour, and its texture's name.
        around: of the picture's sides that the table takes.
        turn, tilt: degrees in the picture's plane and out of it.
        light: of (height, width), a factor.
        over: draws on the finished photograph.
        size: pixels of the longer side.
        noise: standard deviation, of 255.
        blur: of the lens, pixels.
        save: the file's format and settings.
    """

    height: int = 150
    rows: int = 1
    pen: tuple[float, ...] = PENS["blue"]
    paper: tuple[float, ...] = (238, 234, 224)
    stroke: float = 0
    print: Callable[[Image.Image, list[tuple[int, int, int, int]]], None] | None = None
    spread: float = 0.6
    table: tuple[tuple[float, ...], str] = ((95, 70, 55), "plain")
    around: float = 0.0
    turn: float = 0.0
    tilt: float = 0.0
    light: Callable[[int, int], Floats] | None = None
    over: Callable[[Image.Image], None] | None = None
    size: int = 1200
    noise: float = 3
    blur: float = 0.7
    save: dict[str, Any] = field(default_factory=lambda: {"format": "JPEG", "quality": 85})


def take(images: list[Bytes], photograph: Photograph, random: Random) -> bytes:
    """Return the file of a photograph of images, uint8 [28, 28], drawn so."""
    page = _page(images, photograph, random)
    width, height = page.size
    shrink = photograph.size / max(width, height)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    corners = _corners(width / height, photograph, random)
    table = _table(photograph.table, size, random)
    coefficients = _perspective(corners * (np.array(size) / [1, 1]), (width, height))
    if shrink < 0.7:
        page = page.filter(ImageFilter.GaussianBlur(0.4 / shrink))
    sheet = page.convert("RGBA").transform(
        size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    )
    table.paste(sheet, (0, 0), sheet)
    pixels = np.asarray(table.filter(ImageFilter.GaussianBlur(photograph.blur)), np.float32)
    if photograph.light:
        pixels = pixels * photograph.light(size[1], size[0]).astype(np.float32)[..., None]
    grain = random.standard_normal(pixels.shape, np.float32)
    pixels = pixels + np.float32(photograph.noise) * grain
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if photograph.over:
        photograph.over(picture)
    return encoded(picture, **photograph.save)


def _page(images: list[Bytes], photograph: Photograph, random: Random) -> Image.Image:
    """Return the page, seen from above."""
    tall = photograph.height
    inks = [_ink(image, photograph.stroke, tall * random.uniform(0.85, 1.1)) for image in images]
    per_row = -(-len(inks) // photograph.rows)
    edge = round(photograph.spread * tall)
    x, y, right, boxes = edge, edge, 0, []
    for place, ink in enumerate(inks):
        if place and place % per_row == 0:
            x, y = edge, y + round(1.6 * tall)
        top = y + round(tall * random.uniform(0, 0.12))
        boxes.append((x, top, x + ink.shape[1], top + ink.shape[0]))
        x += ink.shape[1] + round(tall * random.uniform(0.3, 0.6))
        right = max(right, boxes[-1][2])
    size = right + edge, max(box[3] for box in boxes) + edge
    page = Image.new("RGB", size, tuple(map(round, photograph.paper)))
    if photograph.print:
        photograph.print(page, boxes)
    covered = np.zeros((size[1], size[0]))
    for ink, (left, top, *_) in zip(inks, boxes, strict=True):
        part = covered[top : top + ink.shape[0], left : left + ink.shape[1]]
        np.maximum(part, ink, out=part)
    if tuple(photograph.pen) == PENS["pencil"]:
        grain = ndimage.gaussian_filter(random.normal(0, 1, covered.shape), 1.2)
        covered *= np.clip(0.8 + 0.9 * grain, 0.35, 1)
    pixels = np.asarray(page, float)
    pixels = pixels + covered[..., None] * (np.array(photograph.pen) - pixels)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _ink(image: Bytes, stroke: float, tall: float) -> Floats:
    """Return the image's ink cropped to it, [tall, w] in [0, 1]."""
    drawn = thinned(image, stroke) if stroke else fine(image)
    rows, columns = np.flatnonzero((drawn > 0.3).any(axis=1)), np.flatnonzero((drawn > 0.3).any(0))
    crop = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    high = round(tall)
    wide = max(3, round(crop.shape[1] * high / crop.shape[0]))
    large = Image.fromarray(crop).resize((wide, high), Image.Resampling.BICUBIC)
    edge: Floats = np.clip((np.asarray(large, float) - 0.3) / 0.35, 0, 1)
    return edge


def _corners(aspect: float, photograph: Photograph, random: Random) -> Floats:
    """Return where the page's corners are, in shares of the picture, from the upper left on."""
    page = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], float)
    page *= np.array([aspect, 1, 1]) / max(aspect, 1)
    turn, tilt = photograph.turn * DEGREES, photograph.tilt * DEGREES
    axis = random.uniform(0, 2 * np.pi)
    page = page @ _rotation(2, turn).T
    page = page @ (_rotation(2, axis) @ _rotation(0, tilt) @ _rotation(2, -axis)).T
    seen = page[:, :2] / (1 + page[:, 2:] / 3.5)
    low, high = seen.min(axis=0), seen.max(axis=0)
    inner = 1 - 2 * photograph.around
    if photograph.around <= 0:  # no table is seen: the picture's corners are on the page
        low, high = np.sort(seen, axis=0)[1], np.sort(seen, axis=0)[2]
    shares: Floats = (seen - low) / (high - low) * inner + photograph.around
    return shares


def _rotation(axis: int, angle: float) -> Floats:
    one, two = [(1, 2), (0, 2), (0, 1)][axis]
    turned = np.eye(3)
    turned[one, one] = turned[two, two] = np.cos(angle)
    turned[one, two], turned[two, one] = -np.sin(angle), np.sin(angle)
    return turned


def _perspective(corners: Floats, size: tuple[int, int]) -> list[float]:
    """Return Pillow's coefficients that bring a page of this size to these corners."""
    width, height = size
    rows, values = [], []
    for (x, y), (u, v) in zip(
        corners, [(0, 0), (width, 0), (width, height), (0, height)], strict=True
    ):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return [float(each) for each in np.linalg.solve(np.array(rows), np.array(values))]


def _table(
    table: tuple[tuple[float, ...], str], size: tuple[int, int], random: Random
) -> Image.Image:
    """Return a table top."""
    colour, texture = table
    shrink = min(1, 1000 / max(size))
    width, height = (max(1, round(side * shrink)) for side in size)
    noise = random.normal(0, 1, (height, width))
    y, x = np.indices((height, width))
    unit = max(width, height) / 100
    if texture == "wood":
        grain = ndimage.gaussian_filter(noise, (unit / 4, unit * 6))
        relief = 1 + 0.22 * grain / grain.std()
    elif texture == "cloth":
        relief = (
            1 + 0.12 * np.sin(x * 2 * np.pi / unit) * np.sin(y * 2 * np.pi / unit) + 0.05 * noise
        )
    elif texture == "granite":
        grain = ndimage.gaussian_filter(noise, unit / 3)
        relief = 1 + 0.3 * grain / grain.std()
    elif texture == "tiles":
        relief = 1 - 0.45 * (((x + 3 * unit) % (28 * unit) < unit) | ((y % (22 * unit)) < unit))
    else:
        relief = 1 + 0.02 * noise
    pixels = np.array(colour) * np.clip(relief, 0.2, 1.8)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize(size)


def soft(random: Random) -> Callable[[int, int], Floats]:
    """The soft shadow of a phone, a rectangle."""
    return _phone(random, random.uniform(0.02, 0.06))


def hard(random: Random) -> Callable[[int, int], Floats]:
    """The same with a hard edge."""
    return _phone(random, random.uniform(0.001, 0.004))


def _phone(random: Random, softness: float) -> Callable[[int, int], Floats]:
    angle, dark = random.uniform(-35, 35) * DEGREES, random.uniform(0.3, 0.5)
    x0, y0, wide = random.uniform(0.3, 0.7), random.uniform(0.3, 0.8), random.uniform(0.2, 0.35)

    def light(height: int, width: int) -> Floats:
        longer = max(height, width)
        y, x = np.indices((height, width)) / longer
        x, y = x - x0 * width / longer, y - y0 * height / longer
        across = np.cos(angle) * x + np.sin(angle) * y
        along = np.cos(angle) * y - np.sin(angle) * x
        inside = (np.abs(across) < wide) & (along > 0)
        shade = ndimage.gaussian_filter(inside.astype(np.float32), softness * longer, truncate=2)
        lit: Floats = 1 - dark * shade.astype(np.float64)
        return lit

    return light


def lamp(random: Random) -> Callable[[int, int], Floats]:
    """Light that falls off from a side."""
    angle, low = random.uniform(0, 2 * np.pi), random.uniform(0.5, 0.75)

    def light(height: int, width: int) -> Floats:
        y, x = np.indices((height, width)) / np.array([height, width])[:, None, None] - 0.5
        along = np.cos(angle) * x + np.sin(angle) * y
        falling: Floats = (1 + low) / 2 + (1 - low) / 2 * along / np.abs(along).max()
        return falling

    return light


def wedge(random: Random) -> Callable[[Image.Image], None]:
    """Something dark in a corner of the picture."""
    across, down = random.uniform(0.08, 0.2, 2)
    right, bottom = random.integers(2), random.integers(2)
    colour = tuple(int(each) for each in random.integers(20, 90, 3))

    def draw(picture: Image.Image) -> None:
        width, height = picture.size
        x, y = right * width, bottom * height
        inward = (1 - 2 * right) * across * width, (1 - 2 * bottom) * down * height * 1.5
        ImageDraw.Draw(picture).polygon([(x, y), (x + inward[0], y), (x, y + inward[1])], colour)

    return draw


def strip(random: Random) -> Callable[[Image.Image], None]:
    """Table at one to four edges of the picture."""
    sides = random.permutation(4)[: random.integers(1, 5)]
    colour = tuple(int(each) for each in random.integers(20, 120, 3))
    widths = random.uniform(0.02, 0.07, 4)

    def draw(picture: Image.Image) -> None:
        width, height = picture.size
        pen = ImageDraw.Draw(picture)
        for side in sides:
            deep = widths[side] * min(width, height)
            x = (0, 0, width - deep, 0)[side], (deep, width, width, width)[side]
            y = (0, 0, 0, height - deep)[side], (height, deep, height, height)[side]
            pen.rectangle((x[0], y[0], x[1], y[1]), colour)

    return draw


def ruled(random: Random, squared: bool) -> Callable[[Image.Image, list[Any]], None]:
    """Printed lines of a notebook, or squares."""
    colours = [(150, 175, 215), (120, 150, 200), (165, 165, 170), (200, 150, 160), (90, 110, 160)]
    colour, share = colours[random.integers(len(colours))], random.uniform(0.3, 0.6)
    weight, offset = int(random.integers(1, 4)), random.uniform(0, 1)

    def draw(page: Image.Image, boxes: list[Any]) -> None:
        tall = float(np.mean([box[3] - box[1] for box in boxes]))
        step = tall * (share if squared else 1.8 * share + 0.2)
        pen = ImageDraw.Draw(page)
        for y in np.arange(offset * step, page.height, step):
            pen.line([(0, y), (page.width, y)], colour, weight)
        for x in np.arange(offset * step, page.width, step) if squared else ():
            pen.line([(x, 0), (x, page.height)], colour, weight)

    return draw


def boxed(random: Random) -> Callable[[Image.Image, list[Any]], None]:
    """A printed box around each digit, as dark as ink."""
    weight, dark = int(random.integers(2, 7)), int(random.integers(20, 70))
    room = random.uniform(0.06, 0.14)
    joined = random.uniform() < 0.4

    def draw(page: Image.Image, boxes: list[Any]) -> None:
        pen = ImageDraw.Draw(page)
        edge = room * max(box[3] - box[1] for box in boxes)
        top, bottom = min(b[1] for b in boxes) - edge, max(b[3] for b in boxes) + edge
        if joined:
            left, right = boxes[0][0] - edge, boxes[-1][2] + edge
            pen.rectangle((left, top, right, bottom), None, (dark,) * 3, weight)
            for one, two in pairwise(boxes):
                middle = (one[2] + two[0]) / 2
                pen.line([(middle, top), (middle, bottom)], (dark,) * 3, weight)
            return
        for left, _, right, _ in boxes:
            pen.rectangle((left - edge, top, right + edge, bottom), None, (dark,) * 3, weight)

    return draw


def margin(random: Random) -> Callable[[Image.Image, list[Any]], None]:
    """Printed lines, a red margin from the page's top to its bottom, and punched holes."""
    lines, room, weight = ruled(random, False), random.uniform(0.3, 0.8), int(random.integers(2, 5))
    places = np.linspace(0.15, 0.85, int(random.integers(2, 4)))

    def draw(page: Image.Image, boxes: list[Any]) -> None:
        lines(page, boxes)
        pen, x = ImageDraw.Draw(page), room * min(box[0] for box in boxes)
        pen.line([(x, 0), (x, page.height)], (215, 90, 100), weight)
        for y in places * page.height:
            pen.circle((0.45 * x, y), 0.09 * max(b[3] - b[1] for b in boxes), (70, 55, 45))

    return draw


def circles(random: Random, colour: tuple[float, ...]) -> Callable[[Image.Image, list[Any]], None]:
    """A ring of the pen around one digit or around each, as a hand draws it: past its start."""
    weight, every = int(random.integers(3, 8)), random.uniform() < 0.4
    start, wobble = random.uniform(0, 2 * np.pi), random.uniform(-0.03, 0.03)

    def draw(page: Image.Image, boxes: list[Any]) -> None:
        angles = np.linspace(start, start + 2.06 * np.pi, 80)
        for left, top, right, bottom in boxes if every else boxes[:1]:
            radii = (right - left) / 2 + 0.13 * (bottom - top), 0.64 * (bottom - top)
            away = 1 + wobble * np.sin(2 * angles)
            x = (left + right) / 2 + radii[0] * away * np.cos(angles)
            y = (top + bottom) / 2 + radii[1] * away * np.sin(angles)
            points = list(zip(x.tolist(), y.tolist(), strict=True))
            ImageDraw.Draw(page).line(points, tuple(map(int, colour)), weight, "curve")

    return draw


def underlines(
    random: Random, colour: tuple[float, ...]
) -> Callable[[Image.Image, list[Any]], None]:
    """A line of the pen below each digit, or one below all."""
    weight, each = int(random.integers(3, 10)), random.uniform() < 0.5
    room, slant = random.uniform(0.1, 0.25), random.uniform(-0.03, 0.03)

    def draw(page: Image.Image, boxes: list[Any]) -> None:
        tall, y = max(b[3] - b[1] for b in boxes), max(b[3] for b in boxes)
        y += round(room * tall)
        for some in [[box] for box in boxes] if each else [boxes]:
            ends = some[0][0] - 0.1 * tall, some[-1][2] + 0.1 * tall
            line = [(ends[0], y), (ends[1], y + slant * (ends[1] - ends[0]))]
            ImageDraw.Draw(page).line(line, tuple(map(int, colour)), weight)

    return draw


def specks(random: Random) -> Callable[[Image.Image, list[Any]], None]:
    """Crumbs and dots of the pen."""
    places, sizes = random.uniform(0, 1, (25, 2)), random.uniform(0.01, 0.035, 25)

    def draw(page: Image.Image, boxes: list[Any]) -> None:
        tall = max(box[3] - box[1] for box in boxes)
        pen = ImageDraw.Draw(page)
        for (x, y), size in zip(places, sizes, strict=True):
            centre = x * page.width, y * page.height
            if not any(
                b[0] - 0.1 * tall < centre[0] < b[2] + 0.1 * tall
                and b[1] - 0.1 * tall < centre[1] < b[3] + 0.1 * tall
                for b in boxes
            ):
                pen.circle(centre, size * tall, (60, 50, 45))

    return draw


TABLES = [
    ((95, 70, 55), "plain"), ((130, 90, 60), "wood"), ((60, 60, 65), "cloth"),
    ((150, 150, 145), "granite"), ((35, 35, 40), "plain"), ((70, 95, 120), "tiles"),
    ((190, 150, 100), "wood"), ((120, 40, 40), "plain"),
]  # fmt: skip


def _some(random: Random, **changes: Any) -> Photograph:
    """Return an ordinary photograph."""
    names = ["blue", "black", "blue", "red"]
    return replace(
        Photograph(
            height=int(random.integers(90, 200)),
            rows=int(random.integers(1, 3)),
            spread=random.uniform(0.4, 1.2),
            pen=PENS[names[random.integers(len(names))]],
            paper=tuple(np.array([238, 234, 224]) + random.integers(-14, 15, 3)),
            turn=random.uniform(-4, 4),
            tilt=random.uniform(0, 6),
            light=lamp(random),
            noise=random.uniform(1, 5),
            size=int(random.integers(700, 1600)),
        ),
        **changes,
    )


def _on_table(random: Random, **changes: Any) -> Photograph:
    table = TABLES[random.integers(len(TABLES))]
    return _some(random, table=table, around=random.uniform(0.05, 0.2), **changes)


EXIF = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def exif(images: list[Bytes], random: Random) -> bytes:
    """A photograph of a phone held otherwise, as its EXIF says."""
    lossless = {"format": "PNG"}
    upright = _opened(take(images, _some(random, save=lossless), random))
    orientation = int(random.choice([3, 6, 8]))
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encoded(upright.transpose(EXIF[orientation]), format="JPEG", quality=85, exif=tags)


def _opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def deep(images: list[Bytes], random: Random) -> bytes:
    """A 16-bit PNG whose values are small: a sensor's 10 or 12 bits, or 8."""
    grey = np.asarray(_opened(take(images, _some(random), random)).convert("L"), np.float64)
    top = int(random.choice([255, 1023, 4095]))
    return encoded(Image.fromarray((grey / 255 * top).astype(np.uint16)), format="PNG")


def tight(images: list[Bytes], random: Random) -> bytes:
    """Cropped to the ink, with a speck now and then."""
    light = {"turn": 0.0, "tilt": 0.0, "spread": 0.0, "rows": 1, "save": {"format": "PNG"}}
    image = _opened(take(images, _some(random, height=200, noise=1.5, **light), random))
    pen = ImageDraw.Draw(image)
    pen.ellipse(
        (image.width - 12, image.height // 2, image.width - 4, image.height // 2 + 8), (70,) * 3
    )
    return encoded(image, format="PNG")


def matshow(images: list[Bytes], random: Random) -> bytes:
    """What ``plt.matshow(image)`` and ``plt.savefig`` leave: 480 x 480, ticks above."""
    return encoded(_figure(images[:1], random, (480, 480), 370, top=True), format="PNG")


def imshow(images: list[Bytes], random: Random) -> bytes:
    """What ``plt.imshow(image)`` and ``plt.savefig`` leave: 640 x 480, ticks below, a title."""
    return encoded(_figure(images[:1], random, (640, 480), 370, top=False), format="PNG")


def subplots(images: list[Bytes], random: Random) -> bytes:
    """Several in a row."""
    size = 100 + 200 * len(images), 250
    return encoded(_figure(images, random, size, 155, top=False), format="PNG")


def _figure(
    images: list[Bytes], random: Random, size: tuple[int, int], side: int, top: bool
) -> Image.Image:
    """Draw axes as matplotlib does: a frame, ticks of 3.5 points, labels of 10."""
    figure = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(figure), ImageFont.load_default(size=13)
    colours = ["viridis", "gray", "gray_r"][random.integers(3)]
    y = (size[1] - side) // 2
    for place, image in enumerate(images):
        x = round((place + 0.5) * size[0] / len(images) - side / 2)
        shares = image / 255 if colours != "gray_r" else 1 - image / 255
        stops = VIRIDIS if colours == "viridis" else np.array([(0, 0, 0), (255, 255, 255)], float)
        steps = np.linspace(0, 1, len(stops))
        pixels = np.stack([np.interp(shares, steps, stops[:, c]) for c in range(3)], axis=2)
        shown = Image.fromarray(np.rint(pixels).astype(np.uint8))
        figure.paste(shown.resize((side, side), Image.Resampling.NEAREST), (x, y))
        pen.rectangle((x - 1, y - 1, x + side, y + side), None, "black")
        for tick in range(0, 28, 5 if side > 200 else 10):
            at = (tick + 0.5) / 28 * side
            high = y - 6 if top else y + side
            pen.line([(x + at, high), (x + at, high + 5)], "black")
            pen.text((x + at, high + (-14 if top else 8)), str(tick), "black", font, anchor="mt")
            pen.line([(x - 6, y + at), (x - 1, y + at)], "black")
            pen.text((x - 9, y + at), str(tick), "black", font, anchor="rm")
        if not top and random.uniform() < 0.5:
            pen.text((x + side / 2, y - 10), f"label {place}", "black", font, anchor="mb")
    return figure


# Draws a photograph of some digits: how many of them, and how.
KINDS: dict[str, tuple[tuple[int, ...], Callable[[list[Bytes], Random], bytes]]] = {
    "on a table": ((4, 3, 5), lambda i, r: take(i, _on_table(r), r)),
    "a strip of table": ((5, 4, 3), lambda i, r: take(i, _some(r, over=strip(r)), r)),
    "something in a corner": ((3, 4, 5), lambda i, r: take(i, _some(r, over=wedge(r)), r)),
    "soft shadow": ((4, 4, 4), lambda i, r: take(i, _some(r, light=soft(r)), r)),
    "hard shadow": ((4, 5, 3), lambda i, r: take(i, _on_table(r, light=hard(r)), r)),
    "perspective": (
        (4, 4),
        lambda i, r: take(
            i, _on_table(r, tilt=r.uniform(12, 20), turn=r.uniform(-9, 9), rows=1), r
        ),
    ),
    "lined paper": ((4, 5, 4), lambda i, r: take(i, _some(r, print=ruled(r, False)), r)),
    "squared paper": ((4, 4, 4), lambda i, r: take(i, _some(r, print=ruled(r, True)), r)),
    "squared on a table": ((3, 4), lambda i, r: take(i, _on_table(r, print=ruled(r, True)), r)),
    "printed boxes": ((3, 3, 4), lambda i, r: take(i, _some(r, print=boxed(r), rows=1), r)),
    "specks": ((3, 4, 3), lambda i, r: take(i, _some(r, print=specks(r)), r)),
    "tight crop": ((2, 1, 3), tight),
    "matshow": ((1, 1, 1), matshow),
    "imshow": ((1, 1, 1), imshow),
    "subplots": ((4, 5), subplots),
    "16 bit": ((3, 2), deep),
    "exif": ((3, 4, 3), exif),
    "pencil": ((4, 3), lambda i, r: take(i, _some(r, pen=PENS["pencil"]), r)),
    "chalk": (
        (4, 4),
        lambda i, r: take(i, _some(r, pen=(225, 228, 222), paper=(40, 58, 50)), r),
    ),
    "thin pen": ((4, 4), lambda i, r: take(i, _some(r, stroke=r.uniform(0.5, 1)), r)),
    "poor JPEG": (
        (3, 3),
        lambda i, r: take(i, _some(r, size=500, save={"format": "JPEG", "quality": 15}), r),
    ),
    "low contrast": (
        (3, 3),
        lambda i, r: take(i, _some(r, paper=(150, 148, 140), pen=(105, 104, 100), noise=1.5), r),
    ),
    "12 megapixels": ((4,), lambda i, r: take(i, _on_table(r, size=4000, blur=2.0), r)),
    "tiny": ((3, 2), lambda i, r: take(i, _some(r, size=90, rows=1, blur=0.4, noise=1), r)),
}

# More of them, which are no part of the sixty.
MORE: dict[str, tuple[tuple[int, ...], Callable[[list[Bytes], Random], bytes]]] = {
    "a margin and holes": ((4, 3, 5), lambda i, r: take(i, _some(r, print=margin(r)), r)),
    "circled": (
        (3, 1, 4),
        lambda i, r: take(i, _written(r, circles), r),
    ),
    "underlined": ((3, 4, 2), lambda i, r: take(i, _written(r, underlines), r)),
    "a sheet turned 10 to 20 degrees": (
        (4, 3, 5),
        lambda i, r: take(
            i,
            _on_table(r, turn=r.choice([-1, 1]) * r.uniform(10, 20), tilt=r.uniform(0, 20)),
            r,
        ),
    ),
}


def _written(
    random: Random,
    what: Callable[[Random, tuple[float, ...]], Callable[[Image.Image, list[Any]], None]],
) -> Photograph:
    """Return a photograph of one line, with more than digits drawn by the same pen."""
    pen = PENS["blue" if random.uniform() < 0.5 else "red"]
    return _some(random, pen=pen, print=what(random, pen), rows=1, spread=0.9)


def make(
    images: Bytes, labels: npt.NDArray[Any], seed: int, kinds: list[str] | None = None
) -> Iterator[tuple[str, bytes, list[int]]]:
    """Yield kind, file and digits of every photograph of a seed.

    Args:
        images: uint8 [n, 28, 28], from which the digits are drawn.
        labels: of them.
        seed: of the choice and of everything else.
        kinds: names of ``KINDS`` and ``MORE``; all of ``KINDS`` where it is None.
    """
    for number, (kind, (counts, draw)) in enumerate((KINDS | MORE).items()):
        if kind in (kinds or KINDS):
            for place, count in enumerate(counts):
                random = np.random.default_rng([seed, number, place])
                chosen = random.choice(len(images), count)
                file = draw([images[each] for each in chosen], random)
                yield kind, file, [int(labels[each]) for each in chosen]
