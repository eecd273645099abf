"""Why a Job has no pods: quotas, admission, queues, suspension, its namespace's end."""

import pytest

from tests.support.causes import QUOTA, asked, event, look, refused, suspended
from tests.support.pods import NOW, Object, ended, holds, job, pod


def test_a_namespace_that_is_being_deleted() -> None:
    going = {"metadata": {"name": "team", "deletionTimestamp": "2026-11-20T14:00:10Z"}}
    for pods in ([], [pod(rank, ended(75, asked(0))) for rank in range(4)]):
        cause = look(job(), pods, namespace=going)
        assert cause
        assert (cause.kind, cause.final) == ("Terminating", True)
        assert "kubectl delete job mnist --namespace team" in cause.message
    assert look(job(), [], namespace={"metadata": {"name": "team"}}) is None
    failed = job(4, holds("Failed", "FailedIndexes", "failed indexes"), failedIndexes="0")
    cause = look(failed, [pod(0, ended(1, "ValueError: no"))], namespace=going)
    assert cause
    assert cause.kind == "Crash"


@pytest.mark.parametrize(
    ("words", "kind", "says", "hint"),
    [
        (
            QUOTA,
            "Quota",
            "quota compute has no room: 2 requests.cpu asked, 3 of 4 used; 1 GiB requests.memory "
            "asked, 3 GiB of 3.5 GiB used",
            "lower workers or resources",
        ),
        (
            "failed quota: compute: must specify limits.cpu for: trainer",
            "Quota",
            "quota compute demands limits.cpu for: trainer",
            "resources",
        ),
        (
            "maximum cpu usage per Container is 1, but limit is 2",
            "LimitRange",
            "maximum cpu usage per Container is 1, but limit is 2",
            "resources",
        ),
        (
            'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false '
            '(container "trainer" must set securityContext.allowPrivilegeEscalation=false), '
            'runAsNonRoot != true (pod or container "trainer" must set '
            "securityContext.runAsNonRoot=true)",
            "PodSecurity",
            "restricted:latest refuses: allowPrivilegeEscalation != false, runAsNonRoot != true;",
            "namespace",
        ),
        (
            'error looking up service account team/gone: serviceaccount "gone" not found',
            "MissingReference",
            "service account gone is not there",
            "service_account",
        ),
        (
            "no PriorityClass with name high was found",
            "MissingReference",
            "PriorityClass high is not there",
            "priority_class",
        ),
        ('admission webhook "x.y" denied the request: no', "Refused", "denied the request: no", ""),
    ],
)
def test_pods_that_the_api_server_refuses(words: str, kind: str, says: str, hint: str) -> None:
    cause = look(job(), [pod(0), pod(2), pod(3)], refused(words))
    assert cause
    assert (cause.kind, cause.rank, cause.final) == (kind, None, False)
    assert cause.message.startswith("1 of 4 pods cannot be created: ")
    assert says in cause.message
    assert hint in cause.message


def test_a_refusal_is_past_once_the_pods_are_there() -> None:
    others = [pod(0), pod(2), pod(3)]
    assert look(job(), [*others, pod(1)], refused(QUOTA)) is None
    assert look(job(completedIndexes="1"), others, refused(QUOTA)) is None
    made = event(job(), "SuccessfulCreate", "Created pod: x", "14:00:09", "Normal")
    assert look(job(), others, refused(QUOTA), made) is None
    assert look(job(), others, made, refused(QUOTA, at="14:01:00")) is not None


def test_a_retry_that_is_refused_is_what_a_failed_rank_waits_for() -> None:
    crashed = pod(1, ended(1, "rank 1: ValueError: no"))
    cause = look(job(2), [pod(0), crashed], refused(QUOTA, at="14:03:00"))
    assert cause
    assert cause.kind == "Quota"
    assert cause.message.startswith("1 of 2 pods")


def test_a_quota_that_another_try_does_not_fit_and_its_figures_of_now() -> None:
    cause = look(job(), [], refused(QUOTA.replace("cpu=2", "cpu=8")))
    assert cause
    assert "have it raised" in cause.message
    assert "wait" not in cause.message
    hard = {"requests.cpu": "5", "requests.memory": "3584Mi"}
    status = {"hard": hard, "used": {**hard, "requests.cpu": "4500m"}}
    quota = {"metadata": {"name": "compute"}, "status": status}
    cause = look(job(), [], refused(QUOTA), quotas=[quota])
    assert cause
    assert "2 requests.cpu asked, 4.5 of 5 used" in cause.message


def test_a_queue_that_does_not_admit_the_run() -> None:
    queued = suspended(**{"kueue.x-k8s.io/queue-name": "lq"})
    workload: Object = {"status": {"conditions": []}}
    cause = look(queued, [], workload=None)
    assert cause
    assert cause.kind == "Queue"
    assert "Kueue" in cause.message
    words = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor "
    words += "default-flavor, 1 more needed"
    conditions = workload["status"]["conditions"]
    conditions.append(holds("QuotaReserved", "Pending", words, "False"))
    cause = look(queued, [], workload=workload)
    assert cause
    assert (cause.kind, cause.final) == ("Queue", False)
    assert cause.message == (
        f"queue lq has not admitted the run: {words}; wait, or lower workers or resources"
    )
    conditions[0]["message"] = "LocalQueue lq doesn't exist"
    cause = look(queued, [], workload=workload)
    assert cause
    assert "correct queue" in cause.message
    assert look(queued, [], now=NOW.replace(minute=0, second=2)) is None
    conditions[:] = [holds("QuotaReserved", "QuotaReserved"), holds("Admitted", "Admitted")]
    assert look(queued, [], workload=workload) is None


def test_a_suspended_run_was_asked_to_stop() -> None:
    stopping = pod(0, ended(75, asked(0)), deletionTimestamp="2026-11-20T14:05:30Z")
    for pods in ([], [stopping, pod(1, ended(75, asked(0)))]):
        cause = look(suspended(), pods)
        assert cause
        assert (cause.kind, cause.final) == ("Suspended", False)
        assert cause.message == "it was asked to stop; submit it again to resume"
    idle = suspended(**{"kueue.x-k8s.io/queue-name": "lq"})
    cause = look(idle, [], workload={"spec": {"active": False}})
    assert cause
    assert cause.kind == "Suspended"
    # Being submitted: the Job comes first, and is released when all is there.
    assert look(suspended(), [], now=NOW.replace(minute=0, second=2)) is None
