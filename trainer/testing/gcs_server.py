"""A Cloud Storage server for tests and local clusters: ``python -m trainer.testing.gcs_server``.

It implements the part of the JSON API that google-cloud-storage uses: get a bucket, insert an
object (multipart and resumable), get its metadata or bytes (ranges too), list, delete. Tests plan
its faults, see ``Fault``. It keeps objects in memory, and in ``--dir`` if that is given. It has no
authentication, so it listens on the loopback interface unless ``--host`` names another.

Cross-checked against the JSON API reference, the pages on request preconditions and resumable
uploads of cloud.google.com/storage/docs, and googleapis/storage-testbench (its behaviour, none of
its code):

- One write of an object is one atomic step with a new, larger generation; a listing that starts
  after it shows it. Names come back in the order of their UTF-8 bytes.
- ``ifGenerationMatch=0`` holds if there is no object, any other number if it is the generation;
  else 412. ``ifGenerationNotMatch`` is its opposite: 304 for a get, else 412. A get of an absent
  object or of another ``generation`` than the live one is 404.
- A resumable upload takes its preconditions with the first request, and checks them when the
  last byte is there, as the testbench does. 308 with ``Range: bytes=0-LAST`` says what was kept,
  308 without Range that nothing was; bytes sent again are skipped; a finished session repeats
  its answer. A body cut short keeps what had arrived.
- An upload whose ``md5Hash``, ``crc32c`` or ``x-goog-hash`` differs from its bytes is 400.
- A page holds at most ``maxResults`` objects or the server's limit, whichever is less; 1,000.

Left out: versions, ACLs, encryption, copies, batch requests, the XML API, authentication, and the
unpacking of objects stored with ``Content-Encoding: gzip``.
"""

import argparse
import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c

Verb = Literal["bucket", "insert", "start", "chunk", "get", "media", "list", "delete"]


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests of one verb.

    ``error`` answers ``status`` instead of acting; ``lose`` acts, then drops the connection
    without an answer; ``cut`` sends half of the answer's body; ``corrupt`` flips a bit of it;
    ``slow`` waits ``seconds``, then continues. ``effect`` is called first, when the fault strikes.
    """

    kind: Literal["error", "lose", "cut", "corrupt", "slow"]
    verb: Verb
    times: int = 1
    status: int = 503
    seconds: float = 0.0
    effect: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class StoredObject:
    """The live version of an object."""

    data: bytes
    generation: int
    content_type: str
    encoding: str = "identity"

    @property
    def crc32c(self) -> str:
        """The base64 of the big-endian checksum, as Cloud Storage writes it."""
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()

    @property
    def md5(self) -> str:
        """The base64 of the digest, as Cloud Storage writes it."""
        return base64.b64encode(hashlib.md5(self.data, usedforsecurity=False).digest()).decode()


@dataclass
class Session:
    """A resumable upload in progress."""

    bucket: str
    name: str
    query: dict[str, str]
    content_type: str
    data: bytearray = field(default_factory=bytearray)
    lock: threading.Lock = field(default_factory=threading.Lock)
    answer: tuple[int, dict[str, Any]] | None = None


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class GCSServer:
    """The buckets and their HTTP server; ``start`` and ``stop`` it, or use it in ``with``."""

    def __init__(
        self,
        *buckets: str,
        host: str = "127.0.0.1",
        port: int = 0,
        folder: Path | None = None,
        page_size: int = 1000,
        honour_preconditions: bool = True,
    ) -> None:
        self.page_size = page_size
        self.honour_preconditions = honour_preconditions
        self.faults: list[Fault] = []
        self.requests: list[Verb] = []  # every request that arrived, in order
        self.sessions: dict[str, Session] = {}
        self._buckets: dict[str, dict[str, StoredObject]] = {name: {} for name in buckets}
        self._lock = threading.Lock()
        self._host = host
        self._port = port
        self._folder = folder
        self._generation = time.time_ns() // 1000  # microseconds, as the real ones look
        self._http: _HTTPServer | None = None
        self._load()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The value for STORAGE_EMULATOR_HOST; it stays the same through ``stop`` and ``start``."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._http = _HTTPServer(self, self._host, self._port)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections and drop the open ones."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http.drop_connections()
            self._http = None

    def take_fault(self, verb: Verb) -> Fault | None:
        """Record a request and return its fault, if one is planned."""
        with self._lock:
            self.requests.append(verb)
            for fault in self.faults:
                if fault.verb == verb and fault.times:
                    fault.times -= 1
                    return fault
        return None

    def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        query: dict[str, str] | None = None,
        content_type: str = "application/octet-stream",
        encoding: str = "identity",
    ) -> StoredObject:
        """Write an object if the preconditions in ``query`` hold, in one atomic step."""
        with self._lock:
            objects = self._objects(bucket)
            self._check(objects.get(name), query or {}, mismatch=412)
            self._generation = max(self._generation + 1, time.time_ns() // 1000)
            stored = objects[name] = StoredObject(data, self._generation, content_type, encoding)
            if self._folder:
                self._save(self._folder / bucket, name, stored)
            return stored

    def get(self, bucket: str, name: str, query: dict[str, str]) -> StoredObject:
        """Return the live object; raise ApiError 404, 412 or 304."""
        with self._lock:
            stored = self._objects(bucket).get(name)
            if stored is None or query.get("generation", str(stored.generation)) != str(
                stored.generation
            ):
                raise ApiError(404, f"No such object: {bucket}/{name}")
            self._check(stored, query, mismatch=304)
            return stored

    def delete(self, bucket: str, name: str, query: dict[str, str]) -> None:
        """Remove the live object; raise ApiError 404 or 412."""
        self.get(bucket, name, {})
        with self._lock:
            self._check(self._objects(bucket).get(name), query, mismatch=412)
            self._objects(bucket).pop(name, None)
            if self._folder:
                _path(self._folder / bucket, name).unlink(missing_ok=True)

    def page(
        self, bucket: str, query: dict[str, str]
    ) -> tuple[list[tuple[str, StoredObject]], str]:
        """Return a page of a listing and the token of the next one, "" on the last."""
        with self._lock:
            found = sorted(self._objects(bucket).items(), key=lambda item: item[0].encode())
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        prefix = query.get("prefix", "")
        found = [
            (name, stored)
            for name, stored in found
            if name.startswith(prefix) and name.encode() > after.encode()
        ]
        limit = min(int(query.get("maxResults", self.page_size)), self.page_size)
        more = len(found) > limit
        token = base64.urlsafe_b64encode(found[limit - 1][0].encode()).decode() if more else ""
        return found[:limit], token

    def check_bucket(self, bucket: str) -> None:
        """Raise ApiError 404 if there is no such bucket."""
        with self._lock:
            self._objects(bucket)

    def _objects(self, bucket: str) -> dict[str, StoredObject]:
        if bucket not in self._buckets:
            raise ApiError(404, "The specified bucket does not exist.")
        return self._buckets[bucket]

    def _check(self, stored: StoredObject | None, query: dict[str, str], mismatch: int) -> None:
        generation = str(stored.generation if stored else 0)
        if not self.honour_preconditions:
            return
        if query.get("ifGenerationMatch", generation) != generation:
            raise ApiError(412, "At least one of the pre-conditions you specified did not hold.")
        if query.get("ifGenerationNotMatch") == generation:
            raise ApiError(mismatch, "At least one of the pre-conditions did not hold.")

    def _load(self) -> None:
        for bucket, objects in self._buckets.items():
            for path in (self._folder / bucket).glob("*.object") if self._folder else ():
                head, _, data = path.read_bytes().partition(b"\n")
                name, generation, content_type, encoding = json.loads(head)
                objects[name] = StoredObject(data, generation, content_type, encoding)
                self._generation = max(self._generation, generation)

    @staticmethod
    def _save(folder: Path, name: str, stored: StoredObject) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = _path(folder, name)
        head = json.dumps([name, stored.generation, stored.content_type, stored.encoding]).encode()
        path.with_suffix(".part").write_bytes(head + b"\n" + stored.data)
        path.with_suffix(".part").replace(path)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()}.object"


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, gcs: GCSServer, host: str, port: int) -> None:
        self.gcs = gcs
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        self.stopping.set()
        for connection in list(self._connections):
            drop(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that disconnect are part of the tests."""


def drop(connection: socket.socket) -> None:
    """Reset a connection, so that its peer notices at once."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already


_ROUTES: list[tuple[Verb, str, str]] = [
    ("bucket", "GET", r"/storage/v1/b/([^/]+)"),
    ("list", "GET", r"/storage/v1/b/([^/]+)/o"),
    ("get", "GET", r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)"),
    ("delete", "DELETE", r"/storage/v1/b/([^/]+)/o/([^/]+)"),
    ("insert", "POST", r"/upload/storage/v1/b/([^/]+)/o"),
    ("chunk", "PUT", r"/upload/storage/v1/b/([^/]+)/o"),
]


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests, one after the other."""

    server: _HTTPServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer's head and body leave together
    fault: Fault | None

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _handle(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        self.fault = None
        # Read first: an answer to a request that is still being sent would be lost.
        body = b"" if self.command == "PUT" else self.rfile.read(self._length())
        try:
            verb, names = self._route(url.path, query)
            self.fault = self.server.gcs.take_fault(verb)
            if self.fault:
                self.fault.effect()
                if self.fault.kind == "error":
                    self.rfile.read(self._length() - len(body))
                    raise ApiError(self.fault.status, "planned fault")
                self.server.stopping.wait(self.fault.seconds)
            getattr(self, f"_do_{verb}")(body, query, *names)
        except ApiError as error:
            self._answer_json(
                error.status, {"error": {"code": error.status, "message": str(error)}}
            )

    def _route(self, path: str, query: dict[str, str]) -> tuple[Verb, list[str]]:
        for verb, method, pattern in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                if verb == "insert" and query.get("uploadType") == "resumable":
                    verb = "start"
                if verb == "get" and query.get("alt") == "media":
                    verb = "media"
                return verb, [unquote(name) for name in found.groups()]
        raise ApiError(404, f"Not Found: {self.command} {path}")

    def _length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        kind = self.fault.kind if self.fault else None
        if kind == "lose":
            self.close_connection = True
            drop(self.connection)
            return
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "cut":
            body = body[: len(body) // 2]
            self.close_connection = True
        if kind == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.wfile.write(body)
        self.wfile.flush()

    def _answer_json(self, status: int, resource: dict[str, Any]) -> None:
        body = json.dumps(resource).encode()
        self._answer(status, {"Content-Type": "application/json; charset=UTF-8"}, body)

    def _do_bucket(self, _body: bytes, _query: dict[str, str], bucket: str) -> None:
        self.server.gcs.check_bucket(bucket)
        self._answer_json(200, {"kind": "storage#bucket", "id": bucket, "name": bucket})

    def _do_list(self, _body: bytes, query: dict[str, str], bucket: str) -> None:
        found, token = self.server.gcs.page(bucket, query)
        items = [_resource(bucket, name, stored) for name, stored in found]
        if wanted := re.search(r"items\(([^)]*)\)", query.get("fields", "")):
            keys = wanted[1].split(",")
            items = [{key: item[key] for key in keys} for item in items]
        answer: dict[str, Any] = {"items": items} if items else {}
        if token and "nextPageToken" in query.get("fields", "nextPageToken"):
            answer["nextPageToken"] = token
        self._answer_json(200, answer)

    def _do_get(self, _body: bytes, query: dict[str, str], bucket: str, name: str) -> None:
        stored = self.server.gcs.get(bucket, name, query)
        self._answer_json(200, _resource(bucket, name, stored))

    def _do_delete(self, _body: bytes, query: dict[str, str], bucket: str, name: str) -> None:
        self.server.gcs.delete(bucket, name, query)
        self._answer(204, {}, b"")

    def _do_media(self, _body: bytes, query: dict[str, str], bucket: str, name: str) -> None:
        stored = self.server.gcs.get(bucket, name, query)
        size = len(stored.data)
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": stored.content_type,
            "ETag": f'"{stored.generation}"',
            "X-Goog-Generation": str(stored.generation),
            "X-Goog-Hash": f"crc32c={stored.crc32c},md5={stored.md5}",
            "X-Goog-Metageneration": "1",
            "X-Goog-Stored-Content-Encoding": stored.encoding,
            "X-Goog-Stored-Content-Length": str(size),
        }
        if stored.encoding != "identity":
            headers["Content-Encoding"] = stored.encoding
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted or wanted[0] == "bytes=-":
            self._answer(200, headers, stored.data)
            return
        first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
        last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
        if first > last:
            raise ApiError(416, f"The requested range cannot be satisfied: {wanted[0]}")
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._answer(206, headers, stored.data[first : last + 1])

    def _do_insert(self, body: bytes, query: dict[str, str], bucket: str) -> None:
        boundary = re.search(r'boundary="?([^";]+)', self.headers.get("Content-Type", ""))
        if query.get("uploadType") != "multipart" or not boundary:
            raise ApiError(400, "an upload is multipart, with a boundary, or resumable")
        mark = b"--" + boundary[1].encode()
        # mark CRLF head CRLF CRLF json CRLF mark CRLF head CRLF CRLF data CRLF mark "--"
        start = body.index(b"\r\n\r\n") + 4
        middle = body.index(b"\r\n" + mark, start)
        metadata = json.loads(body[start:middle])
        content = body.index(b"\r\n\r\n", middle)
        kind = re.search(rb"(?i)content-type: *(\S+)", body[middle:content])
        if kind:
            metadata.setdefault("contentType", kind[1].decode())
        data = body[content + 4 : body.rindex(b"\r\n" + mark + b"--")]
        self._insert(bucket, metadata, data, query)

    def _insert(
        self, bucket: str, metadata: dict[str, Any], data: bytes, query: dict[str, str]
    ) -> None:
        name = metadata.get("name") or query.get("name", "")
        content_type = metadata.get("contentType", "application/octet-stream")
        sent = StoredObject(data, 0, content_type)
        for key, value in (("md5Hash", sent.md5), ("crc32c", sent.crc32c)):
            if metadata.get(key, value) != value:
                raise ApiError(400, f"Provided {key} does not match the bytes.")
        stored = self.server.gcs.put(bucket, name, data, query, content_type)
        self._answer_json(200, _resource(bucket, name, stored))

    def _do_start(self, body: bytes, query: dict[str, str], bucket: str) -> None:
        self.server.gcs.check_bucket(bucket)
        metadata = json.loads(body or b"{}")
        name = metadata.get("name") or query.get("name", "")
        upload_id = uuid.uuid4().hex
        content_type = self.headers.get("X-Upload-Content-Type", "application/octet-stream")
        self.server.gcs.sessions[upload_id] = Session(bucket, name, query, content_type)
        # The name by which the client reached the server, which is not the pod's own.
        server = f"http://{self.headers['Host']}"
        location = f"{server}{urlsplit(self.path).path}?uploadType=resumable"
        self._answer(200, {"Location": f"{location}&upload_id={upload_id}"}, b"")

    def _do_chunk(self, _body: bytes, query: dict[str, str], _bucket: str) -> None:
        session = self.server.gcs.sessions.get(query.get("upload_id", ""))
        sent = re.fullmatch(
            r"bytes (?:\*|(\d+)-\d+)/(\*|\d+)", self.headers.get("Content-Range", "")
        )
        if not session or not sent:
            self.rfile.read(self._length())
            raise ApiError(400 if session else 404, "no such session, or a bad Content-Range")
        with session.lock:
            self._receive(session, int(sent[1]) if sent[1] else len(session.data))
            if session.answer is None and sent[2] == str(len(session.data)):
                session.answer = self._finish(session)
            if session.answer:
                self._answer_json(*session.answer)
                return
            kept = {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}
            self._answer(308, kept, b"")

    def _receive(self, session: Session, first: int) -> None:
        """Add the body to the session, also what arrives of one that is cut short."""
        left = self._length()
        while left and (piece := self.rfile.read1(min(left, 1 << 20))):
            left -= len(piece)
            new = piece[max(0, len(session.data) - first) :]
            if first <= len(session.data) and session.answer is None:
                session.data += new
            first += len(piece)
        if left:
            raise ConnectionAbortedError

    def _finish(self, session: Session) -> tuple[int, dict[str, Any]]:
        data = bytes(session.data)
        sent = StoredObject(data, 0, session.content_type)
        hashes = dict(
            item.split("=", 1) for item in self.headers.get("X-Goog-Hash", "").split(",") if item
        )
        if (
            hashes.get("crc32c", sent.crc32c) != sent.crc32c
            or hashes.get("md5", sent.md5) != sent.md5
        ):
            raise ApiError(400, "Provided x-goog-hash does not match the bytes.")
        stored = self.server.gcs.put(
            session.bucket, session.name, data, session.query, session.content_type
        )
        return 200, _resource(session.bucket, session.name, stored)


def _resource(bucket: str, name: str, stored: StoredObject) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{stored.generation}",
        "bucket": bucket,
        "name": name,
        "contentType": stored.content_type,
        "crc32c": stored.crc32c,
        "generation": str(stored.generation),
        "md5Hash": stored.md5,
        "metageneration": "1",
        "size": str(len(stored.data)),
        "storageClass": "STANDARD",
    }


def main() -> None:
    """Serve until killed; the first line printed is the URL."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.testing.gcs_server", description=main.__doc__
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Listen on this address; anyone who reaches it may write.",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="Listen on this port; 0, the default: a free one."
    )
    parser.add_argument("--dir", type=Path, help="Keep the objects in this folder.")
    parser.add_argument(
        "--bucket", action="append", help="Serve this bucket; may be repeated; default: bucket."
    )
    arguments = parser.parse_args()
    with GCSServer(
        *arguments.bucket or ["bucket"],
        host=arguments.host,
        port=arguments.port,
        folder=arguments.dir,
    ) as it:
        sys.stdout.write(f"{it.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
