import contextlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tests.support import hostile, series
from tests.support.mnist import find_mnist
from trainer.data import dataset
from trainer.data import digits as drawn
from trainer.errors import ConfigError, DataError
from trainer.inference import mnist_style, picture
from trainer.inference.ink import Floats, resize
from trainer.inference.mnist_style import centred
from trainer.inference.picture import Digit, decode, resized, shrunk, visible

Bytes = npt.NDArray[np.uint8]

IMAGES, LABELS = drawn.draw(200, seed=5)
IMAGES.setflags(write=False)
image_numbers = st.integers(0, len(IMAGES) - 1)


def digits(image: Image.Image, name: str) -> list[Digit]:
    return picture.digits(image, name)[0]


def prepared(pixels: Bytes) -> Bytes:
    found = digits(Image.fromarray(pixels), "drawn")
    assert len(found) == 1
    return found[0].image


def apart(a: Bytes, b: Bytes) -> float:
    """Mean difference of two images, of 255, where they fit best up to a pixel to any side.

    That of two different digits is 30 and more.
    """
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return min(float(np.abs(np.roll(a, by, (0, 1)).astype(int) - b).mean()) for by in shifts)


def large(number: int, times: int = 4) -> Bytes:
    ink = np.clip(hostile.fine(IMAGES[number]), 0, 1)
    side = 28 * times
    return np.asarray(Image.fromarray(np.rint(ink * 255).astype(np.uint8)).resize((side, side)))


def row(numbers: list[int], gap: int = 12, times: int = 4) -> Bytes:
    """Digits side by side, light on black."""
    parts = []
    for number in numbers:
        image = large(number, times)
        columns = np.flatnonzero((image > 60).any(axis=0))
        parts += [image[:, columns[0] : columns[-1] + 1], np.zeros((28 * times, gap), np.uint8)]
    return np.pad(np.concatenate(parts, axis=1), 40)


def on_paper(ink: Bytes, paper: npt.NDArray[np.float64], noise: float = 2) -> Image.Image:
    """Dark ink on paper [h, w], 0 to 255, with some noise."""
    random = np.random.default_rng(1)
    values = paper * (1 - 0.85 * ink.astype(float) / 255) + random.normal(0, noise, ink.shape)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def slope(height: int, width: int) -> npt.NDArray[np.float64]:
    return np.linspace(230, 110, width)[None, :] + np.linspace(0, 20, height)[:, None]


def test_an_image_prepared_already_comes_back() -> None:
    for image in IMAGES[:30]:
        assert apart(centred(image.astype(np.float32) / 255), image) < 1.5
        assert apart(prepared(image), image) < 18  # the thickest pens are made thinner


@pytest.mark.long
@pytest.mark.skipif(find_mnist() is None, reason="no MNIST here")
def test_images_of_mnist_come_back() -> None:
    images = dataset.load(str(find_mnist())).test.images[: series.length(60, 1000), ..., 0]
    kept = [centred(image.astype(np.float32) / 255) for image in images]
    assert np.abs(np.stack(kept).astype(int) - images).mean() < 0.1
    found = np.stack([prepared(image) for image in images])
    assert np.abs(found.astype(int) - images).mean() < 2


@settings(max_examples=series.length(30, 1000))
@given(image_numbers, st.integers(10, 90), st.integers(10, 90), st.sampled_from([14, 20, 28, 32]))
def test_centred_is_as_mnist_was_made(number: int, height: int, width: int, size: int) -> None:
    drawing = Image.fromarray(IMAGES[number].astype(np.float32) / 255).resize((width, height))
    image = centred(np.clip(np.asarray(drawing), 0, 1), size)
    assert image.shape == (size, size)
    assert image.max() == 255
    for axis in (0, 1):
        inked = np.flatnonzero(image.any(axis=axis))
        assert inked[-1] - inked[0] < int(size * 20 / 28 + 0.5)
        mass = image.sum(axis=axis, dtype=np.float64)
        assert abs((mass * np.arange(size)).sum() / mass.sum() - size / 2) < 0.53


@given(st.integers(1, 40), st.integers(1, 40))
def test_centred_takes_any_ink(height: int, width: int) -> None:
    assert centred(np.ones((height, width), np.float32)).max() == 255
    assert not centred(np.full((height, width), 0.04, np.float32)).any()


@settings(max_examples=series.length(5, 200))
@given(image_numbers)
def test_inverting_changes_nothing(number: int) -> None:
    image = large(number)
    assert apart(prepared(255 - image), prepared(image)) < 1


@pytest.mark.long
@settings(max_examples=series.length(5, 200))
@given(image_numbers, st.tuples(*[st.integers(0, 120)] * 4))
def test_the_place_on_the_paper_changes_nothing(
    number: int, border: tuple[int, int, int, int]
) -> None:
    image = large(number)
    left, top, right, bottom = border
    moved = np.pad(image, ((top, bottom), (left, right)))
    assert apart(prepared(moved), prepared(image)) < 12  # a faint row more of ink makes up to 11
    box = digits(Image.fromarray(moved), "moved")[0].box
    there = digits(Image.fromarray(image), "image")[0].box
    assert np.abs(np.subtract(box, there) - (left, top, left, top)).max() <= 2


@settings(max_examples=series.length(5, 200))
@given(image_numbers, st.integers(2, 4))
def test_whole_multiples_of_the_size_change_little(number: int, times: int) -> None:
    image = large(number, 2)
    scaled = image.repeat(times, axis=0).repeat(times, axis=1)
    assert apart(prepared(scaled), prepared(image)) < 18


@pytest.mark.long
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_every_hostile_kind_looks_like_its_original(kind: str) -> None:
    random = np.random.default_rng(3)
    distances = []
    for image in IMAGES[: series.length(4, 100)]:
        found = digits(decode(hostile.make(image, kind, random), kind), kind)
        distances.append(apart(found[0].image, image) if len(found) == 1 else 255)
    assert np.median(distances) < 25  # another pen alone makes 20


def test_digits_in_a_row_come_from_left_to_right() -> None:
    numbers = list(range(20, 28))
    found = digits(on_paper(row(numbers), slope(*row(numbers).shape)), "row")
    assert len(found) == len(numbers)
    assert [digit.box[0] for digit in found] == sorted(digit.box[0] for digit in found)
    for number, digit in zip(numbers, found, strict=True):
        assert apart(digit.image, IMAGES[number]) < 20


@pytest.mark.parametrize("gap", [0.2, 0.35, 0.45, 0.6, 1.5])
def test_lines_are_read_one_after_the_other(gap: float) -> None:
    numbers = np.arange(20, 32).reshape(3, 4)
    lines = []
    for line in numbers:
        ink = row(line.tolist())
        lines.append(ink[(ink > 60).any(axis=1)])
    width = max(line.shape[1] for line in lines)
    space = round(gap * 80)  # the digits are 80 pixels high
    page = [np.pad(line, ((0, space), (0, width - line.shape[1]))) for line in lines]
    found = digits(Image.fromarray(np.pad(np.concatenate(page), 40)), "lines")
    for number, digit in zip(numbers.ravel(), found, strict=True):
        assert apart(digit.image, IMAGES[number]) < 20


def test_a_stroke_apart_belongs_to_its_digit() -> None:
    image = Image.new("L", (300, 200), 255)
    draw = ImageDraw.Draw(image)
    for x in (40, 170):  # two digits five, their upper strokes not touching
        draw.line([(x, 40), (x, 90), (x + 50, 110), (x + 40, 150), (x, 155)], fill=0, width=8)
        draw.line([(x + 14, 38), (x + 70, 36)], fill=0, width=8)
    assert len(digits(image, "fives")) == 2


@pytest.mark.parametrize("gap", [0.04, 0.1])
def test_a_digit_of_two_halves_is_one(gap: float) -> None:
    image = Image.new("L", (120, 200), 255)
    draw = ImageDraw.Draw(image)
    for top in (30, 30 + 60 * (1 + gap)):  # an eight, its rings not touching
        draw.ellipse((30, top, 90, top + 60), outline=0, width=8)
    assert len(digits(image, "eight")) == 1


def test_lines_of_a_notebook_are_no_ink() -> None:
    ink = row([20, 21, 22, 23])
    paper = slope(*ink.shape)
    paper[10::30] *= 0.8
    paper[11::30] *= 0.8
    for number, digit in zip((20, 21, 22, 23), digits(on_paper(ink, paper), "book"), strict=True):
        assert apart(digit.image, IMAGES[number]) < 20


@pytest.mark.parametrize("turn", [0, 8])
def test_a_sheet_on_a_table_is_paper(turn: int) -> None:
    ink = row([20, 21, 22])
    sheet = on_paper(ink, slope(*ink.shape))
    height, width = ink.shape
    table = Image.new("L", (width + 200, height + 200), 40)
    mask = Image.new("L", sheet.size, 255).rotate(turn, expand=True)
    table.paste(sheet.rotate(turn, Image.Resampling.BICUBIC, expand=True), (60, 60), mask)
    found = digits(table, "table")
    assert len(found) == 3


@pytest.mark.parametrize("width", [1, 2, 12, 40])
def test_the_width_of_the_pen_does_not_matter(width: int) -> None:
    image = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(image).line([(110, 100), (290, 100), (180, 320)], fill=0, width=width)
    middle = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(middle).line([(110, 100), (290, 100), (180, 320)], fill=0, width=24)
    assert apart(digits(image, "pen")[0].image, digits(middle, "pen")[0].image) < 16


SAVED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda grey: grey,
    "16 bit": lambda grey: Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
    "palette": lambda grey: grey.convert("RGB").quantize(16),
    "grey and alpha": lambda grey: grey.convert("LA"),
    "black on nothing": lambda grey: _with_alpha(grey, 0),
    "white on nothing": lambda grey: _with_alpha(grey, 255),
}


def _with_alpha(grey: Image.Image, colour: int) -> Image.Image:
    picture = Image.new("LA", grey.size, (colour, 0))
    picture.putalpha(grey)
    return picture


@pytest.mark.parametrize("how", SAVED)
def test_how_pixels_are_stored_does_not_matter(how: str) -> None:
    image = large(7)
    file = hostile.encoded(SAVED[how](Image.fromarray(image)), format="PNG")
    found = digits(decode(file, how), how)
    assert len(found) == 1
    assert apart(found[0].image, prepared(image)) < 5


@pytest.mark.parametrize(
    "encoding", [("JPEG", 20), ("JPEG", 95), ("WEBP", 50), ("TIFF", 50), ("BMP", 50)]
)
def test_formats(encoding: tuple[str, int]) -> None:
    image, (kind, quality) = large(7), encoding
    picture = Image.fromarray(255 - image).convert("RGB")
    file = hostile.encoded(picture, format=kind, quality=quality)
    assert apart(digits(decode(file, kind), kind)[0].image, prepared(image)) < 5


TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_turned_as_its_exif_says(orientation: int) -> None:
    upright = Image.fromarray(np.pad(large(7), ((0, 60), (0, 0))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = hostile.encoded(upright.transpose(TURNS[orientation]), format="PNG", exif=exif)
    found = decode(file, "turned")
    assert found.size == upright.size
    assert digits(found, "turned")[0].box == digits(upright, "upright")[0].box


@pytest.mark.long
def test_a_huge_picture_is_scaled_down_first() -> None:
    image = Image.fromarray(large(7)).resize((5000, 5000), Image.Resampling.BICUBIC)
    assert max(shrunk(image, 1600).size) == 1600
    found = digits(image, "huge")
    assert apart(found[0].image, prepared(large(7))) < 8
    assert found[0].box[3] - found[0].box[1] > 2500


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))


def _uneven() -> Image.Image:
    return on_paper(np.zeros((200, 300), np.uint8), slope(200, 300), 6)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_dot_is_not_enlarged_to_a_large_picture(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def counted(values: Floats, height: int, width: int, how: Image.Resampling) -> Floats:
        sizes.append(height * width)
        return resize(values, height, width, how)

    monkeypatch.setattr(mnist_style, "resize", counted)
    image = Image.new("L", (50, 50), 255)
    image.paste(0, (20, 20, 20 + side, 20 + side))
    (found,) = digits(image, "dot")
    assert found.image[14, 14] > 200
    assert max(sizes) < 600**2


BLANK: dict[str, Callable[[], Image.Image]] = {
    "white": lambda: Image.new("RGB", (100, 80), "white"),
    "one pixel": lambda: Image.new("L", (1, 1)),
    "one line": lambda: Image.new("L", (300, 1), 7),
    "nothing": lambda: Image.new("RGBA", (100, 80)),
    "noise": _noise,
    "uneven light": _uneven,
}


@pytest.mark.parametrize("kind", BLANK)
def test_blank_pictures_are_said_to_be_so(kind: str) -> None:
    with pytest.raises(DataError, match=r"sheet\.png: blank"):
        digits(BLANK[kind](), "sheet.png")


def test_a_page_of_print_is_no_picture_of_digits() -> None:
    random = np.random.default_rng(0)
    dots = np.zeros((40 * 12, 40 * 12), np.uint8)
    for y in range(0, 480, 16):
        for x in range(0, 480, 16):
            dots[y + 2 : y + 2 + random.integers(6, 10), x + 2 : x + 8] = 255
    with pytest.raises(DataError, match="page: 900 pieces of ink"):
        digits(Image.fromarray(dots), "page")


FILES = [
    hostile.encoded(Image.fromarray(255 - large(7, 2)).convert("RGB"), format=kind)
    for kind in ("PNG", "JPEG", "WEBP")
]


@settings(max_examples=series.length(30, 1000))
@given(st.data())
def test_damaged_files_are_read_or_refused(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from(FILES)))
    if data.draw(st.booleans()):
        file = file[: data.draw(st.integers(0, len(file) - 1))]
    else:
        for place in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=8)):
            file[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):  # anything else fails
        digits(decode(bytes(file), "x"), "x")


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="x: "):
        decode(data, "x")


@pytest.mark.parametrize("length", [0.3, 0.7, 0.95])
def test_truncated_files_are_refused(length: float) -> None:
    for file in FILES:
        with pytest.raises(DataError, match="x: damaged picture"):
            decode(file[: int(len(file) * length)], "x")


def test_other_formats_are_refused() -> None:
    with pytest.raises(DataError, match="not a picture that can be read; give PNG, JPEG, WebP"):
        decode(hostile.encoded(Image.new("L", (9, 9)), format="PPM"), "x")


CONVERTED = {
    "HEIC": (b"\0\0\0\x18ftypheic", "x: a HEIC or AVIF picture; save it as JPEG"),
    "SVG": (b'<?xml version="1.0"?>\n<svg width="9">', "x: an SVG drawing; save it as PNG"),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_what_has_to_be_converted_says_how(kind: str) -> None:
    data, message = CONVERTED[kind]
    with pytest.raises(DataError, match=message):
        decode(data, "x")


def test_of_several_pictures_in_a_file_the_first_is_read() -> None:
    first, second = (Image.fromarray(large(number)) for number in (7, 8))
    file = hostile.encoded(first, format="GIF", save_all=True, append_images=[second])
    assert apart(digits(decode(file, "x"), "x")[0].image, prepared(large(7))) < 5


def test_a_decompression_bomb_is_refused() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    chunk += struct.pack(">I", 9) + b"IDAT" + bytes(13)
    with pytest.raises(DataError, match=r"x: more than [\d,]+ pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + chunk, "x")


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (20, 30, 4)])
def test_resized_is_the_whole_picture(shape: tuple[int, int, int]) -> None:
    picture = Image.new("RGB", (64, 64), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 32, 64, 64))
    image = resized(picture, shape)
    assert image.shape == shape
    assert image.dtype == np.uint8
    top, bottom = image[2, 2], image[-3, -3]
    assert (top.tolist(), bottom.tolist()) == {
        1: ([76], [29]),
        3: ([255, 0, 0], [0, 0, 255]),
        4: ([255, 0, 0, 255], [0, 0, 255, 255]),
    }[shape[2]]


def test_a_large_picture_is_resized_in_little_memory() -> None:
    image = Image.fromarray(large(7)).resize((4000, 4000), Image.Resampling.BICUBIC).convert("RGB")
    tracemalloc.start()
    small = resized(image, (28, 28, 1))
    peak = tracemalloc.get_traced_memory()[1]  # NumPy's arrays, not Pillow's
    tracemalloc.stop()
    assert peak < 200e6  # 16 million pixels of four floats are 256 MB
    assert apart(small[..., 0], resized(Image.fromarray(large(7)), (28, 28, 1))[..., 0]) < 2


def test_resized_refuses_channels_no_picture_has() -> None:
    with pytest.raises(ConfigError, match="2 channels"):
        resized(Image.new("L", (9, 9)), (28, 28, 2))


def test_visible_shows_what_is_transparent() -> None:
    picture = Image.new("RGBA", (32, 32))
    picture.putpixel((0, 0), (10, 20, 30, 255))
    shown = visible(picture)
    assert shown.getpixel((0, 0)) == (10, 20, 30)
    assert len(set(np.asarray(shown)[8:, :, 0].ravel())) == 2


def test_every_file_of_the_hostile_set_depends_on_the_seed_alone() -> None:
    for kind in hostile.KINDS:
        one, two = (hostile.make(IMAGES[0], kind, np.random.default_rng(4)) for _ in range(2))
        assert one == two
        assert Image.open(io.BytesIO(one)).size[0] > 0
