"""Parquet files of images as data-set hubs store them, as a collection.

An image is a file's bytes, alone or in a struct with its path, or lists of pixels. The schema's
metadata names the classes, where the Hugging Face hub wrote it.
"""

import contextlib
import importlib
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.common.text import one_line, printable
from trainer.data import class_labels, collection, picture_folder, tables
from trainer.data.collection import Collection, Options, Part
from trainer.errors import ConfigError, DataError

_IMAGES = ("image", "img", "images", "pixel_values", "pixels", "picture", "jpg", "png")
_LABELS = ("label", "labels", "fine_label", "class", "target", "digit", "y", "cls")
_TRAIN, _VALIDATION, _TEST = ("train",), ("validation", "valid", "val", "dev"), ("test",)
_ROWS = 64  # of a batch; pyarrow copies an image that its file has once into each row that has it
_MOST_ROWS = 1 << 26
_ALIKE = "its images differ in size; scale them first, or store them as PNG"
_BUFFER = 1 << 20  # bytes of a column that are read at a time, not its whole row group


class _Table(NamedTuple):
    """An opened file, the names of its columns, and those of its classes."""

    path: Path
    file: Any
    image: str
    label: str
    names: dict[int, str]


def is_parquet(path: Path) -> bool:
    """Return whether a file's name says that it is of this kind."""
    return path.name.lower().endswith((".parquet", ".pq"))


def files(folder: Path) -> list[Path]:
    """Return the files of this kind in a folder, or in the only one of its folders that has any.

    Raises:
        DataError: several folders in it have some.
    """
    for folders in ([folder], sorted(path for path in folder.iterdir() if path.is_dir())):
        found = {each: sorted(filter(is_parquet, each.iterdir())) for each in folders}
        found = {each: paths for each, paths in found.items() if paths}
        if len(found) > 1:
            names = ", ".join(printable(each.name) for each in list(found)[:8])
            raise DataError(
                f"{folder}: holds several datasets: {names}; give one of them: --from "
                f"{printable(str(next(iter(found))))}"
            )
        if found:
            return next(iter(found.values()))
    return []


def read(paths: list[Path], options: Options) -> Collection:
    """Read files whose names start with train, validation or test; others are to train on.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: a file is damaged, or has no column of images or of labels.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            f"{paths[0]}: Parquet files need pyarrow, the extra ``parquet``, which is not "
            "installed; pip install pyarrow"
        )
    where = str(paths[0].parent if len(paths) > 1 else paths[0])
    split = {
        part: [path for path in paths if path.name.lower().startswith(part)]
        for part in (_TRAIN, _VALIDATION, _TEST)
    }
    if not split[_TRAIN]:
        split = {_TRAIN: paths, _VALIDATION: [], _TEST: []}
    notes = []
    opened = {part: [_open(path) for path in files] for part, files in split.items() if files}
    _check_names([table for tables in opened.values() for table in tables])
    found = {part: _labels(tables) for part, tables in opened.items()}
    if _TEST in found and _is_secret(found[_TEST][0]):
        del found[_TEST]
        notes.append("its test images have no labels and were left out")
    labels, names = class_labels.of_parts(*found.values())
    images = _images([opened[part] for part in found], options)
    parts = dict(zip(found, map(Part, images, labels), strict=True))
    names = opened[_TRAIN][0].names or names
    return Collection(
        parts[_TRAIN], parts.get(_TEST), where, names, tuple(notes), parts.get(_VALIDATION)
    )


def _is_secret(labels: npt.NDArray[Any]) -> bool:
    """Return whether a competition keeps these labels to itself: the hub stores -1 for each."""
    return labels.dtype.kind == "i" and bool((labels == -1).all())


def _check_names(opened: list[_Table]) -> None:
    """Check that the same label means the same class in all files."""
    first = opened[0]
    for table in opened:
        if table.names and first.names and table.names != first.names:
            raise DataError(
                f"{table.path}: has other names of classes than {first.path.name}; correct them"
            )


def _images(parts: list[list[_Table]], options: Options) -> Iterator[npt.NDArray[np.uint8]]:
    """Return the images of each part, of which the first decides which value is white."""
    white = 0
    for opened in parts:
        path, image = opened[0].path, opened[0].image
        if _holds_files(opened[0]):
            yield picture_folder.decode(_pictures(opened), options)
        else:
            values = _pixels(opened)
            white = white or collection.white(values)
            images = collection.as_pixels(values, f"{path}: {printable(image)}", white)
            yield collection.scaled_images(images, options, str(path))


def _open(path: Path) -> _Table:
    """Open a file and choose its columns: by the hub's features, else by name."""
    with _reasons(path):
        file = importlib.import_module("pyarrow.parquet").ParquetFile(path, buffer_size=_BUFFER)
        columns, features = file.schema_arrow.names, _features(file.schema_arrow.metadata)
    if not 0 < file.metadata.num_rows <= _MOST_ROWS:
        raise DataError(f"{path}: has {file.metadata.num_rows:,} rows; give 1 to {_MOST_ROWS:,}")
    image = _choose(columns, [name for name in columns if features.get(name) == "Image"], _IMAGES)
    classes = [name for name in columns if isinstance(features.get(name), list)]
    label = _choose(columns, classes, _LABELS)
    if image is None or label is None:
        there = ", ".join(map(printable, columns[:8]))
        raise DataError(f"{path}: has the columns {there}; name them image and label")
    names = features.get(label)
    return _Table(path, file, image, label, dict(enumerate(names)) if names else {})


def _choose(columns: list[str], marked: list[str], usual: tuple[str, ...]) -> str | None:
    """Return a column that the file marks, the one with a usual name before others."""
    lower = {name.lower(): name for name in marked or columns}
    found = [lower[name] for name in usual if name in lower]
    return next(iter(found + marked), None)


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Return the hub's word on each column: "Image", or the names of its classes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {name: feature["_type"] for name, feature in features.items()}
        classes = {name: features[name]["names"] for name in kinds if kinds[name] == "ClassLabel"}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}
    return {name: classes.get(name, kind) for name, kind in kinds.items()}


def _holds_files(table: _Table) -> bool:
    """Return whether the images are files' bytes."""
    kind = str(table.file.schema_arrow.field(table.image).type)
    return kind.startswith(("struct<", "binary", "large_binary"))


def _batches(table: _Table, column: str) -> Iterator[Any]:
    """Return a column's values, some rows at a time."""
    with _reasons(table.path):
        for batch in table.file.iter_batches(_ROWS, columns=[column]):
            yield batch.column(0)


def _pictures(opened: list[_Table]) -> Iterator[picture_folder.Picture]:
    for table in opened:
        cells = (cell for batch in _batches(table, table.image) for cell in batch)
        for row, cell in enumerate(cells):
            data = cell.as_py()
            data = data.get("bytes") if isinstance(data, dict) else data
            name = f"{table.path}: row {row}"
            if not isinstance(data, bytes):
                raise DataError(f"{name}: has no bytes of an image; store them, not its path alone")
            yield picture_folder.Picture(name, io.BytesIO(data))


def _pixels(opened: list[_Table]) -> npt.NDArray[Any]:
    """Return the images of columns of lists, [n, height, width(, channels)]."""
    chunks: list[npt.NDArray[Any]] = []
    size = 0
    for table in opened:
        for batch in _batches(table, table.image):
            chunks.append(_array(batch, table))
            size += chunks[-1].nbytes
            collection.check_room(size, str(table.path))
            if chunks[-1].shape[1:] != chunks[0].shape[1:]:
                raise DataError(f"{table.path}: {table.image}: {_ALIKE}")
    values = np.concatenate(chunks)
    if values.ndim == 2:
        side, channels = tables.square(values.shape[1], opened[0].path)
        values = values.reshape(-1, side, side, *([channels] if channels > 1 else []))
    return values


def _array(column: Any, table: _Table) -> npt.NDArray[Any]:
    """Return lists, or lists of lists, as an array."""
    shape = [len(column)]
    while "list<" in str(column.type).partition("[")[0]:
        lengths = set(column.value_lengths().to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise DataError(f"{table.path}: {table.image}: {_ALIKE}")
        shape.append(lengths.pop())
        column = column.flatten()
    values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values.reshape(shape)


def _labels(opened: list[_Table]) -> tuple[npt.NDArray[Any], str]:
    """Return the labels as they are stored, and what messages call them."""
    found: list[npt.NDArray[Any]] = []
    for table in opened:
        for batch in _batches(table, table.label):
            if batch.null_count:
                raise DataError(f"{table.path}: {printable(table.label)}: an image has no label")
            found.append(batch.to_numpy(zero_copy_only=False))
    return np.concatenate(found), f"{opened[0].path}: {printable(opened[0].label)}"


@contextlib.contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises into one line."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, NotImplementedError, MemoryError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet: {one_line(error, 200)}; fetch it again"
        ) from None
