"""IDX files under the names that datasets of this format go by, as a collection.

emnist-letters-train-images-idx3-ubyte.gz   emnist-letters-mapping.txt
train-images.idx3-ubyte/train-images-idx3-ubyte
qmnist-train-labels-idx2-int
"""

import itertools
import re
import string
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.common.text import printable
from trainer.data import dataset, description, idx
from trainer.data.class_labels import as_labels, read_names
from trainer.data.collection import Collection, Part, as_pixels, white
from trainer.errors import DataError
from trainer.storage.base import Entry, Storage

_NAME = re.compile(
    r"(?P<set>.*?)(?P<part>train|t10k|test)[-_.]?(?P<kind>images|labels)[-_.]idx\d-(ubyte|int)(\.gz)?",
    re.IGNORECASE,
)


# Of EMNIST's letters, large and small ones in one class; https://arxiv.org/abs/1702.05373, II.C.
LETTERS = dict(enumerate(string.ascii_uppercase, start=1))


class Named(NamedTuple):
    """An IDX file of a dataset: its set, whether it is to train on, and whether it has images."""

    set: str
    train: bool
    images: bool


def parse(name: str) -> Named | None:
    """Return what a file's name says, None if it is no IDX file of a dataset."""
    match = _NAME.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    of = match["set"].rstrip("-_.")
    return Named(of, match["part"].lower() == "train", match["kind"].lower() == "images")


def locate(storage: Storage) -> dict[str, dict[Named, Entry]]:
    """Return the files of each set in a folder, and in folders directly below it."""
    sets: dict[str, dict[Named, Entry]] = {}
    for entry in storage.list():
        named = parse(entry.name)
        if named is not None and entry.name.count("/") <= 1:
            sets.setdefault(named.set, {})[named] = entry
    return sets


def choose(storage: Storage, wanted: str) -> dict[Named, Entry] | None:
    """Return the files of the one set in a folder, or of the set that is wanted; None without.

    Raises:
        DataError: there are several sets, or the set lacks a file.
    """
    sets = locate(storage)
    if wanted:
        sets = {name: files for name, files in sets.items() if name == wanted}
    if not sets:
        return None
    if len(sets) > 1:
        names = ", ".join(map(printable, sorted(sets)[:8]))
        raise DataError(
            f"{storage.uri}: holds several datasets: {names}; give one of them: "
            f"--from {storage.uri}/{printable(max(sets))}"
        )
    [(name, files)] = sets.items()
    for train, images in itertools.product((True, False), repeat=2):
        if Named(name, train, images) not in files:
            if not name:  # MNIST's own names: ``dataset`` says what is missing
                return None
            part = "train" if train else "t10k or test"
            kind = "images" if images else "labels"
            raise DataError(
                f"{storage.uri}: no {part}-{kind} of {printable(name)} there; add the file"
            )
    return files


def read(storage: Storage, files: dict[Named, Entry], *, transpose: bool) -> Collection:
    """Read one set's four files; ``transpose``: whether rows and columns will be exchanged.

    Raises:
        DataError: one is damaged.
    """
    [of] = {named.set for named in files}
    images = [_array(storage, files[Named(of, train, True)]) for train in (True, False)]
    of_white = white(images[0])
    parts = [
        Part(
            as_pixels(values, f"{storage.uri}/{files[Named(of, train, True)].name}", of_white),
            _labels(storage, files[Named(of, train, False)]),
        )
        for values, train in zip(images, (True, False), strict=True)
    ]
    for part, train in zip(parts, (True, False), strict=True):
        if len(part.images) != len(part.labels):
            raise DataError(
                f"{storage.uri}/{files[Named(of, train, True)].name}: {len(part.images):,} images "
                f"but {len(part.labels):,} labels; fetch both files again"
            )
    notes = []
    if "emnist" in of.lower() and not transpose:
        notes.append("EMNIST has rows and columns exchanged: give --transpose")
    where = f"{storage.uri}/{of}" if of else storage.uri
    names = _mapping(storage, of) if of else dict(enumerate(description.read(storage).class_names))
    if not names and of.lower().endswith("emnist-letters"):
        there = np.unique(parts[0].labels).tolist()
        names = LETTERS if there == list(LETTERS) else {}
    return Collection(parts[0], parts[1], where, names, tuple(notes))


def _array(storage: Storage, entry: Entry) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return idx.decode(dataset.read_entry(storage, entry), f"{storage.uri}/{entry.name}")


def _labels(storage: Storage, entry: Entry) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    labels = _array(storage, entry)
    if labels.ndim == 2 and labels.shape[1] == 8:  # QMNIST: the class, and whose hand wrote it
        labels = labels[:, 0]
    return as_labels(labels, f"{storage.uri}/{entry.name}")


def _mapping(storage: Storage, of: str) -> dict[int, str]:
    """Return the names of EMNIST's mapping file, if it lies beside the set in a local folder."""
    path = Path(storage.uri) / f"{of}-mapping.txt"
    return read_names(str(path)) if path.is_file() else {}
