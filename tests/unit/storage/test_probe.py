"""A store that does not keep its promise is refused, and nothing is left in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stores import KINDS, START, Forgetful, Stores, fake_gcs, proxied
from trainer.errors import ConfigError, UserError
from trainer.storage import probe
from trainer.storage.base import Entry, open_storage
from trainer.testing.proxy import Fault

# google-api-core says so where it finds gRPC, which TensorFlow brings, and not its companion.
pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning"),
]


def message(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert type(caught.value) is ConfigError
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_keeps_the_promise(tmp_path: Path) -> None:
    store = open_storage(str(tmp_path))
    probe.check(store)
    probe.check_at_start(store)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_keeps_the_promise(stores: Stores, kind: str) -> None:
    with stores(kind).entered():
        store = open_storage(stores(kind).folder())
        probe.check_at_start(store)
        probe.check(store)
    assert store.list() == []


@pytest.mark.parametrize("kind", START)
def test_a_store_that_ignores_conditions(stores: Stores, kind: str) -> None:
    with proxied(stores(kind), Forgetful) as through:
        store = open_storage(through.uri)
        said = message(lambda: probe.check_at_start(store))
    assert f"{through.uri} at {through.proxy.url}" in said
    assert "takes a second write for a name that must be written only once" in said
    assert "choose a store with conditional writes" in said
    assert through.around.list() == []


def test_a_store_that_ignores_conditions_of_large_objects(tmp_path: Path) -> None:
    with fake_gcs(tmp_path) as server, server.entered():
        store = open_storage(server.folder())
        probe.check(store, large=False)
        said = message(lambda: probe.check_at_start(store))
        assert "takes a second write of more than 8 MiB for a name" in said
        assert store.list() == []


def test_a_store_whose_lists_are_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_storage(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "list", lambda *_: [Entry("logs/older", 1)])
        assert "does not list what was just written" in message(lambda: probe.check(store))
    assert store.list() == []


def test_a_store_that_gives_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_storage(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "read", lambda *_: b"<html>")
        assert "gives other bytes than were written" in message(lambda: probe.check(store))
    assert store.list() == []


@pytest.mark.parametrize("kind", START)
@pytest.mark.parametrize("verb", ["write", "read", "list", "delete"])
def test_what_may_not_be_done_is_told(stores: Stores, kind: str, verb: str) -> None:
    with proxied(stores(kind)) as through:
        through.proxy.faults = [Fault("error", verb, status=403, times=100)]  # type: ignore[arg-type]
        store = open_storage(through.uri)
        said = message(lambda: probe.check(store, large=False))
    assert f"cannot {verb} {through.uri}/probe-" in said
    assert "permission denied" in said
    assert through.around.list() == [] or verb == "delete"


def test_services_that_are_known_are_not_asked(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxied(stores("s3")) as through:
        store = open_storage(through.uri)
        for endpoint in (
            "https://s3.eu-west-1.amazonaws.com",
            "https://storage.googleapis.com",
            "https://account.blob.core.windows.net",
        ):
            monkeypatch.setattr(store, "endpoint", endpoint)
            probe.check_at_start(store)
        assert through.proxy.requests == []
        for endpoint in ("https://amazonaws.com.example", "http://s3.amazonaws.com"):
            monkeypatch.setattr(store, "endpoint", endpoint)
            probe.check_at_start(store)
            assert through.proxy.requests
            through.proxy.requests.clear()
