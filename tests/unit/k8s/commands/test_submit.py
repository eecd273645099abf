"""Submitting, cancelling and deleting a run, and what stands in their way."""

import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import run_file
from k8s.__main__ import main
from k8s.commands import submit
from tests.support import processes
from tests.support.apiserver import ApiServer, Fault
from tests.support.controller import Controller
from tests.support.runfiles import PLAIN
from tests.support.verbs import change


def test_submit_creates_what_render_prints_and_starts_it_last(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert "created ConfigMap, NetworkPolicy, Service, Job mnist in namespace default" in out
    assert f"next: python -m k8s status {run_file}" in out
    assert main(["render", str(run_file)]) == 0
    rendered = {item["kind"]: item for item in yaml.safe_load_all(capsys.readouterr().out)}
    job = controller.job()
    for kind, item in rendered.items():
        stored = api.objects[kind, "default", "mnist"]
        assert {**stored.get("spec", {}), "suspend": 0} == {**item.get("spec", {}), "suspend": 0}
        assert stored.get("data") == item.get("data")
        owners = stored["metadata"].get("ownerReferences", [])
        assert [owner["uid"] for owner in owners] == [job["metadata"]["uid"]] * (kind != "Job")
    writes = [r for r in api.requests if r.verb in ("create", "patch") and not r.dry]
    kinds = [r.resource for r in writes if r.resource != "selfsubjectaccessreviews"]
    assert kinds == ["jobs", "configmaps", "networkpolicies", "services", "jobs"]
    assert writes[-1].body == {"spec": {"suspend": False}}


@pytest.mark.usefixtures("controller")
def test_the_same_run_file_twice_makes_one_run_and_a_changed_one_is_refused(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    assert main(["submit", str(run_file)]) == 0
    assert "mnist: is running already" in capsys.readouterr().out
    assert [r.resource for r in api.requests if r.verb == "create" and not r.dry].count("jobs") == 1
    change(run_file, train={"seed": 3})
    assert main(["submit", str(run_file)]) == 2
    assert capsys.readouterr().err == (
        "k8s: mnist: is submitted with other settings: "
        'train ({"validation": 100} there, {"seed": 3} here); '
        "give another name, or first: python -m k8s delete mnist --namespace default\n"
    )


def test_cancel_suspends_and_submit_goes_on(
    run_file: Path, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    assert main(["cancel", "mnist"]) == 0
    assert controller.job()["spec"]["suspend"] is True
    assert main(["status", "mnist"]) == 0
    assert "Suspended" in capsys.readouterr().out
    assert main(["cancel", "mnist"]) == 0
    assert "is stopped already" in capsys.readouterr().out
    assert main(["submit", str(run_file)]) == 0
    assert "starts, from its last checkpoint if it has one" in capsys.readouterr().out
    assert controller.job()["spec"]["suspend"] is False


def test_a_run_in_a_queue_stays_suspended_until_it_is_admitted(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_file, queue="team")
    assert main(["submit", str(run_file)]) == 2
    assert "no such LocalQueue" in capsys.readouterr().out
    api.kueue = ("v1beta2", "v1beta1")
    api.add(
        {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "LocalQueue",
            "metadata": {"name": "team"},
        }
    )
    assert main(["submit", str(run_file)]) == 0
    assert controller.job()["spec"]["suspend"] is True
    assert main(["list"]) == 0
    assert "Queued" in capsys.readouterr().out
    assert main(["cancel", "mnist"]) == 0
    assert ("Job", "default", "mnist") not in api.objects


def test_delete_leaves_nothing_but_says_so_where_there_is_nothing(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    del controller
    assert main(["submit", str(run_file)]) == 0
    assert main(["delete", str(run_file)]) == 0
    kinds = {"Job", "ConfigMap", "Service", "NetworkPolicy"}
    assert not kinds & {kind for kind, _, _ in api.objects}
    capsys.readouterr()
    assert main(["delete", "mnist"]) == 2
    assert "mnist: no such run in namespace default" in capsys.readouterr().err


def test_a_refused_companion_leaves_nothing_behind(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    del controller
    api.faults.append(Fault("status", "create", "services", skip=1, status=403, message="no"))
    assert main(["submit", str(run_file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    kinds = {"Job", "ConfigMap", "Service", "NetworkPolicy"}
    assert not kinds & {kind for kind, _, _ in api.objects}


@pytest.mark.parametrize("resource", ["jobs", "configmaps", "services"])
def test_an_answer_that_is_lost_makes_no_second_object(
    resource: str, run_file: Path, api: ApiServer, controller: Controller
) -> None:
    api.faults.append(Fault("cut-after", "create", resource, skip=1))  # not the dry run
    assert main(["submit", str(run_file)]) == 0
    assert controller.job()["spec"]["suspend"] is False
    assert len(controller.pods(controller.job())) == 2


def test_pods_of_an_earlier_run_of_the_name_are_waited_for(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    old = controller.pods(controller.job())
    assert main(["delete", "mnist"]) == 0
    for pod in old:
        api.add(pod)

    def end() -> None:
        # It asks for them once or twice when it looks around, and then again and again.
        processes.wait_until(lambda: sum(r.resource == "pods" for r in api.requests[seen:]) > 4)
        assert ("Job", "default", "mnist") not in api.objects
        for pod in old:
            del api.objects["Pod", "default", pod["metadata"]["name"]]

    seen = len(api.requests)
    thread = threading.Thread(target=end)
    thread.start()
    assert main(["submit", str(run_file)]) == 0
    thread.join()
    assert "waiting for the pods of an earlier run to end" in capsys.readouterr().out


def test_pods_of_the_same_run_submitted_at_the_same_time_are_not_waited_for(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    job, there = api.objects["Job", "default", "mnist"], api.objects
    capsys.readouterr()
    del there["Job", "default", "mnist"]  # as the second one saw it when it looked

    def other() -> None:
        processes.wait_until(lambda: len(api.sent("list", "pods")) > seen)
        there["Job", "default", "mnist"] = job

    seen = len(api.sent("list", "pods"))
    thread = threading.Thread(target=other)
    thread.start()
    assert main(["submit", str(run_file)]) == 0
    thread.join()
    assert controller.job()["metadata"]["uid"] == job["metadata"]["uid"]


def test_a_job_that_is_no_run_is_left_alone(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"completions": 1, "template": {"spec": {"containers": [{}]}}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "mnist"}, "spec": spec}
    api.add(job)
    for verb in ("cancel", "delete", "status"):
        assert main([verb, "mnist"]) == 2
        assert "this Job is no run" in capsys.readouterr().err
    assert main(["submit", str(run_file)]) == 2
    assert "not submitted from a run file; give another name" in capsys.readouterr().err
    assert api.objects["Job", "default", "mnist"]["spec"] == spec


def test_a_run_whose_submitting_was_broken_off_is_completed(
    run_file: Path, api: ApiServer, controller: Controller
) -> None:
    change(run_file, queue="team")
    api.kueue = ("v1beta2", "v1beta1")
    queue = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue"}
    api.add({**queue, "metadata": {"name": "team"}})
    assert main(["submit", str(run_file)]) == 0
    for kind in ("ConfigMap", "Service", "NetworkPolicy"):
        del api.objects[kind, "default", "mnist"]
    assert main(["submit", str(run_file)]) == 0
    owners = {
        kind: api.objects[kind, "default", "mnist"]["metadata"]["ownerReferences"][0]["uid"]
        for kind in ("ConfigMap", "Service", "NetworkPolicy")
    }
    assert set(owners.values()) == {controller.job()["metadata"]["uid"]}


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize("text", ["workers: 3", "", "a: [", "- 1"])
def test_a_config_map_that_was_edited_is_named(
    text: str, run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    assert main(["cancel", str(run_file)]) == 0
    config = api.objects["ConfigMap", "default", "mnist"]
    edited = config["data"]["config.yaml"].replace("workers: 2", text) if "w" in text else text
    config["data"]["config.yaml"] = edited
    assert main(["submit", str(run_file)]) == 2
    err = capsys.readouterr().err
    assert "mnist: its ConfigMap was edited after it was submitted (config.yaml: " in err
    assert "workers); first: python -m k8s delete mnist" in err
    assert api.objects["Job", "default", "mnist"]["spec"]["suspend"] is True


@pytest.mark.usefixtures("controller")
def test_the_namespace_is_no_part_of_the_run(run_file: Path) -> None:
    assert main(["submit", str(run_file)]) == 0
    assert main(["submit", str(run_file), "--namespace", "default"]) == 0


def test_a_pod_security_warning_of_the_dry_run_keeps_a_run_back(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.warnings.append('would violate PodSecurity "restricted:latest": seccompProfile')
    assert main(["submit", str(run_file)]) == 2
    captured = capsys.readouterr()
    assert "would violate PodSecurity" in captured.out
    assert "mnist: not submitted: 5 of the checks failed, see above" in captured.err


def test_a_cluster_that_is_not_there_ends_in_one_line(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["submit", str(run_file)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("k8s: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["submit"], ["submit", "none.yaml"], ["statsu"], ["render", "x.yaml", "-q"]]
)
def test_mistakes_in_arguments_end_in_one_line(arguments: list[str], capsys: Any) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("k8s: ")
    assert captured.err.count("\n") == 1


def test_what_differs_is_shown_with_both_values() -> None:
    one, other = (
        run_file.parse({**PLAIN, **changes}, "x").canonical()
        for changes in ({}, {"workers": 2, "train": {"seed": 5}})
    )
    assert submit.difference(one, other) == [
        'train (the default there, {"seed": 5} here)',
        "workers (the default there, 2 here)",
    ]
