"""status, list, logs and result, from the cluster and from runs' folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import manifest
from k8s.__main__ import main
from tests.support.apiserver import ApiServer
from tests.support.controller import Controller
from tests.support.stores import Server
from tests.support.verbs import RESULT, STEP, change, finish
from trainer.failure import Failure
from trainer.runs import checkpoint, run_folder
from trainer.storage.base import open_storage


def test_the_store_is_reached_as_it_is_named_here(
    run_file: Path, store: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    finish(run_file)
    change(run_file, storage_endpoint="http://store.invalid:4443")
    monkeypatch.setattr("k8s.run.run_store.DEADLINE", 0.5)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    assert main(["result", str(run_file)]) == 69
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["result", str(run_file), "--storage-endpoint", store.url]) == 0
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.url)
    assert main(["result", str(run_file)]) == 0


@pytest.mark.usefixtures("controller")
def test_status_tells_progress_and_list_has_a_line_for_each(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    assert "no runs in namespace default" in capsys.readouterr().out
    assert main(["list", "--namespace", "other"]) == 2
    assert capsys.readouterr().err.startswith(f"k8s: no namespace other at {api.url}; give another")
    api.denied = {("get", "namespaces")}
    assert main(["list", "--namespace", "other"]) == 0
    api.denied = set()
    for verb in ("status", "logs", "result", "delete"):
        assert main([verb, ""]) == 2
        assert capsys.readouterr().err.startswith("k8s: RUN is missing: give a run file")
    assert main(["submit", str(run_file)]) == 0
    api.push("mnist-0-00000", json.dumps(STEP))
    failure = Failure(kind="killed", rank=1, code=1, message="its worker was killed by SIGKILL")
    again = {"warning": "words", "event": "restarting", "failure": failure.record()}
    api.push("mnist-0-00000", json.dumps(again))
    capsys.readouterr()
    assert main(["status", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert "mnist  Running  100/200  90.00%    1" in out
    assert "rank 1: its worker was killed by SIGKILL (restarted)" in out
    assert "mnist-1-00001  Running  node0" in out
    assert main(["list", "-o", "json"]) == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert (listed["phase"], listed["step"], listed["restarts"]) == ("Running", 100, 1)
    assert main(["status", "other"]) == 2


def test_logs_come_from_the_pods_and_from_the_folder_once_they_are_gone(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    api.push("mnist-1-00001", "second", "2026-01-01T00:00:02Z")
    api.push("mnist-0-00000", "first", "2026-01-01T00:00:01.5Z")
    api.push("mnist-0-00000", "third", "2026-01-01T00:00:02.25Z")
    capsys.readouterr()
    assert main(["logs", "mnist"]) == 0
    assert capsys.readouterr().out == "0 | first\n1 | second\n0 | third\n"
    assert main(["logs", "mnist", "--rank", "1"]) == 0
    assert capsys.readouterr().out == "1 | second\n"
    assert main(["logs", "mnist", "--rank", "2"]) == 2
    assert "the run has ranks 0 to 1" in capsys.readouterr().err
    assert main(["logs", "mnist", "--previous"]) == 2
    said = "no pod from before the current ones of mnist is there; leave it out, or give --folder"
    assert said in capsys.readouterr().err
    newer = controller.start(controller.job(), 1)
    api.objects["Pod", "default", newer]["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z"
    api.push(newer, "after a restart", "2026-01-01T00:00:09Z")
    assert main(["logs", "mnist", "--rank", "1"]) == 0
    assert capsys.readouterr().out == "1 | after a restart\n"
    assert main(["logs", "mnist", "--rank", "1", "--previous"]) == 0
    assert capsys.readouterr().out == "1 | second\n"
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    folder.create("logs/rank-0/20260101T000000Z-abcd.00000.log", b'{"warning": "stored"}\n')
    folder.create("logs/rank-1/20260101T000000Z-abce.00000.log", b"also stored\n")
    main(["delete", "mnist"])
    capsys.readouterr()
    assert main(["logs", str(run_file)]) == 0
    assert capsys.readouterr().out == "0 | warning: stored\n1 | also stored\n"
    assert main(["logs", "--folder", folder.uri, "--rank", "1"]) == 0
    assert capsys.readouterr().out == "1 | also stored\n"
    assert main(["logs", "--folder", folder.uri, "--rank=-1"]) == 2
    assert capsys.readouterr().err == "k8s: --rank -1: must be at least 0\n"
    assert main(["logs", "mnist"]) == 2
    assert "give its run file instead of its name, or --folder" in capsys.readouterr().err
    assert main(["logs"]) == 2


def test_logs_of_a_rank_that_logs_nothing_and_of_a_run_that_has_no_log_yet(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    change(run_file, storage_endpoint="http://127.0.0.1:9")  # the store is not needed for any
    api.push("mnist-0-00000", "first", "2026-01-01T00:00:01.5Z")
    capsys.readouterr()
    assert main(["logs", "mnist", "--rank", "1"]) == 0
    assert capsys.readouterr().err == (
        "mnist: rank 1 has logged nothing; the run's progress is in the log of rank 0\n"
    )
    for pod in controller.pods(controller.job()):
        pod["status"] = {"phase": "Pending", "containerStatuses": []}
    assert main(["logs", str(run_file)]) == 0
    assert capsys.readouterr().err == "mnist: Pending: no log yet\n"


def test_the_status_of_a_run_that_is_gone_from_the_cluster(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not api.objects.get(("Job", "default", "mnist"))
    assert main(["status", str(run_file)]) == 2
    assert "no such run in namespace default" in capsys.readouterr().err
    finish(run_file)
    assert main(["status", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert "Succeeded" in out
    assert "99.22%" in out
    assert "goodput 62.5%\n" in out
    assert "gone from the cluster; its result is in gs://bucket/runs/" in out
    assert main(["status", str(run_file), "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["step"], told["goodput"]) == (RESULT["steps"], 0.625)
    change(run_file, train={"validation": 100, "seed": 7})  # another run's result is none of it
    assert main(["status", str(run_file)]) == 2


def test_a_stopped_run_shows_the_step_that_it_resumes_from(
    run_file: Path, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_file, train={"validation": 100, "steps": 200})
    assert main(["submit", str(run_file)]) == 0
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    for step in (80, 120):
        folder.create(checkpoint.object_name(step), b"x")
    assert main(["cancel", "mnist"]) == 0
    assert controller.pods(controller.job()) == []
    capsys.readouterr()
    assert main(["status", "mnist", "-o", "json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["phase"], status["step"], status["total_steps"]) == ("Suspended", 120, 200)


def test_result_is_read_from_the_folder_and_downloaded(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    assert main(["result", str(run_file)]) == 2
    assert "no run has begun there" in capsys.readouterr().err
    nowhere = tmp_path / "nowhere"
    assert main(["result", "--folder", str(nowhere)]) == 2
    said = f"k8s: {nowhere}: does not exist or is empty; give the folder of a run\n"
    assert capsys.readouterr().err == said
    for endpoint in ("", "store:4443", "ftp://store", "http://", "http://[::1"):
        assert main(["result", str(run_file), "--storage-endpoint", endpoint]) == 2
        said = f"k8s: --storage-endpoint: {endpoint!r}: must be http://HOST:PORT\n"
        assert capsys.readouterr().err == said
    folder.create(run_folder.RESULT, run_folder.pretty(RESULT))
    assert main(["result", str(run_file)]) == 2
    assert "holds result.json but no config.json" in capsys.readouterr().err
    folder.delete(run_folder.RESULT)
    finish(run_file)
    folder.create("checkpoints/step-00000100.safetensors", b"weights")
    folder.create(run_folder.gang_key("mnist"), b"secret")
    target = tmp_path / "here"
    assert main(["result", str(run_file), "--download", str(target)]) == 0
    captured = capsys.readouterr()
    assert "test accuracy  99.22%" in captured.out
    assert "3 objects" in captured.err
    assert (target / "checkpoints/step-00000100.safetensors").read_bytes() == b"weights"
    assert not [*target.rglob("*.key")]
    assert "report" not in captured.out
    folder.create(run_folder.REPORT, b"<!doctype html>")
    assert main(["result", str(run_file)]) == 0
    assert f"report         {folder.uri}/report.html\n" in capsys.readouterr().out
    assert main(["result", "--folder", folder.uri, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == RESULT


@pytest.mark.usefixtures("api")
def test_a_folder_without_a_result_is_said_to_have_no_run_or_a_failed_one(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    assert main(["result", str(run_file)]) == 2
    nothing = "no run has begun there, as it holds no config.json; check the folder"
    assert f"{folder.uri}: {nothing}" in capsys.readouterr().err
    assert main(["result", "--folder", "gs://bucket/mnist"]) == 2
    assert capsys.readouterr().err == f"k8s: gs://bucket/mnist: {nothing}\n"
    folder.create(run_folder.CONFIG, b"{}")
    assert main(["result", str(run_file)]) == 2
    assert "the run has not ended; it has no checkpoint yet" in capsys.readouterr().err
    cause = Failure(kind="config", rank=0, code=2, message="code: not there").record()
    folder.create(run_folder.ATTEMPTS, run_folder.lines([{"over": True, "cause": cause}]))
    assert main(["result", str(run_file)]) == 2
    failed = "the run failed before its first step: code: not there"
    assert f"{folder.uri}: {failed}\n" in capsys.readouterr().err
    assert main(["status", str(run_file)]) == 2
    assert f"{folder.uri}: {failed}\n" in capsys.readouterr().err


@pytest.mark.long
def test_each_run_of_a_list_is_looked_up_in_its_own_store(
    run_file: Path,
    api: ApiServer,
    controller: Controller,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish(run_file)
    monkeypatch.setattr("k8s.run.run_store.DEADLINE", 0.2)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    for name, changes in {"mnist": {}, "other": {"storage_endpoint": "http://127.0.0.1:9"}}.items():
        change(run_file, name=name, **changes)
        assert main(["submit", str(run_file)]) == 0
        for pod in controller.pods(api.objects["Job", "default", name]):
            del api.objects["Pod", "default", pod["metadata"]["name"]]
        complete = [{"type": "Complete", "status": "True"}]
        api.objects["Job", "default", name]["status"] = {"conditions": complete}
    capsys.readouterr()
    assert main(["list", "-o", "json"]) == 0
    phases = {run["name"]: run["phase"] for run in json.loads(capsys.readouterr().out)}
    assert phases == {"mnist": "Succeeded", "other": "Unproven"}


@pytest.mark.parametrize("may", [True, False])
def test_a_policy_that_keeps_pods_from_the_store_is_read_if_the_user_may(
    may: bool, run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    assert main(["submit", str(run_file)]) == 0
    words = "cannot list gs://bucket/mnist: no good answer within 120 s"
    record = Failure(kind="unavailable", rank=0, code=69, message=words).record()
    controller.end("Failed", "BackoffLimitExceeded", {0: (69, json.dumps(record))})
    spec = {"podSelector": {}, "policyTypes": ["Egress"]}
    metadata = {"name": "deny-all", "namespace": "default"}
    of = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    api.add({**of, "metadata": metadata, "spec": spec})
    api.denied = set() if may else {("list", "networkpolicies")}
    capsys.readouterr()
    assert main(["status", "mnist", "-o", "json"]) == 0
    cause = json.loads(capsys.readouterr().out)["cause"]
    assert words in cause
    assert ("NetworkPolicy deny-all limits what its pods reach" in cause) == may


@pytest.mark.parametrize("may", [True, False])
@pytest.mark.parametrize("verb", ["status", "list"])
def test_who_looks_first_at_a_run_that_failed_writes_why_into_its_job(
    verb: str, may: bool, run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    assert main(["submit", str(run_file)]) == 0
    record = Failure(kind="config", rank=0, code=2, message="loss became inf").record()
    controller.end("Failed", "PodFailurePolicy", {0: (2, json.dumps(record))})
    api.denied = set() if may else {("patch", "jobs")}
    assert main([verb, *["mnist"] * (verb == "status")]) == 0
    assert "loss became inf" in capsys.readouterr().out
    noted = controller.job()["metadata"]["annotations"].get(manifest.ENDED, "")
    assert noted.startswith("Failed: rank 0 ") == may
    assert ("loss became inf" in noted) == may
    # Whoever looks later, when the pods are gone, knows less.
    for pod in controller.pods(controller.job()):
        del api.objects["Pod", "default", pod["metadata"]["name"]]
    assert main(["list"]) == 0
    if may:
        assert controller.job()["metadata"]["annotations"][manifest.ENDED] == noted
