"""Tokens, plugins that bring them, certificates, and a pod's own account."""

import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.client import kubeconfig
from k8s.client.cluster import Cluster
from tests.support import certificates
from tests.support.apiserver import ApiServer
from tests.support.clients import job, raised
from trainer.errors import ConfigError

# Tokens


PLUGIN = """#!{python}
import json, pathlib
count = pathlib.Path({count!r})
count.write_text(count.read_text() + "x" if count.exists() else "x")
token = ["", "old", "new"][len(count.read_text())]
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                  "status": {{"token": token, "expirationTimestamp": "2020-01-01T00:00:00Z"}}}}))
"""


def plugin(tmp_path: Path, script: str = PLUGIN) -> dict[str, Any]:
    """A kubeconfig's user whose credential plugin is a script; its calls are counted in a file."""
    path = tmp_path / "plugin"
    path.write_text(script.format(python=sys.executable, count=str(tmp_path / "count")))
    path.chmod(0o755)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(path),
            "interactiveMode": "Never",
        }
    }


@pytest.mark.process
def test_an_expired_token_is_renewed_once(api: ApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path / "config", user=plugin(tmp_path))
    cluster = Cluster(kubeconfig=path, pause=0.001)
    api.token = "old"
    cluster.create(job())
    cluster.list("Pod")
    assert len((tmp_path / "count").read_text()) == 1
    api.token = "new"
    api.push("p", "line")
    assert [line for _, line in cluster.log("p")] == ["line"]
    assert cluster.get("Job", "m") is not None
    assert [request.token for request in api.requests] == ["old"] * 3 + ["new"] * 2
    assert len((tmp_path / "count").read_text()) == 2


def test_a_token_written_into_the_kubeconfig_is_found(api: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"))
    api.token = "another"
    api.kubeconfig(tmp_path / "config", user={"token": "another"})
    assert cluster.version()


def test_expired_credentials_ask_for_a_login(api: ApiServer, cluster: Cluster) -> None:
    api.token = "another"
    error = raised(ConfigError, lambda: cluster.list("Pod"))
    assert "context test" in str(error)
    assert "log in again" in str(error)
    assert len(api.requests) == 2


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho the session is over >&2; exit 3\n", "the session is over"),
        ("#!/bin/sh\necho no json\n", "failed to decode"),
        ("#!/nowhere\n", "No such file"),
    ],
)
def test_a_failing_credential_plugin_is_quoted(
    api: ApiServer, tmp_path: Path, capfd: pytest.CaptureFixture[str], script: str, said: str
) -> None:
    path = api.kubeconfig(tmp_path / "config", user=plugin(tmp_path, script))
    error = raised(ConfigError, lambda: Cluster(kubeconfig=path))
    assert said in str(error)
    assert "context test" in str(error)
    assert capfd.readouterr() == ("", "")


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a self-signed certificate of 127.0.0.1."""
    return certificates.self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(certificate: Path) -> Iterator[ApiServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ApiServer(tls=context) as api:
        yield api


def test_a_server_of_an_unknown_authority_is_refused(secure: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=secure.kubeconfig(tmp_path / "config"))
    error = raised(ConfigError, cluster.version)
    assert "TLS: certificate verify failed: self-signed certificate; check" in str(error)
    assert not secure.requests


def test_https_to_a_plain_server_is_refused(api: ApiServer, tmp_path: Path) -> None:
    server = {"server": api.url.replace("http:", "https:")}
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config", cluster=server))
    assert ": TLS: " in str(raised(ConfigError, cluster.version))


def test_a_pod_uses_its_service_account(
    secure: ApiServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("old")
    (tmp_path / "namespace").write_text("mine\n")
    (tmp_path / "ca.crt").write_bytes(certificate.read_bytes())
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", secure.url.rpartition(":")[2])
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", tmp_path)
    package = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{package}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{package}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    cluster = Cluster()
    assert (cluster.context, cluster.namespace) == ("in-cluster", "mine")
    assert cluster.server == secure.url
    (tmp_path / "token").write_text("new")
    secure.token = "new"
    assert cluster.version()
