"""Objects in a bucket of Google Cloud Storage.

``open_storage`` imports this module when it meets a gs:// URI: Google's packages take a second.
"""

import contextlib
import functools
import http.client
import mimetypes
import os
import re
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import requests
import urllib3
from google.api_core.exceptions import (
    ClientError,
    Conflict,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    Unauthorized,
)
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from trainer.common.text import one_line
from trainer.errors import ConfigError, CredentialsError, UserError
from trainer.storage import endpoints
from trainer.storage.base import Entries, Entry, ObjectNotFoundError, check_name, name_fault
from trainer.storage.retries import OutOfTimeError, keep_trying, unanswered

T = TypeVar("T")

WHOLE = (None, None)  # first and last byte of a download, where all are wanted

_REQUEST_SECONDS = 60.0  # without a byte from the server, after which a request is tried again
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # as releases of OpenSSL call it
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
        if prefix and (fault := name_fault(prefix)):
            raise ConfigError(f"storage {self.uri[:80]!r}: the prefix {fault}; choose another")
        self._above = f"{prefix}/" if prefix else ""
        self._deadline = deadline
        self._client = _gcs_client()
        # Pays for requests where the bucket's owner does not.
        payer = os.environ.get("GOOGLE_CLOUD_QUOTA_PROJECT") or None
        self._bucket = self._client.bucket(bucket, user_project=payer)
        #: Where requests really go; not Google's own while STORAGE_EMULATOR_HOST is set.
        self.endpoint: str = self._client.api_endpoint
        endpoints.reach_directly(self.endpoint)

    def read(self, name: str) -> bytes:
        """See Storage.read."""
        check_name(name)
        return self._call("read", name, partial(self._download, name, WHOLE))

    def read_part(self, name: str, start: int, size: int) -> bytes:
        """See Storage.read_part."""
        check_name(name)
        return self._call("read", name, partial(self._download, name, (start, start + size - 1)))

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

    def _download(self, name: str, part: tuple[int | None, int | None], timeout: float) -> bytes:
        try:
            # The bytes as stored, also where someone put them there with a content encoding.
            data: bytes = self._blob(name).download_as_bytes(
                raw_download=True,
                start=part[0],
                end=part[1],
                checksum="auto" if part == WHOLE else None,
                timeout=timeout,
                retry=None,
            )
        except NotFound as error:
            self._check_bucket(timeout)
            raise ObjectNotFoundError(
                f"no object {self.uri}/{name}; check the name and the prefix"
            ) from error
        return data

    def _upload(self, name: str, data: bytes, generation: int | None, timeout: float) -> None:
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
        try:
            self._upload(name, data, 0, timeout)
        except PreconditionFailed:
            # Taken, perhaps by this very call: an earlier try whose answer was lost.
            try:
                return self._download(name, WHOLE, timeout) == data
            except ObjectNotFoundError as error:
                raise Conflict("the object was deleted meanwhile") from error
        return True

    def _delete_once(self, name: str, timeout: float) -> None:
        try:
            self._blob(name).delete(timeout=timeout, retry=None)
        except NotFound:
            self._check_bucket(timeout)

    def _page(
        self, prefix: str, token: str | None, limit: int | None, timeout: float
    ) -> tuple[Entries, str | None]:
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
            # Some servers leave the size of an empty object out.
            page = [(str(blob.name), blob.size or 0) for blob in next(listing.pages, ())]
        except NotFound as error:
            raise ConfigError(
                f"no bucket {self.uri.split('/')[2]!r} at {self.endpoint}; "
                "create it or check its name"
            ) from error
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(error, OSError):  # no JSON at all, which another try may get
                raise
            raise ConfigError(
                f"{self.endpoint} does not list as Cloud Storage does; check STORAGE_EMULATOR_HOST"
            ) from error
        below = ((name.removeprefix(self._above), size) for name, size in page)
        # Other tools leave names such as "folder/", which no LocalStorage could hold either.
        entries = [Entry(name, size) for name, size in below if not name_fault(name)]
        return entries, listing.next_page_token

    def _check_bucket(self, timeout: float) -> None:
        """Raise if the bucket is missing: the answer is 404, as it is for a missing object."""
        with contextlib.suppress(Forbidden):  # may read but not list: unknown
            self._page("", None, 1, timeout)

    def _call(self, verb: str, name: str, attempt: Callable[[float], T]) -> T:
        """Run ``attempt(timeout)`` until it succeeds, fails for good, or time is up."""
        try:
            return keep_trying(
                lambda left: attempt(min(_REQUEST_SECONDS, left)), _is_transient, self._deadline
            )
        except OutOfTimeError as error:
            what = f"cannot {verb} {self.uri}/{name}"
            raise unanswered(
                what, self.endpoint, self._deadline, _last_words(error.last)
            ) from error
        except (GoogleAPICallError, GoogleAuthError, OSError) as error:
            reason = f"cannot {verb} {self.uri}/{name} at {self.endpoint}"
            raise _refusal(reason, error) from error


def _gcs_client() -> Any:
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if endpoint:
        endpoints.check(endpoint, "STORAGE_EMULATOR_HOST", None)
    _check_bundle(os.environ.get("REQUESTS_CA_BUNDLE"))
    # Releases from 3.17 on ask for the bucket's location in the background, for tracing that is
    # off by default and by a permission (storage.buckets.get) that nothing here needs.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    try:
        # No project: objects need none, and a laptop's credentials often name none.
        return storage.Client(project=None)
    except (GoogleAuthError, OSError, ValueError) as error:
        words = one_line(error).partition(" To set up ")[0].rstrip(".")  # Google's own remedy
        raise CredentialsError(
            f"no usable Google Cloud credentials: {words}; {_CREDENTIALS_REMEDY}"
        ) from error


@functools.cache  # reading a machine's bundle takes 0.03 s
def _check_bundle(path: str | None) -> None:
    """Refuse a bundle that requests would only find unusable, again and again."""
    if not path or Path(path).is_dir():
        return
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # also ssl.SSLError
        raise ConfigError(
            f"REQUESTS_CA_BUNDLE={path!r}: {error.strerror}; give a file of PEM certificates"
        ) from None


def _is_transient(error: Exception) -> bool:
    if _tls_remedy(error):
        return False
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


def _tls_remedy(error: BaseException | None) -> str:
    """Return what to do about an error of TLS that stays; nothing for others."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return "put the file of its certificate's authority in REQUESTS_CA_BUNDLE"
        if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
            return "write http:// where the server has no certificate"
        error = error.__cause__ or error.__context__
    return ""


def _refusal(reason: str, error: Exception) -> UserError:
    """Return what to raise for an error that another try at once cannot fix."""
    if remedy := _tls_remedy(error):
        return ConfigError(f"{reason}: {_last_words(error)}; {remedy}")
    if isinstance(error, GoogleAuthError):
        return CredentialsError(f"{reason}: {_last_words(error)}; {_CREDENTIALS_REMEDY}")
    words = _last_words(error)
    remedy = "check the bucket and the name"
    if re.search("requester pays", words, re.IGNORECASE):
        remedy = "set GOOGLE_CLOUD_QUOTA_PROJECT to the project that pays"
    elif re.search("retention policy|retained|hold", words, re.IGNORECASE):
        remedy = (
            "the bucket keeps objects for a time; choose one without a retention policy or hold"
        )
    elif isinstance(error, Forbidden | Unauthorized):
        words = f"permission denied ({words})"
        remedy = "grant this identity the role roles/storage.objectUser on the bucket"
    return ConfigError(f"{reason}: {words}; {remedy}")


def _last_words(error: BaseException | None) -> str:
    """Return on one line what the server said, or the network's first error."""
    message = None
    if isinstance(error, GoogleAPICallError) and error.response is not None:
        text = error.response.text
        title = re.search("<title>(.{1,200}?)</title>", text, re.DOTALL)
        message = title[1] if title else text
        with contextlib.suppress(ValueError, KeyError, TypeError):
            message = error.response.json()["error"]["message"]
    # Both libraries wrap "connection refused" in layers that say little at length.
    wrappers = (requests.RequestException, urllib3.exceptions.HTTPError)
    while isinstance(error, wrappers) and isinstance(error.__context__, (*wrappers, OSError)):
        error = error.__context__
    return one_line(f"{type(error).__name__}: {message or error}", 300)
