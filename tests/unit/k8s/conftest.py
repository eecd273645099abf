"""Stores, clusters and run files for the tests of verbs."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.commands import submit
from k8s.run import follow, log_streams
from tests.support.apiserver import ApiServer
from tests.support.controller import Controller
from tests.support.stores import Server, Stores
from tests.support.verbs import write
from trainer.data import sources
from trainer.storage import probe


@pytest.fixture(scope="module")
def store(stores: Stores) -> Iterator[Server]:
    server = stores("gs")
    with server.entered():
        sources.put("digits", "gs://bucket/mnist", train_count=600, test_count=100, seed=0)
        yield server


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ApiServer() as server:
        monkeypatch.setenv("KUBECONFIG", server.kubeconfig(tmp_path / "kubeconfig"))
        monkeypatch.setattr(follow, "LOOK", 0.02)
        monkeypatch.setattr(log_streams, "LOOK", 0.02)
        monkeypatch.setattr(follow, "CAUSE_LOOK", 0.02)
        monkeypatch.setattr(submit, "PAUSE", 0.02)
        # tests/unit/storage tries stores with as much as a client sends in parts.
        monkeypatch.setattr(probe, "_LARGE", 1000)
        yield server
    readers = [each for each in threading.enumerate() if each.name.startswith(log_streams.LOG_OF)]
    for reader in readers:  # one that stays would read what the next test puts in its way
        reader.join(30)
        assert not reader.is_alive(), reader.name


@pytest.fixture
def controller(api: ApiServer) -> Controller:
    return Controller(api)


@pytest.fixture
def run_file(tmp_path: Path, store: Server) -> Path:
    path = tmp_path / "run.yaml"
    folder = f"gs://bucket/runs/{tmp_path.name}"
    train = {"validation": 100}
    write(path, workers=2, storage_endpoint=store.url, run=folder, train=train)
    return path
