"""A proxy in front of a store's HTTP server that makes it fail.

It serves Cloud Storage's JSON API, S3 and Azure Blob alike, because it passes on every request as
it came: its ``Host`` too, which S3 signs. The store must be reached by plain http.
"""

import contextlib
import http.client
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

Kind = Literal["error", "reset", "lose", "cut", "corrupt", "slow"]
#: What a request asks for; Cloud Storage takes more than 8 MiB by ``start``, then ``chunk``.
Verb = Literal["write", "start", "chunk", "read", "list", "delete"]
VERBS: tuple[Verb, ...] = ("write", "start", "chunk", "read", "list", "delete")
SECONDS = 120.0  # without a byte from the store, after which its answer counts as lost
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests of one verb.

    ``error`` answers ``status`` and ``body`` instead of acting; ``reset`` drops the connection
    instead; ``lose`` acts, then drops it without an answer; ``cut`` sends half of the answer's
    body; ``corrupt`` flips a bit of it; ``slow`` waits ``seconds``, then continues. ``effect`` is
    called first, when the fault strikes.
    """

    kind: Kind
    verb: Verb
    times: int = 1
    status: int = 503
    body: bytes = b"injected fault"
    seconds: float = 0.0
    effect: Callable[[], object] = lambda: None


class Request(NamedTuple):
    """A request as it goes to the store: path and query, names of headers in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """The store's answer, its body in one piece."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def verb_of(method: str, target: str) -> Verb:
    """Return what a request asks for, in any of the three protocols."""
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    if method == "DELETE" or query.get("comp") == ["batch"]:  # Azure's client deletes in batches
        return "delete"
    if method in ("PUT", "POST"):
        if "upload_id" in query:
            return "chunk"
        return "start" if query.get("uploadType") == ["resumable"] else "write"
    is_list = "list-type" in query or query.get("comp") == ["list"] or url.path.endswith("/o")
    return "list" if is_list else "read"


class Proxy:
    """Passes requests on to ``upstream``, http://HOST:PORT; ``start`` it, or use it in ``with``.

    It listens on ``host``; whoever reaches it reaches the store.

    Attributes:
        faults: those to come, the first that fits a request is taken.
        requests: the verb of every request that arrived, in order.
    """

    def __init__(self, upstream: str, host: str = "127.0.0.1") -> None:
        self.faults: list[Fault] = []
        self.requests: list[Verb] = []
        self._upstream = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._address = (host, 0)
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where this machine finds it; the same through ``stop`` and ``start``."""
        return f"http://127.0.0.1:{self._address[1]}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(self, self._address)
        self._address = (self._address[0], self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections and drop the open ones."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server.drop_connections()
            self._server = None

    def take_fault(self, verb: Verb) -> Fault | None:
        """Record a request and return its fault, if one is planned."""
        with self._lock:
            self.requests.append(verb)
            for fault in self.faults:
                if fault.verb == verb and fault.times:
                    fault.times -= 1
                    return fault
        return None

    def forward(self, request: Request) -> Answer:
        """Have the store answer; raise OSError or HTTPException if it does not."""
        connection = http.client.HTTPConnection(self._upstream, timeout=SECONDS)
        try:
            connection.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                connection.putheader(name, value)
            # A store may answer before it has read the body, and close; the answer is there.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(request.body)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: Proxy, address: tuple[str, int]) -> None:
        self.proxy = proxy
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        self.stopping.set()
        for connection in list(self._connections):
            _drop(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what is a defect of this program: clients that disconnect are none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _drop(connection: socket.socket) -> None:
    """Reset a connection, so that its peer notices at once."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already


class _Handler(BaseHTTPRequestHandler):
    """Passes on one connection's requests, one after the other."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer's head and body leave together

    def do_GET(self) -> None:
        # Read first: an answer to a request that is still being sent would be lost.
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.proxy.take_fault(verb_of(self.command, self.path))
        if fault:
            fault.effect()
            self.server.stopping.wait(fault.seconds)
        kind = fault.kind if fault else None
        if fault and kind == "error":
            self._answer(Answer(fault.status, [], fault.body))
            return
        try:
            answer = None if kind == "reset" else self.server.proxy.forward(self._request(body))
        except (OSError, http.client.HTTPException):
            answer = None
        if answer is None or kind == "lose":
            self.close_connection = True
            _drop(self.connection)
            return
        if kind == "corrupt" and answer.body:
            answer = answer._replace(body=bytes([answer.body[0] ^ 1]) + answer.body[1:])
        self._answer(answer, cut=kind == "cut")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _request(self, body: bytes) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        headers = {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
        if body or self.command in ("PUT", "POST"):
            headers["content-length"] = str(len(body))
        return Request(self.command, self.path, headers, body)

    def _answer(self, answer: Answer, *, cut: bool = False) -> None:
        self.send_response_only(answer.status)
        has_body = self.command != "HEAD" and answer.status not in (204, 304)
        for name, value in answer.headers:
            if name.lower() not in _HOP_BY_HOP or (
                name.lower() == "content-length" and self.command == "HEAD"
            ):
                self.send_header(name, value)
        if has_body:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if not has_body:
            return
        self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        if cut:
            self.wfile.flush()
            self.close_connection = True
