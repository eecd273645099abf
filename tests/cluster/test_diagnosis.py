"""What is wrong, said by a real cluster: the first line, the exit code, and how soon.

TRAINYARD_E2E_RECORD names a folder that takes the objects of each case, as test data for the
diagnosis offline.
"""

import json
import os
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clusters import IMAGE, Space, figure

SOON = {"start_deadline": 30}


@dataclass
class Case:
    """A run that goes wrong.

    Attributes:
        changes: of the run file.
        kind: of the diagnosis.
        words: of its line.
        code: of ``submit --wait``.
        before: kubectl input applied to the namespace before.
        edit: changes to the Job, which is then applied by kubectl, past all checks.
    """

    changes: dict[str, Any]
    kind: str
    words: list[str]
    code: int
    before: list[dict[str, Any]] = field(default_factory=list)
    edit: Any = None


def privileged(job: dict[str, Any]) -> None:
    job["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {"privileged": True}


def alone(job: dict[str, Any]) -> None:
    job["spec"]["parallelism"] = 1


def unchanged(job: dict[str, Any]) -> None:
    del job


def quota() -> list[dict[str, Any]]:
    """A quota for two processors, one of which somebody else has taken."""
    limits = {"cpu": "1", "memory": "64Mi"}
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    other = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": {"nowhere": "true"},
        "containers": [
            {
                "name": "other",
                "image": IMAGE,
                "securityContext": safe,
                "resources": {"requests": limits, "limits": limits},
            }
        ],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "team"},
            "spec": {"hard": {"requests.cpu": "2"}},
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}, "spec": other},
    ]


def claim(volume: str) -> dict[str, Any]:
    """A claim to a volume that nobody else gets."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "team"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": volume,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


def of_root() -> list[dict[str, Any]]:
    """A volume whose folder only root may write to, gone with its claim."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "capacity": {"storage": "1Gi"},
        "persistentVolumeReclaimPolicy": "Delete",
        "hostPath": {"path": f"/tmp/{name}", "type": "DirectoryOrCreate"},
    }
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}}
    return [{**volume, "spec": spec}, claim(name)]


ON_CLAIM = {"volumes": [{"claim": "team", "mount": "/runs"}], "run": "/runs/x"}

CASES = {
    "bad-image": Case(
        {"image": "localhost:1/none:1", **SOON}, "ImagePull", ["localhost:1/none:1"], 125
    ),
    "image-never": Case(
        {"image": "example.org/none:1", "image_pull_policy": "Never", **SOON},
        "ImagePull",
        ["none:1"],
        125,
    ),
    "unschedulable": Case(
        {"resources": {"cpu": 64, "memory": "2Gi"}, **SOON}, "Unschedulable", ["cpu", "64"], 125
    ),
    "no-such-node": Case(
        {"node_selector": {"disk": "none"}, **SOON}, "Unschedulable", ["node_selector"], 125
    ),
    "quota": Case({**SOON}, "Quota", ["team", "requests.cpu"], 125, quota()),
    "restricted": Case({**SOON}, "PodSecurity", ["restricted", "privileged"], 125, [], privileged),
    "missing-secret": Case(
        {"environment_secrets": ["nowhere"], **SOON}, "MissingReference", ["nowhere"], 125
    ),
    "missing-priority": Case(
        {"priority_class": "nowhere", **SOON}, "MissingReference", ["nowhere"], 125, [], unchanged
    ),
    "missing-account": Case(
        {"service_account": "nobody", **SOON}, "MissingReference", ["nobody"], 125, [], unchanged
    ),
    "missing-claim": Case(
        {**ON_CLAIM, **SOON}, "MissingReference", ["claim team is not there"], 125, [], unchanged
    ),
    "unbound-claim": Case(
        {**ON_CLAIM, **SOON}, "Unbound", ["no volume is bound", "pvc team"], 125, [claim("none")]
    ),
    "claim-of-root": Case(ON_CLAIM, "Config", ["/runs", "65532"], 1, of_root()),
    "out-of-memory": Case(
        {"resources": {"cpu": "900m", "memory": "512Mi"}, "retries": 0},
        "OutOfMemory",
        ["512 MiB"],
        1,
    ),
    "bad-config": Case(
        {"train": {"model": "none.such:net"}}, "Config", ["none.such"], 1, [], unchanged
    ),
    "bad-data": Case({"data": "gs://bucket/torn"}, "Data", ["gs://bucket/torn"], 1, [], unchanged),
    "store-down": Case(
        {"storage_endpoint": "http://127.0.0.1:9", "retries": 0}, "Store", ["127.0.0.1"], 1
    ),
    "crash": Case({"environment": {"KERAS_BACKEND": "torch"}, "retries": 0}, "Crash", ["torch"], 1),
    "peer-missing": Case(
        {"train": {"peer_deadline": 10}, "retries": 0},
        "Peers",
        ["rank 1"],
        1,
        [],
        alone,
    ),
    "deadline": Case({"deadline": 15, "train": {"steps": 100000}}, "Deadline", ["15"], 124),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_line_says_what_is_wrong(name: str, space: Space) -> None:
    case = CASES[name]
    if name == "bad-data":
        tear(space)
    for item in case.before:
        space.kubectl("apply", "-f", "-", stdin=json.dumps(item))
    path = space.run_file(**case.changes)
    if case.edit:
        items = list(yaml.safe_load_all(space.k8s("render", path).out))
        case.edit(items[-1])
        space.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(items))
        process = space.start("logs", path, "-f")
    else:
        process = space.start("submit", path, "--wait")
    with process:  # which closes its pipes
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [(datetime.now(UTC), line.rstrip("\n")) for line in process.stdout]
        told = "\n".join(text for _, text in lines) + process.stderr.read()
        code = process.wait(timeout=30)
    assert code == case.code, told
    if code == 2:  # refused before anything was sent
        assert all(word in told for word in case.words), told
        return
    record(name, space, path)
    status = space.status(path)
    assert all(word in status["cause"] for word in case.words), status["cause"]
    assert status["cause_kind"] == case.kind, status
    assert status["cause"] in told
    soon(name, space, path, lines, status["cause"])


def tear(space: Space) -> None:
    folder, torn = space.stored(space.run_file(run="gs://bucket/mnist")), None
    torn = space.stored(space.run_file(run="gs://bucket/torn"))
    for entry in folder.list():
        torn.replace(entry.name, folder.read(entry.name)[: entry.size - 100])


def soon(name: str, space: Space, path: str, lines: list[tuple[datetime, str]], cause: str) -> None:
    """Note how long after the fact its line came, by the cluster's own times."""
    run = yaml.safe_load(Path(path).read_text())["name"]
    facts = [
        event.get("firstTimestamp") or event.get("eventTime")
        for event in space.objects("events")
        if event["involvedObject"]["name"].startswith(run) and event.get("type") == "Warning"
    ]
    for pod in space.objects("pods"):
        for status in pod["status"].get("containerStatuses", []):
            if ended := status["state"].get("terminated"):
                facts.append(ended["finishedAt"])
    [told, *_] = [at for at, line in lines if cause in line]
    known = sorted(datetime.fromisoformat(fact) for fact in facts if fact)
    if known:
        seconds = (told - known[0]).total_seconds()
        figure(f"diagnosis {name}", f"{seconds:.0f} s after the first sign: {cause}")


def record(name: str, space: Space, path: str) -> None:
    folder = os.environ.get("TRAINYARD_E2E_RECORD")
    if not folder:
        return
    run = yaml.safe_load(Path(path).read_text())["name"]
    job = json.loads(space.kubectl("get", "job", run, "-o", "json"))
    pods = [p for p in space.objects("pods") if p["metadata"]["name"].startswith(run)]
    uids = {item["metadata"]["uid"] for item in [job, *pods]}
    values: dict[str, Any] = {
        "job": job,
        "pods": pods,
        "events": [e for e in space.objects("events") if e["involvedObject"].get("uid") in uids],
        "now": datetime.now(UTC).isoformat(),
        "expect": {"kind": CASES[name].kind, "words": CASES[name].words},
    }
    for item in [job, *pods, *values["events"]]:
        item["metadata"].pop("managedFields", None)
    text = json.dumps(values, indent=1).replace(space.name, "trainyard").replace(run, "run")
    text = text.replace(IMAGE, "example.org/trainyard:1")
    Path(folder, f"{name}.json").write_text(text + "\n")


def test_codes_2_and_65_fail_the_job_at_once(space: Space) -> None:
    tear(space)
    for changes in ({"train": {"model": "none.such:net"}}, {"data": "gs://bucket/torn"}):
        path = space.run_file(retries=5, **changes)
        began = time.monotonic()
        space.kubectl("apply", "-f", "-", stdin=space.k8s("render", path).out)
        assert space.k8s("logs", path, "-f").code == 1
        name = yaml.safe_load(Path(path).read_text())["name"]
        [job] = [j for j in space.objects("jobs") if j["metadata"]["name"] == name]
        [failed] = [c for c in job["status"]["conditions"] if c["type"] == "Failed"]
        assert failed["reason"] == "PodFailurePolicy"
        pods = [p for p in space.objects("pods") if p["metadata"]["name"].startswith(name)]
        assert len(pods) <= 2  # none was tried again
        figure(
            "FailJob without a retry", f"{time.monotonic() - began:.0f} s: {failed['message'][:90]}"
        )
