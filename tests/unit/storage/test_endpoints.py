"""Addresses of stores; where the environment names a proxy, one here is reached without it."""

import os

import pytest

from tests.support.processes import free_ports
from tests.support.stores import Stores
from trainer.errors import UnavailableError
from trainer.storage import endpoints
from trainer.storage.base import open_storage


@pytest.fixture(autouse=True)
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> str:
    """A proxy with a password at which nothing listens."""
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    address = f"127.0.0.1:{free_ports(1)}"
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://user:secret@{address}")
    return address


def test_a_store_of_this_machine_is_reached_without_the_proxy(stores: Stores) -> None:
    server = stores("gs")
    with server.entered():
        storage = open_storage(server.folder(), deadline=5)
        assert storage.create("a", b"1")
        assert storage.read("a") == b"1"


@pytest.mark.process
def test_so_is_one_that_speaks_s3(stores: Stores) -> None:
    server = stores("s3")
    with server.entered():
        storage = open_storage(server.folder(), deadline=5)
        assert storage.create("a", b"1")
        assert storage.read("a") == b"1"


@pytest.mark.parametrize("uri", ["s3://bucket/run", "gs://bucket/run", "az://bucket/run"])
def test_a_store_elsewhere_names_the_proxy_and_not_its_password(
    uri: str, dead_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid:9000")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://store.invalid:9000")
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "c2VjcmV0")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://store.invalid:9000")
    with pytest.raises(UnavailableError) as caught:
        open_storage(uri, deadline=1).read("a")
    assert f" through the proxy {dead_proxy} gave no good answer within 1 s" in str(caught.value)
    assert "secret@" not in str(caught.value)
    assert "NO_PROXY" not in os.environ


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "localhost"), ("a.example, b", "a.example,b,localhost"), ("*", "*"), ("localhost",) * 2],
)
def test_what_the_user_excluded_stays_excluded(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", before)
    endpoints.reach_directly("http://localhost:9000")
    assert os.environ["NO_PROXY"] == after
    endpoints.reach_directly("https://s3.amazonaws.com")
    assert os.environ["NO_PROXY"] == after
    assert endpoints.way("http://localhost:9000") == ""


@pytest.mark.parametrize(
    "text",
    [
        "http://h",
        "https://h:1/",
        "http://[::1]:9000",
        "http://10.0.0.1/a/b",
        "https://a_b.c-d:65535",
    ],
)
def test_an_address(text: str) -> None:
    assert endpoints.is_url(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "h",
            "http://",
            "http:h",
            "ftp://h",
            "http://a b",
            "http://h\n",
            "http://ü",
            "http://..",
        ),
        *("http://h:0", "http://h:65536", "http://h:x", "http://h?a", "http://h#a", "http://u:p@h"),
        *("http://[::1", "http://[::::]", "http://[1]", "http://h/%2F"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert not endpoints.is_url(text)
