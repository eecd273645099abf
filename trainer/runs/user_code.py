"""A user's own code: packed where it was written, kept with the run, unpacked where it is imported.

    pack(folder)          an Archive: a tar of the files, the same bytes for the same content
    Archive.store(run)    RUN/code/SHA256.tar, unless it is there
    fetch(run, name)      the same bytes again, checked against their SHA-256
    unpack(data, folder)  files that nobody may write

``code`` of a configuration is a path until the code is packed, and then ``sha256:HEX``, by which
the run knows it. So a run with changed code is another run.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.common.text import one_line, plural, size
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.runs import code_ignore
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most

FOLDER = "code"  # of the run's folder
MOST_BYTES = 20 << 20  # of all files together
MOST_FILES = 10_000
SCHEME = "sha256:"
ARCHIVE = "TRAINYARD_CODE_ARCHIVE"  # variable with the file that holds a run's code here
UNPACKED = "TRAINYARD_CODE"  # variable with the folder that a worker imports it from


@dataclass(frozen=True)
class Archive:
    """Packed code: a tar of regular files and of links within it, and where it came from."""

    data: bytes
    source: str

    @property
    def reference(self) -> str:
        """Return ``sha256:HEX`` of its bytes."""
        return SCHEME + hashlib.sha256(self.data).hexdigest()

    def store(self, storage: Storage) -> None:
        """Write it into a run's folder, unless it is there.

        Raises:
            DataError: other bytes stand under its name.
        """
        if not storage.create(object_name(self.reference), self.data):
            raise DataError(
                f"{storage.uri}/{object_name(self.reference)}: damaged: its bytes have another "
                "SHA-256 than its name; delete it"
            )


def is_packed(code: str) -> bool:
    """Return whether this value of ``code`` names an archive and not a path."""
    return re.fullmatch(SCHEME + "[0-9a-f]{64}", code) is not None


def object_name(reference: str) -> str:
    """Return the name of an archive in a run's folder."""
    return f"{FOLDER}/{reference.removeprefix(SCHEME)}.tar"


def pack(root: Path, part: str | None = None) -> Archive:
    """Return the files of a folder, or a single file; ``part``: the one in ``root`` that is wanted.

    Which of them is left out is in code_ignore.py.

    Raises:
        ConfigError: it is not there or cannot be read, is too large, has no file, or a link in
            it leads out of it.
    """
    source = str(root / part) if part else str(root)
    if not (root / (part or "")).exists():
        raise ConfigError(f"code: {source}: no such file or folder; give the path of your code")
    if root.is_file():
        root, part = root.parent, root.name
    names = sorted(code_ignore.travelling(root, part))
    if not names:
        raise ConfigError(
            f"code: {source}: holds no file that is not ignored; look at its .gitignore and "
            ".dockerignore"
        )
    _check_sizes(root, names, source)
    try:
        return Archive(_tar(root, names), source)
    except OSError as error:
        raise ConfigError(
            f"code: {error.filename or source}: {error.strerror}; make it readable or ignore it"
        ) from None


def find(model: str, code: str | None, here: Path) -> Archive | None:
    """Return the code of package.module:function, None if it is an installed package.

    ``code`` is a path from ``here``; None to look for the module or package there.

    Raises:
        ConfigError: see ``pack``.
    """
    if code is not None:
        return pack(here / Path(code).expanduser())
    part = _beside(model, here)
    return None if part is None else pack(here, part)


def _beside(model: str, folder: Path) -> str | None:
    """Return the file or package in a folder that ``package.module:function`` is in, if any."""
    top = model.partition(":")[0].partition(".")[0]
    if (folder / f"{top}.py").is_file():
        return f"{top}.py"
    return top if (folder / top).is_dir() else None


@contextlib.contextmanager
def packed(config: TrainConfig, here: Path) -> Iterator[TrainConfig]:
    """Give the configuration with its code packed, in a file that child processes find.

    Where it names no code, the module or package of the model that lies in ``here`` is taken.

    Raises:
        ConfigError: see ``pack``.
    """
    is_there = config.code is not None and is_packed(config.code)
    archive = None if config.model is None or is_there else find(config.model, config.code, here)
    if archive is None:
        yield config
        return
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        path = Path(folder) / "code.tar"
        path.write_bytes(archive.data)
        os.environ[ARCHIVE] = str(path)
        try:
            yield config.model_copy(update={"code": archive.reference})
        finally:
            del os.environ[ARCHIVE]


def given(config: TrainConfig) -> Archive | None:
    """Return the code that this process was started with, if any.

    Raises:
        DataError: it is not what the configuration names.
    """
    path = os.environ.get(ARCHIVE)
    if config.code is None or path is None:
        return None
    data = Path(path).read_bytes()
    read = unzipped if path.endswith(".gz") else checked
    return Archive(read(data, config.code, path), path)


def import_from(folder: str) -> None:
    """Have modules of the user's code come before installed ones."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    os.environ[UNPACKED] = folder


def own_name(file: str) -> str | None:
    """Return what the user calls a file of the code that is imported here; None for others."""
    folder = os.environ.get(UNPACKED)
    inside = folder is not None and Path(file).is_relative_to(folder)
    return Path(file).relative_to(folder or "").as_posix() if inside else None


def is_hidden(module: str, file: str | None) -> bool:
    """Return whether the code imported here has such a module, and this file of it is another's."""
    folder, top = os.environ.get(UNPACKED), module.partition(".")[0]
    has = folder and (
        Path(folder, f"{top}.py").is_file() or Path(folder, top, "__init__.py").is_file()
    )
    return bool(has) and (file is None or own_name(file) is None)


def fetch(storage: Storage, reference: str) -> bytes:
    """Return an archive of a run's folder.

    Raises:
        DataError: it is missing, too large, or has another SHA-256.
    """
    name = object_name(reference)
    try:
        return checked(read_at_most(storage, name, _MOST_TAR), reference, f"{storage.uri}/{name}")
    except ObjectNotFoundError:
        raise DataError(
            f"{storage.uri}/{name}: the run's code is not there; submit the run again, or start it "
            "with --code and the same files"
        ) from None


def checked(data: bytes, reference: str, source: str) -> bytes:
    """Return an archive's bytes if they are what the reference names.

    Raises:
        DataError: they are not.
    """
    if Archive(data, source).reference != reference:
        raise DataError(f"{source}: damaged: its bytes have another SHA-256 than its name")
    return data


def unzipped(data: bytes, reference: str, source: str) -> bytes:
    """Return a gzipped archive, see ``checked``.

    Raises:
        DataError: it is damaged.
    """
    with _damage():
        data = zlib.decompressobj(_GZIP).decompress(data, _MOST_TAR + 1)
    return checked(data, reference, source)


def unpack(data: bytes, folder: Path) -> None:
    """Write an archive's files into a new folder, read-only.

    Raises:
        DataError: it is no archive that ``pack`` makes: other kinds of entries, too many or too
            large ones, or a way out of the folder.
    """
    with _damage(), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        members = _plain(archive)
        folder.mkdir(parents=True)
        for member in members:
            archive.extract(member, folder, filter="data")
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)


def names(archive: Archive) -> list[str]:
    """Return the names of an archive's files.

    Raises:
        DataError: it is damaged.
    """
    return list(_digests(archive.data))


def few(words: Sequence[str], most: int = 10) -> str:
    """Return what is listed, with a number for what is more."""
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return ", ".join([*words[:most], *more])


def changes(before: bytes, after: bytes) -> list[str]:
    """Return what differs between two archives, a few words a file."""
    old, new = _digests(before), _digests(after)
    words = {(True, True): "differs", (True, False): "only there", (False, True): "only here"}
    return [
        f"{name} {words[name in old, name in new]}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


EMPTY = bytes(tarfile.RECORDSIZE)  # an archive without a file ends as it begins: in zeros

# What tarfile raises of an archive that ``pack`` has not made, besides TarError.
_MALFORMED = (zlib.error, EOFError, ValueError, RecursionError, OverflowError)
# What names that are too long, or a file and a folder of one name, lead to.
_MISPLACED = frozenset(
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
)
_GZIP = 16 + zlib.MAX_WBITS  # https://docs.python.org/3/library/zlib.html#zlib.decompress
_MOST_TAR = MOST_BYTES + MOST_FILES * 3 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE


def _plain(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return the entries, if ``pack`` could have made them."""
    members: list[tarfile.TarInfo] = []
    total = 0
    for member in archive:
        total += member.size
        if not (member.isreg() or member.issym()) or len(members) >= MOST_FILES:
            raise ValueError("it holds other things than files")
        if total > MOST_BYTES:
            raise ValueError(f"its files have more than {size(MOST_BYTES)}")
        members.append(member)
    return members


def _digests(data: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file, and of where each link leads, by name."""
    found = {}
    with _damage(), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in _plain(archive):
            file = archive.extractfile(member) if member.isreg() else None
            content = file.read() if file else member.linkname.encode()
            found[member.name] = hashlib.sha256(content).hexdigest()
    return found


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, *_MALFORMED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _MISPLACED:
            raise
        raise DataError(f"code: damaged: {one_line(error, 200)}; submit the run again") from None


def _tar(root: Path, names: Iterable[str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            # Nothing of the machine goes in: no time, owner or mode.
            entry, path = tarfile.TarInfo(name), root / name
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, path.readlink().as_posix()
                archive.addfile(entry)
            else:
                content = path.read_bytes()
                entry.size, entry.mode = len(content), 0o444
                archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _check_sizes(root: Path, names: list[str], source: str) -> None:
    sizes = {name: (root / name).lstat().st_size for name in names}
    total = sum(sizes.values())
    if total <= MOST_BYTES and len(names) <= MOST_FILES:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    named = ", ".join(f"{name} ({size(sizes[name])})" for name in largest)
    raise ConfigError(
        f"code: {source}: {plural(len(names), 'file')} of {size(total)}, above the limit of "
        f"{MOST_FILES:,} and {size(MOST_BYTES)}; the largest are {named}; "
        "name what is not code in .dockerignore"
    )
