"""Runs in S3, with the store of infra/local in the cluster and this machine outside it."""

import json
import os
import re
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import mnist
from tests.support.clusters import (
    LIMIT,
    OWN,
    ROOT,
    Done,
    Space,
    figure,
    trained_here,
    weights,
    write_own_code,
)
from trainer.data import sources
from trainer.runs import user_code

LONG = {"preset": "cnn", "steps": 3000, "chunk_steps": 20}


@dataclass
class Store:
    """SeaweedFS in a namespace.

    Attributes:
        space: the namespace.
        url: where this machine reaches it.
    """

    space: Space
    url: str

    def run_file(self, **changes: Any) -> str:
        name = f"run-{uuid.uuid4().hex[:6]}"
        in_s3 = {
            "name": name,
            "data": "s3://bucket/mnist",
            "run": f"s3://bucket/runs/{name}",
            "storage_endpoint": "http://store:8333",
            "environment": {"AWS_ALLOW_HTTP": True},
            "environment_secrets": ["store-keys"],
        }
        return self.space.run_file(**(in_s3 | changes))

    def secret(self, name: str, key: str, secret: str) -> None:
        values = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        item = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
        self.space.kubectl("apply", "-f", "-", stdin=json.dumps(item | {"stringData": values}))

    def apply(self, path: str) -> None:
        """Create a run's objects as ``render`` prints them, past all checks."""
        self.space.kubectl("apply", "-f", "-", stdin=self.space.k8s("render", path).out)


@pytest.fixture
def s3(space: Space, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of infra/local, with data in it, and its keys on this machine."""
    items = list(yaml.safe_load_all((ROOT / "infra/local/store.yaml").read_text()))
    for item in items:
        item["metadata"]["namespace"] = space.name
        if item["kind"] == "Service":  # as runs' own: not every small cluster has a kube-proxy
            item["spec"]["clusterIP"] = "None"
    (deployment,) = (item for item in items if item["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    pod["serviceAccountName"] = "default"
    for volume in pod["volumes"]:  # a claim needs a provisioner, which not every cluster has
        volume.pop("persistentVolumeClaim", None)
        volume["emptyDir"] = {}
    key, secret = "trainyard", secrets.token_hex(20)
    store = Store(space, "")
    store.secret("store-keys", key, secret)
    objects = [item for item in items if item["kind"] != "PersistentVolumeClaim"]
    space.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
    space.kubectl("rollout", "status", "deployment/store", "--timeout=120s")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    forward = ["kubectl", "--namespace", space.name, "port-forward", "service/store", ":8333"]
    with subprocess.Popen(forward, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found
            store.url = f"http://127.0.0.1:{found[1]}"
            monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
            sources.put(str(mnist.find_mnist() or "digits"), "s3://bucket/mnist")
            yield store
        finally:
            process.kill()


def report(folder: str) -> str:
    """Return what ``trainer report --text`` says of a run's folder, from this machine."""
    command = [sys.executable, "-m", "trainer", "report", "--run", folder, "--text"]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=LIMIT
    ).stdout


def test_two_workers_in_s3_answer_during_and_after(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, path = s3.space, s3.run_file(train=LONG)
    uri = yaml.safe_load(Path(path).read_text())["run"]
    checked = space.k8s("doctor", path)
    assert checked.code == 0, checked.out
    assert f"{uri}: can be written" in checked.out
    assert space.k8s("submit", path).code == 0
    space.until(lambda: space.step(path) >= 200)
    assert space.status(path)["step"] >= 200
    assert "0 | step" in space.k8s("logs", path).out
    during = space.k8s("result", path)
    assert (during.code, during.err.count("\n")) == (2, 1)
    assert f"{uri}: the run has not ended" in during.err
    assert "3000" in report(uri)
    done = space.k8s("logs", path, "-f")
    assert done.code == 0, done.out + done.err

    assert space.status(path)["phase"] == "Succeeded"
    result = json.loads(space.k8s("result", path, "-o", "json").out)
    figure("two workers in S3", f"{result['test_accuracy']:.2%}, {result['steps']} steps")
    # The address that only this command knows, by the run's name.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    name = yaml.safe_load(Path(path).read_text())["name"]
    flags = ["--namespace", space.name, "--storage-endpoint", s3.url]
    named = space.k8s("result", name, *flags, "-o", "json")
    assert (named.code, json.loads(named.out or "{}")) == (0, result), named.err
    space.k8s("delete", path)
    space.until(lambda: not space.objects("jobs"))
    gone = space.k8s("logs", path, "--storage-endpoint", s3.url)
    assert "0 | test accuracy" in gone.out, gone.err
    assert json.loads(space.k8s("result", path, *flags[2:], "-o", "json").out) == result
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    assert f"{result['test_accuracy']:.2%}" in report(uri)
    assert result["weights_sha256"] == trained_here(LONG)
    figure("logs, result and report of a run in S3", "answered during and after it")


def test_own_code_larger_than_a_configmap_comes_through_the_bucket(
    s3: Store, tmp_path: Path
) -> None:
    write_own_code(tmp_path / "mine", 2_000_000)
    path = s3.run_file(train=OWN, code=str(tmp_path / "mine"))
    done = s3.space.k8s("submit", path, "--wait")
    assert done.code == 0, done.out + done.err
    stored = s3.space.stored(path)
    [name] = [entry.name for entry in stored.list(f"{user_code.FOLDER}/")]
    assert stored.read(name) == user_code.pack(tmp_path / "mine").data
    assert weights(stored.uri) == trained_here({**OWN, "code": "mine"}, tmp_path)
    figure("own code with a file of 2,000,000 bytes, in S3", "the weights of this machine")


def ended(space: Space, path: str) -> Done:
    """Follow a run to its end; its cause stands in the last line and in ``status``."""
    done = space.k8s("logs", path, "-f")
    status = space.status(path)
    assert status["cause"], done.out
    assert status["cause"] in done.out.splitlines()[-1]
    assert "\n" not in status["cause"]
    return done


CASES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "wrong secret": (
        {"environment_secrets": ["wrong-keys"]},
        "Config",
        ["http://store:8333", "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"],
    ),
    "missing bucket": (
        {"data": "s3://nowhere/mnist"},
        "Config",
        ["no bucket 'nowhere' at http://store:8333; create it or check its name"],
    ),
    "http not asked for": (
        {"storage_endpoint": None, "environment_secrets": ["store-keys", "endpoint"]},
        "Config",
        ["AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP=true"],
    ),
    "no credentials": (
        {"environment_secrets": []},
        "Store",
        ["give a pod's service account a role (IRSA or EKS Pod Identity)"],
    ),
    "endpoint down": ({}, "Store", ["http://store:8333 gave no good answer", "try again later"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_store_that_pods_cannot_use_is_named(name: str, s3: Store) -> None:
    changes, kind, words = CASES[name]
    s3.secret("wrong-keys", os.environ["AWS_ACCESS_KEY_ID"], "another")
    endpoint = {"AWS_ENDPOINT_URL": "http://store:8333"}
    item = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "endpoint"}}
    s3.space.kubectl("apply", "-f", "-", stdin=json.dumps(item | {"stringData": endpoint}))
    if name == "http not asked for":
        changes = changes | {"environment": {}}
    if name == "endpoint down":
        s3.space.kubectl("scale", "deployment/store", "--replicas=0")
        s3.space.until(lambda: not s3.space.objects("pods"))
    path = s3.run_file(retries=0, **changes)
    s3.apply(path)
    done = ended(s3.space, path)
    status = s3.space.status(path)
    assert status["cause_kind"] == kind, status
    assert all(word in status["cause"] for word in words), status["cause"]
    assert done.code == 1, done.out
    figure(f"S3 with {name}", status["cause"])


def test_a_secret_that_is_not_there_is_named(s3: Store) -> None:
    path = s3.run_file(environment_secrets=["nowhere"], start_deadline=30)
    done = s3.space.k8s("submit", path, "--wait")
    assert done.code == 125, done.out
    assert "Secret nowhere is not there" in done.out.splitlines()[-1]
