"""What doctor checks before a run is submitted."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.__main__ import main
from k8s.commands import doctor
from k8s.run import dry_run
from tests.support.apiserver import ApiServer, Fault
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


def _node(name: str, cpu: str, **spec: Any) -> dict[str, Any]:
    about = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"a": "b"}}}
    amounts = {"cpu": cpu, "memory": "64Gi", "pods": "110"}
    return {**about, "spec": spec, "status": {"allocatable": amounts}}


def _running(cpu: str, node: str, phase: str = "Running") -> dict[str, Any]:
    container = {"name": "a", "resources": {"requests": {"cpu": cpu}}}
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p-{phase.lower()}"}}
    about["metadata"] |= {"namespace": "kube-system"}  # type: ignore[operator]
    return {
        **about,
        "spec": {"nodeName": node, "containers": [container]},
        "status": {"phase": phase},
    }


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("objects", "changes", "words"),
    [
        ([], {}, None),
        ([_node("n", "4")], {}, "room for all"),
        (
            [_node("n", "2"), _running("955m", "n")],
            {},
            "2 pods ask for 1 cpu and 2 GiB memory each",
        ),
        (
            [_node("n", "2"), _running("955m", "n")],
            {},
            "room for 1 now (free on n: 1.045 cpu and 64 GiB memory)",
        ),
        ([_node("n", "2"), _running("955m", "n", "Succeeded")], {}, "room for all"),
        ([_node("n", "1"), _node("m", "1")], {}, "room for all"),
        ([_node("n", "1"), _node("m", "1")], {"one_node": True}, "room for 1 now"),
        ([_node("n", "4", unschedulable=True)], {}, "free on no node that takes them"),
        ([_node("n", "4", taints=[TAINT])], {}, "free on no node that takes them"),
        ([_node("n", "4", taints=[TAINT])], {"tolerations": [{"key": "gpu"}]}, "on no node"),
        ([_node("n", "4", taints=[TAINT])], {"tolerations": [{"operator": "Exists"}]}, "for all"),
        (
            [_node("n", "4", taints=[TAINT])],
            {"tolerations": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]},
            "room for all",
        ),
        ([_node("n", "4")], {"node_selector": {"a": "c"}}, "free on no node that takes them"),
        ([_node("n", "4")], {"node_selector": {"a": "b"}}, "room for all"),
    ],
)
def test_doctor_says_whether_nodes_have_room(
    objects: list[dict[str, Any]],
    changes: dict[str, Any],
    words: str | None,
    run_file: Path,
    api: ApiServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for each in objects:
        api.add(each)
    change(run_file, **changes)
    code, found = checks(capsys, run_file)
    assert code == 0
    assert words is None or words in found["nodes"][1]
    assert ("nodes" in found) == (words is not None)
    api.denied = {("list", "nodes")}
    assert "nodes" not in checks(capsys, run_file)[1]


def _policy(obj: dict[str, Any]) -> str:
    denies = "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}"
    if obj["kind"] in ("Job", "Pod") and "team" not in obj["metadata"].get("labels", {}):
        return denies.format("team", "team", "a label team is needed")
    user = obj.get("spec", {}).get("securityContext", {}).get("runAsUser", 0)
    if obj["kind"] == "Pod" and not 1000650000 <= user < 1000660000:
        return denies.format("uids", "uids", "runAsUser must be from 1000650000 on")
    return ""


def test_doctor_says_what_policies_refuse_objects_and_pods(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.policy = _policy
    code, found = checks(capsys, run_file)
    assert code == 2
    assert found["objects"][0] == found["pods"][0] == "failed"
    assert found["objects"][1] == (
        "Job: jobs mnist is invalid: ValidatingAdmissionPolicy 'team' with binding 'team' denied "
        "request: a label team is needed; give what the policy asks for in the run file "
        "(docs/run-file.md), or ask the cluster's administrator"
    )
    change(run_file, labels={"team": "vision"})
    code, found = checks(capsys, run_file)
    assert (code, found["objects"][0]) == (2, "ok")
    assert "runAsUser must be from 1000650000 on" in found["pods"][1]
    change(run_file, run_as_user=1000650000)
    code, found = checks(capsys, run_file)
    assert (code, found["pods"]) == (0, ("ok", "the API server would take them"))
    pods = [r.body for r in api.sent("create", "pods") if r.dry]
    assert pods[-1]["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0"
    assert not [key for key in api.objects if key[0] in ("Pod", "Job")]


def test_doctor_does_without_the_right_to_try_a_pod(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.denied = {("create", "pods")}
    code, found = checks(capsys, run_file)
    assert (code, found["pods"][0]) == (0, "warning")
    assert "policies for pods were not tried: jane may not create pods" in found["pods"][1]


def test_doctor_says_what_an_old_release_or_a_policy_drops(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.version = "v1.27.16"
    api.drops = {"spec.backoffLimitPerIndex", "spec.maxFailedIndexes", "spec.podReplacementPolicy"}
    assert main(["doctor", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert "! cluster      v1.27.16 at" in out
    assert "older than 1.29, the oldest release that Trainyard supports" in out
    assert (
        "drops spec.backoffLimitPerIndex, spec.maxFailedIndexes, spec.podReplacementPolicy: it is "
        "older than 1.29"
    ) in out
    api.version, api.drops = "v1.29.0", {"spec.template.spec.tolerations"}
    _, found = checks(capsys, run_file)
    assert found["cluster"][0] == "ok"
    assert main(["doctor", str(run_file)]) == 0
    assert "drops spec.template.spec.tolerations; the run will be" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sent", "kept", "lost"),
    [
        ({"a": 0}, {}, ["a"]),
        ({"a": False, "b": [], "c": "", "d": None, "e": {}}, {}, []),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}, ["a.b[1]"]),
        ({"a": [{"name": "x", "v": 1}]}, {"a": [{"name": "y"}, {"name": "x"}]}, ["a[x].v"]),
        ({"a": [{"name": "x"}]}, {"a": [{"name": "y"}]}, ["a[x]"]),
        ({"a": "1000m"}, {"a": "1", "b": 2}, []),
    ],
)
def test_what_is_dropped_is_what_is_not_in_the_answer(sent: Any, kept: Any, lost: Any) -> None:
    assert list(dry_run.dropped(sent, kept)) == lost


def test_doctor_refuses_a_field_that_the_server_does_not_know(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.warnings = ['unknown field "spec.template.spec.affinity"']
    api.drops = {"spec.template.spec.affinity"}
    change(run_file, affinity={"podAfinity": {"a": 1}})
    assert main(["doctor", str(run_file)]) == 2
    assert "affinity" not in capsys.readouterr().out.replace(api.warnings[0], "")
    api.drops = set()
    api.warnings = ['unknown field "spec.podReplacementPolicy"', "deprecated"]
    _, found = checks(capsys, run_file)
    assert found["objects"] == ("ok", "the API server would take all of them")


@pytest.mark.usefixtures("api")
def test_doctor_names_what_is_left_of_a_sample_and_what_patches_open(
    run_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.run.run_store.DEADLINE", 0.5)
    change(run_file, image="trainyard:latest", data="gs://my-bucket/data")
    _, found = checks(capsys, run_file)
    state, text = found["run file"]
    assert state == "warning"
    assert text.startswith("trainyard:latest, gs://my-bucket/data: as in the sample; put in")
    patch = {"op": "add", "path": "/spec/template/spec/hostNetwork", "value": True}
    change(run_file, image="a:1", data="gs://bucket/mnist", patches=[patch])
    _, found = checks(capsys, run_file)
    assert found["run file"][0] == "warning"
    assert (
        "beyond the restricted level, which many namespaces enforce: spec.hostNetwork"
        in (found["run file"][1])
    )


def test_doctor_says_which_check_failed_in_words(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.denied = {("list", "limitranges"), ("get", "serviceaccounts"), ("get", "jobs")}
    change(run_file, service_account="trainer")
    code, found = checks(capsys, run_file)
    assert code == 2
    assert {"limits", "service account", "objects"} <= {
        name for name, (state, _) in found.items() if state == "failed"
    }
    assert not any("_" in name for name in found)


def test_a_patch_that_breaks_the_gang_is_refused_before_anything_is_sent(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_file, patches=[{"op": "replace", "path": "/spec/completions", "value": 1}])
    for verb in ("doctor", "submit", "render"):
        assert main([verb, str(run_file)]) == 2
        assert f"{run_file}: patches.0: replace '/spec/completions'" in capsys.readouterr().err
    assert not api.requests


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize(("preset", "state"), [("cnn", "failed"), ("softmax", "ok")])
def test_doctor_says_that_images_are_too_small_as_training_would(
    preset: str,
    state: str,
    run_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.data.dataset.Dataset.input_shape", (1, 1, 1))
    change(run_file, train={"preset": preset, "validation": 100})
    _, found = checks(capsys, run_file)
    assert found["data"][0] == state
    assert state == "ok" or found["data"][1].startswith(
        "preset: cnn: cannot take images of 1 x 1 pixels; give larger ones"
    )


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
    monkeypatch.setattr("k8s.run.run_store.DEADLINE", 0.5)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    for kind, values in objects:
        api.add({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, **values})
    change(run_file, **changes)
    code, found = checks(capsys, run_file)
    assert found[check][0] == state
    assert words in found[check][1]
    wrong = 65 if check == "data" else 2
    assert code == (wrong if state == "failed" else 0)


@pytest.mark.usefixtures("api")
def test_doctor_says_once_what_is_missing(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_file, service_account="bob")
    words = 'pods "mnist-0-xxxxx" is forbidden: serviceaccount "bob" not found'
    refused = [("pods", "failed", words)]
    monkeypatch.setattr("k8s.commands.doctor.dry_run.examine", lambda *_: refused)
    _, found = checks(capsys, run_file)
    assert [name for name, said in found.items() if said[0] == "failed"] == ["service account"]
    change(run_file, namespace="other")
    _, found = checks(capsys, run_file)
    assert [name for name, said in found.items() if said[0] == "failed"] == ["namespace"]
    assert "image" in found


@pytest.mark.usefixtures("api")
def test_doctor_finds_that_the_runs_folder_is_that_of_the_data(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_file, run="gs://bucket/mnist")
    code, found = checks(capsys, run_file)
    assert (code, found["run folder"][0]) == (2, "failed")
    assert "but no config.json, so it is no run's folder; give an empty" in found["run folder"][1]


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


def test_doctor_and_submit_end_as_what_failed_says(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_file, data="gs://bucket/nope")
    assert checks(capsys, run_file)[0] == main(["submit", str(run_file)]) == 65
    assert "mnist: not submitted: 1 of the checks failed, see above" in capsys.readouterr().err
    api.objects.pop(("Namespace", "", "default"))  # which is wrong in another way
    assert checks(capsys, run_file)[0] == main(["submit", str(run_file)]) == 2
    capsys.readouterr()
    api.faults = [Fault("status", "get", "/version", status=429, retry_after=1000)]
    code, found = checks(capsys, run_file)
    assert (code, found["cluster"][0]) == (69, "failed")
