"""A folder of four IDX files, under any URI, to arrays for training, validation and test.

Each file may be compressed with gzip, and may be named as on LeCun's page
(``train-images-idx3-ubyte``) or with a dot, as archives unpack it (``train-images.idx3-ubyte``).
The training files may be in shards (shards.py), which stay where they are.
"""

import contextlib
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.common.text import called, class_label, plural, printable
from trainer.data import description, idx, shards
from trainer.data.shards import Shards
from trainer.errors import ConfigError, DataError, UserError
from trainer.storage.base import Entry, Storage, open_storage

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""What a dataset consists of, in the order in which it is checked and digested."""

_MOST_NAMED = 5  # classes in a message


_OTHER_KINDS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pgm", ".ppm"),
    *(".csv", ".csv.gz", ".npz", ".parquet", "-ubyte", "-ubyte.gz"),
)


@dataclass(frozen=True)
class Split:
    """Images, in the order of the files, and their labels int32 [n].

    Images are uint8 [n, height, width, channels], read-only.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Dataset:
    """What a model is trained, chosen and judged on.

    Attributes:
        train: At least one image; none if they are in shards.
        validation: The first images of the training files; none if none were asked for.
        test: At least one image.
        classes: One more than the largest training label, at least 2.
        sha256: SHA-256, in hexadecimal, of the four uncompressed files' own SHA-256 (32 bytes
            each, in the order of FILES), so it depends neither on gzip nor on the place. With
            shards, that of the index stands for the first two.
        shards: The training images, where they are not in ``train``.
        class_names: Of class 0 on, as dataset.json has them; empty if they have none.
    """

    train: Split
    validation: Split
    test: Split
    classes: int
    sha256: str
    shards: Shards | None = None
    class_names: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """The number of images to train on."""
        return sum(self.shards.counts) if self.shards else len(self.train.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height and width in pixels, and channels, of every image."""
        _, height, width, channels = self.test.images.shape
        return height, width, channels


class NoDatasetError(DataError):
    """A folder has none of a dataset's files."""


class IdxFile(NamedTuple):
    """The elements of one file, and the SHA-256 of its uncompressed bytes in hexadecimal."""

    elements: npt.NDArray[np.uint8]
    sha256: str


def load(uri: str, validation: int = 5000) -> Dataset:
    """Reads the dataset at ``uri``.

    Args:
        uri: A folder or a bucket, see ``open_storage``.
        validation: Number of training images, from the first on, set aside for validation: 5,000
            of MNIST's 60,000, as ``tensorflow.examples.tutorials.mnist`` did. 0 sets none aside.

    Raises:
        ConfigError: ``uri`` is no folder of a known kind, or ``validation`` leaves no image.
        DataError: A file is missing, malformed, or contradicts another.
        UnavailableError: The storage was not reached.
    """
    return load_from(open_storage(uri), validation)


def without_images(counts: Sequence[int], class_names: Sequence[str] = ()) -> str | None:
    """Return which classes have no image, given the images of each; None if all have some."""
    missing = [label for label, count in enumerate(counts) if not count]
    if not missing:
        return None
    few = ", ".join(class_label(label, class_names) for label in missing[:_MOST_NAMED])
    if len(missing) == 1:
        return f"class {few} of {len(counts)} has no"
    others = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    return f"classes {few}{others} of {len(counts)} have no"


def load_from(storage: Storage, validation: int) -> Dataset:
    """Reads the dataset in a storage; see load()."""
    _check_folder(storage)
    found = shards.locate(storage, validation)
    if found:
        data = _load_sharded(storage, found)
    else:
        data = assemble(parse(read(storage), storage.uri), storage.uri, validation)
    return replace(data, class_names=_class_names(storage, data.classes))


def _class_names(storage: Storage, classes: int) -> tuple[str, ...]:
    names = description.read(storage).class_names
    if len(names) not in (0, classes):
        raise DataError(
            f"{storage.uri}/{description.NAME}: has {len(names)} class_names, but the training"
            f" labels are of {classes} classes, 0 to {classes - 1}; give a name for each, or none"
        )
    return names


def _load_sharded(storage: Storage, found: Shards) -> Dataset:
    """Reads the test files, and the first shard where images are set apart for validation."""
    there = locate(storage)
    whole = [there[name].name for name in FILES[:2] if name in there]
    if whole:
        raise DataError(
            f"{storage.uri}: has {whole[0]} beside the shards of {shards.INDEX}; the training"
            " images must be in one of them; take the other away"
        )
    _check_complete(storage, there, FILES[2:])
    files = parse({entry.name: read_entry(storage, entry) for entry in there.values()}, storage.uri)
    test = _pair(files[0].elements, files[1].elements, storage.uri, FILES[2:])
    index = found.index
    _check_alike(index.image_shape, index.classes, test, storage.uri)
    apart = found.validation
    first = shards.read(storage, found, 0) if apart else shards.Part(test.images, test.labels)
    sha256 = hashlib.sha256(bytes.fromhex(index.sha256 + files[0].sha256 + files[1].sha256))
    return Dataset(
        train=Split(test.images[:0], test.labels[:0]),
        # Copies, as a view would keep the whole shard in memory.
        validation=Split(first.images[:apart].copy(), first.labels[:apart].copy()),
        test=test,
        classes=index.classes,
        sha256=sha256.hexdigest(),
        shards=found,
    )


def locate(storage: Storage) -> dict[str, Entry]:
    """Those of FILES that are there, by any of their names."""
    there = {entry.name: entry for entry in storage.list("t")}
    return {
        name: there[alias]
        for name in FILES
        for alias in reversed(aliases(name))  # the first alias has the last word
        if alias in there
    }


def aliases(name: str) -> tuple[str, ...]:
    """The names under which one of FILES may be stored, the preferred one first."""
    dotted = name.replace("-idx", ".idx")
    return name, f"{name}.gz", dotted, f"{dotted}.gz"


def read(storage: Storage) -> dict[str, bytes]:
    """The four files by the names they have there, in the order of FILES; see load()."""
    _check_folder(storage)
    found = locate(storage)
    _check_complete(storage, found)
    with ThreadPoolExecutor(len(FILES)) as pool:
        contents = pool.map(lambda entry: read_entry(storage, entry), found.values())
        return {entry.name: data for entry, data in zip(found.values(), contents, strict=True)}


def read_entry(storage: Storage, entry: Entry) -> bytes:
    """Reads one of the four files, unless it is too large to be one."""
    if entry.size > idx.MAX_BYTES:
        raise DataError(
            f"{storage.uri}/{entry.name}: the file has {entry.size} bytes, above the limit of"
            f" {idx.MAX_BYTES}; use fewer or smaller images"
        )
    return storage.read(entry.name)


def parse(files: Mapping[str, bytes], where: str, max_bytes: int = idx.MAX_BYTES) -> list[IdxFile]:
    """Decodes and digests files by name, in parallel: zlib and hashlib let other threads run.

    ``where`` is their folder, for messages, and no array has more than ``max_bytes``.

    Raises:
        DataError: One is malformed, or its elements are not uint8.
    """
    names = [f"{where}/{name}" for name in files]
    with ThreadPoolExecutor(len(FILES)) as pool:
        return list(pool.map(_parse_one, files.values(), names, repeat(max_bytes)))


def _parse_one(data: bytes, name: str, max_bytes: int) -> IdxFile:
    elements = idx.decode(data, name, max_bytes)
    if elements.dtype != np.uint8:
        raise DataError(
            f"{name}: the elements are {elements.dtype}; images and labels must be uint8 (0x08);"
            " convert the file"
        )
    return IdxFile(elements, idx.sha256(elements))


def assemble(files: Sequence[IdxFile], where: str, validation: int) -> Dataset:
    """Checks the four files, in the order of FILES, against each other; see load()."""
    train_images, train_labels, test_images, test_labels = (file.elements for file in files)
    train = _pair(train_images, train_labels, where, FILES[:2])
    test = _pair(test_images, test_labels, where, FILES[2:])
    largest = int(train.labels.max())
    if largest == 0:
        raise DataError(
            f"{where}: every training label is 0; a classifier needs at least two classes; check"
            f" {FILES[1]}"
        )
    _check_alike(train.images.shape[1:], largest + 1, test, where)
    count = len(train.images)
    if not 0 <= validation < count:
        raise ConfigError(
            f"validation {validation}: {where} has {plural(count, 'training image')}; give a"
            f" validation of 0 to {count - 1} (default: 5000)"
        )
    digest = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in files))
    return Dataset(
        train=Split(train.images[validation:], train.labels[validation:]),
        validation=Split(train.images[:validation], train.labels[:validation]),
        test=test,
        classes=int(train.labels.max()) + 1,
        sha256=digest.hexdigest(),
    )


def _pair(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], where: str, names: Sequence[str]
) -> Split:
    shown = f"{where}: {names[0]} is {'x'.join(map(str, images.shape))}"
    if images.ndim not in (3, 4):
        raise DataError(
            f"{shown}; images are count x height x width, or those and channels; convert the file"
        )
    if 0 in images.shape:
        raise DataError(f"{shown}, which is empty; a split needs at least one image; add images")
    if labels.ndim != 1:
        raise DataError(
            f"{where}: {names[1]} is {'x'.join(map(str, labels.shape))}; labels have one dimension;"
            " convert the file"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{where}: {names[0]} holds {len(images)} images but {names[1]} {len(labels)} labels;"
            " each image needs one label; fetch both files again"
        )
    pixels = images if images.ndim == 4 else images[..., np.newaxis]
    return Split(pixels, labels.astype(np.int32))


def _check_alike(shape: Sequence[int], classes: int, test: Split, where: str) -> None:
    sizes = ["x".join(map(str, size)) for size in (shape, test.images.shape[1:])]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"{where}: training images are {sizes[0]} but test images {sizes[1]} (height x width x"
            " channels); they must be alike; take both from one dataset"
        )
    outside = np.flatnonzero(test.labels >= classes)
    if outside.size:
        raise DataError(
            f"{where}: test label {test.labels[outside[0]]} at index {outside[0]} lies outside the"
            f" {classes} classes of the training labels, 0 to {classes - 1}; check {FILES[3]}"
        )


def _check_folder(storage: Storage) -> None:
    folder, _, last = storage.uri.rpartition("/")
    if any(last in aliases(name) for name in FILES):
        raise ConfigError(
            f"{storage.uri}: names one file; a dataset is the folder of four; name"
            f" {shlex.quote(folder) if folder else 'its folder'}"
        )


def _check_complete(
    storage: Storage, found: dict[str, Entry], wanted: Sequence[str] = FILES
) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        remedy = "put what is missing there" if found else advice(storage)
        kind = DataError if found else NoDatasetError
        raise kind(
            f"{storage.uri}: no {', '.join(missing)} there, with or without .gz, nor as"
            f" {aliases(missing[0])[2]}; {remedy}"
        )


def advice(storage: Storage) -> str:
    """Return what to do about a folder without a dataset, judged by what else it holds."""
    names: list[str] = []
    with contextlib.suppress(UserError):
        names = [entry.name for entry in storage.list()]
        for name in names:
            parent, _, last = name.rpartition("/")
            if parent and last in (*aliases(FILES[0]), shards.INDEX):
                return f"a dataset lies below it: name {shlex.quote(f'{storage.uri}/{parent}')}"
        for name in names:
            if name.lower().endswith(_OTHER_KINDS):
                return (
                    f"make a dataset of what is there, such as {printable(name)}:"
                    f" {called('trainer')} data put --from {shlex.quote(storage.uri)} --to FOLDER"
                )
    place, folder = ("into a folder of its own", "FOLDER") if names else ("there", storage.uri)
    return (
        f"name the folder of a dataset, or put one {place}:"
        f" {called('trainer')} data put --from mnist --to {shlex.quote(folder)}"
    )
