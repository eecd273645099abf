"""What a dataset holds: a table, the same as JSON, and a picture with images of each class."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.cells import cell_len

from trainer.common.text import class_label, one_line, plural
from trainer.data import dataset, description, shards
from trainer.data.dataset import Dataset, Split
from trainer.data.description import Description
from trainer.runs.tensorboard_images import PICTURE, drawable, png, scaled
from trainer.storage.base import Storage, open_storage

LONGEST_NAME = 40  # columns of a class
ACROSS = 10  # images of a class in the picture
_READERS = 8  # shards whose labels are read at the same time
_MARGIN, _LABEL = 8, 160  # pixels: between things, of the name of a class at most
_INK, _PAPER = "#1b2027", "#ffffff"


@dataclass(frozen=True)
class Summary:
    """What a dataset holds.

    Attributes:
        uri: of its folder.
        data: its images, but for those in shards.
        about: what its dataset.json says.
        training: the number of training images of each class.
        test: likewise.
        pictured: images to show, the first shard's or all training images.
    """

    uri: str
    data: Dataset
    about: Description
    training: list[int]
    test: list[int]
    pictured: Split


def read(uri: str, *, pictures: bool) -> Summary:
    """Read a dataset; of shards only the labels and, for ``pictures``, the first one's images.

    Raises:
        ConfigError, DataError, UnavailableError: see ``dataset.load``.
    """
    storage = open_storage(uri)
    data = dataset.load_from(storage, 0)
    pictured = data.train
    if data.shards and pictures:
        first = shards.read(storage, data.shards, 0)
        pictured = Split(first.images, first.labels)
    return Summary(
        uri=storage.uri,
        data=data,
        about=description.read(storage),
        training=_training_counts(storage, data),
        test=np.bincount(data.test.labels, minlength=data.classes).tolist(),
        pictured=pictured,
    )


def as_json(summary: Summary) -> str:
    """Return the summary for programs."""
    data, about = summary.data, summary.about
    values = {
        "uri": summary.uri,
        "sha256": data.sha256,
        "input_shape": data.input_shape,
        "classes": data.classes,
        "class_names": data.class_names or None,
        "training": summary.training,
        "test": summary.test,
        "shards": len(data.shards.counts) if data.shards else None,
        "label_offset": about.label_offset,
        "source": about.source or None,
        "licence": about.licence or None,
        "normalization": about.normalization or None,
    }
    return json.dumps(values, indent=2) + "\n"


def as_text(summary: Summary) -> str:
    """Return the summary for people: what is known, and a row for each class."""
    data, about = summary.data, summary.about
    in_shards = f" in {plural(len(data.shards.counts), 'shard')}" if data.shards else ""
    offset = about.label_offset
    facts = {
        "folder": summary.uri,
        "images": "x".join(map(str, data.input_shape)) + " (height, width, channels)",
        "training": plural(sum(summary.training), "image") + in_shards,
        "test": plural(sum(summary.test), "image"),
        "SHA-256": data.sha256,
        "source": about.source,
        "licence": about.licence,
        "pixels": about.normalization,
        "labels": f"{offset} and up in the source, 0 and up here" if offset else "",
    }
    lines = [f"{name:<9} {one_line(value)}" for name, value in facts.items() if value]
    labels = [
        class_label(label, data.class_names, LONGEST_NAME, cell_len)
        for label in range(data.classes)
    ]
    width = max(5, *map(cell_len, labels))
    lines += ["", f"{'class':<{width}} {'training':>12} {'test':>12}"]
    for label, *counts in zip(labels, summary.training, summary.test, strict=True):
        cells = (f"{f'{count:,}' if count else 'no images':>12}" for count in counts)
        lines.append(" ".join((label + " " * (width - cell_len(label)), *cells)))
    for kind, counts in (("training", summary.training), ("test", summary.test)):
        if words := dataset.without_images(counts, data.class_names):
            lines.append(f"{words} {kind} image")
    return "".join(f"{line}\n" for line in lines)


def picture(summary: Summary) -> bytes:
    """Return a PNG with a row for each class: its name, and its first images."""
    data, font = summary.data, ImageFont.load_default(14)
    cell = PICTURE + _MARGIN
    names = [
        class_label(label, drawable(data.class_names), _LABEL, font.getlength)
        for label in range(data.classes)
    ]
    left = math.ceil(max(map(font.getlength, names))) + 2 * _MARGIN
    size = (left + ACROSS * cell, data.classes * cell + _MARGIN)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for label, name in enumerate(names):
        top = _MARGIN + label * cell
        draw.text((_MARGIN, top + PICTURE / 2), name, _INK, font, anchor="lm")
        places = np.flatnonzero(summary.pictured.labels == label)[:ACROSS]
        if not len(places):
            draw.text((left, top + PICTURE / 2), "no images", _INK, font, anchor="lm")
        for column, place in enumerate(places):
            canvas.paste(scaled(summary.pictured.images[place]), (left + column * cell, top))
    return png(canvas)


def _training_counts(storage: Storage, data: Dataset) -> list[int]:
    total = np.bincount(data.train.labels, minlength=data.classes)
    if data.shards:
        read = partial(shards.read_labels, storage, data.shards)
        with ThreadPoolExecutor(_READERS) as pool:
            for labels in pool.map(read, range(len(data.shards.counts))):
                total += np.bincount(labels, minlength=data.classes)
    counts: list[int] = total.tolist()
    return counts
