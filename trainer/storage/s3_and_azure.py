"""Objects in a bucket or container that ``obstore`` reaches: S3 (s3.py) and Azure (azure.py).

``obstore`` is the Python face of Rust's ``object_store``: one small package that knows both
services, their credentials, and writes that must not overwrite. Its threads do not survive a fork,
so a process that has made a request must not fork one that makes requests.
"""

import io
import math
import mimetypes
import os
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import google_crc32c
from obstore.exceptions import AlreadyExistsError, BaseError

from trainer.common.text import one_line
from trainer.errors import ConfigError, CredentialsError, UserError
from trainer.storage import endpoints
from trainer.storage.base import Entries, Entry, ObjectNotFoundError, check_name, name_fault
from trainer.storage.retries import OutOfTimeError, keep_trying, unanswered

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

T = TypeVar("T")

_REQUEST_SECONDS = 60.0  # without a byte from the server, after which a request is tried again
_CONNECT_SECONDS = 10.0
_LARGE = 8 << 20  # bytes; the time for one larger write grows with its size
_CHECKSUM = "crc32c"  # the name of an object's metadata that holds its checksum


class Remedy(NamedTuple):
    """What an answer means to the user: how to end, and what to do about it."""

    error: type[UserError]
    words: str


class Service(NamedTuple):
    """What differs between services.

    Attributes:
        bucket: what it calls a set of objects.
        connect: makes a client with these options.
        endpoint: where requests go.
        authority: PEM certificates to trust besides the system's.
        remedies: for the service's own error codes.
        denied: the remedy for any other refusal of permission.
        credentials: the remedy where there are none.
        certificate: the remedy for a certificate that is not trusted.
        missing: the code that says that the bucket does not exist.
    """

    bucket: str
    connect: "Callable[[ClientConfig], ObjectStore]"
    endpoint: str
    authority: bytes | None
    remedies: Mapping[str, Remedy]
    denied: str
    credentials: str
    certificate: str
    missing: str


class ObjectStorage:
    """Objects whose names start with a prefix.

    Every call is tried again, with growing pauses, until ``deadline`` seconds after it began. All
    verbs may be repeated, as those of GCSStorage. Bytes that this class wrote carry their CRC32C,
    which is checked when they are read.

    Args:
        uri: as the user typed it.
        bucket: its bucket.
        prefix: what names start with, without a trailing slash; may be empty.
        service: what keeps the bucket.
        deadline: seconds.
    """

    def __init__(
        self, uri: str, bucket: str, prefix: str, service: Service, deadline: float
    ) -> None:
        self.uri = uri
        if prefix and (fault := name_fault(prefix)):
            raise ConfigError(f"storage {uri[:80]!r}: the prefix {fault}; choose another")
        self._bucket = bucket
        self._above = f"{prefix}/" if prefix else ""
        self._service = service
        self._deadline = deadline
        self._clients: dict[float, ObjectStore] = {}
        #: Where requests really go.
        self.endpoint = service.endpoint
        endpoints.reach_directly(service.endpoint)
        self._client()  # settings that are no good are refused before they are used

    def read(self, name: str) -> bytes:
        """See Storage.read."""
        check_name(name)
        return self._call("read", name, partial(self._download, name))

    def read_part(self, name: str, start: int, size: int) -> bytes:
        """See Storage.read_part."""
        check_name(name)
        return self._call("read", name, partial(self._download, name, (start, start + size)))

    def create(self, name: str, data: bytes) -> bool:
        """See Storage.create."""
        check_name(name)
        return self._call("write", name, partial(self._create_once, name, data))

    def replace(self, name: str, data: bytes) -> None:
        """See Storage.replace."""
        check_name(name)
        self._call("write", name, partial(self._upload, name, data, "overwrite"))

    def list(self, prefix: str = "") -> Entries:
        """See Storage.list."""
        folder, slash, _ = prefix.rpartition("/")
        if slash and name_fault(folder):
            return []  # no name starts so
        return sorted(self._call("list", prefix, partial(self._walk, folder, prefix)))

    def delete(self, name: str) -> None:
        """See Storage.delete."""
        check_name(name)
        self._call("delete", name, partial(self._delete_once, name))

    def _client(self, size: int = 0) -> "ObjectStore":
        """Return the client for a write of so many bytes; a client has one limit of time."""
        # The limit on reads is one on a whole write, too, so that large ones get their own.
        large = size > _LARGE
        seconds = min(_REQUEST_SECONDS, self._deadline)
        if large:
            seconds = self._deadline * math.ceil(size / (128 << 20))
        if seconds not in self._clients:
            options: ClientConfig = {
                "allow_http": True,  # unless check_endpoint() refused it
                "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, seconds)),
                "read_timeout": timedelta(seconds=seconds),
                "timeout": timedelta(days=1),
            }
            if self._service.authority:
                options["root_certificate"] = self._service.authority
            try:
                self._clients[seconds] = self._service.connect(options)
            except (BaseError, ValueError, OSError) as error:
                said = _Answer.of(error).words
                remedy = self._service.credentials if "Key" in said else "check the settings"
                raise ConfigError(f"storage {self.uri!r}: {said}; {remedy}") from error
        return self._clients[seconds]

    def _download(self, name: str, part: tuple[int, int] | None = None) -> bytes:
        try:
            answer = self._client().get(
                self._above + name, options={"range": part} if part else None
            )
            # Piece by piece into one buffer: all at once, it would be copied twice.
            pieces = io.BytesIO()
            for piece in answer.stream(min_chunk_size=1 << 20):
                pieces.write(piece)
            data = pieces.getvalue()
        except FileNotFoundError as error:
            code = _Answer.of(error).code
            if not code or _NO_OBJECT.search(code):
                raise  # no bucket, or no store
            raise ObjectNotFoundError(
                f"no object {self.uri}/{name}; check the name and the prefix"
            ) from error
        if part is None and answer.attributes.get(_CHECKSUM, was := _crc32c(data)) != was:
            raise _PassingError(f"the bytes of {name} arrived changed")
        return data

    def _upload(self, name: str, data: bytes, mode: Any) -> None:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._client(len(data)).put(
            self._above + name,
            data,
            mode=mode,
            attributes={"Content-Type": kind, _CHECKSUM: _crc32c(data)},
            use_multipart=False,
        )

    def _create_once(self, name: str, data: bytes) -> bool:
        try:
            self._upload(name, data, "create")
        except AlreadyExistsError as taken:
            if _NO_PLACE.search(_Answer.of(taken).code):
                raise
            # Taken, perhaps by this very call: an earlier try whose answer was lost. S3 also
            # says so (409) while another write is under way, of which nothing may come.
            try:
                return self._download(name) == data
            except ObjectNotFoundError as error:
                raise _PassingError("the object was deleted meanwhile") from error
        return True

    def _walk(self, folder: str, prefix: str) -> Entries:
        client, start = self._client(), self._above + prefix
        folders = [(self._above + folder).rstrip("/")]
        items: list[Any] = []
        # The service asks by whole folders. A run has few objects beside its folders, and many
        # in them, so that only those are listed whose names start so.
        if prefix.rstrip("/") != folder:
            level = client.list_with_delimiter(folders[0] or None)
            items += level["objects"]
            folders = [each for each in level["common_prefixes"] if f"{each}/".startswith(start)]
        for each in folders:
            found = (item for page in client.list(each or None) for item in page)
            # Other tools mark a folder by an empty object "folder/", whose slash the library drops.
            items += (item for item in found if item["path"] != each)
        below = (Entry(item["path"].removeprefix(self._above), item["size"]) for item in items)
        return _without_markers(
            [each for each in below if each.name.startswith(prefix) and not name_fault(each.name)]
        )

    def _delete_once(self, name: str) -> None:
        try:
            self._client().delete(self._above + name)
        except FileNotFoundError as error:
            if _NO_OBJECT.search(_Answer.of(error).code):
                raise

    def _call(self, verb: str, name: str, attempt: Callable[[], T]) -> T:
        """Run ``attempt`` until it succeeds, fails for good, or time is up."""
        try:
            return keep_trying(
                lambda _: _interruptibly(attempt), self._is_transient, self._deadline
            )
        except OutOfTimeError as error:
            what = f"cannot {verb} {self.uri}/{name}"
            raise unanswered(
                what, self.endpoint, self._deadline, _Answer.of(error.last).words
            ) from None
        except BaseException as error:
            where = f"cannot {verb} {self.uri}/{name} at {self.endpoint}"
            if type(error).__name__ == "PanicException":  # the library's own defect; no Exception
                raise ConfigError(
                    f"{where}: {one_line(error, 300)}; check the store's address and credentials"
                ) from None
            if not isinstance(error, BaseError | OSError | ValueError):
                raise
            # The library's own text may hold a token: nothing prints it.
            raise self._refusal(where, _Answer.of(error)) from None

    def _is_transient(self, error: Exception) -> bool:
        if isinstance(error, UserError | FileNotFoundError):
            return False
        answer = _Answer.of(error)
        if isinstance(error, _PassingError):
            return True
        if answer.code in self._service.remedies or answer.sign in _FOR_GOOD:
            return False
        if _NO_PLACE.search(answer.code):
            return False
        status = answer.status or 0
        return answer.is_network or status in (408, 409, 429) or (status >= 500 and status != 501)

    def _refusal(self, where: str, answer: "_Answer") -> UserError:
        """Return what to raise for an error that another try at once cannot fix."""
        service = self._service
        error: type[UserError] = ConfigError
        if answer.about_credentials:
            error, remedy = CredentialsError, service.credentials
        elif answer.code == service.missing or (answer.status == 404 and not answer.code):
            return ConfigError(
                f"no {service.bucket} {self._bucket!r} at {self.endpoint}; "
                "create it or check its name and the endpoint"
            )
        elif answer.code in service.remedies:
            error, remedy = service.remedies[answer.code]
        elif answer.sign in _FOR_GOOD:
            remedy = _FOR_GOOD[answer.sign] or service.certificate
        elif answer.status in (401, 403):
            answer = answer._replace(words=f"permission denied ({answer.words})")
            remedy = service.denied
        elif answer.status == 501:
            remedy = "choose a store that has conditional writes (If-None-Match)"
        elif answer.status in range(300, 400):
            remedy = "give the endpoint that it leads to, perhaps https:// instead of http://"
        elif "invalid path" in answer.words or _NO_PLACE.search(answer.code):
            remedy = "delete or rename that object, or choose another folder"
        else:
            remedy = f"check the {service.bucket}, the name and the endpoint"
        return error(f"{where}: {answer.words}; {remedy}")


def _without_markers(entries: Entries) -> Entries:
    """Leave out empty objects that have others below them: those mark a folder."""
    names = sorted(entry.name for entry in entries)

    def has_others(name: str) -> bool:
        first = bisect_left(names, f"{name}/")
        return first < len(names) and names[first].startswith(f"{name}/")

    return [entry for entry in entries if entry.size or not has_others(entry.name)]


def _interruptibly(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, and hear signals meanwhile, which the library does not."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result()


class _PassingError(BaseError):
    """Another try may go better."""


class _Answer(NamedTuple):
    """What a server or the network said, found in the text of an error of ``obstore``.

    That text is all there is: an answer's status and body are in its first part, the network's
    errors in a second part for developers.

    Attributes:
        status: HTTP's, None where there was no answer.
        code: the service's own name for the error, or empty.
        words: one line for people, without URLs, which may hold tokens.
        about_credentials: the failure is of what gives out credentials, not of the store.
        is_network: there was no answer, and another try may get one.
        sign: how the network's error was known, a key of ``_NETWORK``.
    """

    status: int | None
    code: str
    words: str
    about_credentials: bool = False
    is_network: bool = False
    sign: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "_Answer":
        said, _, inside = str(error).partition("\n\nDebug source:")
        answer = re.search(r"status code: (\d{3}) ?([\w ]*):? ?(.*)", said, re.DOTALL)
        about_credentials = _CREDENTIALS.search(said) is not None
        # Outside of a cloud nothing answers there, and nothing will.
        is_network = "HTTP error" in said and not _METADATA.search(said)
        if answer:
            code = _element("Code", answer[3])
            # Azure adds lines about the request.
            words = _element("Message", answer[3]).partition("\n")[0]
            # A server in front of the store may answer with a page.
            words = words or _element("title", answer[3]) or answer[3].partition("<")[0]
            name = code or f"{answer[1]} {answer[2]}"
            said = f"{name}: {words.rstrip('.')}" if words else name
            return cls(int(answer[1]), code, one_line(unescape(said), 300), about_credentials)
        if batch := re.search(r"request failed for key .*?: (.*?) \(code: (\d{3})\)", said):
            # Azure's client deletes in batches, which answer no code of the service's own.
            code = "BlobImmutableDueToPolicy" if "immutable" in batch[1] else ""
            return cls(int(batch[2]), code, one_line(batch[1], 300))
        if "incorrectly configured region" in said:  # how the library names an answer of 301
            return cls(None, "PermanentRedirect", "it is in another region", about_credentials)
        for sign, words in _NETWORK.items():
            if found := re.search(sign, inside):
                words = words.format(*found.groups())
                return cls(None, "", words, about_credentials, is_network, sign)
        words = re.split(r"^Generic \w+ error: | - ", said)[-1]
        return cls(None, "", one_line(words, 300), about_credentials, is_network)


# Codes of 404 that are not about an object.
_NO_OBJECT = re.compile(r"Bucket|Container|Account|User|AccessKey|Credential")
# Codes of stores that keep folders: an object is where a folder would have to be, or the reverse.
_NO_PLACE = re.compile(r"Parent|Director|IsFile|IsObject|TypeMismatch")
_CREDENTIALS = re.compile(
    r"token request|token file|credential provider|get-access-token|/latest/(api|meta-data)/"
    r"|GET \S+/v\d/credentials|S3 error: Error performing POST REDACTED"
)
_METADATA = re.compile(r"/latest/(api|meta-data)/|/metadata/identity/")
_AUTHORITY, _NOT_TLS = "CaUsedAsEndEntity", "InvalidContentType"
_UNTRUSTED = r"InvalidCertificate\(\s*(\w+)"
# How the network's errors are known, the first that fits, and their words.
_NETWORK = {
    _AUTHORITY: "its certificate is an authority's own (CA:TRUE)",
    _UNTRUSTED: "its certificate is not trusted ({})",
    _NOT_TLS: "it does not speak TLS",
    "TimedOut|kind: Timeout": "it took too long",
    r'(?:message|error): "([^"]+)"': "{}",
}
# The remedies of those that stay; the service knows that of a certificate.
_FOR_GOOD = {
    _AUTHORITY: "give the server one that the authority signed, with CA:FALSE",
    _UNTRUSTED: "",
    _NOT_TLS: "write http:// where the server has no certificate",
}


def _element(name: str, xml: str) -> str:
    found = re.search(f"<{name}>(.{{1,1000}}?)</{name}>", xml, re.DOTALL)
    return found[1] if found else ""


def _crc32c(data: bytes) -> str:
    return f"{google_crc32c.value(data):08x}"


# Of variables whose values are sent in headers, where the library takes others for a defect.
_SENT = re.compile(r"(?!AWS_CONTAINER)\w+(KEY|KEY_ID|TOKEN|ACCOUNT|ACCOUNT_NAME)")


def check_variables(start: str) -> None:
    """Remove variables of the environment that are empty: the library takes them for settings.

    Args:
        start: what their names start with.

    Raises:
        ConfigError: one has a character that no key and no name has.
    """
    for name, value in list(os.environ.items()):
        if name.startswith(start) and not value:
            del os.environ[name]
        elif name.startswith(start) and _SENT.fullmatch(name):
            check_sent(name, value)


def check_sent(name: str, value: str) -> None:
    """Refuse a key, a token or a name that no request can carry; no message shows it.

    Raises:
        ConfigError: it holds a space, a control character or one beyond ASCII.
    """
    if not re.fullmatch(r"[!-~]+", value):
        raise ConfigError(
            f"{name}: holds a space, a line break or a character that is not ASCII; take it out, "
            "perhaps from the end of the file that the value came from"
        )


def read_authority(files: Mapping[str, str | None]) -> bytes | None:
    """Return the certificates to trust, from the first file that is given, if any is.

    Args:
        files: their paths by the names of the settings.

    Raises:
        ConfigError: it cannot be read.
    """
    for name, path in files.items():
        if path:
            try:
                content = Path(path).expanduser().read_bytes()
                fault = None if b"-----BEGIN CERTIFICATE-----" in content else "holds none"
            except OSError as error:
                fault = error.strerror
            if fault:
                raise ConfigError(f"{name}={path!r}: {fault}; give a file of PEM certificates")
            return content
    return None
