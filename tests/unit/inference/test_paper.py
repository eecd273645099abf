"""What lies around the ink of a picture: tables, edges, lines and boxes, and what is said of it."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support import hostile
from trainer.data import digits as drawn
from trainer.errors import DataError
from trainer.inference.picture import Digit, decode, digits

SHEET = Image.open(Path(__file__).parents[3] / "docs" / "sheet.jpg").convert("RGB")
SHEET.thumbnail((600, 600))
IMAGES, LABELS = drawn.draw(40, seed=5)
FOUR, SEVEN = (IMAGES[np.flatnonzero(digit == LABELS)[0]] for digit in (4, 7))


def read(picture: Image.Image) -> tuple[list[Digit], list[str]]:
    return digits(picture, "x")


def row(numbers: list[int], side: int = 112) -> Image.Image:
    """Dark digits on a white page, cells side by side."""
    page = Image.new("L", (side * len(numbers), side), 240)
    for place, number in enumerate(numbers):
        ink = Image.fromarray(IMAGES[number]).resize((side, side), Image.Resampling.BICUBIC)
        page.paste(30, (place * side, 0), ink)
    return page


def bordered(sheet: Image.Image) -> Image.Image:
    margin = sheet.width // 20
    table = Image.new("RGB", (sheet.width + 2 * margin, sheet.height + 2 * margin), (95, 70, 55))
    table.paste(sheet, (margin, margin))
    return table


def with_strip(sheet: Image.Image) -> Image.Image:
    sheet.paste((95, 70, 55), (0, 0, sheet.width // 20, sheet.height))
    return sheet


def with_wedge(sheet: Image.Image) -> Image.Image:
    width, height = sheet.size
    corner = [(width, height), (width - width // 9, height), (width, height - height // 5)]
    ImageDraw.Draw(sheet).polygon(corner, (60, 50, 45))
    return sheet


@pytest.mark.parametrize("around", [bordered, with_strip, with_wedge])
def test_what_is_dark_at_the_edge_changes_nothing(
    around: Callable[[Image.Image], Image.Image],
) -> None:
    alone, notes = read(SHEET)
    assert not notes
    found, _ = read(around(SHEET.copy()))
    assert len(found) == len(alone) == 5
    for one, other in zip(alone, found, strict=True):
        assert np.abs(one.image.astype(int) - other.image).mean() < 12


def test_what_was_left_out_is_said() -> None:
    (note,) = read(with_strip(SHEET.copy()))[1]
    assert note.startswith("left out ")


@pytest.mark.parametrize("joined", [False, True])
def test_printed_boxes_are_no_ink(joined: bool) -> None:
    page = Image.new("L", (520, 220), 240)
    pen = ImageDraw.Draw(page)
    for place in range(3):
        left = 60 + place * (130 if joined else 140)
        pen.rectangle((left, 40, left + 130, 170), None, 30, 4)
        page.paste(30, (left + 10, 50), Image.fromarray(IMAGES[place]).resize((112, 112)))
    found, notes = read(page)
    assert len(found) == 3
    assert all(digit.box[3] - digit.box[1] < 115 for digit in found)
    assert "printed lines" in notes[0]


@pytest.mark.parametrize("weight", [1, 2, 3])
def test_squares_are_no_ink(weight: int) -> None:
    page = np.asarray(row([0, 1, 2])).copy()
    page = np.pad(page, 60, constant_values=240)
    for at in range(20, max(page.shape), 45):
        for part in (page[at : at + weight], page[:, at : at + weight]):
            np.minimum(part, 60, out=part)
    assert len(read(Image.fromarray(page))[0]) == 3


def large(numbers: list[int]) -> Image.Image:
    """Dark digits with room around them, 460 pixels high."""
    cells = np.asarray(row(numbers, 224))
    return Image.fromarray(np.pad(cells, 120, constant_values=240))


def assert_boxes(found: list[Digit], wanted: list[Digit]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(np.subtract(one.box, other.box)).max() <= 3


@pytest.mark.parametrize("slant", [0, 14])
def test_a_margin_is_no_ink(slant: int) -> None:
    page = large([0, 1])
    ImageDraw.Draw(page).line([(90, 0), (90 + slant, page.height)], 110, 3)
    found, notes = read(page)
    assert_boxes(found, read(large([0, 1]))[0])
    assert notes == ["left out printed lines"]


def test_a_margin_on_a_sheet_on_a_table_is_no_ink() -> None:
    page = large([0, 1])
    ImageDraw.Draw(page).line([(60, 0), (64, page.height)], (110,), 3)
    found, notes = read(bordered(page.convert("RGB")))
    assert len(found) == 2
    assert notes == ["left out printed lines, what lies around the paper"]


@pytest.mark.parametrize("joined", [False, True])
def test_rings_around_digits_are_left_out(joined: bool) -> None:
    page = large([0, 1])
    for centre in (228, 448):
        reach = 116 if joined else 104
        ImageDraw.Draw(page).ellipse((centre - reach, 60, centre + reach, 400), None, 30, 5)
    found, notes = read(page)
    assert_boxes(found, read(large([0, 1]))[0])
    assert notes == [f"left out {'1 ring' if joined else '2 rings'}"]


@pytest.mark.parametrize(
    ("ends", "left_out"),
    [
        ([(120, 340)], "1 underline"),
        ([(130, 330), (350, 560)], "2 underlines"),
        ([(120, 570)], "printed lines"),
    ],
)
def test_underlines_are_left_out(ends: list[tuple[int, int]], left_out: str) -> None:
    page = large([0, 1])
    for left, right in ends:
        ImageDraw.Draw(page).line([(left, 345), (right, 350)], 30, 6)
    found, notes = read(page)
    assert_boxes(found, read(large([0, 1]))[0])
    assert notes == [f"left out {left_out}"]


@pytest.mark.parametrize("turn", [-18, -10, 0, 10, 18])
def test_lines_of_a_turned_page_are_read_in_order(turn: int) -> None:
    page = Image.new("L", (900, 500), 240)
    for place in range(10):  # dots, which tell the digits apart
        x, y = 200 + 130 * (place % 5), 130 + 180 * (place // 5)
        ImageDraw.Draw(page).ellipse((x - 8 - 3 * place, y - 45, x + 8 + 3 * place, y + 45), 30)
    found, _ = read(page.rotate(turn, Image.Resampling.BICUBIC, expand=True, fillcolor=240))
    areas = [int((digit.image > 127).sum()) for digit in found]
    assert len(found) == 10
    assert areas == sorted(areas)


def test_a_thick_stroke_is_no_sheet() -> None:
    for side in (60, 100, 160):
        page = Image.new("L", (200, 200), 240)
        box = ((200 - side / 4) // 2, (200 - side) // 2, (200 + side / 4) // 2, (200 + side) // 2)
        ImageDraw.Draw(page).rectangle(box, 30)
        (found,), _ = read(page)
        assert np.abs(np.subtract(found.box, box)).max() <= 3


def test_a_stroke_a_quarter_as_wide_as_the_picture_is_whole() -> None:
    page = Image.new("L", (180, 180), 0)
    pen = ImageDraw.Draw(page)
    pen.line([(60, 50), (130, 50), (80, 140)], 255, 42, "curve")
    (found,), notes = read(page)
    assert found.box[2] - found.box[0] > 80
    assert not notes


def test_a_digit_as_high_as_the_picture_is_kept_beside_a_speck() -> None:
    ink = hostile.fine(SEVEN) > 0.4
    crop = ink[np.ix_(ink.any(axis=1), ink.any(axis=0))]
    page = np.pad(np.where(crop, 30, 240).astype(np.uint8), ((0, 0), (0, 60)), constant_values=240)
    page[50:58, -20:-12] = 30
    found, notes = read(Image.fromarray(page))
    assert [digit.box[3] - digit.box[1] > 0.9 * len(page) for digit in found] == [True]
    assert notes == ["left out 1 speck"]


def test_a_one_as_high_as_the_picture_is_kept_beside_a_seven() -> None:
    page = Image.new("L", (200, 120), 240)
    pen = ImageDraw.Draw(page)
    pen.line([(50, -5), (40, 125)], 30, 12)
    pen.line([(100, 20), (160, 20), (120, 105)], 30, 12)
    assert len(read(page)[0]) == 2


def test_digits_that_touch_are_said_to() -> None:
    page = np.asarray(row([0, 1]))
    page = np.pad(page, 40, constant_values=240)
    page[95:103, 60:240] = 30
    _, notes = read(Image.fromarray(page))
    assert notes == ["1 place where digits seem to touch; write them apart"]


@pytest.mark.parametrize("top", [255, 1023, 40000])
def test_small_values_of_sixteen_bits_are_read(top: int) -> None:
    grey = np.asarray(row([0, 1]), float) / 255 * top
    file = hostile.encoded(Image.fromarray(grey.astype(np.uint16)), format="PNG")
    assert len(read(decode(file, "x"))[0]) == 2


@pytest.mark.parametrize("colours", ["dark", "light"])
def test_axes_around_an_image_are_left_out(colours: str) -> None:
    figure = Image.new("RGB", (640, 480), "white")
    image = Image.fromarray(255 - FOUR if colours == "light" else FOUR)
    figure.paste(image.resize((370, 370), Image.Resampling.NEAREST).convert("RGB"), (135, 55))
    pen = ImageDraw.Draw(figure)
    pen.rectangle((134, 54, 505, 425), None, "black")
    for at in range(0, 28, 5):
        pen.text((135 + 370 * at / 28, 432), str(at), "black")
        pen.text((110, 55 + 370 * at / 28), str(at), "black")
    (found,), _ = read(figure)
    assert found.box[3] - found.box[1] > 150
    assert np.abs(found.image.astype(int) - FOUR).mean() < 25


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 2, (400, 400), np.uint8) * 255)


@pytest.mark.parametrize(
    "picture", [Image.new("L", (1, 100_000)), Image.new("L", (100_000, 1), 9), _noise()]
)
def test_strange_pictures_end(picture: Image.Image) -> None:
    with contextlib.suppress(DataError):
        read(picture)
