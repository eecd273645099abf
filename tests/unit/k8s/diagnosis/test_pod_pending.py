"""Why pods do not start: images, room on nodes, what they name, claims."""

import pytest

from tests.support.causes import CREATING, IMAGE, RPC, event, look, running, unscheduled, waiting
from tests.support.pods import NOW, Object, ended, job, pod


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


@pytest.mark.parametrize(
    ("scheduler", "remedy"),
    [
        ("nope", "correct scheduler_name, or start that scheduler"),
        ("default-scheduler", "ask whoever runs the cluster whether its scheduler works"),
    ],
)
def test_a_scheduler_that_does_not_run(scheduler: str, remedy: str) -> None:
    pods = [pod(rank) for rank in range(4)]
    for each in pods:
        each["spec"] |= {"nodeName": None, "schedulerName": scheduler}
        each["status"] = {"phase": "Pending"}
    cause = look(job(), pods)
    assert cause
    assert cause.kind == "Unschedulable"
    said = f"ranks 0, 1, 2, 3: no scheduler {scheduler!r} has looked at its pod; {remedy}"
    assert cause.message == said
    assert look(job(), pods, now=NOW.replace(minute=0, second=20)) is None


def test_a_claim_on_another_node_is_named() -> None:
    stuck = pod(1, CREATING)
    words = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) mnist-0-a'
    cause = look(job(), [pod(0), stuck], event(stuck, "FailedAttachVolume", words))
    assert cause
    assert "a pod on another node has its ReadWriteOnce claim: Multi-Attach" in cause.message
    assert "one_node: true" in cause.message
    assert look(job(), [pod(0), pod(1)], event(pod(1), "FailedAttachVolume", words)) is None


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
    stuck["spec"]["volumes"] = [{"name": "files-0", "configMap": {"name": "mnist"}}]
    cause = look(job(1), [stuck], mount)
    assert cause
    assert cause.message.endswith("create it in namespace team, or correct files")
    stuck["spec"]["volumes"] = []
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
