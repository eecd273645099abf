"""Servers in a store's place: one with a certificate, one that answers all requests alike."""

import ssl
from collections.abc import Mapping
from pathlib import Path

from trainer.testing.proxy import Answer, Proxy, Request


def error(code: str, words: str = "planned") -> bytes:
    """Return the body of an error, of S3 or Azure, with a secret where some servers have one."""
    return (
        f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{words}</Message>"
        "<StringToSign>hush</StringToSign></Error>"
    ).encode()


def listing(names: Mapping[str, int]) -> str:
    """Return S3's list of objects, by their names and sizes."""
    return "".join(
        (
            "<ListBucketResult><IsTruncated>false</IsTruncated>",
            *(
                f"<Contents><Key>{name}</Key><Size>{size}</Size><ETag>e</ETag>"
                "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
                for name, size in names.items()
            ),
            "</ListBucketResult>",
        )
    )


class Certified(Proxy):
    """Passes requests on; ``tls``: a file of a key and its certificate, which it shows."""

    def __init__(self, upstream: str, tls: Path | None) -> None:
        super().__init__(upstream)
        self._tls = tls

    def start(self) -> None:
        """Listen, with the certificate if there is one."""
        super().start()
        if self._tls and self._server:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )


class Says(Certified):
    """Answers every request in the same way; ``tls``: as above.

    Attributes:
        last: the request before, the names of its headers in small letters.
    """

    last: Request

    def __init__(
        self, status: int, code: str = "", words: str = "", *, tls: Path | None = None
    ) -> None:
        super().__init__("http://nowhere", tls)
        self.says(status, code, words)

    def says(self, status: int, code: str = "", words: str = "") -> None:
        """Give this answer from now on: an error of a store, or only words."""
        self._answer = Answer(
            status, [], error(code, words or "planned") if code else words.encode()
        )

    def forward(self, request: Request) -> Answer:
        """Answer."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.last = request._replace(headers=headers)
        return self._answer
