"""What doctor checks before a run is submitted."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.__main__ import main
from k8s.commands import doctor
from tests.support.apiserver import ApiServer
from tests.support.verbs import change
from trainer.runs import run_folder
from trainer.storage.base import open_storage


def checks(
    capsys: pytest.CaptureFixture[str], path: Path
) -> tuple[int, dict[str, tuple[str, str]]]:
    code = main(["doctor", str(path), "-o", "json"])
    found = json.loads(capsys.readouterr().out)
    return code, {each["check"]: (each["state"], each["text"]) for each in found}


def test_doctor_finds_nothing_wrong_where_nothing_is(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {doctor.LEVEL: "restricted"}
    api.objects["Namespace", "", "default"]["metadata"]["labels"] = labels
    code, found = checks(capsys, run_file)
    assert code == 0
    assert {state for state, _ in found.values()} == {"ok"}
    assert "600 training and 100 test images" in found["data"][1]
    assert "v1.36.2" in found["cluster"][1]
    assert not [
        r
        for r in api.requests
        if r.verb in ("create", "patch") and not r.dry and r.resource != "selfsubjectaccessreviews"
    ]
    assert main(["doctor", str(run_file)]) == 0
    assert "✓ run folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("resource", "verb"),
    [(path, verb) for _, path, verbs in doctor.PERMISSIONS for verb in verbs],
)
def test_doctor_names_each_missing_permission(
    resource: str, verb: str, run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.denied.add((verb, resource))
    code, found = checks(capsys, run_file)
    assert code == 2
    state, text = found["permissions"]
    assert state == "failed"
    assert f"you may not {verb} {resource}" in text
    assert doctor.ROLE in text


def test_doctor_asks_for_the_right_to_see_claims_only_where_there_are_some(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.denied.add(("get", "persistentvolumeclaims"))
    assert checks(capsys, run_file)[0] == 0
    change(run_file, **ON_CLAIM)
    code, found = checks(capsys, run_file)
    assert code == 2
    assert "you may not get persistentvolumeclaims" in found["permissions"][1]


ON_CLAIM = {
    "data": "/data/mnist",
    "run": "/data/run",
    "volumes": [{"claim": "x", "mount": "/data"}],
}


def _claim(mode: str, phase: str = "Bound") -> tuple[str, dict[str, Any]]:
    values = {"spec": {"accessModes": [mode]}, "status": {"phase": phase}}
    return "PersistentVolumeClaim", {**values, "metadata": {"name": "x", "uid": "claim"}}


def _event(reason: str, message: str) -> tuple[str, dict[str, Any]]:
    about = {"involvedObject": {"kind": "PersistentVolumeClaim", "uid": "claim"}}
    return "Event", {**about, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("objects", "changes", "check", "state", "words"),
    [
        ([], {"namespace": "other"}, "namespace", "failed", "other: does not exist"),
        ([], {}, "namespace", "warning", "Pod Security level not set"),
        ([], {"image": "trainyard:latest"}, "image", "warning", "not pinned"),
        ([], {"service_account": "bob"}, "service account", "failed", "bob: not in namespace"),
        ([], {"data": "gs://bucket/none"}, "data", "failed", "gs://bucket/none"),
        ([], {"storage_endpoint": "http://127.0.0.1:9"}, "data", "warning", "not seen from here"),
        (
            [("ResourceQuota", {"spec": {}, "status": {"hard": {"requests.cpu": "1"}}})],
            {},
            "quota",
            "failed",
            "requests.cpu 2 asked, x allows 1 in all",
        ),
        (
            [
                (
                    "ResourceQuota",
                    {
                        "status": {
                            "hard": {"limits.memory": "5Gi"},
                            "used": {"limits.memory": "2Gi"},
                        }
                    },
                )
            ],
            {},
            "quota",
            "warning",
            "limits.memory 4 GiB asked, 3 GiB of 5Gi free (x)",
        ),
        (
            [("LimitRange", {"spec": {"limits": [{"type": "Container", "max": {"cpu": "500m"}}]}})],
            {},
            "limits",
            "failed",
            "resources.cpu: 1: LimitRange x allows at most 500m",
        ),
        ([], ON_CLAIM, "volume", "failed", "x: no such claim in namespace default; create it"),
        ([_claim("ReadWriteMany")], ON_CLAIM, "volume", "ok", "x: ReadWriteMany"),
        ([_claim("ReadWriteMany")], ON_CLAIM, "run folder", "ok", "/data/run: on claim x"),
        ([_claim("ReadWriteMany")], ON_CLAIM, "data", "ok", "/data/mnist: on claim x"),
        ([_claim("ReadWriteOnce")], ON_CLAIM, "volume", "failed", "give one_node: true, or take"),
        ([_claim("ReadWriteMany", "Pending")], ON_CLAIM, "volume", "warning", "x: not bound"),
        (
            [_claim("ReadWriteMany", "Pending"), _event("FailedBinding", "no volumes")],
            ON_CLAIM,
            "volume",
            "warning",
            "pods wait until it is: no volumes",
        ),
        (
            [_claim("ReadWriteMany", "Pending"), _event("WaitForFirstConsumer", "waiting")],
            ON_CLAIM,
            "volume",
            "ok",
            "x: not bound, and pods wait until it is: waiting",
        ),
    ],
)
def test_doctor_names_what_is_wrong(
    objects: list[tuple[str, dict[str, Any]]],
    changes: dict[str, Any],
    check: str,
    state: str,
    words: str,
    run_file: Path,
    api: ApiServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("k8s.commands.run_store.DEADLINE", 0.5)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    for kind, values in objects:
        api.add({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, **values})
    change(run_file, **changes)
    code, found = checks(capsys, run_file)
    assert found[check][0] == state
    assert words in found[check][1]
    assert code == (2 if state == "failed" else 0)


@pytest.mark.usefixtures("api")
def test_doctor_finds_a_folder_of_another_run_and_torn_data(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(run_file.read_text())
    folder = open_storage(values["run"])
    folder.create(run_folder.CONFIG, run_folder.pretty({"seed": 99, "data": "x"}))
    code, found = checks(capsys, run_file)
    assert code == 2
    assert "belongs to a run with other settings" in found["run folder"][1]
    torn = open_storage("gs://bucket/torn")
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        torn.create(name, b"\0\0\x08\x01\0\0")
    change(run_file, data="gs://bucket/torn")
    code, found = checks(capsys, run_file)
    assert found["data"][0] == "failed"
