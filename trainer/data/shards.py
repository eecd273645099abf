"""Training files in many parts: their names, the index that lists them, and reading one.

A dataset too large for memory has, in place of its two training files, for every shard an IDX
file of images and one of labels, ``train-images-00000-of-00064`` and
``train-labels-00000-of-00064``, each perhaps gzipped, and ``shards.json``. That index holds each
file's SHA-256, so a start knows what the data are without reading them, and every reading of a
shard is checked.
"""

import contextlib
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter

from trainer.common.text import called
from trainer.data import idx
from trainer.errors import ConfigError, DataError
from trainer.storage.base import Entry, ObjectNotFoundError, Storage

INDEX = "shards.json"
MOST = 99_999  # shards, as the names have five digits

_NAME = re.compile(r"train-(images|labels)-\d{5}-of-\d{5}(\.gz)?")
_Count = Annotated[int, Field(ge=1)]
_SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Shard:
    """What the index says of one shard: how many images it has, and as many labels.

    A SHA-256, in hexadecimal, is that of the uncompressed IDX file.
    """

    count: _Count
    images_sha256: _SHA256
    labels_sha256: _SHA256


@dataclass(frozen=True)
class Index:
    """What the training files of a dataset are, in the order of their names.

    ``image_shape`` is height, width and channels, ``classes`` one more than the largest label.
    """

    image_shape: tuple[_Count, _Count, _Count]
    classes: Annotated[int, Field(ge=2, le=256)]
    shards: Annotated[tuple[Shard, ...], Field(min_length=1, max_length=MOST)]

    @property
    def sha256(self) -> str:
        """SHA-256 over the SHA-256 of all files, images before labels, shard after shard."""
        files = [f for shard in self.shards for f in (shard.images_sha256, shard.labels_sha256)]
        return hashlib.sha256(b"".join(bytes.fromhex(f) for f in files)).hexdigest()


@dataclass(frozen=True)
class Shards:
    """The training images of a dataset where they lie.

    Attributes:
        uri: of their folder.
        index: what they are.
        files: per shard the names of its images and its labels there.
        compressed: whether any of them is.
        validation: images of the first shard that are set apart, from its first on.
    """

    uri: str
    index: Index
    files: tuple[tuple[str, str], ...]
    compressed: bool
    validation: int

    @property
    def counts(self) -> tuple[int, ...]:
        """The images to train on, per shard; each is at least 1."""
        first, *others = (shard.count for shard in self.index.shards)
        return first - self.validation, *others


class Part(NamedTuple):
    """One shard: images uint8 [n, height, width, channels] and labels int32 [n]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


def names(number: int, of: int) -> tuple[str, str]:
    """Return the names of a shard's images and labels, uncompressed."""
    return f"train-images-{number:05}-of-{of:05}", f"train-labels-{number:05}-of-{of:05}"


def is_name(name: str) -> bool:
    """Return whether a file of this name counts as one of a shard."""
    return _NAME.fullmatch(name) is not None


def encode(index: Index) -> bytes:
    """Return the index as it is stored."""
    count = len(index.shards)
    rows = [
        {"files": names(number, count), **asdict(shard)}
        for number, shard in enumerate(index.shards)
    ]
    return (json.dumps({**asdict(index), "shards": rows}, indent=1) + "\n").encode()


def decode(data: bytes, name: str) -> Index:
    """Read an index.

    Raises:
        DataError: it is not one that ``encode`` could have written.
    """
    with contextlib.suppress(ValueError):
        index = TypeAdapter(Index).validate_json(data)
        if encode(index) == data:
            return index
    raise DataError(
        f"{name}: damaged: it must be as data put --shards wrote it; put the dataset again"
    )


def locate(storage: Storage, validation: int) -> Shards | None:
    """Return the shards of a folder, or None if it has none; no image is read.

    Raises:
        DataError: the index is missing or damaged, or the files differ from its list.
        ConfigError: the first shard has too few images to set ``validation`` of them apart.
    """
    there = {entry.name: entry for entry in storage.list("train-") if is_name(entry.name)}
    try:
        data = storage.read(INDEX)
    except ObjectNotFoundError:
        if not there:
            return None
        raise DataError(
            f"{storage.uri}: has {min(there)} but no {INDEX}; put the dataset again: "
            f"{called('trainer')} data put --from SOURCE --shards N --to FOLDER"
        ) from None
    index = decode(data, f"{storage.uri}/{INDEX}")
    files = _files(storage, index, there)
    if not 0 <= validation < index.shards[0].count:
        raise ConfigError(
            f"validation {validation}: they are the first of shard 0, and that has "
            f"{index.shards[0].count} images in {storage.uri}; give a validation of 0 to "
            f"{index.shards[0].count - 1} (default: 5000), or use fewer shards"
        )
    compressed = any(name.endswith(".gz") for pair in files for name in pair)
    return Shards(storage.uri, index, files, compressed, validation)


def _files(storage: Storage, index: Index, there: dict[str, Entry]) -> tuple[tuple[str, str], ...]:
    """Return the names under which the listed files are there, and no others."""
    count = len(index.shards)
    pairs: list[tuple[str, str]] = []
    for number, shard in enumerate(index.shards):
        images, labels = (name if name in there else f"{name}.gz" for name in names(number, count))
        for name in (images, labels):
            if name not in there:
                raise DataError(
                    f"{storage.uri}: no {name.removesuffix('.gz')} there, with or without .gz, "
                    f"though {INDEX} lists it; put it there, or the dataset again"
                )
        _check_size(storage, there[images], shard.count * _pixels(index))
        _check_size(storage, there[labels], shard.count)
        pairs.append((images, labels))
    surplus = there.keys() - {name.removesuffix(".gz") for pair in pairs for name in pair}
    surplus -= {name for pair in pairs for name in pair}
    surplus -= {f"{name}.gz" for pair in pairs for name in pair}
    if surplus:
        raise DataError(
            f"{storage.uri}: {min(surplus)} is not one of the {count} shards that {INDEX} lists; "
            "take it away, or put the dataset again into another folder"
        )
    return tuple(pairs)


def _check_size(storage: Storage, entry: Entry, elements: int) -> None:
    """Refuse at once what has not its size, before hours of training lead to it."""
    if elements + idx.LONGEST_HEADER > idx.MAX_BYTES:
        raise DataError(
            f"{storage.uri}/{entry.name}: {elements} elements, above the limit of {idx.MAX_BYTES} "
            "bytes a file; put the dataset again in more shards"
        )
    fitting = range(elements + 1, elements + idx.LONGEST_HEADER + 1)
    if not entry.name.endswith(".gz") and entry.size not in fitting:
        raise DataError(
            f"{storage.uri}/{entry.name}: has {entry.size} bytes, but {INDEX} lists {elements} "
            "elements; fetch the file again, or put the dataset again"
        )


def _pixels(index: Index) -> int:
    height, width, channels = index.image_shape
    return height * width * channels


def read(storage: Storage, shards: Shards, number: int) -> Part:
    """Read one shard whole, with the images that are set apart, and check it.

    Raises:
        DataError: a file is missing, or is not the one that the index lists.
    """
    shard = shards.index.shards[number]
    name = shards.files[number][0]
    images = _read_file(storage, name, shard.images_sha256)
    where = f"{storage.uri}/{name}"
    shape = (shard.count, *shards.index.image_shape)
    if images.shape not in (shape, shape[:3]) or (images.ndim == 3 and shape[3] != 1):
        raise DataError(
            f"{where}: holds {'x'.join(map(str, images.shape))}, but "
            f"{INDEX} lists {'x'.join(map(str, shape))}; put the dataset again"
        )
    return Part(images.reshape(shape), read_labels(storage, shards, number))


def read_labels(storage: Storage, shards: Shards, number: int) -> npt.NDArray[np.int32]:
    """Read the labels of one shard, int32 [n], with those set apart, and check them.

    Raises:
        DataError: the file is missing, or is not the one that the index lists.
    """
    shard, name = shards.index.shards[number], shards.files[number][1]
    labels = _read_file(storage, name, shard.labels_sha256)
    where = f"{storage.uri}/{name}"
    if labels.shape != (shard.count,):
        raise DataError(
            f"{where}: holds {'x'.join(map(str, labels.shape))}, but {INDEX} lists {shard.count} "
            "labels; put the dataset again"
        )
    if labels.max() >= shards.index.classes:
        raise DataError(
            f"{where}: a label is {labels.max()}, but {INDEX} lists {shards.index.classes} "
            "classes; put the dataset again"
        )
    return labels.astype(np.int32)


def _read_file(storage: Storage, name: str, sha256: str) -> npt.NDArray[np.uint8]:
    elements = idx.decode(storage.read(name), f"{storage.uri}/{name}")
    if elements.dtype != np.uint8 or idx.sha256(elements) != sha256:
        raise DataError(
            f"{storage.uri}/{name}: is not the file that {INDEX} lists, its SHA-256 is another; "
            "fetch it again, or put the dataset again"
        )
    return elements
