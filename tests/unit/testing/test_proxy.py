"""What the proxy makes of the three protocols; the tests of stores use its faults."""

import socket
import threading

import pytest

from trainer.testing.proxy import Proxy, Request, verb_of


@pytest.mark.parametrize(
    ("method", "target", "verb"),
    [
        ("GET", "/storage/v1/b/bucket/o?prefix=a", "list"),
        ("GET", "/storage/v1/b/bucket/o/a%2Fo?alt=media", "read"),
        ("GET", "/download/storage/v1/b/bucket/o/a?alt=media", "read"),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=multipart", "write"),
        ("POST", "/upload/storage/v1/b/bucket/o?uploadType=resumable", "start"),
        ("PUT", "/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id=1", "chunk"),
        ("DELETE", "/storage/v1/b/bucket/o/a", "delete"),
        ("GET", "/bucket?list-type=2&prefix=a", "list"),
        ("GET", "/bucket/a", "read"),
        ("HEAD", "/bucket/a", "read"),
        ("PUT", "/bucket/a", "write"),
        ("DELETE", "/bucket/a", "delete"),
        ("GET", "/account/bucket?restype=container&comp=list", "list"),
        ("GET", "/account/bucket/a", "read"),
        ("PUT", "/account/bucket/a", "write"),
        ("POST", "/account/bucket?restype=container&comp=batch", "delete"),
    ],
)
def test_the_verb_of_a_request(method: str, target: str, verb: str) -> None:
    assert verb_of(method, target) == verb


def test_an_answer_is_passed_on_that_comes_before_the_store_has_read_the_body() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:  # closed with bytes unread, which resets it
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        proxy = Proxy(f"http://127.0.0.1:{server.getsockname()[1]}")
        body = bytes(1 << 25)
        headers = {"host": "store", "content-length": str(len(body)), "if-none-match": "*"}
        assert proxy.forward(Request("PUT", "/bucket/a", headers, body)).status == 412
