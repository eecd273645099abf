"""A fresh namespace in a real cluster for each test, and a store that its pods reach.

Needs KUBECONFIG with the rights of an administrator, TRAINYARD_E2E_IMAGE with an image that the
nodes have or can pull, and an address of this machine that pods reach: TRAINYARD_E2E_HOST, by
default that of this machine's host name. TRAINYARD_E2E_RECORD names a folder that takes the
objects of each diagnosis.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import mnist
from trainer.data import sources
from trainer.storage.base import Storage, open_storage
from trainer.testing.gcs_server import GCSServer

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("TRAINYARD_E2E_IMAGE", "")
LIMIT = 300.0  # seconds for any command
STEPS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IMAGE and os.environ.get("KUBECONFIG"):
        return
    skip = pytest.mark.skip(reason="needs KUBECONFIG and TRAINYARD_E2E_IMAGE; see make e2e")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """URL of a store, as pods and this machine see it, with a bucket ``bucket``."""
    host = os.environ.get("TRAINYARD_E2E_HOST") or socket.gethostbyname(socket.gethostname())
    with GCSServer("bucket", host="0.0.0.0") as server, pytest.MonkeyPatch.context() as patch:
        url = f"http://{host}:{server.url.rpartition(':')[2]}"
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        source = mnist.find_mnist()
        sources.put(str(source) if source else "digits", "gs://bucket/mnist")
        yield url


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass
class Space:
    """A namespace, and the commands in it."""

    name: str
    folder: Path
    store: str
    kubeconfig: str = field(default_factory=lambda: os.environ.get("KUBECONFIG", ""))

    def run_file(self, **changes: Any) -> str:
        """Write a run file with some fields changed and return its path."""
        name = changes.get("name", f"run-{uuid.uuid4().hex[:6]}")
        values = {
            "name": name,
            "namespace": self.name,
            "image": IMAGE,
            "image_pull_policy": "IfNotPresent",
            "data": "gs://bucket/mnist",
            "run": f"gs://bucket/{self.name}/{name}",
            "workers": 2,
            "resources": {"cpu": "900m", "memory": "2Gi"},
            "storage_endpoint": self.store,
            "train": {"preset": "cnn", "steps": STEPS, "chunk_steps": 20},
        } | changes
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    def stored(self, path: str) -> Storage:
        return open_storage(yaml.safe_load(Path(path).read_text())["run"])

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "k8s", *arguments],
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": self.kubeconfig},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def k8s(self, *arguments: str) -> Done:
        """Run ``python -m k8s`` to its end."""
        began = time.monotonic()
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
        return Done(process.returncode, out, err, time.monotonic() - began)

    def status(self, path: str) -> dict[str, Any]:
        done = self.k8s("status", path, "-o", "json")
        assert done.code == 0, done.err
        return dict(json.loads(done.out))

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        return kubectl("--namespace", self.name, *arguments, check=check, stdin=stdin)

    def objects(self, kind: str) -> list[dict[str, Any]]:
        return list(json.loads(self.kubectl("get", kind, "-o", "json"))["items"])

    def until(self, what: Callable[[], Any], seconds: float = 120.0) -> Any:
        """Wait for something to be true and return it."""
        end = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < end, f"not within {seconds:g} s"
            time.sleep(0.2)
        return found

    def step(self, path: str) -> int:
        """The last step that rank 0 tells of; 0 before the first."""
        name = yaml.safe_load(Path(path).read_text())["name"]
        pods = [p for p in self.objects("pods") if p["metadata"]["name"].startswith(f"{name}-0-")]
        if not pods:
            return 0
        pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        log = self.kubectl("logs", pods[-1]["metadata"]["name"], check=False)
        told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return max((line["step"] for line in told if "loss" in line), default=0)


def kubectl(*arguments: str, check: bool = True, stdin: str | None = None) -> str:
    path = shutil.which("kubectl")
    assert path, "kubectl is not installed"
    done = subprocess.run(
        [path, *arguments], check=False, capture_output=True, text=True, input=stdin, timeout=LIMIT
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


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
