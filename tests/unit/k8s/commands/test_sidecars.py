"""Runs whose pods have a second container: sidecars that outlive the trainer."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import manifest, run_file
from k8s.__main__ import main
from k8s.run import reader_pod
from tests.support import processes
from tests.support.apiserver import ApiServer
from tests.support.controller import RESULT, Controller
from tests.support.runfiles import PLAIN
from tests.support.verbs import finish, in_background

PROXY = {"name": "istio-proxy", "image": "istio:1"}


def keep(controller: Controller, codes: dict[int, tuple[int, str]]) -> None:
    """End the trainers with these codes, beside a sidecar that runs on; the Job learns nothing."""
    controller.end("Complete", codes=codes)
    job = controller.job()
    job["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    for pod in controller.pods(job):
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        pod["status"]["containerStatuses"].insert(0, {**PROXY, "state": running})
        pod["status"]["phase"] = "Running"


@pytest.mark.parametrize("flag", ["--wait", "--follow"])
def test_a_run_is_done_when_its_trainers_are(
    flag: str, run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    def live() -> None:
        processes.wait_until(lambda: api.sent("get", "pods/log"))
        keep(controller, {})

    thread = in_background(live)
    assert main(["submit", str(run_file), flag]) == 0
    thread.join()
    last = capsys.readouterr().out.splitlines()[-1]
    says = "finished; sidecar istio-proxy keeps the pods: python -m k8s delete mnist ends them"
    assert last.startswith(f"mnist: Succeeded after 1s: {says}")
    assert main(["status", "mnist", "-o", "json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["phase"], status["cause_kind"]) == ("Succeeded", "Sidecar")
    assert status["cause"] in last
    assert main(["submit", str(run_file)]) == 0
    assert "mnist: has finished; to run it again" in capsys.readouterr().out
    assert main(["cancel", "mnist"]) == 0
    assert "there is nothing to stop" in capsys.readouterr().out
    assert controller.job()["spec"]["suspend"] is False


def test_a_run_is_done_though_its_job_then_reached_its_deadline(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    assert main(["submit", str(run_file)]) == 0
    finish(run_file)
    controller.end("Failed", "DeadlineExceeded")
    for pod in controller.pods(controller.job()):
        del api.objects["Pod", "default", pod["metadata"]["name"]]
    capsys.readouterr()
    assert main(["status", "mnist", "-o", "json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["phase"] == "Succeeded"
    assert "its result is stored; its Job failed after that: DeadlineExceeded" in status["cause"]


@pytest.mark.parametrize("result", [RESULT, ""])
def test_a_job_that_failed_by_its_sidecars_is_a_success_if_the_result_is_stored(
    result: str, run_file: Path, controller: Controller, capsys: Any
) -> None:
    assert main(["submit", str(run_file)]) == 0
    controller.end("Failed", "BackoffLimitExceeded", {0: (0, result)})
    capsys.readouterr()
    assert main(["status", "mnist", "-o", "json"]) == 0
    phase = json.loads(capsys.readouterr().out)["phase"]
    assert phase == ("Succeeded" if result else "Failed")


@pytest.mark.parametrize("code", [2, 65])
def test_a_trainer_that_cannot_succeed_ends_the_run(
    code: int, run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    def live() -> None:
        processes.wait_until(lambda: api.sent("get", "pods/log"))
        keep(controller, {0: (code, "no such model"), 1: (75, "lost")})

    thread = in_background(live)
    assert main(["submit", str(run_file), "--wait"]) == 1
    thread.join()
    words = "sidecar istio-proxy keeps its pod, so that the Job starts no other"
    assert words in capsys.readouterr().out


def test_a_reader_of_claims_leaves_sidecars_out() -> None:
    values = yaml.safe_load(yaml.safe_dump(PLAIN)) | {"run": "/runs/x"}
    values["volumes"] = [{"claim": "team", "mount": "/runs"}]
    pod = manifest.objects(run_file.parse(values, "test"))[-1]["spec"]["template"]["spec"]
    pod["containers"].insert(0, dict(PROXY))
    pod["initContainers"] = [{**PROXY, "restartPolicy": "Always"}]
    read = reader_pod.reader(pod, "/runs/x", [])
    assert [each["name"] for each in read["containers"]] == ["trainer"]
    assert "initContainers" not in read
