"""Objects by name, in a folder of this machine.

    open_storage("./bucket/run")         LocalStorage
    open_storage("file:///data/run")     LocalStorage

An object is whole or absent: no reader sees part of one, and a killed writer leaves none. Names
and URIs are ``str``, not ``Path``, because a path of a file system is not a name in a bucket.
Opening touches nothing: folders are made by the first write, buckets never.
"""

import contextlib
import errno
import os
import re
import stat
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from trainer.errors import ConfigError, DataError, UnavailableError


class ObjectNotFoundError(DataError):
    """No object of this name is there."""


class Entry(NamedTuple):
    """One object of a listing; ``size`` in bytes."""

    name: str
    size: int


Entries = list[Entry]  # inside the classes below, ``list`` is their method


class Storage(Protocol):
    """A flat set of objects under one URI; every method is safe to call from many threads.

    All methods raise ConfigError for a name that breaks the rules of ``check_name``, for missing
    permissions and for a bucket that does not exist, and UnavailableError where another try may
    succeed (disk full, network down, no credentials).
    """

    uri: str  # as a user would type it, without a trailing slash

    def read(self, name: str) -> bytes:
        """Return the whole object; raise ObjectNotFoundError if there is none."""

    def create(self, name: str, data: bytes) -> bool:
        """Write the object unless the name is taken; of several writers exactly one wins.

        Returns:
            True if the object now holds exactly ``data``: written by this call, by an earlier
            try whose answer was lost, or by another writer of the same bytes. False if other
            bytes stood there already; they are untouched.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write the object, over an earlier one if there is one; the last writer wins."""

    def list(self, prefix: str = "") -> Entries:
        """Return the objects whose names start with ``prefix``, in every folder, by name."""

    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is no error."""


def open_storage(uri: str) -> Storage:
    """Return the storage at ``uri``: a path or ``file://PATH``.

    What follows ``file://`` is a path as it stands, nothing in it is percent-decoded.

    Raises:
        ConfigError: The scheme is unknown, or the path, bucket or prefix is not valid.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", uri):
        return LocalStorage(uri)
    if separator and scheme.lower() == "file":
        return LocalStorage(rest, uri=uri)
    raise ConfigError(f"storage {uri!r}: the scheme is not known; give a path or file://PATH")


_MAX_NAME_BYTES = 500  # prefix + "/" + name stay within Cloud Storage's 1,024 bytes
_MAX_PART_BYTES = 255  # a file name's limit on Linux and macOS
_TEMPORARY = ".trainyard-tmp-"  # no valid name holds it, so leftovers are never listed


def check_name(name: str) -> None:
    """Refuse a name that one of the storages could not hold.

    Limits are those of both together, so that whatever works on a laptop works in a bucket:
    https://cloud.google.com/storage/docs/objects#naming and a POSIX file system's.

    Raises:
        ConfigError: The name breaks a rule; the message says which.
    """
    if fault := _name_fault(name):
        raise ConfigError(f"object name {name[:80]!r} {fault}; choose another name")


def _name_fault(name: str) -> str | None:
    parts = name.split("/")
    # Category Cc is the control characters, Cs the surrogates, which UTF-8 cannot hold.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "holds a control character or is not valid Unicode"
    if any(part in ("", ".", "..") for part in parts):
        return "is not a relative path of non-empty parts other than '.' and '..'"
    if len(name.encode()) > _MAX_NAME_BYTES:
        return f"is longer than {_MAX_NAME_BYTES} bytes"
    if any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        return f"has a part longer than {_MAX_PART_BYTES} bytes"
    if parts[0] == ".well-known" or any(part.startswith(_TEMPORARY) for part in parts):
        return f"uses a reserved part ('.well-known' first, or '{_TEMPORARY}...')"
    return None


class LocalStorage:
    """Objects as files below a folder, with ``/`` in a name for a folder in between.

    Two things differ from a bucket: ``a`` and ``a/b`` cannot both exist, and names that differ
    in case only are one on a file system that ignores case. ``list`` follows links to files,
    not links to folders.
    """

    def __init__(self, folder: str, uri: str | None = None) -> None:
        if not folder or "\0" in folder:
            raise ConfigError(f"storage {uri or folder!r}: the path is empty or not valid")
        self.uri = (uri or folder).rstrip("/") or "/"
        # Made absolute at once: the process may change its working directory later.
        self._root = Path(folder).absolute()
        with contextlib.suppress(RuntimeError):  # "~nobody" is then a folder of that name
            self._root = Path(folder).expanduser().absolute()

    def read(self, name: str) -> bytes:
        """See Storage.read."""
        path = self._path(name)
        with _os_errors("read", path):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if stat.S_ISREG(path.stat().st_mode):
                    return path.read_bytes()
            self._check_root()
        raise ObjectNotFoundError(f"no object {self.uri}/{name}; check the name and the folder")

    def create(self, name: str, data: bytes) -> bool:
        """See Storage.create."""
        path = self._path(name)
        with _os_errors("write", path), _temporary(path.parent, data) as temporary:
            for _ in range(3):  # an object deleted between link and read is tried again
                try:
                    _link(temporary, path)
                except FileExistsError:
                    with contextlib.suppress(FileNotFoundError):
                        return path.read_bytes() == data
                else:
                    _sync_folder(path.parent)
                    return True
        raise UnavailableError(f"cannot write {path}: it is taken, yet cannot be read; remove it")

    def replace(self, name: str, data: bytes) -> None:
        """See Storage.replace."""
        path = self._path(name)
        with _os_errors("write", path), _temporary(path.parent, data) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)

    def list(self, prefix: str = "") -> Entries:
        """See Storage.list."""
        with _os_errors("list", self._root):
            self._check_root()
            return sorted(_walk(self._root, "", prefix))

    def delete(self, name: str) -> None:
        """See Storage.delete."""
        path = self._path(name)
        with _os_errors("delete", path):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if not stat.S_ISDIR(path.lstat().st_mode):  # a folder is no object
                    path.unlink()
                    _sync_folder(path.parent)
            self._check_root()

    def _path(self, name: str) -> Path:
        check_name(name)
        return self._root / name

    def _check_root(self) -> None:
        if self._root.exists() and not self._root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _walk(folder: Path, above: str, prefix: str) -> Iterator[Entry]:
    """Yield the objects below ``folder``, which ``above`` names, that start with ``prefix``."""
    try:
        found = sorted(os.scandir(folder), key=lambda item: item.name)
    except FileNotFoundError:  # not made yet, or removed since its parent was read
        return
    for item in found:
        name = above + item.name
        if _name_fault(name):
            continue
        if item.is_dir(follow_symlinks=False):
            if prefix.startswith(name + "/") or (name + "/").startswith(prefix):
                yield from _walk(folder / item.name, name + "/", prefix)
        elif name.startswith(prefix) and item.is_file():
            with contextlib.suppress(FileNotFoundError):
                yield Entry(name, item.stat().st_size)


@contextlib.contextmanager
def _temporary(folder: Path, data: bytes) -> Iterator[Path]:
    """Give a file in ``folder`` that holds ``data`` on the disk; it is gone afterwards."""
    _make_folder(folder)
    path = folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        # Not tempfile, whose files only their owner may read: the umask decides.
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, so that a name outlives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise ConfigError(
                f"cannot write {target}: its file system has no hard links, which a write that "
                "must not overwrite needs; choose a folder on another disk"
            ) from error
        raise


_REMEDY = {
    errno.EACCES: "choose another folder or mend its permissions",
    errno.EPERM: "choose another folder or mend its permissions",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOTDIR: "a file stands where a folder must be; move it or choose another folder",
    errno.EEXIST: "a file stands where a folder must be; move it or choose another folder",
    errno.EISDIR: "a folder stands where a file must be; move it or choose another name",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "its symbolic links run in a circle; mend them",
    errno.EILSEQ: "the file system does not allow these characters; choose another name",
}


@contextlib.contextmanager
def _os_errors(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"cannot {verb} {path}: {error.strerror or error}"
        if remedy := _REMEDY.get(error.errno or 0):
            raise ConfigError(f"{reason}; {remedy}") from error
        raise UnavailableError(f"{reason}; check the disk and its free space, try again") from error
