"""Commands for a run on a claim, whose folder only pods see: each is answered by one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from k8s import manifest, pod_security, run_file
from k8s.__main__ import main
from k8s.commands import doctor
from k8s.run import reader_pod
from tests.support import runfiles
from tests.support.apiserver import ApiServer, Fault
from trainer.runs import run_folder
from trainer.storage import pack
from trainer.storage.local import LocalStorage

SPEC = run_file.parse({**runfiles.VOLUMES, "data": "/data/mnist"}, "run.yaml")
POD = manifest.objects(SPEC)[-1]["spec"]["template"]["spec"]
RESULT = {
    "test_accuracy": 0.9922,
    "test_loss": 0.1,
    "steps": 200,
    "train_seconds": 7.0,
    "images_per_second": 14000.0,
    "weights_sha256": "ab" * 32,
}


class Readers:
    """Plays the Job controller and the node for readers; ``state`` is how their pods end."""

    def __init__(self, api: ApiServer, folder: LocalStorage) -> None:
        self.api, self.folder = api, folder
        self.state: dict[str, Any] = {"terminated": {"exitCode": 0}}
        self.specs: list[dict[str, Any]] = []
        self.names: list[str] = []
        api.react = self.react

    def react(self, verb: str, job: dict[str, Any]) -> None:
        if verb != "create" or job["kind"] != "Job":
            return
        spec = job["spec"]["template"]["spec"]
        self.specs.append(spec)
        self.names.append(job["metadata"]["name"])
        kubernetes_validate.validate(job, "1.36", strict=True)
        name = f"{job['metadata']['name']}-abcde"
        [container] = spec["containers"]
        *_, path, wanted = container["command"]
        code = self.state.get("terminated", {}).get("exitCode")
        self.api.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "labels": {
                        **job["spec"]["template"]["metadata"]["labels"],
                        "batch.kubernetes.io/controller-uid": job["metadata"]["uid"],
                    },
                    "ownerReferences": [{"uid": job["metadata"]["uid"]}],
                },
                "spec": spec,
                "status": {
                    "phase": {None: "Pending", 0: "Succeeded"}.get(code, "Failed"),
                    "containerStatuses": [{"name": "trainer", "state": self.state}],
                },
            }
        )
        assert path == "/runs/mnist"
        for line in pack.as_lines(pack.pack(self.folder, json.loads(wanted))):
            self.api.push(name, line)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ApiServer() as server:
        monkeypatch.setenv("KUBECONFIG", server.kubeconfig(tmp_path / "kubeconfig"))
        monkeypatch.setattr(reader_pod, "PAUSE", 0.01)
        yield server


@pytest.fixture
def readers(api: ApiServer, tmp_path: Path) -> Readers:
    folder = LocalStorage(str(tmp_path / "claim"), links=False)
    run_folder.claim(folder, SPEC.config, "ab" * 32)
    return Readers(api, folder)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(runfiles.VOLUMES))
    return str(tmp_path / "run.yaml")


def left(api: ApiServer) -> list[str]:
    """Names of readers that are still there."""
    return [name for _, _, name in api.objects if "reader" in name]


@pytest.mark.parametrize("node", ["", "node-7"])
def test_the_pod_reads_and_nothing_else(node: str) -> None:
    before = json.dumps(POD)
    pod = reader_pod.reader(POD, "/runs/mnist", [("a", 0)], node)
    assert json.dumps(POD) == before
    assert pod_security.violations(pod) == []
    [container] = pod["containers"]
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert {m["mountPath"] for m in container["volumeMounts"]} == {
        "/tmp",
        "/data",
        "/runs",
        "/models",
    }
    assert container["image"] == SPEC.image
    assert (pod["securityContext"]["fsGroup"], pod["securityContext"]["supplementalGroups"]) == (
        65532,
        [2000],
    )
    assert "envFrom" not in container
    assert ("podAffinity" in json.dumps(pod)) is False
    assert (node in json.dumps(pod.get("affinity", {}))) is True
    # Job names of runs with the longest names are still names.
    job = reader_pod._job("a" * 50 + "-b", pod, {})
    assert len(job["metadata"]["name"]) <= 57
    assert manifest.selector("mnist") not in json.dumps(job["metadata"]["labels"])


def test_result_and_logs_come_from_the_claim_when_the_run_is_gone(
    path: str, api: ApiServer, readers: Readers, capsys: Any
) -> None:
    readers.folder.create(run_folder.RESULT, run_folder.pretty(RESULT))
    assert main(["result", path]) == 0
    out = capsys.readouterr().out
    assert "test accuracy  99.22%\n" in out
    assert "folder         /runs/mnist\n" in out
    assert len(readers.specs) == 1
    assert left(api) == []
    granted = {
        (v, r) for _, r, verbs in doctor.PERMISSIONS + doctor.VOLUME_PERMISSIONS for v in verbs
    }
    used = {(r.verb, r.resource) for r in api.requests}
    assert used <= granted


def test_every_command_answers_by_name_when_the_pods_are_gone(
    api: ApiServer, readers: Readers, capsys: Any
) -> None:
    config, *_, job = manifest.objects(SPEC)
    complete = {"type": "Complete", "status": "True", "reason": "CompletionsReached"}
    api.add(config)
    api.add({**job, "status": {"conditions": [complete], "succeeded": 2}})
    readers.folder.create("logs/rank-0/000000-0.jsonl", b"")
    assert main(["status", "mnist", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "Failed"
    readers.folder.create(run_folder.RESULT, run_folder.pretty(RESULT))
    assert main(["status", "mnist", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "Succeeded"
    assert main(["result", "mnist"]) == 0
    assert "99.22%" in capsys.readouterr().out
    assert main(["logs", "mnist"]) == 2
    assert "/runs/mnist/logs: holds no logs" in capsys.readouterr().err
    assert left(api) == []


def test_a_run_in_progress_is_copied_and_said_to_be_one(
    path: str, api: ApiServer, readers: Readers, tmp_path: Path, capsys: Any
) -> None:
    readers.folder.create("checkpoints/step-00000100.safetensors", bytes(5))
    assert main(["result", path]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has not ended; its newest checkpoint is checkpoints/step-00000100" in said
    assert main(["result", path, "--download", str(tmp_path / "copy")]) == 0
    copied = LocalStorage(str(tmp_path / "copy"))
    assert copied.list() == readers.folder.list()
    assert "2 objects of /runs/mnist copied" in capsys.readouterr().err
    assert left(api) == []


@pytest.mark.parametrize(
    ("modes", "pod_phase", "placed"),
    [
        (["ReadWriteOnce"], "Running", True),
        (["ReadWriteOnce"], "Succeeded", False),
        (["ReadWriteMany"], "Running", False),
        (["ReadWriteOnce", "ReadOnlyMany"], "Running", False),
    ],
)
def test_a_claim_of_one_node_is_read_there_while_the_run_has_it(
    modes: list[str], pod_phase: str, placed: bool, path: str, api: ApiServer, readers: Readers
) -> None:
    for name in ("datasets", "team"):
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}}
        api.add({**claim, "spec": {"accessModes": modes}, "status": {"phase": "Bound"}})
    labels = {"app.kubernetes.io/name": "trainyard", manifest.INSTANCE: "mnist"}
    api.add(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "mnist-0-abcde", "labels": labels},
            "spec": {"nodeName": "node-7"},
            "status": {"phase": pod_phase},
        }
    )
    assert main(["result", path]) == 2
    assert ("node-7" in json.dumps(readers.specs[0].get("affinity", {}))) is placed


@pytest.mark.parametrize(
    ("code", "message", "exit_code"),
    [
        (2, "reader: cannot list /runs/mnist: Permission denied", 2),
        (65, "reader: damaged", 65),
        (1, "No module named trainer.storage.pack", 69),
    ],
)
def test_a_reader_that_fails_is_one_line(
    code: int,
    message: str,
    exit_code: int,
    path: str,
    api: ApiServer,
    readers: Readers,
    capsys: Any,
) -> None:
    readers.state = {"terminated": {"exitCode": code, "message": f"{message}\n"}}
    assert main(["result", path]) == exit_code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "/runs/mnist: the pod that reads it from its claim failed: " in said
    assert message in said
    assert left(api) == []


def test_a_reader_that_finds_no_node_is_waited_for_and_then_given_up(
    path: str, api: ApiServer, readers: Readers, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_pod, "SAID_AFTER", 0.05)
    monkeypatch.setattr(reader_pod, "DEADLINE", 1)
    readers.state = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    assert main(["result", path]) == 69
    waiting, said = capsys.readouterr().err.splitlines()
    assert (
        "mnist: waiting for a pod that reads /runs/mnist: image trainyard:0.1.0 cannot" in waiting
    )
    assert "/runs/mnist: no pod has read it from its claim within 1 s: image" in said
    assert left(api) == []


def test_a_lost_answer_makes_no_second_reader(path: str, api: ApiServer, readers: Readers) -> None:
    api.faults.append(Fault("cut-after", "create", "jobs"))
    assert main(["result", path]) == 2
    assert len(readers.names) == 1
    assert left(api) == []


def test_an_interrupted_command_leaves_no_reader(
    path: str, api: ApiServer, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    readers.state = {"waiting": {"reason": "ContainerCreating"}}
    monkeypatch.setattr("k8s.run.reader_pod.time.sleep", interrupt)
    assert main(["result", path]) == 130
    assert readers.names
    assert left(api) == []
