"""Pictures for people who look at a run: PNG from logits, labels and images; pure functions."""

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trainer import classification
from trainer.common.text import class_label, class_name, printable

_CELL = (28, 36)  # of a confusion matrix: least and most pixels along an edge, with counts
_MATRIX = 360  # pixels that all cells of a row share, where that is between the two
_COUNTED = 64  # classes up to which cells have their counts
_UNCOUNTED = 1024  # pixels that all cells of a row share at most where they have none
PICTURE = 64  # about as many pixels along the longer edge of a picture in the grid
_PICTURES = 32  # in the grid
_COLUMNS, _COLUMNS_NAMED = 8, 4  # of it, without and with names of classes
_NAME = 120  # of the name of a class
_GAP, _LINE, _TEXT = 8, 16, 12  # pixels: between things, a line of text, its letters
_INK, _PAPER, _WRONG, _RIGHT = "#1b2027", "#ffffff", "#b84a08", "#0b63b8"


def confusion_matrix(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    class_names: Sequence[str] = (),
) -> bytes:
    """Return the confusion matrix as a picture, up to 64 classes with the counts in it.

    Logits are [n, classes], labels [n]; class 0 and those after it have names, or none has.
    """
    classes = logits.shape[1]
    matrix = classification.confusion(logits.argmax(axis=1), labels, classes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    counted = classes <= _COUNTED
    cell = min(max(_MATRIX // classes, _CELL[0]), _CELL[1]) if counted else _UNCOUNTED // classes
    every = -(-_LINE // cell)  # class has its label
    font = ImageFont.load_default(_TEXT)
    names = drawable(class_names)
    rows = [class_label(i, names, _NAME, font.getlength) for i in range(classes)]
    left = max(4 * _LINE, math.ceil(max(map(font.getlength, rows))) + 2 * _GAP)
    top = 3 * _LINE
    width, height = left + cell * classes + _GAP, top + cell * classes + _GAP
    canvas = Image.new("RGB", (max(width, 260), height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    wrong = len(labels) - int(np.trace(matrix))
    draw.text((_GAP, 2), f"{wrong:,} of {len(labels):,} wrong", _INK, font)
    draw.text((left, _LINE + 2), "prediction", _INK, font)
    draw.text((_GAP, top - 9), "truth", _INK, font, anchor="lm")
    for i in range(0, classes, every):
        middle = (i + 0.5) * cell
        if i % (2 * every) == 0 or counted:  # numbers are wider than high
            draw.text((left + middle, top - 9), str(i), _INK, font, anchor="mm")
        draw.text((left - _GAP, top + middle), rows[i], _INK, font, anchor="rm")
    # Mistakes are few: full colour from a tenth on, and one in a hundred is still seen.
    right = np.eye(classes, dtype=bool)
    depths = np.where(right, shares, np.minimum(1, 10 * shares) ** 0.5)[..., None]
    colours = np.where(right[..., None], _rgb(_RIGHT), _rgb(_WRONG))
    fills = np.rint(255 - (255 - colours) * depths).astype(np.uint8)
    cells = fills.repeat(cell, axis=0).repeat(cell, axis=1)
    if counted:
        cells[cell - 1 :: cell] = cells[:, cell - 1 :: cell] = 255
    canvas.paste(Image.fromarray(cells), (left, top))
    if counted:
        for i, j in np.argwhere(matrix):
            count, is_dark = int(matrix[i, j]), fills[i, j].sum(dtype=int) < 380
            text = str(count) if count < 10_000 else f"{count / 1000:.0f}k"
            middle = (left + (j + 0.5) * cell, top + (i + 0.5) * cell)
            draw.text(middle, text, _PAPER if is_dark else _INK, font, anchor="mm")
    return png(canvas)


def wrong_pictures(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    images: npt.NDArray[np.uint8],
    class_names: Sequence[str] = (),
) -> bytes:
    """Return the wrong predictions that the model was surest of, as a picture.

    As ``confusion_matrix``, with images [n, height, width, channels].
    """
    predicted = logits.argmax(axis=1)
    sureness = classification.probabilities(logits).max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    shown = wrong[np.argsort(-sureness[wrong], kind="stable")][:_PICTURES]
    tile_height = PICTURE + _LINE + _GAP
    tile_width = PICTURE + 2 * _GAP + (_NAME if class_names else 16)
    columns = max(1, min(_COLUMNS_NAMED if class_names else _COLUMNS, len(shown)))
    rows = -(-len(shown) // columns)
    mode = "RGB" if images.shape[3] == 3 else "L"
    font = ImageFont.load_default(_TEXT)
    names = drawable(class_names)
    what = "the surest first: truth > prediction, probability" if len(wrong) else ""
    title = f"{len(wrong):,} of {len(labels):,} wrong  {what}"
    width = max(columns * tile_width, math.ceil(font.getlength(title)) + 2 * _GAP)
    canvas = Image.new(mode, (width, 2 * _LINE + rows * tile_height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, 6), title, _INK, font)
    for place, index in enumerate(shown):
        x = place % columns * tile_width
        y = 2 * _LINE + place // columns * tile_height
        picture = scaled(images[index])
        canvas.paste(picture, (x + (tile_width - picture.width) // 2, y))
        truth, prediction = (
            class_name(int(each[index]), names, _NAME / 2, font.getlength)
            for each in (labels, predicted)
        )
        caption = f"{truth} > {prediction}  {sureness[index]:.0%}"
        draw.text((x + tile_width / 2, y + PICTURE + 9), caption, _INK, font, anchor="mm")
    return png(canvas)


def drawable(class_names: Sequence[str]) -> list[str]:
    """Return the names of classes, the number for one that Pillow's font has not all letters of.

    Of letters beyond ASCII, it has next to none, and draws a box for each of the others.
    """
    named = enumerate(map(printable, class_names))
    return [name if name.isascii() else str(label) for label, name in named]


def scaled(image: npt.NDArray[np.uint8], edge: int = PICTURE) -> Image.Image:
    """Return an image uint8 [height, width, channels] with a longer edge of so many pixels."""
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    scale = edge / max(picture.size)
    edges = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(edges, Image.Resampling.BOX)


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def png(canvas: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", compress_level=3)  # 6 takes twice the time for a tenth less
    return buffer.getvalue()
