"""Containers beside the trainer's, which may outlive it."""

from typing import Any

import pytest

from k8s.diagnosis import run_phase, sidecars
from tests.support.causes import failure, look, waiting
from tests.support.pods import RUNNING, Object, ended, job, pod


def beside(its: Object, state: Object = RUNNING, name: str = "istio-proxy") -> Object:
    """Add a sidecar in this state before the trainer, as webhooks do, and return the pod."""
    statuses = its["status"]["containerStatuses"]
    statuses.insert(0, {"name": name, "state": state})
    its["spec"]["containers"].insert(0, {"name": name, "image": "istio:1"})
    if "running" in state:
        its["status"]["phase"] = "Running"
    return its


def test_a_run_has_ended_when_its_trainers_have() -> None:
    kept = [beside(pod(rank, ended(0))) for rank in (0, 1)]
    assert run_phase.phase(job(2), kept, trains=True) == "Ended"
    assert sidecars.left(kept[0]) == ["istio-proxy"]
    assert look(job(2), kept) is None
    one = [kept[0], beside(pod(1))]
    assert run_phase.phase(job(2), one, trains=True) == "Running"
    assert sidecars.left(one[1]) == []
    assert run_phase.phase(job(2), kept[:1], trains=True) == "Starting"


def test_a_native_sidecar_does_not_keep_its_pod() -> None:
    its = pod(0, ended(0), phase="Running")
    its["status"]["initContainerStatuses"] = [{"name": "istio-proxy", "state": RUNNING}]
    assert sidecars.left(its) == []


@pytest.mark.parametrize(("code", "kind"), [(2, "config"), (65, "data"), (71, "corrupt")])
def test_a_code_that_fails_the_job_ends_the_run_though_the_job_does_not_learn_of_it(
    code: int, kind: Any
) -> None:
    words = failure(kind, 1, "no such model", code=code)
    pods = [beside(pod(0)), beside(pod(1, ended(code, words)))]
    assert run_phase.phase(job(2), pods, trains=True) == "Failed"
    cause = look(job(2), pods)
    assert cause
    assert cause.message.startswith("rank 1 at 14:02:11 UTC: no such model; sidecar istio-proxy")
    assert "restartPolicy: Always" in cause.message
    assert cause.final


@pytest.mark.parametrize("code", [1, 69, 137])
def test_a_failed_trainer_that_the_job_cannot_replace_is_named(code: int) -> None:
    pods = [beside(pod(0)), beside(beside(pod(1, ended(code, "ValueError: x"))), name="vault")]
    assert run_phase.phase(job(2), pods, trains=True) == "Running"
    cause = look(job(2), pods)
    assert cause
    assert "sidecars vault, istio-proxy keep its pod" in cause.message
    assert not cause.final
    leaving = {**pods[1]["metadata"], "deletionTimestamp": "2026-11-20T14:09:50Z"}
    cause = look(job(2), [pods[0], {**pods[1], "metadata": leaving}])
    assert cause is None or "keep its pod" not in cause.message


def test_a_sidecar_that_does_not_stay_up_is_named() -> None:
    its = pod(0, waiting("PodInitializing"))
    crashes = {"waiting": {"reason": "CrashLoopBackOff"}}
    before: dict[str, Any] = {"terminated": {"exitCode": 3, "reason": "Error"}}
    status = {"name": "istio-proxy", "state": crashes, "lastState": before, "restartCount": 4}
    its["status"]["initContainerStatuses"] = [status]
    cause = look(job(1), [its])
    assert cause
    assert "istio-proxy ended with code 3" in cause.message
    assert "kubectl -n team logs mnist-0-aaaaa -c istio-proxy" in cause.message


def test_an_init_container_that_failed_is_named() -> None:
    its = pod(0, waiting("PodInitializing"), phase="Failed")
    status = {"name": "istio-init", "state": ended(1)}
    its["status"]["initContainerStatuses"] = [status]
    cause = look(job(1), [its])
    assert cause
    assert "istio-init ended with code 1" in cause.message
