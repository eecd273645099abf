"""Objects by name, in a folder of this machine or in a Google Cloud Storage bucket.

    open_storage("./bucket/run")         LocalStorage
    open_storage("file:///data/run")     LocalStorage
    open_storage("gs://bucket/run")      GCSStorage

An object is whole or absent: no reader sees part of one, and a killed writer leaves none. Names
and URIs are ``str``, not ``Path``, because a path of a file system is not a name in a bucket.
Opening touches nothing: folders are made by the first write, buckets never.
"""

import contextlib
import errno
import mimetypes
import os
import re
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from trainer.errors import ConfigError, DataError, UnavailableError, UserError

T = TypeVar("T")


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
        """Write the object, over an earlier one if there is one; the last writer wins.

        Cloud Storage takes about one write a second of the same name, and has the rest wait:
        https://cloud.google.com/storage/quotas#objects.
        """

    def list(self, prefix: str = "") -> Entries:
        """Return the objects whose names start with ``prefix``, in every folder, by name."""

    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is no error."""


def open_storage(uri: str, *, deadline: float = 120.0, links: bool = True) -> Storage:
    """Return the storage at ``uri``: a path, ``file://PATH`` or ``gs://BUCKET[/PREFIX]``.

    What follows ``file://`` is a path as it stands, nothing in it is percent-decoded.

    Args:
        uri: of a folder.
        deadline: time for each call to a bucket, seconds.
        links: whether links in a local folder may lead out of it; see LocalStorage.

    Raises:
        ConfigError: The scheme is unknown, or the path, bucket or prefix is not valid.
        UnavailableError: ``gs://`` and this machine has no Google Cloud credentials.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", uri):
        return LocalStorage(uri, links=links)
    if separator and scheme.lower() == "file":
        return LocalStorage(rest, uri=uri, links=links)
    if separator and scheme.lower() == "gs":
        bucket, _, prefix = rest.partition("/")
        return GCSStorage(bucket, prefix.rstrip("/"), deadline=deadline)
    raise ConfigError(
        f"storage {uri!r}: the scheme is not known; "
        "give a path, file://PATH or gs://BUCKET[/PREFIX]"
    )


def read_at_most(storage: Storage, name: str, most: int) -> bytes:
    """Return an object whose size nobody vouches for, of at most so many bytes.

    Raises:
        ObjectNotFoundError: there is none.
        DataError: it is larger; nothing of it was read.
    """
    for entry in storage.list(name):
        if entry.name == name and entry.size > most:
            raise DataError(
                f"{storage.uri}/{name}: damaged: {entry.size:,} bytes, above the limit of {most:,}"
            )
    return storage.read(name)


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
        if _name_fault(name):
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
    path = folder / f"{_TEMPORARY}{os.urandom(16).hex()}"
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
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
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


_REQUEST_SECONDS = 60.0  # without a byte from the server, after which a request is tried again
_CREDENTIALS_REMEDY = (
    "run 'gcloud auth application-default login' on a laptop, "
    "or bind the pod's service account by Workload Identity"
)


class GCSStorage:
    """Objects of a Google Cloud Storage bucket whose names start with a prefix.

    Every request is tried again, with growing pauses, until ``deadline`` seconds after the call
    began (for a listing: after the page began). Each try is a fresh request whose checksum is
    verified over all bytes, never the rest of an earlier one. All verbs may be repeated: a read,
    a listing and a delete by nature; a create because of its precondition; a replace because
    until it returns, its place among concurrent replaces is open, and the last one wins.
    """

    def __init__(self, bucket: str, prefix: str = "", *, deadline: float = 120.0) -> None:
        self.uri = f"gs://{bucket}/{prefix}" if prefix else f"gs://{bucket}"
        # https://cloud.google.com/storage/docs/buckets#naming
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket):
            raise ConfigError(
                f"storage {self.uri!r}: {bucket!r} is no bucket name "
                "(3 to 222 of a-z, 0-9, '-', '_' and '.'); give gs://BUCKET[/PREFIX]"
            )
        if prefix and (fault := _name_fault(prefix)):
            raise ConfigError(f"storage {self.uri[:80]!r}: the prefix {fault}; choose another")
        self._above = f"{prefix}/" if prefix else ""
        self._deadline = deadline
        self._client = _gcs_client()
        self._bucket = self._client.bucket(bucket)
        #: Where requests really go; not Google's own while STORAGE_EMULATOR_HOST is set.
        self.endpoint: str = self._client.api_endpoint

    def read(self, name: str) -> bytes:
        """See Storage.read."""
        check_name(name)
        return self._call("read", name, partial(self._download, name))

    def create(self, name: str, data: bytes) -> bool:
        """See Storage.create."""
        check_name(name)
        return self._call("write", name, partial(self._create_once, name, data))

    def replace(self, name: str, data: bytes) -> None:
        """See Storage.replace."""
        check_name(name)
        self._call("write", name, partial(self._upload, name, data, None))

    def list(self, prefix: str = "") -> Entries:
        """See Storage.list."""
        found: Entries = []
        token: str | None = None
        while True:
            page = partial(self._page, prefix, token, None)
            entries, token = self._call("list", prefix, page)
            found += entries
            if token is None:
                return sorted(found)

    def delete(self, name: str) -> None:
        """See Storage.delete."""
        check_name(name)
        self._call("delete", name, partial(self._delete_once, name))

    def _blob(self, name: str) -> Any:
        # A new one each time: a used Blob keeps the generation of its first answer.
        return self._bucket.blob(self._above + name)

    def _download(self, name: str, timeout: float) -> bytes:
        from google.api_core.exceptions import NotFound

        try:
            # The bytes as stored, also where someone put them there with a content encoding.
            data: bytes = self._blob(name).download_as_bytes(
                raw_download=True, checksum="auto", timeout=timeout, retry=None
            )
        except NotFound as error:
            self._check_bucket(timeout)
            raise ObjectNotFoundError(
                f"no object {self.uri}/{name}; check the name and the prefix"
            ) from error
        return data

    def _upload(self, name: str, data: bytes, generation: int | None, timeout: float) -> None:
        from google.api_core.exceptions import ClientError, Conflict

        try:
            self._blob(name).upload_from_string(
                data,
                content_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
                if_generation_match=generation,
                checksum="auto",
                timeout=timeout,
                retry=None,
            )
        except ClientError as error:
            if error.code not in (404, 410):
                raise
            self._check_bucket(timeout)
            raise Conflict("the upload's session was lost") from error

    def _create_once(self, name: str, data: bytes, timeout: float) -> bool:
        from google.api_core.exceptions import Conflict, PreconditionFailed

        try:
            self._upload(name, data, 0, timeout)
        except PreconditionFailed:
            # Taken, perhaps by this very call: an earlier try whose answer was lost.
            try:
                return self._download(name, timeout) == data
            except ObjectNotFoundError as error:
                raise Conflict("the object was deleted meanwhile") from error
        return True

    def _delete_once(self, name: str, timeout: float) -> None:
        from google.api_core.exceptions import NotFound

        try:
            self._blob(name).delete(timeout=timeout, retry=None)
        except NotFound:
            self._check_bucket(timeout)

    def _page(
        self, prefix: str, token: str | None, limit: int | None, timeout: float
    ) -> tuple[Entries, str | None]:
        from google.api_core.exceptions import NotFound

        listing = self._client.list_blobs(
            self._bucket,
            prefix=self._above + prefix,
            page_token=token,
            max_results=limit,
            fields="items(name,size),nextPageToken",
            timeout=timeout,
            retry=None,
        )
        try:
            page = next(listing.pages, ())
        except NotFound as error:
            raise ConfigError(
                f"no bucket {self.uri.split('/')[2]!r} at {self.endpoint}; "
                "create it or check its name"
            ) from error
        below = ((blob.name.removeprefix(self._above), blob.size) for blob in page)
        # Other tools leave names such as "folder/", which no LocalStorage could hold either.
        entries = [Entry(name, size) for name, size in below if not _name_fault(name)]
        return entries, listing.next_page_token

    def _check_bucket(self, timeout: float) -> None:
        """Tell a missing bucket from a missing object: the answer to both is 404."""
        from google.api_core.exceptions import Forbidden

        with contextlib.suppress(Forbidden):  # may read but not list: cannot tell
            self._page("", None, 1, timeout)

    def _call(self, verb: str, name: str, attempt: Callable[[float], T]) -> T:
        """Run ``attempt(timeout)`` until it succeeds, fails for good, or time is up."""
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.api_core.retry import Retry
        from google.auth.exceptions import GoogleAuthError

        end = time.monotonic() + self._deadline
        # Pauses grow from 0.2 s to 8 s at the default deadline.
        retry = Retry(
            _is_transient,
            initial=self._deadline / 600,
            maximum=self._deadline / 15,
            timeout=self._deadline,
        )
        try:
            result: T = retry(
                lambda: attempt(max(0.1, min(_REQUEST_SECONDS, end - time.monotonic())))
            )()
            return result
        except RetryError as error:
            raise UnavailableError(
                f"cannot {verb} {self.uri}/{name}: {self.endpoint} gave no good answer within "
                f"{self._deadline:g} s, the last was {_last_words(error.cause)}; try again later"
            ) from error
        except (GoogleAPICallError, GoogleAuthError) as error:
            reason = f"cannot {verb} {self.uri}/{name} at {self.endpoint}"
            raise _refusal(reason, error) from error


def _gcs_client() -> Any:
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage

    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if endpoint and not re.match(r"https?://", endpoint):
        raise ConfigError(
            f"STORAGE_EMULATOR_HOST={endpoint!r} is no URL; give http://HOST:PORT or unset it"
        )
    # Releases from 3.17 on ask for the bucket's location in the background, for tracing that is
    # off by default and by a permission (storage.buckets.get) that nothing here needs.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    try:
        # No project: objects need none, and a laptop's credentials often name none.
        return storage.Client(project=None)
    except (GoogleAuthError, OSError, ValueError) as error:
        raise UnavailableError(
            f"no usable Google Cloud credentials: {_last_words(error)}; {_CREDENTIALS_REMEDY}"
        ) from error


def _is_transient(error: Exception) -> bool:
    import http.client

    import urllib3
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.cloud.storage.exceptions import DataCorruption

    if isinstance(error, GoogleAPICallError):
        return error.code in (408, 409, 429) or (error.code or 0) >= 500
    if isinstance(error, GoogleAuthError):
        # In a pod's first seconds the metadata server that gives out tokens may not answer.
        return (
            error.retryable
            or isinstance(error, TransportError)
            or isinstance(error.__cause__, TransportError)
        )
    # OSError covers sockets and all of requests; the body of a raw download bypasses requests.
    return isinstance(
        error, OSError | http.client.HTTPException | urllib3.exceptions.HTTPError | DataCorruption
    )


def _refusal(reason: str, error: Exception) -> UserError:
    """Return what to raise for an error that another try at once would not mend."""
    from google.api_core.exceptions import Forbidden, Unauthorized
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, GoogleAuthError):
        return UnavailableError(f"{reason}: {_last_words(error)}; {_CREDENTIALS_REMEDY}")
    if isinstance(error, Forbidden | Unauthorized):
        return ConfigError(
            f"{reason}: permission denied ({_last_words(error)}); grant this identity the role "
            "roles/storage.objectUser on the bucket"
        )
    return ConfigError(f"{reason}: {_last_words(error)}; check the bucket and the name")


def _last_words(error: BaseException | None) -> str:
    """Return on one line what the server said, or the network's first error."""
    import requests
    import urllib3
    from google.api_core.exceptions import GoogleAPICallError

    message = None
    if isinstance(error, GoogleAPICallError) and error.response is not None:
        message = error.response.text
        with contextlib.suppress(ValueError, KeyError, TypeError):
            message = error.response.json()["error"]["message"]
    # Both libraries wrap "connection refused" in layers that say little at length.
    wrappers = (requests.RequestException, urllib3.exceptions.HTTPError)
    while isinstance(error, wrappers) and isinstance(error.__context__, (*wrappers, OSError)):
        error = error.__context__
    return " ".join(f"{type(error).__name__}: {message or error}".split())[:300]
