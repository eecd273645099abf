"""A server that fails for a moment or for good, and answers that are lost."""

import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from k8s.client import cluster as client
from k8s.client.cluster import Cluster
from k8s.client.refusals import ConflictError, ForbiddenError
from tests.support.apiserver import ApiServer, Fault
from tests.support.clients import job, raised
from trainer.errors import ConfigError, UnavailableError

# A server of something else


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<html>Not Found</html>"),
        (404, b"404 page not found"),
        (404, b'{"detail": "Not Found"}'),
        (501, b"Unsupported method"),
        (200, b"<html>\nWelcome</html>"),
        (200, b"{}"),
        (200, b""),
    ],
)
def test_a_server_that_is_no_api_server_is_named_as_one(
    status: int, body: bytes, tmp_path: Path
) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_GET  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        path = tmp_path / "config"
        with ApiServer() as api:
            text = Path(api.kubeconfig(path)).read_text(encoding="utf-8").replace(api.url, url)
        path.write_text(text, encoding="utf-8")
        cluster = Cluster(kubeconfig=str(path))
        calls: list[Callable[[], object]] = [
            cluster.version,
            lambda: cluster.get("Job", "m"),
            lambda: cluster.list("Job"),
            lambda: cluster.can("get", "jobs"),
            lambda: cluster.create(job()),
            lambda: cluster.patch("Job", "m", {}),
        ]
        for call in calls:
            assert str(raised(ConfigError, call)) == (
                f"{url} (context test): no Kubernetes API there: it answers {status} without an "
                "object of the API; check server in the kubeconfig"
            )
        server.shutdown()


# Failures that a retry may fix


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_waited_out(api: ApiServer, cluster: Cluster, status: int) -> None:
    api.faults = [Fault("status", status=status, times=3)]
    cluster.create(job())
    assert len(api.requests) == 4


@pytest.mark.long
@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=429, retry_after=1),
        Fault("status", status=500, reason="ServerTimeout", details={"retryAfterSeconds": 1}),
    ],
)
def test_the_server_says_when_to_come_back(api: ApiServer, cluster: Cluster, fault: Fault) -> None:
    api.faults = [fault]
    start = time.monotonic()
    cluster.version()
    assert time.monotonic() - start >= 1


def test_who_is_sent_away_for_long_gives_up_at_once(api: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), deadline=100)
    api.faults = [Fault("status", status=429, retry_after=101, message="too many requests")]
    error = raised(UnavailableError, cluster.version)
    assert f"{api.url} (context test): 429: too many requests" in str(error)
    assert len(api.requests) == 1


@pytest.mark.long
def test_a_lasting_failure_ends_at_the_deadline(api: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), deadline=1, pause=0.02)
    api.faults = [Fault("status", times=1000, status=500, message="etcdserver: request timed out")]
    assert "etcdserver: request timed out" in str(raised(UnavailableError, cluster.version))
    assert 2 < len(api.requests) < 20


@pytest.mark.parametrize("verb", ["get", "list", "create", "patch", "delete"])
def test_a_connection_cut_before_the_request_took_effect(
    api: ApiServer, cluster: Cluster, verb: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: cluster.get("Job", "m"),
        "list": lambda: cluster.list("Job"),
        "create": lambda: cluster.create(job("new")),
        "patch": lambda: cluster.patch("Job", "m", {"spec": {"a": 2}}),
        "delete": lambda: cluster.delete("Job", "m"),
    }
    api.add(job())
    api.faults = [Fault("cut-before", verb, times=2)]
    assert calls[verb]()
    assert len(api.requests) == 3


def test_a_create_whose_answer_is_lost_is_a_conflict(api: ApiServer, cluster: Cluster) -> None:
    api.faults = [Fault("cut-after", "create")]
    raised(ConflictError, lambda: cluster.create(job()))
    assert cluster.get("Job", "m") is not None


def test_a_patch_whose_answer_is_lost_is_repeated(api: ApiServer, cluster: Cluster) -> None:
    api.add(job())
    api.faults = [Fault("cut-after", "patch")]
    assert cluster.patch("Job", "m", {"spec": {"a": 2}})["spec"] == {"a": 2}


def test_a_deletion_whose_answer_is_lost_is_done(api: ApiServer, cluster: Cluster) -> None:
    api.add(job())
    api.faults = [Fault("cut-after", "delete")]
    cluster.delete("Job", "m")
    assert cluster.get("Job", "m") is None


def test_a_server_that_does_not_answer_is_given_up(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ", 0.05)
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), deadline=0.3, pause=0.01)
    api.faults = [Fault("slow", times=1000, seconds=0.5)]
    assert "did not answer in time" in str(raised(UnavailableError, cluster.version))
    assert len(api.requests) > 1


def test_a_server_that_refuses_connections_is_named(tmp_path: Path) -> None:
    with ApiServer() as api:
        cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), deadline=0.05)
    error = raised(UnavailableError, cluster.version)
    assert str(error) == (
        f"{api.url} (context test): Connection refused; is it the right context, and the network "
        "up?"
    )


def test_a_name_that_does_not_resolve_is_named(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    path = api.kubeconfig(tmp_path / "config", cluster={"server": "https://nowhere.invalid"})
    cluster = Cluster(kubeconfig=path, deadline=0.01)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert str(raised(UnavailableError, cluster.version)).startswith(
        "https://nowhere.invalid (context test): its name cannot be resolved; "
    )


def test_an_answer_of_another_program_is_quoted(api: ApiServer, cluster: Cluster) -> None:
    api.faults = [Fault("status", status=403, reason="Blocked", message="by the proxy")]
    assert "is a proxy in the way" in str(raised(ForbiddenError, cluster.version))
