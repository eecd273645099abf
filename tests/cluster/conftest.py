"""A fresh namespace in a real cluster for each test, and a store that its pods reach.

Needs KUBECONFIG with the rights of an administrator, TRAINYARD_E2E_IMAGE with an image that the
nodes have or can pull, and an address of this machine that pods reach: TRAINYARD_E2E_HOST, by
default that of this machine's host name. TRAINYARD_E2E_CPU is what a worker asks for, by default
900m. TRAINYARD_E2E_RECORD names a folder that takes the objects of each diagnosis.
"""

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import mnist
from tests.support.clusters import IMAGE, Space, kubectl
from tests.support.stores import kept_gcs
from trainer.data import sources


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IMAGE and os.environ.get("KUBECONFIG"):
        return
    skip = pytest.mark.skip(reason="needs KUBECONFIG and TRAINYARD_E2E_IMAGE; see make e2e")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a store, as pods and this machine see it, with a bucket ``bucket``."""
    host = os.environ.get("TRAINYARD_E2E_HOST") or socket.gethostbyname(socket.gethostname())
    folder = tmp_path_factory.mktemp("store")
    with kept_gcs(folder, "0.0.0.0") as server, pytest.MonkeyPatch.context() as patch:
        url = f"http://{host}:{server.url.rpartition(':')[2]}"
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        source = mnist.find_mnist()
        sources.put(str(source) if source else "digits", "gs://bucket/mnist")
        yield url


@pytest.fixture
def space(store: str, tmp_path: Path) -> Iterator[Space]:
    """A namespace with the restricted level, removed afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    try:
        yield Space(name, tmp_path, store)
    finally:
        at_once = ("--wait=false", "--namespace", name)
        kubectl("delete", "jobs", "--all", *at_once)
        kubectl("delete", "pods", "--all", "--force", "--grace-period=0", *at_once)
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
