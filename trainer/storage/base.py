"""Objects by name, in a folder of this machine or in a bucket.

    open_storage("./bucket/run")         local.LocalStorage
    open_storage("file:///data/run")     local.LocalStorage
    open_storage("gs://bucket/run")      gcs.GCSStorage
    open_storage("s3://bucket/run")      s3.S3Storage
    open_storage("az://container/run")   azure.AzureStorage

An object is whole or absent: no reader sees part of one, and a killed writer leaves none. Names
and URIs are ``str``, not ``Path``, because a path of a file system is not a name in a bucket.
Opening touches nothing: the first write makes folders, and nothing makes buckets.
"""

import re
import unicodedata
from typing import NamedTuple, Protocol

from trainer.errors import ConfigError, DataError
from trainer.storage.foreign_names import is_foreign


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

    def read_part(self, name: str, start: int, size: int) -> bytes:
        """Return at most ``size`` bytes from ``start`` on, which must be before the object's end.

        No checksum covers a part, and two of them may come from before and after a ``replace``.

        Raises:
            ObjectNotFoundError: there is none.
        """

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
    """Return the storage at ``uri``: a path, ``file://PATH``, or a bucket or container.

    These are ``gs://BUCKET[/PREFIX]``, ``s3://BUCKET[/PREFIX]``, ``az://CONTAINER[/PREFIX]``, and
    the URIs of Azure's tools, which name the account (``abfss://CONTAINER@ACCOUNT...``,
    ``https://ACCOUNT.blob.core.windows.net/CONTAINER``).

    What follows ``file://`` is a path as it stands, nothing in it is percent-decoded.

    Args:
        uri: of a folder.
        deadline: time for each call to a bucket, seconds.
        links: whether links in a local folder may lead out of it; see LocalStorage.

    Raises:
        ConfigError: The scheme is unknown, or the path, bucket or prefix is not valid.
        UnavailableError: this machine has no credentials for the service.
    """
    scheme, separator, rest = uri.partition("://")
    # What begins like a bucket's name, such as s3:bucket, is no path either.
    is_path = not separator and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/|(arn|gs|s3|az):", uri)
    # Each kind is imported when it is needed: Google's packages alone take a second.
    if is_path or (separator and scheme.lower() == "file"):
        from trainer.storage.local import LocalStorage

        return LocalStorage(uri if is_path else rest, uri=uri, links=links)
    if separator and scheme.lower() == "gs":
        from trainer.storage.gcs import GCSStorage

        bucket, _, prefix = rest.partition("/")
        return GCSStorage(bucket, prefix.rstrip("/"), deadline=deadline)
    if separator and scheme.lower() == "s3":
        from trainer.storage.s3 import S3Storage

        bucket, _, prefix = rest.partition("/")
        return S3Storage(bucket, prefix.rstrip("/"), deadline=deadline)
    if separator and (
        scheme.lower() in ("az", "abfs", "abfss")
        or re.match(r"https://[^/]*\.(blob|dfs)\.[^/]*(/|$)", uri, re.IGNORECASE)
    ):
        from trainer.storage.azure import AzureStorage

        return AzureStorage(uri, deadline=deadline)
    raise ConfigError(
        f"storage {uri!r}: the scheme is not known; give a path, file://PATH, "
        "gs://BUCKET[/PREFIX], s3://BUCKET[/PREFIX] or az://CONTAINER[/PREFIX]"
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
TEMPORARY = ".trainyard-tmp-"  # no valid name holds it, so leftovers are never listed


def check_name(name: str) -> None:
    """Refuse a name that one of the storages could not hold.

    Limits are those of all together, so that whatever works on a laptop works in a bucket:
    https://cloud.google.com/storage/docs/objects#naming and a POSIX file system's.

    Raises:
        ConfigError: The name breaks a rule; the message says which.
    """
    if fault := name_fault(name):
        raise ConfigError(f"object name {name[:80]!r} {fault}; choose another name")


def name_fault(name: str) -> str | None:
    """Return what is wrong with a name, to follow ``object name X``; None if nothing is."""
    parts = name.split("/")
    # Category Cc is the control characters, Cs the surrogates, which UTF-8 cannot hold. XML, in
    # which S3 and Azure list names, has neither of the other two.
    if any(unicodedata.category(c) in ("Cc", "Cs") or c in "\ufffe\uffff" for c in name):
        return "holds a control character or is not valid Unicode"
    if any(part in ("", ".", "..") for part in parts):
        return "is not a relative path of non-empty parts other than '.' and '..'"
    if len(name.encode()) > _MAX_NAME_BYTES:
        return f"is longer than {_MAX_NAME_BYTES} bytes"
    if "\\" in name:  # which Azure and SeaweedFS make a slash
        return "holds a backslash"
    if any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        return f"has a part longer than {_MAX_PART_BYTES} bytes"
    if parts[0] == ".well-known" or any(part.startswith(TEMPORARY) for part in parts):
        return f"uses a reserved part ('.well-known' first, or '{TEMPORARY}...')"
    # A folder's listing leaves these out, so no store may hold one that a folder could not.
    if any(map(is_foreign, parts)):
        return "has a part that file systems and desktops keep for files of their own"
    return None
