"""AzureStorage: what a wrong set-up says, and where its settings come from."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.answers import Says
from trainer.errors import ConfigError, CredentialsError, UnavailableError, UserError
from trainer.storage.base import ObjectNotFoundError, Storage, open_storage

CALLS: list[Callable[[Storage], object]] = [
    lambda store: store.create("a", b"1"),
    lambda store: store.replace("a", b"1"),
    lambda store: store.read("a"),
    lambda store: store.list(),
    lambda store: store.delete("a"),
]
KEY = base64.b64encode(b"hush").decode()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account and its key, and nothing of this machine's."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "")  # an installed Azure CLI would be asked
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account")
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)


def message(error: type[UserError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for secret in ("\n", "hush", KEY):
        assert secret not in str(caught.value)
    return str(caught.value)


def at(server: Says, monkeypatch: pytest.MonkeyPatch, deadline: float = 20) -> Storage:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{server.url}/account")
    return open_storage("az://bucket/run", deadline=deadline)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "code", "error", "remedy"),
    [
        (403, "AuthenticationFailed", ConfigError, "check AZURE_STORAGE_KEY"),
        (401, "InvalidAuthenticationInfo", CredentialsError, "get new ones (az login)"),
        (403, "AuthorizationFailure", ConfigError, "the dates of AZURE_STORAGE_SAS_TOKEN, and"),
        (403, "AuthorizationPermissionMismatch", ConfigError, "Storage Blob Data Contributor"),
        (404, "ContainerNotFound", ConfigError, "no container 'bucket' at http://127.0.0.1"),
        (409, "BlobImmutableDueToPolicy", ConfigError, "choose a container without one"),
    ],
)
def test_a_refusal_is_not_repeated_and_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    error: type[UserError],
    remedy: str,
    call: Callable[[Storage], object],
) -> None:
    with Says(status, code) as server:
        assert remedy in message(error, lambda: call(at(server, monkeypatch)))
    # A name that is taken is read back, to compare.
    assert len(server.requests) <= 2


def test_a_signature_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2024&sig=hush")
    with Says(403, "AuthenticationFailed") as server:
        for call in CALLS:
            store = at(server, monkeypatch)
            said = message(ConfigError, lambda: call(store))  # noqa: B023
            assert "the dates of AZURE_STORAGE_SAS_TOKEN" in said
        assert "sig=hush" in server.last.target
        server.stop()
        store = at(server, monkeypatch, deadline=0.3)
        assert "Connection refused" in message(UnavailableError, lambda: store.read("a"))
    address = "https://account.blob.core.windows.net/bucket/run?sv=2024&sig=hush"
    said = message(ConfigError, lambda: open_storage(address))
    assert "give it in AZURE_STORAGE_SAS_TOKEN" in said


def test_workload_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    (tmp_path / "token").write_text("hush")
    monkeypatch.setenv("AZURE_CLIENT_ID", "client")
    monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    given = '{"access_token": "bearer", "expires_in": 3600, "token_type": "Bearer"}'
    with Says(200, words=given) as authority, Says(404, "BlobNotFound") as server:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.url)
        with pytest.raises(ObjectNotFoundError):
            at(server, monkeypatch).read("a")
        assert b"client_assertion=hush" in authority.last.body
        assert server.last.headers["authorization"] == "Bearer bearer"
        authority.says(401, words='{"error": "invalid_client"}')
        said = message(CredentialsError, lambda: at(server, monkeypatch).read("a"))
    assert "bind a pod's service account by workload identity" in said


def test_no_credentials_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    with Says(400, words="no identity here") as metadata, Says(200) as server:
        monkeypatch.setenv("AZURE_MSI_ENDPOINT", f"{metadata.url}/metadata/identity/oauth2/token")
        said = message(CredentialsError, lambda: at(server, monkeypatch).read("a"))
        assert "run 'az login' on a laptop" in said
        assert len(metadata.requests) == 1
        metadata.stop()
        message(CredentialsError, lambda: at(server, monkeypatch).read("a"))
    assert server.requests == []


@pytest.mark.process
def test_the_login_of_the_cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "az"
    program.write_text("#!/bin/sh\necho 'Please run az login' >&2\nexit 1\n")
    program.chmod(0o755)
    with Says(404, "BlobNotFound") as server:
        said = message(CredentialsError, lambda: at(server, monkeypatch).read("a"))
        assert "run 'az login' on a laptop" in said
        token = '{"accessToken": "bearer", "expiresOn": "2999-01-01 00:00:00.000000", '
        token += '"expires_on": 32472144000, "subscription": "a", "tenant": "b", '
        program.write_text(f'#!/bin/sh\necho \'{token}"tokenType": "Bearer"}}\'\n')
        with pytest.raises(ObjectNotFoundError):
            at(server, monkeypatch).read("a")
    assert server.last.headers["authorization"] == "Bearer bearer"


@pytest.mark.parametrize(
    ("uri", "endpoint"),
    [
        ("az://box/run", "https://account.blob.core.windows.net"),
        ("abfs://box@other.dfs.core.windows.net/run", "https://other.blob.core.windows.net"),
        ("abfss://box@other.dfs.core.chinacloudapi.cn", "https://other.blob.core.chinacloudapi.cn"),
        ("az://box@other.blob.core.windows.net/run/", "https://other.blob.core.windows.net"),
        ("https://other.blob.core.windows.net/box/a/b", "https://other.blob.core.windows.net"),
        ("https://other.dfs.core.windows.net/box/", "https://other.blob.core.windows.net"),
    ],
)
def test_uris_of_azures_tools(uri: str, endpoint: str) -> None:
    store = open_storage(uri)
    assert store.endpoint == endpoint  # type: ignore[attr-defined]
    assert store.uri == uri.rstrip("/")


def test_a_connection_string(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"):
        monkeypatch.delenv(name)
    with Says(404, "BlobNotFound") as server:
        text = f"AccountName=acc;AccountKey={KEY};BlobEndpoint={server.url}/acc;"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        with pytest.raises(ObjectNotFoundError):
            open_storage("az://box/run").read("a")
        assert server.last.target == "/acc/box/run/a"
        assert server.last.headers["authorization"].startswith("SharedKey acc:")
    text = f"DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={KEY};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text + "EndpointSuffix=core.example")
    assert open_storage("az://box").endpoint == "https://acc.blob.core.example"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "uri",
    [
        *("az://", "az:///a", "az://Box", "az://b", "az://a--b", "az://box//a", "az://box/.."),
        *("abfss://box@other.example/a", "https://other.blob.core.windows.net"),
        "https://other.blob.core.windows.net.example.com/box",
    ],
)
def test_bad_containers_and_prefixes_are_refused(uri: str) -> None:
    assert uri in message(ConfigError, lambda: open_storage(uri))


def test_settings_that_are_no_good(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("AZURE_STORAGE_ACCOUNT")
        assert "set AZURE_STORAGE_ACCOUNT" in message(ConfigError, lambda: open_storage("az://box"))
    with monkeypatch.context() as patch:
        patch.setenv("AZURE_STORAGE_KEY", "hush!")
        assert "Invalid Access Key" in message(ConfigError, lambda: open_storage("az://box"))
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_TOKEN"):
        with monkeypatch.context() as patch:
            patch.setenv(name, f"{KEY}\n")
            said = message(ConfigError, lambda: open_storage("az://box"))
            assert said.startswith(f"{name}: holds a space, a line break or")
    for text in ("hush", "AccountKey=hush"):
        with monkeypatch.context() as patch:
            patch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
            said = message(ConfigError, lambda: open_storage("az://box"))
            assert "AZURE_STORAGE_CONNECTION_STRING: has neither AccountName=" in said
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://store.svc:10000/account")
    assert "set AZURE_ALLOW_HTTP=true" in message(ConfigError, lambda: open_storage("az://box"))
