"""What ended pods that had started: memory, nodes, deletion."""

from datetime import datetime, timedelta

import pytest

from tests.support.causes import asked, event, failure, look, lost
from tests.support.pods import Object, ended, holds, job, pod


def test_a_container_that_the_kernel_killed() -> None:
    followed = [pod(0, ended(75, lost(1), "14:02:12"))]
    cause = look(job(2), [*followed, pod(1, ended(137, reason="OOMKilled"))])
    assert cause
    assert (cause.kind, cause.rank) == ("OutOfMemory", 1)
    assert "(limit 512 MiB); give it more memory" in cause.message
    assert cause.message.endswith("; rank 0 then lost its peer")
    stopped: Object = {
        "deletionTimestamp": "2026-11-20T14:03:00Z",
        "deletionGracePeriodSeconds": 30,
    }
    killed = pod(1, ended(137, at="14:02:29", reason="OOMKilled"), **stopped)
    assert look(job(2), [*followed, killed]) is not None
    killed = pod(1, ended(137, at="14:02:31", reason="OOMKilled"), **stopped)
    assert look(job(2), [*followed, killed]) is None
    # Something else ended it after an earlier kill was overcome.
    cause = look(
        job(2), [pod(0), pod(1, ended(65, failure("data", 1, code=65), reason="OOMKilled"))]
    )
    assert cause
    assert cause.kind == "Data"


@pytest.mark.parametrize(
    ("reason", "kind", "says"),
    [
        ("PreemptionByScheduler", "Preempted", "priority_class"),
        ("EvictionByEvictionAPI", "Evicted", "the Job starts another pod"),
        ("TerminationByKubelet", "Evicted", "the Job starts another pod"),
        ("DeletionByTaintManager", "NodeLost", "the Job starts another pod"),
        ("DeletionByPodGC", "NodeLost", "node node-a is lost"),
    ],
)
def test_a_pod_that_was_taken_away(reason: str, kind: str, says: str) -> None:
    gone = pod(1, ended(75, asked(1)), holds("DisruptionTarget", reason, "why"))
    cause = look(job(2), [pod(0), gone])
    assert cause
    assert (cause.kind, cause.rank, cause.final) == (kind, 1, False)
    assert says in cause.message
    assert look(job(2), [pod(0), pod(1, ended(0), holds("DisruptionTarget", reason))]) is None
    successor = pod(1, born="14:05:10", suffix="bbbbb")
    assert look(job(2), [successor, pod(0), gone]) is None
    successor["status"] |= {"phase": "Pending", "containerStatuses": None}
    assert look(job(2), [successor, pod(0), gone]) == cause


def test_a_pod_that_its_node_evicted() -> None:
    message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 87Mi."
    status = {"reason": "Evicted", "message": message, "containerStatuses": None}
    cause = look(job(1), [pod(0, phase="Failed", status=status)])
    assert cause
    assert cause.kind == "Evicted"
    assert "low on resource: memory" in cause.message
    status = {"reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}
    cause = look(job(1), [pod(0, {}, phase="Failed", status=status)])
    assert cause
    assert cause.kind == "Rejected"
    assert "OutOfcpu: Node didn't" in cause.message


COMMAND = (
    "kubectl -n team delete pods -l job-name=mnist --field-selector spec.nodeName=node-a --force"
)


def test_a_lost_node_and_the_command_that_replaces_its_pod() -> None:
    unready = holds("Ready", "NodeNotReady", "", "False")
    silent = pod(1, None, unready)
    cause = look(job(2), [pod(0), silent], event(silent, "NodeNotReady", "Node is not ready"))
    assert cause
    assert (cause.kind, cause.rank) == ("NodeLost", 1)
    assert cause.message.endswith(COMMAND)
    assert cause.message.startswith("rank 1: its node node-a does not answer")
    assert look(job(2), [pod(0), silent]) is None
    just_now = datetime.fromisoformat("2026-11-20T14:00:33Z")
    cause = look(job(2), [silent], event(silent, "NodeNotReady", "not ready"), now=just_now)
    assert cause
    assert cause.message == "rank 1: its node node-a does not answer; wait for it to come back"
    again = pod(1, None, holds("Ready", ""))
    assert look(job(2), [pod(0), again], event(again, "NodeNotReady", "Node is not ready")) is None


def test_a_lost_node_has_all_ranks_that_are_on_it() -> None:
    away = [pod(rank, None, holds("Ready", "NodeNotReady", "", "False")) for rank in (0, 1)]
    elsewhere = pod(2)
    events = [event(each, "NodeNotReady", "Node is not ready") for each in away]
    cause = look(job(3), [*away, elsewhere], *events)
    assert cause
    assert cause.message.startswith("ranks 0, 1: its node node-a does not answer")
    leaving = "2026-11-20T14:09:00Z"
    going = [pod(each, deletionTimestamp=leaving, deletionGracePeriodSeconds=30) for each in (0, 1)]
    cause = look(job(3), [*going, elsewhere])
    assert cause
    assert cause.message.startswith("ranks 0, 1 at 14:09:00 UTC: its pod was asked to end")


def test_a_pod_that_does_not_end_is_on_a_lost_node() -> None:
    leaving = "2026-11-20T14:09:00Z"  # its grace is in it already
    stuck = pod(1, deletionTimestamp=leaving, deletionGracePeriodSeconds=30)
    gone = datetime.fromisoformat(leaving)
    assert look(job(2), [pod(0), stuck], now=gone + timedelta(seconds=29)) is None
    cause = look(job(2), [pod(0), stuck], now=gone + timedelta(seconds=31))
    assert cause
    assert (cause.kind, cause.rank, cause.at) == ("NodeLost", 1, leaving)
    assert "its node node-a does not answer; wait" in cause.message
    cause = look(job(2), [pod(0), stuck], now=gone + timedelta(seconds=91))
    assert cause
    assert COMMAND in cause.message
    long = pod(1, deletionTimestamp=leaving, namespace="n" * 63)
    long["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "p" * 53
    later = gone + timedelta(seconds=91)
    cause = look(job(), [long, *(pod(each, ended(75, lost(1))) for each in (0, 2, 3))], now=later)
    assert cause
    assert f"kubectl -n {'n' * 63} delete pods -l job-name={'p' * 53} --field" in cause.message
