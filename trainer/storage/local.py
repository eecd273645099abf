"""Objects as files of this machine."""

import contextlib
import errno
import os
import shlex
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import ConfigError, DataError, UnavailableError
from trainer.storage.base import (
    TEMPORARY,
    Entries,
    Entry,
    ObjectNotFoundError,
    check_name,
    name_fault,
)
from trainer.storage.file_system import CannotCreateError, kind, name_unless_taken


class LocalStorage:
    """Objects as files below a folder, with ``/`` in a name for a folder in between.

    Three things differ from a bucket: ``a`` and ``a/b`` cannot both exist, names that differ
    in case only are one on a file system that ignores case, and ``list`` leaves out what systems
    keep in folders (``foreign_names.FOREIGN``). It follows links to files, not links to folders.

    Args:
        folder: where the objects are.
        uri: what messages call it; the folder if None.
        links: False refuses, with a DataError, to read or write what lies outside of the folder
            by way of a link inside of it.
    """

    def __init__(self, folder: str, uri: str | None = None, *, links: bool = True) -> None:
        # A surrogate is how Python has a byte of a path that is no UTF-8, and needs one.
        if not folder or any(unicodedata.category(character) == "Cc" for character in folder):
            raise ConfigError(
                f"storage {uri or folder!r}: the path is empty or holds a control character; "
                "give the path of a folder"
            )
        try:
            os.fsencode(folder)
        except UnicodeEncodeError:
            raise ConfigError(
                f"storage {uri or folder!r}: the path is not valid Unicode; give another"
            ) from None
        self.uri = (uri or folder).rstrip("/") or "/"
        # Made absolute at once: the process may change its working directory later.
        self._links = links
        self._root = Path(folder).absolute()
        with contextlib.suppress(RuntimeError):  # "~nobody" is then a folder of that name
            self._root = Path(folder).expanduser().absolute()

    def read(self, name: str) -> bytes:
        """See Storage.read."""
        return self._read(name, 0, -1)

    def read_part(self, name: str, start: int, size: int) -> bytes:
        """See Storage.read_part."""
        return self._read(name, start, size)

    def _read(self, name: str, start: int, size: int) -> bytes:
        path = self._path(name)
        with _os_errors("read", path):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if stat.S_ISREG(path.stat().st_mode):
                    with path.open("rb") as file:
                        file.seek(start)
                        return file.read(size)
            self._check_root()
        raise ObjectNotFoundError(f"no object {self.uri}/{name}; check the name and the folder")

    def create(self, name: str, data: bytes) -> bool:
        """See Storage.create."""
        path = self._path(name)
        with _os_errors("write", path), _temporary(path.parent, data) as temporary:
            for _ in range(3):  # an object deleted between link and read is tried again
                try:
                    name_unless_taken(temporary, path)
                except FileExistsError:
                    with contextlib.suppress(FileNotFoundError):
                        return path.read_bytes() == data
                else:
                    _sync_folder(path.parent)
                    return True
        raise UnavailableError(f"cannot write {path}: it is taken, yet cannot be read; remove it")

    def replace(self, name: str, data: bytes) -> None:
        """See Storage.replace."""
        path = self._path(name, follow=False)
        with _os_errors("write", path), _temporary(path.parent, data) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)

    def list(self, prefix: str = "") -> Entries:
        """See Storage.list."""
        return sorted(_walk(self._root, "", prefix))

    def delete(self, name: str) -> None:
        """See Storage.delete."""
        path = self._path(name, follow=False)
        with _os_errors("delete", path):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if not stat.S_ISDIR(path.lstat().st_mode):  # a folder is no object
                    path.unlink()
                    _sync_folder(path.parent)
            self._check_root()

    def _path(self, name: str, *, follow: bool = True) -> Path:
        """Return an object's path; ``follow``: a link of its name is followed, not replaced."""
        check_name(name)
        path = self._root / name
        if not self._links:
            real = os.path.realpath(path if follow else path.parent)
            if not Path(real).is_relative_to(os.path.realpath(self._root)):
                raise DataError(
                    f"{self.uri}/{name}: a link leads out of the folder; "
                    "put what it leads to in its place"
                )
        return path

    def _check_root(self) -> None:
        if self._root.exists() and not self._root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _walk(folder: Path, above: str, prefix: str) -> Iterator[Entry]:
    """Yield the objects below ``folder``, which ``above`` names, that start with ``prefix``."""
    found: list[os.DirEntry[str]] = []
    with _os_errors("list", folder), contextlib.suppress(FileNotFoundError):  # nothing is there
        found = list(os.scandir(folder))
    for item in found:
        name, path = above + item.name, folder / item.name
        if name_fault(name):
            continue
        if item.is_dir(follow_symlinks=False):
            if prefix.startswith(name + "/") or (name + "/").startswith(prefix):
                yield from _walk(path, name + "/", prefix)
        elif name.startswith(prefix):
            with _os_errors("list", path), contextlib.suppress(FileNotFoundError):
                if path.is_file():  # False for a link to nowhere, too
                    yield Entry(name, path.stat().st_size)


@contextlib.contextmanager
def _temporary(folder: Path, data: bytes) -> Iterator[Path]:
    """Give a file in ``folder`` that holds ``data`` on the disk; it is gone afterwards."""
    _make_folder(folder)
    path = folder / f"{TEMPORARY}{os.urandom(16).hex()}"
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


_REMEDY = {
    errno.EACCES: "choose another folder or fix its permissions",
    errno.EPERM: "choose another folder or fix its permissions",
    errno.EROFS: "choose a folder that can be written",
    errno.EISDIR: "a folder stands where a file must be; move it or choose another name",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose another file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ELOOP: "its symbolic links run in a circle; fix them",
    errno.EILSEQ: "the file system does not allow these characters; choose another name",
}


def _remedy(number: int | None, path: Path) -> str | None:
    if number in (errno.ENOTDIR, errno.EEXIST):
        file = next(each for each in (path, *path.parents) if each.exists())
        folder = shlex.quote(str(file.parent))
        return f"a file stands where a folder must be; name its folder, {folder}, or another"
    return _REMEDY.get(number or 0)


def _rights(path: Path) -> str:
    """Return whose the innermost folder is that can be seen, and who this process is."""
    for folder in path.parents:
        with contextlib.suppress(OSError):
            its = folder.stat()
            owner = f"user {its.st_uid}, group {its.st_gid}, mode {its.st_mode & 0o7777:o}"
            groups = ", ".join(map(str, sorted({os.getegid(), *os.getgroups()})))
            return f" ({folder}: {owner}; this process: user {os.geteuid()}, groups {groups})"
    return ""


@contextlib.contextmanager
def _os_errors(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except CannotCreateError as error:
        raise ConfigError(
            f"cannot write {path}: its file system ({kind(path.parent) or '?'}) cannot "
            "create a file unless it is there: it has neither hard links nor renameat2; choose a "
            "folder on another one, or, if it shows a bucket, the bucket as s3://, az:// or gs://"
        ) from error
    except OSError as error:
        reason = f"cannot {verb} {path}: {error.strerror or error}"
        if error.errno in (errno.EACCES, errno.EPERM):
            reason += _rights(path)
        if remedy := _remedy(error.errno, path):
            raise ConfigError(f"{reason}; {remedy}") from error
        raise UnavailableError(f"{reason}; check the disk and its free space, try again") from error
