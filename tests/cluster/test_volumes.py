"""Runs on a claim: two workers write to it, and every command answers during and after them."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clusters import (
    IMAGE,
    LIMIT,
    OWN,
    ROOT,
    Space,
    figure,
    kubectl,
    trained_here,
    write_own_code,
)
from trainer.runs import user_code

LONG = {"preset": "cnn", "steps": 3000, "chunk_steps": 20}
# Run by root on the node: fill the volume, and give it to the owner that the test wants.
PREPARE = """
import os, sys
from trainer.storage.base import open_storage
source = open_storage("gs://bucket/mnist")
for entry in source.list():
    open_storage("/volume/mnist").replace(entry.name, source.read(entry.name))
os.mkdir("/volume/runs")
os.mkdir("/volume/mnist/lost+found", 0o700)
os.chown("/volume/runs", int(sys.argv[1]), 0)
"""


def prepare(space: Space, folder: str, owner: int) -> None:
    """Put the data into a folder of the node, and runs/ beside them that ``owner`` may write to."""
    name = f"prepare-{uuid.uuid4().hex[:6]}"
    container = {
        "name": "trainer",
        "image": IMAGE,
        "command": ["python", "-c", PREPARE, str(owner)],
        "env": [{"name": "STORAGE_EMULATOR_HOST", "value": space.store}],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
    }
    volume = {"name": "volume", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container], "volumes": [volume]},
    }
    try:  # in another namespace than the run's, whose level refuses folders of the node
        kubectl("apply", "-n", "default", "-f", "-", stdin=json.dumps(pod))
        done = "--for=jsonpath={.status.phase}=Succeeded"
        kubectl("wait", "-n", "default", done, f"pod/{name}", "--timeout=60s")
    finally:
        kubectl("delete", "pod", name, "-n", "default", "--now", "--ignore-not-found")


@pytest.fixture
def claim(space: Space) -> Callable[..., str]:
    """Make a claim, bound to a folder of the node that goes with it, and return its name."""
    volumes: list[str] = []

    def make(mode: str, owner: int = 65532) -> str:
        name = f"{space.name}-{len(volumes)}"
        folder = f"/tmp/trainyard-{name}"
        prepare(space, folder, owner)
        common = {"accessModes": [mode], "storageClassName": ""}
        size = {"storage": "1Gi"}
        items: list[dict[str, Any]] = [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    **common,
                    "capacity": size,
                    "hostPath": {"path": folder},
                    "persistentVolumeReclaimPolicy": "Delete",
                },
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name},
                "spec": {**common, "volumeName": name, "resources": {"requests": size}},
            },
        ]
        space.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(items))
        volumes.append(name)
        space.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{name}")
        return name

    return make


def run_file(space: Space, claim: str, **changes: Any) -> str:
    name = f"run-{uuid.uuid4().hex[:6]}"
    on_claim = {
        "name": name,
        "data": "/data/mnist",
        "run": f"/data/runs/{name}",
        "volumes": [{"claim": claim, "mount": "/data"}],
        "storage_endpoint": None,
    }
    return space.run_file(**{**on_claim, **changes})


def report(space: Space, path: str, folder: Path) -> str:
    """Copy a run's folder with ``result --download`` and return its report as text."""
    began = time.monotonic()
    done = space.k8s("result", path, "--download", str(folder))
    assert done.code == 0, done.err
    figure(
        "result --download from a claim", f"{done.err.strip()}, {time.monotonic() - began:.1f} s"
    )
    command = [sys.executable, "-m", "trainer", "report", "--run", str(folder), "--text"]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=LIMIT
    ).stdout


def nothing_is_left(space: Space, jobs: int) -> None:
    space.until(lambda: len(space.objects("jobs")) == jobs)
    space.until(lambda: not [p for p in space.objects("pods") if "reader" in p["metadata"]["name"]])


def test_two_workers_on_a_claim_answer_during_and_after(
    space: Space, claim: Callable[..., str], tmp_path: Path
) -> None:
    path = run_file(space, claim("ReadWriteMany"), train=LONG)
    checked = space.k8s("doctor", path)
    assert checked.code == 0, checked.out
    assert space.k8s("submit", path).code == 0
    space.until(lambda: space.step(path) >= 400)
    status = space.status(path)
    assert (status["phase"], status["cause"]) == ("Running", "")
    assert status["step"] >= 400
    assert "0 | step" in space.k8s("logs", path).out
    unfinished = space.k8s("result", path)
    figure("result during a run on a claim", f"{unfinished.seconds:.1f} s")
    assert unfinished.code == 2
    assert unfinished.err.count("\n") == 1
    assert "the run has not ended" in unfinished.err
    assert "3000" in report(space, path, tmp_path / "during")
    done = space.k8s("logs", path, "-f")
    assert done.code == 0, done.out + done.err
    nothing_is_left(space, jobs=1)

    after = space.k8s("result", path, "-o", "json")
    assert after.code == 0, after.err
    result = json.loads(after.out)
    figure("result of a run on a claim", f"{after.seconds:.1f} s, {result['test_accuracy']:.2%}")
    assert space.status(path)["phase"] == "Succeeded"
    assert result["weights_sha256"] in space.k8s("result", path).out
    space.k8s("delete", path)
    space.until(lambda: not space.objects("pods"))
    logs = space.k8s("logs", path)
    assert logs.code == 0, logs.err
    assert "0 | test accuracy" in logs.out
    figure("logs after the Job is deleted, from a claim", f"{logs.seconds:.1f} s")
    assert "test accuracy" in report(space, path, tmp_path / "after")
    assert json.loads((tmp_path / "after/result.json").read_text()) == result
    nothing_is_left(space, jobs=0)


def test_own_code_on_a_claim(space: Space, claim: Callable[..., str], tmp_path: Path) -> None:
    name = claim("ReadWriteMany")
    write_own_code(tmp_path / "mine", 400_000)
    path = run_file(space, name, train=OWN, code=str(tmp_path / "mine"))
    done = space.k8s("submit", path, "--wait")
    assert done.code == 0, done.out + done.err
    report(space, path, tmp_path / "copy")
    archive = user_code.pack(tmp_path / "mine")
    assert (
        tmp_path / "copy" / user_code.object_name(archive.reference)
    ).read_bytes() == archive.data
    result = json.loads((tmp_path / "copy/result.json").read_text())
    assert result["weights_sha256"] == trained_here({**OWN, "code": "mine"}, tmp_path)
    figure("own code with a file of 400,000 bytes, on a claim", "the weights of this machine")

    write_own_code(tmp_path / "large", 2_000_000)
    path = run_file(space, name, train=OWN, code=str(tmp_path / "large"))
    refused = space.k8s("submit", path)
    assert refused.code == 2
    assert "put the large files on the volume, or the code into the image" in refused.err


def test_a_claim_for_one_node_needs_one_node(space: Space, claim: Callable[..., str]) -> None:
    name = claim("ReadWriteOnce")
    train = {"preset": "softmax", "steps": 200}
    refused = space.k8s("submit", run_file(space, name, train=train))
    assert refused.code == 2
    assert "give one_node: true" in refused.out
    assert not space.objects("jobs")
    path = run_file(space, name, train=train, one_node=True)
    done = space.k8s("submit", path, "--wait")
    assert done.code == 0, done.out + done.err
    assert space.k8s("result", path).code == 0


def test_a_claim_that_cannot_be_written_is_named(space: Space, claim: Callable[..., str]) -> None:
    path = run_file(space, claim("ReadWriteMany", owner=0))
    done = space.k8s("submit", path, "--wait")
    line = done.out.splitlines()[-1]
    figure("a claim whose folder cannot be written", f"exit {done.code}: {line}")
    assert done.code == 1, done.out + done.err
    assert "Permission denied" in line
    assert "65532" in line
    [job] = space.objects("jobs")
    assert "exit code 2" in job["status"]["conditions"][-1]["message"]
    # Nothing of it is on the claim, and that is said, too.
    gone = space.k8s("result", path)
    assert gone.code == 2
    assert gone.err.count("\n") == 1


def test_a_claim_that_is_not_there_is_named(space: Space) -> None:
    path = run_file(space, "nowhere", start_deadline=20)
    refused = space.k8s("submit", path)
    assert refused.code == 2
    assert "nowhere: no such claim in namespace" in refused.out
    space.kubectl("apply", "-f", "-", stdin=space.k8s("render", path).out)
    done = space.k8s("logs", path, "-f")
    assert done.code == 125, done.out + done.err
    figure("a claim that is not there", done.out.splitlines()[-1])
    assert "claim nowhere is not there; create it in namespace" in done.out
    answered = space.k8s("result", path)
    assert answered.code == 69, answered.err
