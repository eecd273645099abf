"""The loopback server of the tests itself: what Cloud Storage documents, asked over raw HTTP."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from trainer.testing.gcs_server import GCSServer

ROOT = Path(__file__).parents[3]
OBJECTS = "/storage/v1/b/bucket/o"
UPLOADS = "/upload/storage/v1/b/bucket/o"


@pytest.fixture
def server() -> Iterator[GCSServer]:
    with GCSServer("bucket") as server:
        yield server


class Client:
    def __init__(self, url: str) -> None:
        self.http = HTTPConnection(urlsplit(url).netloc, timeout=10)

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.http.request(method, path, body, named)
        response = self.http.getresponse()
        return response, response.read()

    def status(self, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        return self.ask(method, path, body, **headers)[0].status


@pytest.fixture
def client(server: GCSServer) -> Iterator[Client]:
    client = Client(server.url)
    yield client
    client.http.close()


def start(client: Client, query: str = "") -> str:
    path = f"{UPLOADS}?uploadType=resumable{query}"
    response, _ = client.ask("POST", path, json.dumps({"name": "a"}).encode())
    assert response.status == 200
    location = urlsplit(response.headers["Location"])
    return f"{location.path}?{location.query}"


def test_an_interrupted_resumable_upload_goes_on(server: GCSServer, client: Client) -> None:
    session = start(client)
    assert client.ask("PUT", session, Content_Range="bytes */10")[0].headers["Range"] is None
    response, _ = client.ask("PUT", session, b"01", Content_Range="bytes 0-1/10")
    assert (response.status, response.headers["Range"]) == (308, "bytes=0-1")

    broken = Client(server.url).http
    broken.putrequest("PUT", session)
    broken.putheader("Content-Range", "bytes 2-9/10")
    broken.putheader("Content-Length", "8")
    broken.endheaders(b"234")
    broken.close()

    kept = -1
    while kept < 4:  # until the server has noticed
        response, _ = client.ask("PUT", session, Content_Range="bytes */10")
        kept = int(response.headers["Range"].removeprefix("bytes=0-"))
    assert client.status("GET", f"{OBJECTS}/a") == 404
    assert client.status("PUT", session, b"3456789", Content_Range="bytes 3-9/10") == 200
    assert client.ask("GET", f"{OBJECTS}/a?alt=media")[1] == b"0123456789"
    response, body = client.ask("PUT", session, Content_Range="bytes */10")
    assert (response.status, json.loads(body)["size"]) == (200, "10")


def test_a_resumable_upload_checks_its_preconditions_when_it_ends(
    server: GCSServer, client: Client
) -> None:
    session = start(client, "&ifGenerationMatch=0")
    server.put("bucket", "a", b"foreign")
    assert client.status("PUT", session, b"01", Content_Range="bytes 0-1/2") == 412
    assert client.ask("GET", f"{OBJECTS}/a?alt=media")[1] == b"foreign"


def test_wrong_checksums_are_refused(client: Client) -> None:
    session = start(client)
    status = client.status(
        "PUT", session, b"01", Content_Range="bytes 0-1/2", X_Goog_Hash="crc32c=AAAAAA=="
    )
    assert status == 400
    body = b'--b\r\n\r\n{"name": "a", "md5Hash": "AAAA"}\r\n--b\r\n\r\n01\r\n--b--'
    path = f"{UPLOADS}?uploadType=multipart"
    assert client.status("POST", path, body, Content_Type="multipart/related; boundary=b") == 400
    assert client.status("GET", f"{OBJECTS}/a") == 404


@pytest.mark.parametrize(
    ("query", "get", "delete"),
    [
        ("ifGenerationMatch={0}", 200, 204),
        ("ifGenerationMatch=0", 412, 412),
        ("ifGenerationMatch=1", 412, 412),
        ("ifGenerationNotMatch={0}", 304, 412),
        ("ifGenerationNotMatch=0", 200, 204),
    ],
)
def test_preconditions(
    server: GCSServer, client: Client, query: str, get: int, delete: int
) -> None:
    stored = server.put("bucket", "a", b"1")
    path = f"{OBJECTS}/a?{query.format(stored.generation)}"
    assert client.status("GET", path) == get
    assert client.status("GET", f"{path}&alt=media") == get
    assert client.status("DELETE", path) == delete
    assert client.status("GET", f"{OBJECTS}/a") == (404 if delete == 204 else 200)


def test_generations_grow_and_only_the_live_one_is_kept(server: GCSServer, client: Client) -> None:
    first = server.put("bucket", "a", b"1")
    server.delete("bucket", "a", {})
    second = server.put("bucket", "a", b"2")
    assert second.generation > first.generation
    assert client.status("GET", f"{OBJECTS}/a?generation={first.generation}&alt=media") == 404
    assert client.status("GET", f"{OBJECTS}/a?generation={second.generation}") == 200


@pytest.mark.parametrize(
    ("asked", "status", "told", "body"),
    [
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("lines=1-2", 200, None, b"0123456789"),
    ],
)
def test_ranges(
    server: GCSServer, client: Client, asked: str, status: int, told: str | None, body: bytes
) -> None:
    server.put("bucket", "a", b"0123456789")
    response, got = client.ask("GET", f"{OBJECTS}/a?alt=media", Range=asked)
    assert (response.status, response.headers["Content-Range"], got) == (status, told, body)
    assert client.status("GET", f"{OBJECTS}/a?alt=media", Range="bytes=10-") == 416


def test_pages_hold_what_was_asked_for_at_most(server: GCSServer, client: Client) -> None:
    for name in "abcde":
        server.put("bucket", name, b"")
    server.page_size = 2
    page = json.loads(client.ask("GET", f"{OBJECTS}?maxResults=3")[1])
    assert [item["name"] for item in page["items"]] == ["a", "b"]
    path = f"{OBJECTS}?maxResults=1&pageToken={page['nextPageToken']}&fields=items(name)"
    assert json.loads(client.ask("GET", path)[1]) == {"items": [{"name": "c"}]}
    assert client.status("GET", "/storage/v1/b/bucket") == 200
    assert client.status("GET", "/storage/v1/b/elsewhere") == 404


@pytest.mark.process
def test_as_a_process_it_keeps_its_objects_in_a_folder(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "trainer.testing.gcs_server",
        "--bucket",
        "b1",
        "--dir",
        str(tmp_path),
    ]
    body = b'--b\r\n\r\n{"name": "a/\xc3\xa4"}\r\n--b\r\n\r\n01\r\n--b--'
    steps = [
        ("POST", "/upload/storage/v1/b/b1/o?uploadType=multipart", body, b""),
        ("GET", "/storage/v1/b/b1/o/a%2F%C3%A4?alt=media", b"", b"01"),
    ]
    for method, path, sent, expected in steps:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                client = Client(process.stdout.readline().strip())
                kind = "multipart/related; boundary=b"
                response, got = client.ask(method, path, sent, Content_Type=kind)
                client.http.close()
            finally:
                os.kill(process.pid, signal.SIGKILL)
        assert response.status == 200
        assert expected in got


@pytest.mark.process
def test_it_listens_where_it_is_told_and_sends_a_client_back_to_the_name_it_used() -> None:
    command = [sys.executable, "-m", "trainer.testing.gcs_server", "--host", "0.0.0.0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = urlsplit(process.stdout.readline().strip())
            assert url.hostname == "0.0.0.0"
            client = Client(f"http://127.0.0.2:{url.port}")  # not where the default listens
            path = f"{UPLOADS}?uploadType=resumable"
            response, _ = client.ask("POST", path, b'{"name": "a"}', Host=f"store:{url.port}")
            client.http.close()
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert urlsplit(response.headers["Location"]).netloc == f"store:{url.port}"
