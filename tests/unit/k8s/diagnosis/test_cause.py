"""The first cause, from objects in the shape that the API server gives them."""

import itertools
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.diagnosis.cause import LONGEST, Cause, diagnose
from k8s.diagnosis.evidence import Observed
from tests.support.pods import NOW, RUNNING, Object, ended, holds, job, pod
from trainer.failure import KINDS, Failure, Kind

RECORDED = Path(__file__).parents[3] / "data" / "cluster"
RECORDINGS = sorted(RECORDED.glob("*.json"))
OOM = "its worker was killed for lack of memory (limit 512 MiB, peak 511 MiB)"
OOM_REMEDY = "give it more memory or lower batch_size"
OOM_LINE = f"{OOM}; {OOM_REMEDY}"
CREATING: Object = {"waiting": {"reason": "ContainerCreating"}}


def failure(kind: Kind, rank: int, message: str = "words", code: int = 1, **more: Any) -> str:
    """What the trainer leaves for Kubernetes."""
    return json.dumps(Failure(kind=kind, rank=rank, code=code, message=message, **more).record())


def asked(rank: int) -> str:
    return failure("stopped", rank, code=75)


def lost(rank: int) -> str:
    return failure("supervisor_lost", rank, code=75)


def out_of_memory(rank: int) -> str:
    return failure("out_of_memory", rank, OOM, remedy=OOM_REMEDY)


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def event(
    item: Object, reason: str, message: str, at: str = "14:00:03", type_: str = "Warning"
) -> Object:
    kind = "Pod" if "containers" in item["spec"] else "Job"
    names = {key: item["metadata"][key] for key in ("name", "namespace", "uid")}
    seen = f"2026-11-20T{at}Z"
    return {
        "involvedObject": {"kind": kind, **names},
        "type": type_,
        "reason": reason,
        "message": message,
        "firstTimestamp": seen,
        "lastTimestamp": seen,
        "count": 1,
    }


def look(item: Object | None, pods: Sequence[Object], *events: Object, **more: Any) -> Cause | None:
    """Diagnose, and check what holds for every answer."""
    now = more.pop("now", NOW)
    cause = diagnose(Observed(item, list(pods), list(events), **more, now=now))
    if cause:
        assert 0 < len(cause.message) <= LONGEST
        assert cause.message.isprintable()
    return cause


def unscheduled(words: str, at: str = "14:00:00") -> Object:
    condition = holds("PodScheduled", "Unschedulable", words, "False")
    return {**condition, "lastTransitionTime": f"2026-11-20T{at}Z"}


def refused(words: str, **more: Any) -> Object:
    return event(
        job(), "FailedCreate", f'Error creating: pods "mnist-1-" is forbidden: {words}', **more
    )


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


def running(at: str) -> Object:
    return {"running": {"startedAt": f"2026-11-20T{at}Z"}}


def test_containers_that_run_without_a_word_of_the_trainer() -> None:
    pods = [pod(rank, running("14:00:00")) for rank in range(4)]
    assert look(job(), pods) is None
    soon = NOW.replace(minute=0, second=10)
    assert look(job(), pods, trains=False, now=soon) is None
    cause = look(job(), pods, trains=False)
    assert cause
    assert (cause.kind, cause.rank, cause.final) == ("NoTrainer", 0, False)
    assert "its log holds nothing that the trainer says" in cause.message
    # Whatever else is known comes first.
    waits = pod(1, waiting("ErrImagePull", "not found"), born="14:01:00")
    cause = look(job(), [pods[0], waits, *pods[2:]], trains=False)
    assert cause
    assert (cause.kind, cause.rank) == ("ImagePull", 1)


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
    ("words", "kind", "message"),
    [  # as the scheduler of 1.36.2 says it
        (
            'persistentvolumeclaim "team" not found. not found',
            "MissingReference",
            "rank 0: claim team is not there; create it in namespace team, or correct volumes",
        ),
        (
            "pod has unbound immediate PersistentVolumeClaims. not found",
            "Unbound",
            "rank 0: no volume is bound to its claim (data, team); see why: "
            "kubectl --namespace team describe pvc data team",
        ),
        (
            "1 node(s) didn't find available persistent volumes to bind. no new claims to "
            "deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful",
            "Unbound",
            "rank 0: no volume is bound to its claim (data, team); see why: "
            "kubectl --namespace team describe pvc data team",
        ),
        (
            "1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode "
            "already in-use by another pod",
            "Unschedulable",
            "rank 0: another pod has its ReadWriteOncePod claim; wait for that pod to end, or "
            "delete it",
        ),
        (
            "1 Insufficient cpu, 2 node(s) didn't match pod affinity rules",
            "Unschedulable",
            "see one_node, which keeps all workers on one node",
        ),
    ],
)
def test_claims_that_keep_a_pod_from_its_node(words: str, kind: str, message: str) -> None:
    stuck = pod(0, {}, unscheduled(f"0/1 nodes are available: {words}"))
    stuck["spec"]["volumes"] = [
        {"name": "tmp", "emptyDir": {}},
        *({"name": n, "persistentVolumeClaim": {"claimName": n}} for n in ("data", "team")),
    ]
    cause = look(job(), [stuck, *(pod(rank) for rank in range(1, 4))])
    assert cause
    assert (cause.kind, cause.rank) == (kind, 0)
    assert message in cause.message
    now = NOW.replace(minute=0, second=2)
    assert look(job(), [stuck], now=now) is None


def test_a_claim_on_another_node_is_named() -> None:
    stuck = pod(1, CREATING)
    words = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) mnist-0-a'
    cause = look(job(), [pod(0), stuck], event(stuck, "FailedAttachVolume", words))
    assert cause
    assert "a pod on another node has its ReadWriteOnce claim: Multi-Attach" in cause.message
    assert "one_node: true" in cause.message
    assert look(job(), [pod(0), pod(1)], event(pod(1), "FailedAttachVolume", words)) is None


@pytest.mark.parametrize("kind", ["Complete", "SuccessCriteriaMet"])
def test_a_run_that_went_on_to_its_end_has_no_cause(kind: str) -> None:
    done = job(2, holds(kind, "CompletionsReached"))
    assert look(done, [pod(0, ended(1, "once")), pod(1, ended(0))]) is None


IMAGE = "registry.local:5000/team/trainer:1"
RPC = "rpc error: code = NotFound desc = failed to pull and unpack image "
RPC += f'"{IMAGE}": failed to resolve'


@pytest.mark.parametrize(
    ("reason", "message", "says", "hint"),
    [
        (
            "ErrImagePull",
            f'{RPC} reference "{IMAGE}": {IMAGE}: not found',
            ": not found;",
            "push it",
        ),
        (
            "ImagePullBackOff",
            f'Back-off pulling image "{IMAGE}": ErrImagePull: {RPC} reference "{IMAGE}": '
            "unexpected status from HEAD request to https://registry.local: 403 Forbidden",
            "403 Forbidden",
            "image_pull_secrets",
        ),
        (
            "ErrImagePull",
            f'{RPC} reference "{IMAGE}": pull access denied, repository does not exist or may '
            "require authorization: server message: insufficient_scope: authorization failed",
            "pull access denied",
            "image_pull_secrets",
        ),
        (
            "ErrImagePull",
            f'{RPC} reference "{IMAGE}": failed to do request: Head "https://registry.local:5000/v2'
            '/team/trainer/manifests/1": dial tcp: lookup registry.local: no such host',
            "no such host",
            "reach its registry",
        ),
        (
            "InvalidImageName",
            f'Failed to apply default image tag "{IMAGE}": couldn\'t parse image name "{IMAGE}": '
            "invalid reference format: repository name must be lowercase",
            ": invalid reference format",
            "correct image",
        ),
        (
            "ErrImageNeverPull",
            f'Container image "{IMAGE}" is not present with pull policy of Never',
            "is not present",
            "image_pull_policy",
        ),
    ],
)
def test_an_image_that_cannot_be_pulled(reason: str, message: str, says: str, hint: str) -> None:
    stuck = pod(1, waiting(reason, message))
    cause = look(job(), [pod(0), stuck, pod(2), pod(3)])
    assert cause
    assert (cause.kind, cause.rank, cause.final) == ("ImagePull", 1, False)
    assert cause.message.startswith(f"rank 1: image {IMAGE} cannot be pulled: ")
    assert cause.message.count(IMAGE) == 1
    assert says in cause.message
    assert hint in cause.message


def test_older_kubelets_tell_of_the_pull_in_an_event() -> None:
    stuck = [
        pod(each, waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"'))
        for each in (0, 1)
    ]
    pulls = [
        event(
            each, "Failed", f'Failed to pull image "{IMAGE}": {RPC} reference "{IMAGE}": not found'
        )
        for each in stuck
    ]
    cause = look(
        job(2), stuck, *pulls, event(stuck[0], "Failed", "Error: ErrImagePull", "14:00:04")
    )
    assert cause
    what = f"image {IMAGE} cannot be pulled: not found; push it, or correct its name or tag"
    assert cause.message == f"ranks 0, 1: {what}"
    secret = event(stuck[0], "FailedToRetrieveImagePullSecret", "Unable to retrieve some ...")
    cause = look(job(1), stuck[:1], *pulls, secret)
    assert cause
    assert cause.message.startswith(f"image {IMAGE} cannot be pulled")
    assert "image_pull_secrets is missing" in cause.message


def test_no_room_names_the_resource_and_what_the_scheduler_says() -> None:
    words = "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: }, 2 Insufficient cpu. "
    words += "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    stuck = pod(1, {}, unscheduled(words), status={"containerStatuses": None})
    del stuck["spec"]["nodeName"]
    cause = look(job(2), [pod(0), stuck])
    assert cause
    assert (cause.kind, cause.rank, cause.at) == ("Unschedulable", 1, "2026-11-20T14:00:00Z")
    assert "asks for 2 cpu: 0/3 nodes are available" in cause.message
    assert "Preemption" not in cause.message
    assert "tolerations" in cause.message
    assert "lower resources or workers" in cause.message


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("2 node(s) didn't match Pod's node affinity/selector", "node_selector"),
        ("2 node(s) had untolerated taint(s)", "tolerations"),
        ("2 node(s) were unschedulable", "kubectl get nodes"),
    ],
)
def test_nodes_that_do_not_match(words: str, hint: str) -> None:
    stuck = pod(0, {}, unscheduled(f"0/2 nodes are available: {words}."))
    cause = look(job(1), [stuck])
    assert cause
    assert cause.message == f"no node takes its pod: 0/2 nodes are available: {words}; see {hint}"


QUOTA = (
    "exceeded quota: compute, requested: requests.cpu=2,requests.memory=1Gi, "
    "used: requests.cpu=3,requests.memory=3Gi, limited: requests.cpu=4,requests.memory=3584Mi"
)


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


def suspended(**labels: str) -> Object:
    item = job(2, holds("Suspended", "JobSuspended", "Job suspended"))
    item["spec"]["suspend"] = True
    item["metadata"]["labels"] |= labels
    return item


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


def test_what_the_pod_names_is_missing() -> None:
    stuck = pod(0, waiting("CreateContainerConfigError", 'secret "store" not found'))
    cause = look(job(1), [stuck])
    assert cause
    assert cause.kind == "MissingReference"
    assert cause.message.startswith("Secret store is not there; create it in namespace team")
    stuck = pod(
        0, waiting("CreateContainerConfigError", "couldn't find key k in Secret team/store")
    )
    cause = look(job(1), [stuck])
    assert cause
    assert cause.message.startswith("Secret team/store has no key k")
    words = "failed to sync secret cache: timed out waiting for the condition"
    stuck = pod(0, waiting("CreateContainerConfigError", words))
    assert look(job(1), [stuck], now=NOW.replace(minute=0, second=10)) is None
    cause = look(job(1), [stuck])
    assert cause
    assert words in cause.message
    stuck = pod(0, CREATING)
    words = 'MountVolume.SetUp failed for volume "config" : configmap "mnist" not found'
    mount = event(stuck, "FailedMount", words)
    cause = look(job(1), [stuck], mount)
    assert cause
    assert cause.kind == "MissingReference"
    assert cause.message.startswith("ConfigMap mnist is not there")
    pulling = event(stuck, "Pulling", f'Pulling image "{IMAGE}"', "14:00:20", "Normal")
    assert look(job(1), [stuck], pulling, mount) is None
    assert look(job(2), [stuck, pod(1)], event(pod(1), "FailedMount", words)) is None
    assert look(job(1), [pod(0)], mount) is None


def test_what_the_node_cannot_do_for_a_pod_is_told_after_a_while() -> None:
    stuck = pod(0, CREATING)
    words = (
        'MountVolume.SetUp failed for volume "config" : failed to sync configmap cache: timed out'
    )
    for reason in ("FailedMount", "FailedCreatePodSandBox"):
        trouble = event(stuck, reason, words)
        assert look(job(1), [stuck], trouble, now=NOW.replace(minute=0, second=10)) is None
        cause = look(job(1), [stuck], trouble)
        assert cause
        assert cause.kind == "Start"
        assert "node-a cannot start its pod" in cause.message


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (
            ended(
                128,
                "failed to create containerd task: failed to create shim task: OCI runtime create "
                "failed: runc create failed: unable to start container process: error during "
                'container init: exec: "train": executable file not found in $PATH: unknown',
                reason="StartError",
            ),
            'cannot be started: exec: "train": executable file not found in $PATH;',
        ),
        (
            waiting("RunContainerError", 'x: exec: "train": permission denied: unknown'),
            'exec: "train": permission denied;',
        ),
        (waiting("CreateContainerError", "no command specified"), "no command specified"),
        (
            waiting(
                "CreateContainerConfigError",
                'container has runAsNonRoot and image will run as root (pod: "mnist-0-aaaaa_team(0)'
                '", container: trainer)',
            ),
            "image will run as root; give the image a USER",
        ),
    ],
)
def test_a_container_that_cannot_be_started(state: Object, says: str) -> None:
    cause = look(job(1), [pod(0, state)])
    assert cause
    assert cause.kind == "Start"
    assert says in cause.message


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


COMMAND = "kubectl --namespace team delete pod mnist-1-aaaaa --force --grace-period=0"


def test_a_lost_node_and_the_command_that_replaces_its_pod() -> None:
    unready = holds("Ready", "NodeNotReady", "", "False")
    silent = pod(1, None, unready)
    cause = look(job(2), [pod(0), silent], event(silent, "NodeNotReady", "Node is not ready"))
    assert cause
    assert (cause.kind, cause.rank) == ("NodeLost", 1)
    assert cause.message.endswith(COMMAND)
    assert cause.message.startswith("rank 1: its node node-a does not answer")
    assert cause.message.count("mnist-") == 1
    assert look(job(2), [pod(0), silent]) is None
    again = pod(1, None, holds("Ready", ""))
    assert look(job(2), [pod(0), again], event(again, "NodeNotReady", "Node is not ready")) is None


def test_a_pod_that_does_not_end_is_on_a_lost_node() -> None:
    leaving = "2026-11-20T14:09:00Z"  # its grace is in it already
    stuck = pod(1, deletionTimestamp=leaving, deletionGracePeriodSeconds=30)
    gone = datetime.fromisoformat(leaving)
    assert look(job(2), [pod(0), stuck], now=gone + timedelta(seconds=29)) is None
    cause = look(job(2), [pod(0), stuck], now=gone + timedelta(seconds=31))
    assert cause
    assert (cause.kind, cause.rank, cause.at) == ("NodeLost", 1, leaving)
    assert COMMAND in cause.message
    long = pod(1, deletionTimestamp=leaving, namespace="n" * 63, name="p" * 63)
    cause = look(job(), [long, *(pod(each, ended(75, lost(1))) for each in (0, 2, 3))])
    assert cause
    assert f"kubectl --namespace {'n' * 63} delete pod {'p' * 63} --force" in cause.message


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


def missing(rank: int, *absent: int) -> str:
    names = ", ".join(f"rank {each} (mnist-{each}.mnist:2222)" for each in absent)
    message = f"the gang of 4 did not meet within 300 s: missing {names}"
    remedy = "see why it did not come, or raise --peer-deadline"
    return failure("peers_missing", rank, message, 69, remedy=remedy, missing=absent)


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


POLICY = (
    "Container trainer for pod team/mnist-1-aaaaa failed with exit code 65 matching FailJob rule"
)


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


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_objects(path: Path) -> None:
    """Each file holds an Observed's fields, and the expected fields of the Cause, or null.

    The clusters ran a trainer that left sentences; most of them were replaced by its records.
    bad-data and crash keep the sentences, which still have to be shown.
    """
    recorded = json.loads(path.read_text())
    expect = recorded.pop("expect")
    recorded["now"] = datetime.fromisoformat(recorded["now"])
    cause = look(recorded.pop("job"), recorded.pop("pods"), *recorded.pop("events"), **recorded)
    if expect is None:
        assert cause is None
        return
    assert cause
    for each in expect.pop("words", []):
        assert each in cause.message
    assert {name: getattr(cause, name) for name in expect} == expect
    # The sentences of that trainer name the rank once more.
    line = cause.message.replace(" UTC: rank 0: ", " UTC: ")
    assert f"| {line} |\n" in (RECORDED.parents[2] / "docs/e2e.md").read_text()


def test_there_are_recordings() -> None:
    if not RECORDED.exists():
        pytest.skip(f"no {RECORDED.name} folder: nothing is recorded yet")
    assert RECORDINGS


CONSEQUENCES = ("", lost(9), failure("killed", 9), *(failure(kind, 1) for kind in KINDS))
STATES = st.one_of(
    st.sampled_from([{}, RUNNING, CREATING, ended(0), ended(0, reason="OOMKilled")]),
    st.builds(
        waiting,
        st.sampled_from(["ErrImagePull", "CreateContainerConfigError", "RunContainerError", "Odd"]),
        st.text(max_size=400),
    ),
    st.builds(
        ended,
        st.sampled_from([1, 2, 65, 69, 75, 126, 137, 139, 143]),
        st.one_of(st.text(max_size=400), st.sampled_from([*CONSEQUENCES, missing(0, 1)])),
        st.sampled_from(["14:02:11", "14:02:12", "14:03:00"]),
        st.sampled_from(["", "OOMKilled", "StartError"]),
    ),
)
CONDITIONS = st.builds(
    holds,
    st.sampled_from(["PodScheduled", "DisruptionTarget", "Ready", "Failed", "FailureTarget"]),
    st.sampled_from(["PreemptionByScheduler", "DeletionByTaintManager", "DeadlineExceeded", "Odd"]),
    st.one_of(st.text(max_size=400), st.sampled_from([POLICY, "0/1: 1 Insufficient cpu."])),
    st.sampled_from(["True", "False", "Unknown"]),
)
PODS = st.lists(
    st.builds(
        pod,
        st.integers(0, 3),
        STATES,
        CONDITIONS,
        phase=st.sampled_from(["", "Pending", "Running", "Failed", "Unknown"]),
        suffix=st.sampled_from(["aaaaa", "bbbbb"]),
        deletionTimestamp=st.sampled_from([None, "2026-11-20T14:02:11Z"]),
    ),
    max_size=6,
)
EVENTS = st.lists(
    st.builds(
        event,
        st.sampled_from([job(), pod(0), pod(1), pod(3, suffix="ddddd")]),
        st.sampled_from(
            ["FailedCreate", "FailedMount", "FailedScheduling", "Failed", "NodeNotReady"]
        ),
        st.one_of(st.text(max_size=400), st.sampled_from([QUOTA, 'Failed to pull image "x": no'])),
    ),
    max_size=4,
)
JOBS = st.one_of(
    st.none(),
    st.just(suspended()),
    st.builds(job, st.integers(1, 4), CONDITIONS, failedIndexes=st.sampled_from(["", "0-2,3"])),
)


def without(item: Any, keep: Any) -> Any:
    """Leave out parts of an object at random, as older or odd servers do."""
    if isinstance(item, dict):
        return {key: without(each, keep) for key, each in item.items() if keep()}
    if isinstance(item, list):
        return [without(each, keep) for each in item]
    return item


@given(item=JOBS, pods=PODS, events=EVENTS, random=st.randoms(use_true_random=False))
def test_any_observation_has_an_answer_in_one_line(
    item: Object | None, pods: list[Object], events: list[Object], random: Any
) -> None:
    look(item, pods, *events, trains=random.random() < 0.5)
    for chance in (0.9, 0.5):
        torn = without([item, pods, events], lambda chance=chance: random.random() < chance)
        look(torn[0], torn[1], *torn[2])


@pytest.mark.parametrize("field", ["status", "spec", "metadata"])
def test_missing_parts_raise_nothing(field: str) -> None:
    empties: tuple[Object | None, ...] = ({}, None)
    for state, empty in itertools.product((RUNNING, CREATING, ended(1), ended(69)), empties):
        part = pod(1, state)
        part[field] = empty
        failed = job(2, holds("Failed", "PodFailurePolicy"))
        for item in (job(2), failed, {**failed, field: empty}):
            look(item, [part, pod(0)])


CAUSES: list[tuple[Kind | None, Object]] = [
    ("out_of_memory", ended(1, "", "14:02:10")),
    (None, ended(137, "", "14:02:10", "OOMKilled")),
    ("crashed", ended(1, "", "14:02:10")),
    ("config", ended(2, "", "14:02:10")),
    ("data", ended(65, "", "14:02:10")),
    ("unavailable", ended(69, "", "14:02:10")),
    (None, ended(128, 'exec: "x": not found', "14:02:10", "StartError")),
    (None, waiting("ErrImagePull", "not found")),
]


@given(
    cause=st.sampled_from(CAUSES),
    rank=st.integers(0, 3),
    followers=st.lists(
        st.tuples(
            st.sampled_from(["", "supervisor", "echo", "peer"]), st.sampled_from([1, 65, 75])
        ),
        min_size=3,
        max_size=3,
    ),
    at=st.sampled_from(["14:02:09", "14:02:10", "14:02:30"]),
    failed=st.booleans(),
    order=st.permutations(range(4)),
)
@settings(max_examples=200)
def test_a_rank_that_only_followed_is_never_blamed(
    cause: tuple[Kind | None, Object],
    rank: int,
    followers: list[tuple[str, int]],
    at: str,
    failed: bool,
    order: list[int],
) -> None:
    kind, state = cause
    state = json.loads(json.dumps(state))
    if kind:
        state["terminated"]["message"] = failure(kind, rank)
    pods = [pod(rank, state)]
    for other, (how, code) in zip(sorted({0, 1, 2, 3} - {rank}), followers, strict=True):
        messages = {
            "supervisor": lost(rank),
            "echo": failure(kind or "killed", rank, consequence=True),
            "peer": failure("peer_lost", other, code=75, consequence=True),
        }
        # Without a record, only the code says that it followed.
        pods.append(pod(other, ended(code if how else 75, messages.get(how, ""), at)))
    conditions = [holds("Failed", "FailedIndexes")] if failed else []
    found = look(job(4, *conditions, failedIndexes="0-3"), [pods[each] for each in order])
    assert found
    assert found.rank == rank
    assert found.kind not in ("Stopped", "Failed")
