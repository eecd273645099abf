"""Serves the page of a run in progress, to browsers of this machine alone.

A thread looks at the run while a page is open. The page asks for what is new each second, and gets
it as JSON. Once the run has ended, it asks for the report, which takes the page's place.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from werkzeug.exceptions import Forbidden, HTTPException, MethodNotAllowed, NotFound
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from trainer.common import sockets
from trainer.common.text import one_line
from trainer.errors import ConfigError, UserError
from trainer.report import facts, html, run_page
from trainer.report.live import Live
from trainer.report.live_view import PICTURES, Seen, view

EVERY = 1.0  # seconds between two looks at the run
IDLE = 10.0  # seconds after which nobody asks any more, and nobody looks
HOSTS = ("127.0.0.1", "localhost")
# As the page's own, and for pages that know none.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Watcher:
    """Looks at a run while somebody asks, on a thread of its own, and answers from what it saw.

    ``beside`` returns what else is known of the run; it is called before each look.
    """

    def __init__(self, live: Live, beside: Callable[[], Seen] = Seen) -> None:
        self._live, self._beside = live, beside
        self._body = _encoded(live, Seen("its folder is being read"))
        self._pictures: dict[str, bytes] = {}
        self._report: bytes | None = None
        self._making = threading.Lock()
        self._asked = time.monotonic()
        self._wanted = threading.Event()

    def look(self) -> None:
        """Bring the answers up to date."""
        seen = Seen()
        try:
            seen = self._beside()
            self._live.look()
        except UserError as error:
            seen = seen._replace(trouble=one_line(error))
        self._pictures = dict(self._live.pictures)
        self._body = _encoded(self._live, seen)

    def keep_up(self, stop: threading.Event) -> None:
        """Look until ``stop`` is set."""
        while not stop.is_set():
            self.look()
            stop.wait(0 if self._live.behind else EVERY)
            while time.monotonic() - self._asked > IDLE and not stop.is_set():
                self._wanted.clear()
                self._wanted.wait(EVERY)

    def state(self) -> bytes:
        """Return what is known, JSON."""
        self._asked = time.monotonic()
        self._wanted.set()
        return self._body

    def picture(self, name: str) -> bytes | None:
        """Return a picture of the newest validation, if there is one of this name."""
        return self._pictures.get(name)

    def report(self) -> bytes:
        """Return the report of the run as it is; that of a finished one is made once.

        Raises:
            UserError: it cannot be made.
        """
        with self._making:
            if self._report is not None:
                return self._report
            finished = self._live.finished
            page = run_page.as_page(facts.of_folder(self._live.storage))
            if finished:
                self._report = page
            return page


def _encoded(live: Live, seen: Seen) -> bytes:
    return json.dumps(view(live, seen)).encode()


def serve(
    watcher: Watcher, where: str, port: int, stop: threading.Event, say: Callable[[str], object]
) -> None:
    """Serve a run on a port of 127.0.0.1, 0 for a free one, until ``stop`` is set.

    ``where`` is the run's folder, for the page; ``say`` takes the line with the page's address.

    Raises:
        ConfigError: the port cannot be had.
    """
    try:
        listening = sockets.listen(HOSTS[0], port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "must be 0 to 65535"
        raise ConfigError(f"port: {port}: {why}; give another --port") from None
    with listening:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        taken = listening.getsockname()[1]
        server = make_server(
            HOSTS[0],
            taken,
            app(watcher, html.render("watch.html", where=where, pictures=PICTURES.values())),
            threaded=True,
            request_handler=_Handler,
            fd=listening.fileno(),
        )
        watching = threading.Thread(target=watcher.keep_up, args=(stop,), daemon=True)
        serving = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        watching.start()
        serving.start()
        say(f"watch {where} at http://{HOSTS[0]}:{taken}/ (Ctrl-C ends it)")
        try:
            stop.wait()
        finally:
            stop.set()
            server.shutdown()
            server.server_close()


class _Handler(WSGIRequestHandler):
    timeout = 30.0  # seconds that a browser may take with its request

    def log(self, *_: Any) -> None:
        """Print nothing."""


def app(watcher: Watcher, page: bytes) -> Callable[..., Any]:
    """Return the WSGI application: the page, what is new, pictures and the report."""

    @Request.application
    def answer(request: Request) -> Response:
        try:
            response = _answer(watcher, page, request)
        except HTTPException as error:
            response = Response(f"{error.code} {error.name}\n", error.code or 500)
        except UserError as error:
            response = Response(f"{one_line(error)}\n", 503)
        response.headers.update(HEADERS)
        return response

    wsgi: Callable[..., Any] = answer
    return wsgi


def _answer(watcher: Watcher, page: bytes, request: Request) -> Response:
    # A page of elsewhere may give its own name this machine's address, but not send ours as Host.
    if request.host.rpartition(":")[0] not in HOSTS and request.host not in HOSTS:
        raise Forbidden
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed(["GET", "HEAD"])
    if request.path == "/":
        return Response(page, mimetype="text/html")
    if request.path == "/state":
        body = watcher.state()
        response = Response(body, mimetype="application/json")
        response.set_etag(hashlib.sha256(body).hexdigest()[:16])
        return response.make_conditional(request)
    if request.path == "/report":
        return Response(watcher.report(), mimetype="text/html")
    for number, name in enumerate(PICTURES):
        if request.path == f"/picture/{number}" and (data := watcher.picture(name)):
            return Response(data, mimetype="image/png")
    raise NotFound
