"""Where data come from: the mirrors of MNIST, a folder, or the program itself."""

import contextlib
import glob
import http.client
import itertools
import math
import os
import queue
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.common.text import plural, printable
from trainer.data import (
    collection,
    dataset,
    description,
    digits,
    idx,
    idx_names,
    parquet,
    picture_folder,
    sampler,
    shards,
    tables,
)
from trainer.data.collection import AS_IT_IS, Collection, Options
from trainer.data.dataset import FILES, Dataset
from trainer.data.description import Description
from trainer.errors import ConfigError, DataError, UnavailableError, UserError
from trainer.storage.base import Entry, Storage, open_storage

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist",
)
"""Folders of MNIST's four gzip files: CVDF's on Google Cloud Storage, OSSCI's on S3."""

MNIST_SHA256 = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
"""SHA-256 of MNIST's uncompressed files, in the order of FILES."""

_MAX_DOWNLOAD = 16 << 20  # bytes of one file; MNIST's largest has 9.9 million
PROBE_SECONDS = 4.0  # that ``auto`` waits for a mirror to answer
_MIRROR_SECONDS = 120.0  # for all four files
_SILENCE_SECONDS = 10.0
_CHUNK = 1 << 16
_TRUST = "if your network has a certificate authority of its own, name its file in SSL_CERT_FILE"


class _UntrustedError(UnavailableError):
    """Nobody who is trusted has signed a mirror's certificate, or the connection has no TLS."""


class _Digits(NamedTuple):
    """How many digits to draw, and from which seed."""

    train: int
    test: int
    seed: int

    @property
    def words(self) -> str:
        return f"digits drawn by the program from seed {self.seed}"

    def check(self) -> None:
        if min(self.train, self.test) < 1:
            raise ConfigError(
                f"digits: {self.train} for training and {self.test} for testing; give at least 1"
                " each"
            )


class _Found(NamedTuple):
    """The four files by name, in the order of FILES; ``where`` is their folder in messages."""

    files: Mapping[str, bytes]
    where: str
    words: str
    description: Description = Description()


def put(
    source: str,
    to_uri: str,
    *,
    train_count: int = 60_000,
    test_count: int = 10_000,
    seed: int = 0,
    split: int = 0,
    options: Options = AS_IT_IS,
) -> str:
    """Put a dataset into the folder ``to_uri``; all of it is checked before the first write.

    Nothing is overwritten, and the same command completes an interrupted put.

    Args:
        source: ``mnist`` (the mirrors), ``digits`` (drawn by the program), a folder or URI of
            IDX files, a folder of pictures, an .npz, .csv or Parquet file, or ``auto``: what the
            destination holds, else the folder that the environment variable MNIST_DIR names, else
            the mirrors if one answers, else digits; these three only into a folder without other
            files.
        to_uri: A folder or a bucket, see ``open_storage``.
        train_count: Number of training digits to draw.
        test_count: Number of test digits to draw.
        seed: Of the digits, 0 to 2**63 - 1; training and test digits are from different streams.
            With ``split`` and another source also of the order in which images go into shards.
        split: Number of shards to split the training images into, 0 for none. Digits are drawn
            and written shard by shard, so that they need not fit into memory.
        options: How the images and labels of a source of one's own become a dataset.

    Returns:
        One line: the destination, what it now holds, where that is from, and why.

    Raises:
        ConfigError: The source or destination is not valid, or the destination holds other data.
        DataError: The source is incomplete or malformed, or a mirror's files are not MNIST.
        UnavailableError: The storage, or every mirror, was out of reach.
    """
    if not 0 <= seed < 1 << 63:
        raise ConfigError(f"seed: {seed}; give 0 to 2**63 - 1")
    target = open_storage(to_uri)
    there = dataset.locate(target)
    sharded = _is_sharded(target, split)
    if source == "auto" and (sharded or len(there) == len(FILES)):
        there_now = dataset.load(to_uri, validation=0)
        return f"{target.uri}: {_describe(there_now)}, kept as it was{_unused(there_now)}"
    if source == "auto" and not there:
        _check_unused(target)
    _check_room(target, there, split)
    wanted = _Digits(train_count, test_count, seed)
    if split and source == "digits":
        return _put_digits(target, wanted, split)
    found = _find(source, wanted, options)
    files = dataset.parse(found.files, found.where)
    data = dataset.assemble(files, found.where, validation=0)
    hints = [collection.darkness(data.train.images)]
    if "--transpose" not in found.words:
        hints.append(collection.orientation(data.train.images))
    found = found._replace(words="; ".join([found.words, *filter(None, hints)]))
    if split:
        return _put_shuffled(target, found, data, seed, split)
    for name, entry in there.items():
        _check_same(target, entry, files[FILES.index(name)].sha256)
    _describe_there(target, found.description)
    for name, content in zip(FILES, found.files.values(), strict=True):
        if name not in there:
            _create(target, name, content)
    already = ", already there" if len(there) == len(FILES) else ""
    return f"{target.uri}: {_describe(data)}, {found.words}{already}"


def _is_sharded(target: Storage, split: int) -> bool:
    try:
        return shards.locate(target, 0) is not None
    except DataError:
        if split:  # what an interrupted put left may be completed
            return False
        raise


def _check_unused(target: Storage) -> None:
    """Refuse a folder of other files, which somebody took for a dataset."""
    for name in (entry.name for entry in target.list()):
        ours = name == description.NAME or shards.is_name(name)  # of an interrupted put
        if not ours and not name.startswith("."):  # such as .gitkeep
            raise ConfigError(
                f"{target.uri}: holds other files, such as {printable(name)}, but no dataset;"
                f" {dataset.advice(target)}"
            )


def _check_room(target: Storage, there: Mapping[str, Entry], split: int) -> None:
    """Refuse a folder whose files of training images differ from the ones to be written."""
    ours = {name for number in range(split) for name in shards.names(number, split)}
    others = [entry.name for name, entry in there.items() if split and name in FILES[:2]]
    for entry in target.list("train-"):
        if shards.is_name(entry.name) and entry.name.removesuffix(".gz") not in ours:
            others.append(entry.name)
    if others:
        raise _conflict(target, min(others))


def _put_digits(target: Storage, wanted: _Digits, split: int) -> str:
    """Draw digits and put them shard by shard."""
    wanted.check()
    train, test, seed = wanted
    if train < 10:
        raise ConfigError(f"digits: {train} in shards; give at least 10, which are one of each")
    _check_split(split, train, digits.SIDE**2)
    bounds = _bounds(train, split)
    parts = (digits.draw(stop - start, 2 * seed, start) for start, stop in bounds)
    arrays = digits.draw(test, 2 * seed + 1)
    tests = [idx.encode(array, compress=True) for array in arrays]
    return _put_parts(target, parts, split, tests, wanted.words)


def _put_shuffled(target: Storage, found: _Found, data: Dataset, seed: int, split: int) -> str:
    """Put images in shuffled order, so that all shards are alike."""
    _check_split(split, len(data.train.labels), math.prod(data.input_shape))
    shuffled = sampler.permutation(seed, 0, len(data.train.labels))
    images, labels = data.train.images, data.train.labels.astype(np.uint8)
    if images.shape[-1] == 1:
        images = images[..., 0]
    _describe_there(target, found.description)
    chosen = (shuffled[start:stop] for start, stop in _bounds(len(shuffled), split))
    parts = ((images[rows], labels[rows]) for rows in chosen)
    return _put_parts(target, parts, split, list(found.files.values())[2:], found.words)


def _put_parts(
    target: Storage,
    parts: Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]],
    count: int,
    tests: Sequence[bytes],
    words: str,
) -> str:
    """Put one shard after the other, and the index last: without it, there is no dataset."""
    there = dataset.locate(target)
    for name, content in zip(FILES[2:], tests, strict=True):
        if name in there:
            [file] = dataset.parse({name: content}, target.uri)
            _check_same(target, there[name], file.sha256)
        else:
            _create(target, name, content)
    listed: list[shards.Shard] = []
    shape, largest = (0, 0, 1), 0
    for number, (images, labels) in enumerate(parts):
        for name, array in zip(shards.names(number, count), (images, labels), strict=True):
            _create(target, name, idx.encode(array))
        listed.append(shards.Shard(len(labels), idx.sha256(images), idx.sha256(labels)))
        height, width, channels = (*images.shape[1:], 1)[:3]
        shape, largest = (height, width, channels), max(largest, int(labels.max()))
    _create(target, shards.INDEX, shards.encode(shards.Index(shape, largest + 1, tuple(listed))))
    stored = _describe(dataset.load(target.uri, validation=0))
    return f"{target.uri}: {stored}, in {plural(count, 'shard')}, {words}"


def _describe_there(target: Storage, about: Description) -> None:
    if about != Description():
        _create(target, description.NAME, description.encode(about))


def _bounds(count: int, split: int) -> list[tuple[int, int]]:
    """Return the first image of each shard and the one after its last; sizes differ by one."""
    ends = [count * number // split for number in range(split + 1)]
    return list(itertools.pairwise(ends))


def _check_split(split: int, images: int, pixels: int) -> None:
    if not 1 <= split <= min(images, shards.MOST):
        raise ConfigError(
            f"shards: {split}: there are {plural(images, 'training image')}; give 1 to"
            f" {min(images, shards.MOST)}"
        )
    least = math.ceil(images / ((idx.MAX_BYTES - idx.LONGEST_HEADER) // pixels))
    if split < least:
        raise ConfigError(
            f"shards: {split}: {images} training images in so few would make files of more than"
            f" {idx.MAX_BYTES} bytes; give at least {least}"
        )


def _unused(kept: Dataset) -> str:
    """Say that MNIST_DIR names other data than those that are kept, or nothing."""
    folder = os.environ.get("MNIST_DIR")
    if not folder:
        return ""
    if "://" not in folder and not Path(folder).expanduser().exists():
        return f"; MNIST_DIR names {printable(folder)}, which does not exist"
    with contextlib.suppress(UserError):  # of what cannot be read, it is right to say so, too
        if dataset.load(folder, validation=0).sha256 == kept.sha256:
            return ""
    return (
        f", not replaced by {printable(folder)}, which MNIST_DIR names: to train on that, give "
        "another folder for the data, or delete this one"
    )


def _describe(data: Dataset) -> str:
    size = "x".join(map(str, data.input_shape))
    return (
        f"{data.samples:,} training and {plural(len(data.test.images), 'test image')} {size},"
        f" {data.classes} classes, sha256 {data.sha256[:12]}"
    )


def _check_same(target: Storage, entry: Entry, sha256: str) -> None:
    try:
        [stored] = dataset.parse({entry.name: dataset.read_entry(target, entry)}, target.uri)
        same = stored.sha256 == sha256
    except DataError:
        same = False
    if not same:
        raise _conflict(target, entry.name)


def _create(target: Storage, name: str, data: bytes) -> None:
    stored = f"{name}.gz" if data.startswith(idx.GZIP_MAGIC) else name
    if not target.create(stored, data):  # written since the destination was listed
        raise _conflict(target, stored)


def _conflict(target: Storage, name: str) -> ConfigError:
    return ConfigError(
        f"{target.uri}/{name} holds other data, and nothing is overwritten; put into another"
        " folder, or delete the dataset there first"
    )


def _find(source: str, wanted: _Digits, options: Options) -> _Found:
    if source == "auto":
        return _choose(wanted)
    if source == "mnist":
        return _download(MIRRORS)
    return _draw(wanted) if source == "digits" else _open(source, options)


def _open(source: str, options: Options = AS_IT_IS) -> _Found:
    path = Path(source.removeprefix("file://")).expanduser()
    found = _collect(path, options) if "://" not in source or path.exists() else None
    if found is None:
        found = _collect_idx(source, path, options)
    if found is None:
        return _copy(source)
    files, about, notes = collection.finish(found, options)
    said = "".join(f"; {note}" for note in notes)
    named = {f"{name}.gz": content for name, content in zip(FILES, files, strict=True)}
    return _Found(named, found.where, f"from {found.where}{said}", about)


def _collect(path: Path, options: Options) -> Collection | None:
    """Return what a local file or folder of a kind other than IDX holds, None for other kinds."""
    if path.is_file():
        if tables.is_npz(path):
            return collection.scaled(tables.read_npz(path), options)
        if tables.is_csv(path):
            return collection.scaled(tables.read_csv(path, None, None), options)
        if parquet.is_parquet(path):
            return parquet.read([path], options)
        raise ConfigError(
            f"{path}: this kind of file is not read; unpack it, or save its images as .npz "
            "(x_train, y_train, x_test, y_test) or in a folder for each class"
        )
    if not path.is_dir() or _is_standard(path):
        return None
    if files := parquet.files(path):
        return parquet.read(files, options)
    if picture_folder.holds(path):
        return picture_folder.read(path, options)
    if tables_there := tables.csv_files(path):
        return collection.scaled(tables.read_csv(*tables_there), options)
    if array := tables.npz_file(path):
        return collection.scaled(tables.read_npz(array), options)
    return None


def _is_standard(path: Path) -> bool:
    return (path / shards.INDEX).exists() or any(
        (path / alias).is_file() for name in FILES for alias in dataset.aliases(name)
    )


def _collect_idx(source: str, path: Path, options: Options) -> Collection | None:
    """Return IDX files that need more than a copy, None for others."""
    of, folder = "", source
    if "://" not in source and not path.exists():
        of, folder = path.name, str(path.parent)
        # The folder may be where the user stands, with all of a project below.
        start = f"{glob.escape(of)}*"
        if not any(any(path.parent.glob(each)) for each in (start, f"*/{start}")):
            return None
    storage = open_storage(folder)
    plain = not of and options == Options(seed=options.seed)
    there = dataset.locate(storage)
    if all(name in there for name in FILES) and plain and _are_classes(storage, there[FILES[1]]):
        return None
    if not there and shards.locate(storage, 0):
        return None
    files = idx_names.choose(storage, of)
    if files is None:
        return None
    found = idx_names.read(storage, files, transpose=options.transpose)
    return collection.scaled(found, options)


def _are_classes(storage: Storage, entry: Entry) -> bool:
    """Return whether labels can stay as they are: every class up to the largest has images."""
    try:
        labels = idx.decode(dataset.read_entry(storage, entry), f"{storage.uri}/{entry.name}")
    except DataError:  # which is said of all four files in their order
        return True
    if labels.dtype != np.uint8:
        return False
    return labels.ndim != 1 or not labels.size or len(np.unique(labels)) == int(labels.max()) + 1


def _unread(folder: Path) -> ConfigError:
    """Return what to do about a folder that holds no dataset of a known kind."""
    found = picture_folder.deeper(folder)
    if found == folder.parent:
        words = "its pictures lie in no folder of a class; put each into one with the class's name"
    elif found is not None:
        words = f"the folders of classes lie in {printable(str(found))}; give that"
    else:
        words = (
            "no pictures in folders of classes, .npz, .csv, .parquet or IDX files of one dataset "
            "are there; give another folder, or one file"
        )
    return ConfigError(f"{folder}: {words}")


def _copy(source: str) -> _Found:
    path = Path(source.removeprefix("file://")).expanduser()
    if not path.exists() and "://" not in source:
        raise ConfigError(
            f"{source}: no file, folder or dataset of this name; give auto, mnist, digits, a "
            "folder or URI of IDX files, a folder of pictures, an .npz, a .csv or a .parquet file"
        )
    storage = open_storage(source)
    if path.is_dir() and not _is_standard(path) and not shards.locate(storage, 0):
        raise _unread(path)
    if shards.locate(storage, 0):
        raise ConfigError(
            f"{storage.uri}: is in shards already; copy the folder as it is, with cp -r or"
            " gcloud storage cp -r"
        )
    about = description.read(storage)
    return _Found(dataset.read(storage), storage.uri, f"from {storage.uri}", about)


def _draw(wanted: _Digits) -> _Found:
    wanted.check()
    files: dict[str, bytes] = {}
    # Even streams for training, odd ones for testing: no seed's test digits are another's
    # training digits.
    for stream, count in enumerate((wanted.train, wanted.test)):
        for array in digits.draw(count, 2 * wanted.seed + stream):
            files[f"{FILES[len(files)]}.gz"] = idx.encode(array, compress=True)
    return _Found(files, "digits", wanted.words)


def _choose(wanted: _Digits) -> _Found:
    """Return the best source at hand: MNIST_DIR, a mirror that answers, or digits."""
    folder = os.environ.get("MNIST_DIR")
    if folder:
        try:
            found = _open(folder)
        except (ConfigError, DataError) as error:
            raise type(error)(f"MNIST_DIR={error}") from error
        words = f"{found.words}, which MNIST_DIR names"
        return found._replace(where=f"MNIST_DIR={found.where}", words=words)
    try:
        answering = _first_answer()
        reason = f"MNIST_DIR is not set and no mirror of MNIST answered within {PROBE_SECONDS:g} s"
        if answering:
            return _download([answering])
    except (DataError, UnavailableError) as error:
        reason = str(error)
    return _draw(wanted)._replace(words=f"{wanted.words}, because {reason}")


def _first_answer() -> str | None:
    """Return the first mirror to send the smallest file, None if none does in time.

    Raises:
        UnavailableError: None does, and one of them cannot be trusted.
    """
    answers: queue.SimpleQueue[str | DataError | UnavailableError] = queue.SimpleQueue()
    untrusted: _UntrustedError | None = None
    deadline = time.monotonic() + PROBE_SECONDS

    def ask(mirror: str) -> None:
        try:
            _get(f"{mirror}/{FILES[3]}.gz", deadline)
            answers.put(mirror)
        except (DataError, UnavailableError) as error:
            answers.put(error)

    for mirror in MIRRORS:
        # Daemons, because resolving a name may take longer than any time-out of a socket.
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    for _ in MIRRORS:
        try:
            answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(answer, str):
            return answer
        if isinstance(answer, _UntrustedError):
            untrusted = answer
    if untrusted is not None:
        raise UnavailableError(f"{untrusted}; {_TRUST}")
    return None


def _download(mirrors: Sequence[str]) -> _Found:
    """Return MNIST from the first mirror that has it whole.

    Raises:
        DataError: No mirror has it, and at least one has something else in its place.
        UnavailableError: Every mirror was out of reach.
    """
    failures: list[DataError | UnavailableError] = []
    for mirror in mirrors:
        deadline = time.monotonic() + _MIRROR_SECONDS
        try:
            files = {f"{name}.gz": _get(f"{mirror}/{name}.gz", deadline) for name in FILES}
            _check_mnist(files, mirror)
        except (DataError, UnavailableError) as error:
            failures.append(error)
        else:
            return _Found(files, mirror, f"MNIST from {mirror}")
    kind = DataError if any(isinstance(f, DataError) for f in failures) else UnavailableError
    remedy = _TRUST if any(isinstance(f, _UntrustedError) for f in failures) else "try again later"
    raise kind(
        f"MNIST could not be downloaded ({'; '.join(map(str, failures))}); {remedy}, or put"
        " a folder that holds it, or digits"
    )


def _check_mnist(files: Mapping[str, bytes], mirror: str) -> None:
    parsed = dataset.parse(files, mirror)
    for name, file, expected in zip(files, parsed, MNIST_SHA256, strict=True):
        if file.sha256 != expected:
            raise DataError(
                f"{mirror}/{name}: the SHA-256 of the uncompressed file is {file.sha256[:12]}...,"
                f" MNIST's is {expected[:12]}..."
            )


def _get(url: str, deadline: float) -> bytes:
    """Download one file; ``deadline`` is a time of the monotonic clock."""
    timeout = min(_SILENCE_SECONDS, max(0.1, deadline - time.monotonic()))
    data = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:  # noqa: S310 - our mirrors
            promised: int | None = response.length
            while chunk := response.read1(_CHUNK):
                data += chunk
                if len(data) > _MAX_DOWNLOAD:
                    raise DataError(f"{url}: more than {_MAX_DOWNLOAD} bytes, so it is not MNIST")
                if time.monotonic() > deadline:
                    raise TimeoutError("too slow")
    except urllib.error.HTTPError as error:
        error.close()
        raise UnavailableError(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            words = getattr(reason, "verify_message", "") or reason.reason or reason
            raise _UntrustedError(f"{url}: TLS: {words}") from error
        raise UnavailableError(f"{url}: {reason}") from error
    if promised is not None and len(data) != promised:
        raise UnavailableError(f"{url}: connection lost after {len(data)} of {promised} bytes")
    return bytes(data)
