"""What a run died of, from its failed Job, its pods and the trainer's own records."""

from datetime import timedelta

import pytest

from k8s.diagnosis.cause import Cause
from tests.support.causes import (
    CREATING,
    IMAGE,
    OOM,
    OOM_REMEDY,
    POLICY,
    QUOTA,
    RPC,
    asked,
    event,
    failure,
    look,
    lost,
    missing,
    out_of_memory,
    refused,
    unscheduled,
    waiting,
)
from tests.support.pods import NOW, Object, ended, holds, job, pod
from trainer.failure import Kind

OOM_LINE = f"{OOM}; {OOM_REMEDY}"


def test_a_healthy_run_has_no_cause() -> None:
    all_run = [pod(rank) for rank in range(4)]
    assert look(job(), all_run) is None
    assert look(job(), [*all_run[:3], pod(3, CREATING)]) is None
    assert look(job(), [*all_run[:3], pod(3, waiting("PodInitializing"))]) is None
    assert look(job(), [pod(rank, ended(0)) for rank in range(4)]) is None
    # Memory ran out once, and was overcome in place: the reason stays.
    assert look(job(), [*all_run[:3], pod(3, ended(0, reason="OOMKilled"))]) is None
    now = NOW.replace(minute=0, second=2)
    just_now = pod(3, {}, unscheduled("0/1 nodes are available: 1 Insufficient cpu."))
    assert look(job(), [*all_run[:3], just_now], now=now) is None
    assert look(None, []) is None
    assert look(job(), []) is None


def test_a_rank_that_ends_with_0_before_anything_was_trained() -> None:
    """As an image does that is not the trainer's, on some ranks only."""
    pods = [pod(0), pod(1, ended(0)), pod(2), pod(3)]
    assert look(job(), pods) is None
    cause = look(job(), pods, trains=False)
    assert cause
    assert (cause.kind, cause.rank) == ("NoTrainer", 1)
    assert "it ended with code 0 before rank 0 reported anything" in cause.message
    failed = job(4, holds("Failed", "FailedIndexes", "failed indexes"), failedIndexes="0")
    waited = [pod(0, ended(69, missing(0, 1))), pod(1, ended(0))]
    cause = look(failed, waited, trains=False)
    assert cause
    assert (cause.kind, cause.rank) == ("NoTrainer", 1)
    # A rank that failed after all of them had trained is another matter.
    crashed = [pod(0, ended(1, "ValueError: no")), pod(1, ended(0))]
    cause = look(failed, crashed, trains=False)
    assert cause
    assert (cause.kind, cause.rank) == ("Crash", 0)


@pytest.mark.parametrize("kind", ["Complete", "SuccessCriteriaMet"])
def test_a_run_that_went_on_to_its_end_has_no_cause(kind: str) -> None:
    done = job(2, holds(kind, "CompletionsReached"))
    assert look(done, [pod(0, ended(1, "once")), pod(1, ended(0))]) is None


def test_the_first_rank_out_of_memory_and_who_followed() -> None:
    record = out_of_memory(2)
    pods = [pod(rank, ended(75, record, "14:02:12")) for rank in (0, 1, 3)]
    cause = look(job(), [*pods, pod(2, ended(1, record))])
    assert cause == Cause(
        "OutOfMemory",
        f"rank 2 at 14:02:11 UTC: {OOM_LINE}; ranks 0, 1, 3 then lost their peer",
        final=False,
        rank=2,
        at="2026-11-20T14:02:11Z",
    )


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (2, "Config", "unknown setting 'batchsize' (did you mean batch_size?)"),
        (65, "Data", "gs://b/mnist: no object train-images-idx3-ubyte or .gz; put the data there"),
        (69, "Store", "gs://b: not reached within 60 s; see storage_endpoint"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_trainer_s_own_words(code: int, kind: str, message: str, workers: int) -> None:
    kinds: dict[str, Kind] = {"Config": "config", "Data": "data", "Store": "unavailable"}
    record = failure(kinds[kind], 0, message, code)
    pods = [pod(0, ended(code, record))]
    if workers == 2:
        pods.append(pod(1, ended(75, record, "14:02:11")))
    cause = look(job(workers), pods)
    assert cause
    assert (cause.kind, cause.rank, cause.final) == (kind, 0, code != 69)
    assert message in cause.message
    cause = look(job(workers), [pod(0, ended(code))])
    assert cause
    assert cause.message.endswith("see python -m k8s logs mnist --rank 0")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (failure("crashed", 1, "it ended with code 1: ValueError"), "code 1: ValueError; see"),
        ("rank 1: its worker ended with code 1: ValueError: no", "code 1: ValueError: no; see"),
        (
            '{"step": 3}\n{"warning": "rank 1: x.ShapeError: bad"}\n\nbye\n',
            "x.ShapeError: bad; see",
        ),
        ('{"step": 3}\n{"message": "the last line"}\n', "the last line; see"),
        ("", "ended with code 1 and left no message; see python -m k8s logs mnist --rank 1"),
        ("rank 1: ValueError: " + "x" * 4000 + " at last", "xxx at last; see python -m k8s"),
        ("rank 1: ValueError:\x1b[31m\u2028 red", "ValueError: [31m red; see"),
    ],
)
def test_a_crash_tells_its_last_error(message: str, says: str) -> None:
    cause = look(job(2), [pod(0), pod(1, ended(1, message))])
    assert cause
    assert (cause.kind, cause.rank, cause.final) == ("Crash", 1, False)
    assert says in cause.message


def test_peers_that_never_came_and_why() -> None:
    waited = [pod(each, ended(69, missing(each, 1))) for each in (0, 2, 3)]
    cause = look(job(), [*waited, pod(1)])
    assert cause
    assert (cause.kind, cause.rank) == ("Peers", 0)
    assert "missing rank 1" in cause.message
    followed = look(job(), [*waited, pod(1, ended(75, at="14:00:09"))])
    assert followed
    assert (followed.kind, followed.rank) == ("Peers", 0)
    late = unscheduled("0/1 nodes are available: 1 Insufficient cpu.", "14:08:00")
    cause = look(job(), [*waited, pod(1, {}, late)])
    assert cause
    assert (cause.kind, cause.rank) == ("Unschedulable", 1)
    cause = look(job(), waited, refused(QUOTA, at="14:09:00"))
    assert cause
    assert cause.kind == "Quota"
    failed = job(
        4, holds("Failed", "FailedIndexes", "Job has failed indexes"), failedIndexes="0,2,3"
    )
    cause = look(failed, [*waited, pod(1, {}, late)])
    assert cause
    assert (cause.kind, cause.rank, cause.final) == ("Unschedulable", 1, True)
    # The pods that had not started are gone; their events are not.
    scheduling = event(pod(1), "FailedScheduling", late["message"])
    cause = look(failed, waited, scheduling)
    assert cause
    assert (cause.kind, cause.rank) == ("Unschedulable", 1)


def test_a_deadline_and_what_came_before() -> None:
    late = job(
        2, holds("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    )
    stopped: Object = {
        "deletionTimestamp": "2026-11-20T14:05:30Z",
        "deletionGracePeriodSeconds": 30,
    }
    cause = look(late, [pod(each, ended(143, at="14:05:02"), **stopped) for each in (0, 1)])
    assert cause
    assert (cause.kind, cause.final) == ("Deadline", True)
    assert cause.message.startswith("it did not end within its deadline of 3600 s; raise deadline")
    pull = event(
        pod(1), "Failed", f'Failed to pull image "{IMAGE}": {RPC} reference "x": not found'
    )
    cause = look(late, [pod(0, ended(143, at="14:05:02"), **stopped)], pull)
    assert cause
    assert cause.kind == "Deadline"
    assert f"before that rank 1: image {IMAGE} cannot be pulled: not found" in cause.message
    scheduling = event(pod(0), "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.")
    cause = look(late, [pod(0, ended(143, at="14:05:02"), **stopped)], scheduling)
    assert cause
    assert "before that" not in cause.message
    started = event(pod(1), "Started", "Started container trainer", "14:00:30", "Normal")
    cause = look(late, [], pull, started)
    assert cause
    assert "before that" not in cause.message


@pytest.mark.parametrize(
    "reason", ["BackoffLimitExceeded", "FailedIndexes", "MaxFailedIndexesExceeded"]
)
@pytest.mark.parametrize("kind", ["Failed", "FailureTarget"])
def test_a_failed_job_is_resolved_to_its_pod(reason: str, kind: str) -> None:
    failed = job(2, holds(kind, reason, "Job has failed indexes"), failedIndexes="1")
    stopped: Object = {
        "deletionTimestamp": "2026-11-20T14:03:00Z",
        "deletionGracePeriodSeconds": 30,
    }
    evicted = pod(0, ended(75), holds("DisruptionTarget", "EvictionByEvictionAPI"), born="13:59:00")
    killed = pod(0, ended(137, at="14:02:50"), suffix="bbbbb", **stopped)
    cause = look(failed, [evicted, killed, pod(1, ended(1, "rank 1: ValueError: no"))])
    assert cause
    assert (cause.kind, cause.rank, cause.final) == ("Crash", 1, True)
    assert "lost" not in cause.message
    cause = look(failed, [])
    assert cause
    assert (cause.kind, cause.final) == ("Failed", True)
    assert cause.message.startswith(
        "the Job failed: Job has failed indexes; see python -m k8s logs"
    )
    cause = look(failed, [], event(pod(1), "BackOff", "Back-off restarting failed container"))
    assert cause
    assert "last warning: Back-off restarting" in cause.message


def test_of_what_befell_a_failed_job_only_what_failed_it_counts() -> None:
    failed = job(3, holds("Failed", "FailedIndexes"), failedIndexes="1")
    evicted = pod(1, ended(75, at="14:01:00"), holds("DisruptionTarget", "EvictionByEvictionAPI"))
    evicted["status"]["conditions"][0]["lastTransitionTime"] = "2026-11-20T14:01:00Z"
    retried = pod(0, ended(1, "rank 0: ValueError: once", "14:01:30"))
    last = pod(1, ended(1, "rank 1: ValueError: no", "14:04:00"), born="14:01:10", suffix="bbbbb")
    waits = pod(2, waiting("ErrImagePull", "not found"))
    pods = [evicted, retried, last, waits]
    cause = look(failed, pods)
    assert cause
    assert (cause.kind, cause.rank) == ("Crash", 1)
    del failed["status"]["failedIndexes"]
    cause = look(failed, pods)
    assert cause
    assert (cause.kind, cause.rank) == ("Crash", 0)


def test_containers_beside_the_trainer_end_as_they_like() -> None:
    helper = {"name": "helper", "state": ended(1, "not ours")}
    run = pod(0)
    run["status"]["containerStatuses"].insert(0, helper)
    assert look(job(1), [run]) is None


def test_a_pod_failure_policy_is_resolved_to_its_pod() -> None:
    failed = job(2, holds("Failed", "PodFailurePolicy", f"{POLICY} at index 0"))
    retried = pod(0, ended(1, "rank 0: once", "14:00:30"))
    record = failure("data", 1, "data: torn", 65)
    cause = look(failed, [retried, pod(1, ended(65, record, "14:04:00"))])
    assert cause
    assert (cause.kind, cause.rank, cause.final) == ("Data", 1, True)
    cause = look(
        failed, [retried, pod(0, ended(75, record, "14:04:00"), suffix="bbbbb", born="14:01:00")]
    )
    assert cause
    assert (cause.kind, cause.rank) == ("Data", 1)
    assert "data: torn" in cause.message
    cause = look(failed, [])
    assert cause
    assert (cause.kind, cause.rank) == ("Data", 1)
    assert "ended with code 65: bad data" in cause.message


def test_history_counts_only_where_it_failed_the_job() -> None:
    first = pod(1, ended(1, "rank 1: its worker was killed by SIGKILL", "14:01:00"))
    again = pod(1, ended(1, "rank 1: ValueError: no", "14:03:00"), born="14:01:10", suffix="bbbbb")
    running = pod(1, born="14:03:10", suffix="ccccc")
    assert look(job(2), [first, again, running, pod(0)]) is None
    failed = job(2, holds("Failed", "FailedIndexes"), failedIndexes="1")
    cause = look(failed, [again, first, pod(0)])
    assert cause
    assert cause.at == "2026-11-20T14:01:00Z"
    # What a pod ran on for long after is past.
    again = pod(1, ended(1, "rank 1: ValueError: no", "15:03:00"), born="14:01:10", suffix="bbbbb")
    cause = look(failed, [again, first, pod(0)], now=NOW + timedelta(hours=2))
    assert cause
    assert cause.at == "2026-11-20T15:03:00Z"


def test_others_words_stand_in_for_a_pod_that_is_gone() -> None:
    pods = [pod(each, ended(75, out_of_memory(2), "14:02:12")) for each in (0, 1)]
    cause = look(job(3), pods)
    assert cause
    assert (cause.kind, cause.rank) == ("OutOfMemory", 2)
    assert cause.message.startswith(f"rank 2 at 14:02:12 UTC: {OOM}")
    assert look(job(3), [*pods, pod(2, suffix="bbbbb")]) is None
    for idle in (lost(2), asked(2), "", "a text of an earlier trainer"):
        assert look(job(3), [pod(0, ended(75, idle)), pod(1, ended(75, idle))]) is None
