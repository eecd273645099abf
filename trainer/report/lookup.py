"""Test images to look up in a page, by number or by true and predicted class. Pure.

pages/lookup.js is the reader. A page holds the classes of many images, and the pictures and all
probabilities of fewer: of the wrong ones first, and of others at equal distances.
"""

import base64
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from trainer import classification
from trainer.report import html
from trainer.runs.predictions import Predictions

MOST_LISTED = 60_000  # images
MOST_PIXELS = 1_200_000  # of all pictures: 1,530 of MNIST, which take 0.2 MB
MOST_SHARES = 20_000  # probabilities of all pictures
MOST_ACROSS = 4096  # pixels of the sheet of pictures


def panel(found: Predictions, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return what the page shows of test images [n, height, width, channels], ready for JSON.

    Returns:
        ``total`` images, of which ``labels`` and ``predicted`` (uint8, base64) list the first;
        ``places`` (uint32) of those in ``sheet``, an image of cells of ``cell`` pixels, ``across``
        in a row; and their ``shares`` (uint16, 65,535 for 1), ``classes`` for each.
    """
    labels, predicted = found.labels[:MOST_LISTED], found.logits[:MOST_LISTED].argmax(axis=1)
    scale = min(1.0, html.MOST_PIXELS / max(images.shape[1:3]))
    height, width = (max(1, round(length * scale)) for length in images.shape[1:3])
    classes = found.logits.shape[1]
    most = max(1, min(MOST_PIXELS // (height * width), MOST_SHARES // classes))
    places = chosen(labels != predicted, most)
    across = max(1, min(math.isqrt(len(places)), MOST_ACROSS // width))
    shares = (
        classification.probabilities(found.logits[places])
        if len(places)
        else np.zeros((0, classes))
    )
    return {
        "total": len(found.labels),
        "classes": classes,
        "labels": _base64(labels.astype(np.uint8)),
        "predicted": _base64(predicted.astype(np.uint8)),
        "places": _base64(places.astype("<u4")),
        "shares": _base64((shares * 65535).round().astype("<u2")),
        "cell": [width, height],
        "across": across,
        "sheet": _sheet(images[places], (width, height), across),
    }


def chosen(wrong: npt.NDArray[np.bool_], most: int) -> npt.NDArray[np.int64]:
    """Return the places of at most ``most`` images: wrong ones first, others evenly; in order."""
    errors, right = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    errors = _evenly(errors, most)
    return np.sort(np.concatenate([errors, _evenly(right, most - len(errors))]))


def _evenly(places: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    count = min(len(places), most)
    return places[np.arange(count) * len(places) // max(1, count)]


def _sheet(images: npt.NDArray[np.uint8], size: tuple[int, int], across: int) -> str:
    """Return images in rows of so many as the ``data:`` URI of one WebP, each of ``size``."""
    width, height = size
    colour = images.shape[-1] == 3
    mode = "RGB" if colour else "L"
    sheet = PIL.Image.new(mode, (across * width, max(1, -(-len(images) // across)) * height))
    for place, image in enumerate(images):
        cell = PIL.Image.fromarray(np.ascontiguousarray(image if colour else image[..., 0]))
        if cell.size != size:
            cell = cell.resize(size, PIL.Image.Resampling.BOX)
        sheet.paste(cell, (place % across * width, place // across * height))
    file = io.BytesIO()
    # The quickest method: others take ten times as long for a tenth fewer bytes.
    sheet.save(file, "WEBP", quality=40, method=0)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
