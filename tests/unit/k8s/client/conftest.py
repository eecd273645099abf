"""A test API server, and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.client.cluster import Cluster
from tests.support.apiserver import ApiServer


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        yield api


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Cluster:
    return Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), pause=0.001)
