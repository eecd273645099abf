"""Arrays in .npz files and tables in .csv files, as collections."""

import contextlib
import csv
import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from trainer.common.text import one_line, printable
from trainer.data import idx
from trainer.data.class_labels import of_parts
from trainer.data.collection import Collection, Part, as_pixels, white
from trainer.errors import DataError

# Images and labels, by the names that keras.datasets, MedMNIST and scikit-learn give them.
_TRAIN = (("x_train", "y_train"), ("train_images", "train_labels"))
_VALIDATION = (("x_val", "y_val"), ("val_images", "val_labels"))
_TEST = (("x_test", "y_test"), ("test_images", "test_labels"))
_ALL = (("x", "y"), ("X", "y"), ("images", "labels"), ("data", "target"), ("images", "target"))

_LABELS = ("label", "labels", "class", "target", "digit", "y")  # columns
_OTHERS = ("", "id", "index", "unnamed: 0")  # columns that are neither
_HEADER = 1 << 22  # characters of a first line
_FIELD = 10_000  # characters of a cell, and of a header's


def is_npz(path: Path) -> bool:
    """Return whether a file's name says that it holds arrays."""
    return path.name.lower().endswith(".npz")


def is_csv(path: Path) -> bool:
    """Return whether a file's name says that it is a table."""
    return path.name.lower().endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz"))


def csv_files(folder: Path) -> tuple[Path, Path | None, Path | None] | None:
    """Return the tables of a folder: training, test and validation; None if there are none."""
    tables = sorted(path for path in folder.iterdir() if is_csv(path))
    named = [[p for p in tables if word in p.name.lower()] for word in ("train", "test", "val")]
    train, test, validation = (paths[0] if len(paths) == 1 else None for paths in named)
    if train:
        return train, test, validation
    return (tables[0], None, None) if len(tables) == 1 else None


def npz_file(folder: Path) -> Path | None:
    """Return the only .npz file of a folder, None if there are none or several."""
    found = [path for path in folder.iterdir() if is_npz(path)]
    return found[0] if len(found) == 1 else None


def read_npz(path: Path) -> Collection:
    """Read arrays of images and labels; no pickled object is loaded.

    Raises:
        DataError: the file is damaged, or has no arrays of the known names.
    """
    try:
        arrays = _arrays(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(f"{path}: {one_line(error, 200)}; save the arrays again") from None
    pairs = {
        part: next((pair for pair in names if set(pair) <= arrays.keys()), None)
        for part, names in (("train", _TRAIN), ("validation", _VALIDATION), ("test", _TEST))
    }
    train = pairs["train"] or next((pair for pair in _ALL if set(pair) <= arrays.keys()), None)
    if train is None:
        held = ", ".join(map(printable, sorted(arrays)[:8])) or "nothing"
        raise DataError(f"{path}: holds {held}; name the arrays x_train, y_train, x_test, y_test")

    of_white = white(arrays[train[0]])
    there = {part: pair for part, pair in {**pairs, "train": train}.items() if pair}
    images = [as_pixels(arrays[i], f"{path}: {i}", of_white) for i, _ in there.values()]
    labels, names = of_parts(*((arrays[each], f"{path}: {each}") for _, each in there.values()))
    made = dict(zip(there, map(Part, images, labels), strict=True))
    for part, pair in there.items():
        if len(made[part].images) != len(made[part].labels):
            raise DataError(
                f"{path}: {pair[0]} has {len(made[part].images):,} images and {pair[1]} "
                f"{len(made[part].labels):,} labels; each image needs one"
            )
    test, validation = made.get("test"), made.get("validation")
    return Collection(made["train"], test, str(path), names, validation=validation)


def _arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    with zipfile.ZipFile(path) as archive:
        large = [each for each in archive.infolist() if each.file_size > idx.MAX_BYTES]
    if large:
        raise ValueError(f"{large[0].filename} has more than {idx.MAX_BYTES:,} bytes")
    with np.load(path, allow_pickle=False) as stored:
        wanted = {name for pair in (*_TRAIN, *_VALIDATION, *_TEST, *_ALL) for name in pair}
        return {name: stored[name] if name in wanted else np.empty(0) for name in stored.files}


def read_csv(train: Path, test: Path | None, validation: Path | None) -> Collection:
    """Read tables with a label and an image's pixels in each row.

    The label is in the first column, or in the one that a header calls label, class or target. The
    pixels, 0 to 255, are of a square image: grey ones by row, or red, green and blue of each pixel.

    Raises:
        DataError: a table is damaged, has no label, or no square number of pixels.
    """
    notes: tuple[str, ...] = ()
    if test is not None and _columns(test) == _columns(train) - 1:
        notes = (f"{test.name} has no labels and was left out",)
        test = None
    tables = [(path, *_table(path)) for path in (train, test, validation) if path is not None]
    of_white = white(tables[0][1])
    found = [
        (path, as_pixels(pixels, f"{path}: pixels", of_white), labels)
        for path, pixels, labels in tables
    ]
    are_numbers = all(_is_number(label) for _, _, labels in found for label in labels)
    kind = np.float64 if are_numbers else object
    numbers, names = of_parts(*((np.array(labels, kind), str(path)) for path, _, labels in found))
    parts = {path: Part(images, of) for (path, images, _), of in zip(found, numbers, strict=True)}
    where = str(train if len(parts) == 1 else train.parent)
    tested, validated = (parts[path] if path else None for path in (test, validation))
    return Collection(parts[train], tested, where, names, notes, validated)


def _table(path: Path) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Return the images of a table, and their labels as they are written."""
    with _reasons(path):
        with _opened(path) as file:
            delimiter = _delimiter(file.readline(_HEADER))
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter)
            first, _ = next(rows), next(rows)
        header = [cell.strip().lower() for cell in first]
        has_header = _is_header(header)
        header = header if has_header else []
        others = {number for number, name in enumerate(header) if name in _OTHERS}
        column = next(
            (header.index(name) for name in _LABELS if name in header),
            min(set(range(len(first))) - others, default=0),
        )
        others.add(column)
        pixels = [number for number in range(len(first)) if number not in others]
        side, channels = square(len(pixels), path)
        with _opened(path) as file:
            labels = [row[column] for row in _rows(file, has_header, delimiter)]
        with _opened(path) as file:
            values = np.loadtxt(
                file,
                np.float32,
                delimiter=delimiter,
                skiprows=int(has_header),
                usecols=pixels,
                ndmin=2,
                quotechar='"',
                comments=None,
            )
    images = values.reshape(-1, side, side, channels)
    if len(images) != len(labels):
        raise DataError(f"{path}: has empty lines; take them away")
    return images[..., 0] if channels == 1 else images, labels


def _is_header(cells: list[str]) -> bool:
    """Return whether a first row names the columns.

    Its names are words or, as pandas gives them to columns without one, numbers that count up. In
    a row without names, the only word is a label.
    """
    numbers = [float(cell) for cell in cells if _is_number(cell)]
    counts = len(numbers) > 2 and numbers in (
        list(range(len(numbers))),
        list(range(1, len(numbers) + 1)),
    )
    return not numbers or counts or any(name in cells for name in _LABELS)


def _delimiter(line: str) -> str:
    """Return what parts the cells of a table's first line."""
    return max(",;\t|", key=line.count)


def _rows(file: IO[str], has_header: bool, delimiter: str) -> Iterator[list[str]]:
    rows = csv.reader(file, delimiter=delimiter)
    if has_header:
        next(rows)
    return (row for row in rows if row)


def _columns(path: Path) -> int:
    with _reasons(path), _opened(path) as file:
        line = file.readline(_HEADER)
        return len(next(csv.reader([line], delimiter=_delimiter(line))))


def square(count: int, path: Path) -> tuple[int, int]:
    """Return height, which is width, and channels of an image of so many values.

    Raises:
        DataError: there are none.
    """
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if count and side * side * channels == count:
            return side, channels
    raise DataError(
        f"{path}: {count} columns besides the label are no square image, grey or of three colours; "
        "give a table of label and pixels"
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _opened(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


@contextlib.contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turn what csv, gzip and numpy raise into one line."""
    csv.field_size_limit(_FIELD)
    try:
        yield
    except StopIteration:
        raise DataError(f"{path}: has fewer than two rows; give a table") from None
    except (OSError, ValueError, EOFError, csv.Error, zlib.error, IndexError) as error:
        reason = one_line(error, 200).rstrip(".")
        raise DataError(f"{path}: is no table of numbers: {reason}; correct it") from None
