"""Why a pod that is there does not start. Pure."""

import re

from k8s.diagnosis.evidence import (
    SETTLING,
    STUCK,
    Object,
    Observed,
    Symptom,
    condition,
    container,
    dig,
    end,
    rank,
    seen,
    shorten,
    since,
    status_of,
    text,
)
from k8s.quantity import asked, show

# Why a container waits, as kubelet says it.
PULLING = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
STARTING = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
NODE_TROUBLES = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")  # events
DEFAULT_SCHEDULER = "default-scheduler"
# What the scheduler says of a claim without a volume.
UNBOUND = r"unbound immediate PersistentVolumeClaims|find available persistent volumes to bind"


def unschedulable(pod: Object, observed: Observed) -> Symptom | None:
    """No node takes the pod."""
    scheduled = condition(pod, "PodScheduled", "False")
    at = text(scheduled, "lastTransitionTime") or text(pod, "metadata", "creationTimestamp")
    if not scheduled or observed.age(at) < SETTLING:
        return None
    words = re.split(r"[.,] (?:no new claims|preemption:)", text(scheduled, "message"))[0]
    words, need = words.rstrip("."), asked(dig(pod, "spec") or {})
    short = list(dict.fromkeys(re.findall(r"Insufficient ([\w./-]+\w)", words)))
    remedies = []
    if short:
        remedies.append("lower resources or workers, or wait for room or a larger node")
    if "affinity/selector" in words or "node selector" in words:
        remedies.append("see node_selector")
    if "pod affinity rules" in words:
        remedies.append("see one_node, which keeps all workers on one node")
    if "taint" in words:
        remedies.append("see tolerations")
    what = f"no node takes its pod: {words}"
    wants = " and ".join(f"{show(each, need[each])} {each}" for each in short if each in need)
    if wants:
        what = f"no node has room for its pod, which asks for {wants}: {words}"
    return Symptom("Unschedulable", what, "; ".join(remedies) or "see kubectl get nodes", at)


def unnoticed(pod: Object, observed: Observed) -> Symptom | None:
    """No scheduler has looked at the pod: the one that it names does not run."""
    at = text(pod, "metadata", "creationTimestamp")
    looked = any(
        each.get("type") == "PodScheduled" for each in dig(pod, "status", "conditions") or []
    )
    seen_by_a_node = text(pod, "spec", "nodeName") or text(pod, "status", "startTime")
    waits = text(pod, "status", "phase") == "Pending" and observed.age(at) > STUCK
    if looked or seen_by_a_node or not waits:
        return None
    name = text(pod, "spec", "schedulerName") or DEFAULT_SCHEDULER
    remedy = "ask whoever runs the cluster whether its scheduler works"
    if name != DEFAULT_SCHEDULER:
        remedy = "correct scheduler_name, or start that scheduler"
    what = f"no scheduler {name!r} has looked at its pod"
    return Symptom("Unschedulable", what, remedy, at)


def claim(pod: Object, observed: Observed) -> Symptom | None:
    """A claim is missing, has no volume, or is mounted on another node."""
    namespace = text(pod, "metadata", "namespace") or "default"
    scheduled = condition(pod, "PodScheduled", "False")
    at = text(scheduled, "lastTransitionTime") or text(pod, "metadata", "creationTimestamp")
    if scheduled and observed.age(at) >= SETTLING:
        words = text(scheduled, "message")
        if missing := re.search(r'persistentvolumeclaim "([^"]+)" not found', words):
            remedy = f"create it in namespace {namespace}, or correct volumes"
            return Symptom("MissingReference", f"claim {missing[1]} is not there", remedy, at)
        if re.search(UNBOUND, words):
            names = " ".join(_claims(pod))
            what = f"no volume is bound to its claim ({names.replace(' ', ', ')})"
            remedy = f"see why: kubectl --namespace {namespace} describe pvc {names}"
            return Symptom("Unbound", what, remedy, at)
        if "ReadWriteOncePod" in words:
            what = "another pod has its ReadWriteOncePod claim"
            return Symptom("Unschedulable", what, "wait for that pod to end, or delete it", at)
    attached = observed.events_of(pod, "FailedAttachVolume")
    if attached and not scheduled and text(pod, "status", "phase") == "Pending":
        words = text(attached[-1], "message")
        if "Multi-Attach" in words:
            what = f"a pod on another node has its ReadWriteOnce claim: {words}"
            remedy = "wait for that pod to end, or keep all workers together with one_node: true"
            return Symptom("Start", what, remedy, since(pod) or seen(attached[-1]))
    return None


def _claims(pod: Object) -> list[str]:
    volumes = dig(pod, "spec", "volumes") or []
    found = (text(each, "persistentVolumeClaim", "claimName") for each in volumes)
    return [name for name in found if name]


def image(pod: Object, observed: Observed) -> Symptom | None:
    """The image cannot be pulled."""
    status = _waiting(pod, *PULLING)
    if not status:
        return None
    containers = [
        *(dig(pod, "spec", "initContainers") or []),
        *(dig(pod, "spec", "containers") or []),
    ]
    of_spec = [each.get("image") for each in containers if each.get("name") == status.get("name")]
    name = str((of_spec or [status.get("image")])[0])
    words = text(status, "state", "waiting", "message")
    if "rpc error" not in words and "failed" not in words.lower():
        pulls = [text(each, "message") for each in observed.events_of(pod, "Failed")]
        words = next((each for each in reversed(pulls) if "pull image" in each), words)
    secrets = observed.events_of(pod, "FailedToRetrieveImagePullSecret")
    what = f"image {name} cannot be pulled: {_brief_pull(words)}"
    reason = str(dig(status, "state", "waiting", "reason"))
    return Symptom("ImagePull", what, _pull_remedy(reason, words, bool(secrets)), since(pod))


def _brief_pull(words: str) -> str:
    """Return what the registry or the network said, without the layers that pass it on."""
    layer = r"(?:to resolve reference|pull and unpack image|to pull image|Back-off pulling image)"
    words = re.sub(rf'^.*{layer} "[^"]*"(?:: ErrImagePull)?(?:: |$)', "", words)
    words = re.sub(r"^.*(?=invalid reference format)", "", words)
    words = re.sub(r'^Container image "[^"]*" ', "it ", words)
    words = re.sub(r"^(?:.*: )?rpc error: code = \w+ desc = ", "", words)
    words = re.sub(r"^[\w./-]+(?::\d+/[\w./-]+)?(?::[\w.-]+|@sha256:\w+)+: ", "", words)
    return shorten(words, 110) or "kubelet does not say why"


def _pull_remedy(reason: str, words: str, secret_missing: bool) -> str:
    said = words.lower()
    if reason == "InvalidImageName":
        return "correct image"
    if reason == "ErrImageNeverPull":
        return "load it onto the node, or change image_pull_policy"
    if secret_missing:
        return "a Secret named under image_pull_secrets is missing: create it"
    if "no match for platform" in said:
        return "build it for the nodes' architecture"
    if re.search(r"\b40[13]\b|denied|unauthorized|authoriz|forbidden|credential", said):
        return "see image_pull_secrets, and that the name is right"
    if re.search(r"not found|\b404\b|manifest unknown|does not exist", said):
        return "push it, or correct its name or tag"
    return "see that the nodes reach its registry"


def missing_reference(pod: Object, observed: Observed) -> Symptom | None:
    """The pod names a Secret or ConfigMap that is not there."""
    status = _waiting(pod, "CreateContainerConfigError")
    mounts = [each for each in _troubles(pod, observed) if each["reason"] == "FailedMount"]
    messages = [text(each, "message") for each in reversed(mounts)]
    for words in [text(status, "state", "waiting", "message"), *messages]:
        key = re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", words)
        if key:
            what = f"{key[2]} {key[3]} has no key {key[1]}"
            return Symptom("MissingReference", what, "add it, or correct the name", since(pod))
        found = re.search(r'(secret|configmap) "([^"]+)" not found', words, re.IGNORECASE)
        if found:
            return _missing(found[1].lower(), found[2], pod)
    return None


def _missing(kind: str, name: str, pod: Object) -> Symptom:
    namespace = text(pod, "metadata", "namespace") or "default"
    volumes = dig(pod, "spec", "volumes") or []
    files = [
        text(each, "configMap", "name") or text(each, "secret", "secretName")
        for each in volumes
        if text(each, "name").startswith("files-")
    ]
    what = f"{'Secret' if kind == 'secret' else 'ConfigMap'} {name} is not there"
    remedy = "it was created with the run: submit the run again"
    if kind == "secret" or name in files:
        setting = "files" if name in files else "environment_secrets"
        remedy = f"create it in namespace {namespace}, or correct {setting}"
    return Symptom("MissingReference", what, remedy, since(pod))


def _troubles(pod: Object, observed: Observed) -> list[Object]:
    """Return what a pod's node could not do for it and has not done since, oldest first."""
    started = {"running", "terminated"} & (dig(status_of(pod), "state") or {}).keys()
    events = observed.events_of(pod, *NODE_TROUBLES, "Pulling", "Pulled")
    if started or not events or events[-1]["reason"] not in NODE_TROUBLES:
        return []
    return [each for each in events if each["reason"] in NODE_TROUBLES]


def start(pod: Object, observed: Observed) -> Symptom | None:
    """The container cannot be made or started."""
    status, ended = _waiting(pod, *STARTING), end(pod)
    if status:
        words, at = text(status, "state", "waiting", "message"), since(pod)
        if re.search(r"timed out|not yet been read", words) and observed.age(at) < STUCK:
            return None  # kubelet's caches fill up
    elif ended and ended.reason in ("StartError", "ContainerCannotRun"):
        words, at = ended.words, ended.at
    else:
        return None
    found = re.search(r'exec: "[^"]*": .*|(?:error mounting|no such file) .*', words)
    what = re.sub(r": unknown$", "", found[0] if found else words) or "no reason was given"
    remedy = "see whether the image is the trainer's, with its entry point"
    if "runAsNonRoot" in words:
        what = re.sub(r" \(pod: .*", "", what)
        remedy = "give the image a USER other than root, by number"
    what = f"its container cannot be started: {shorten(what, 140)}"
    return Symptom("Start", what, remedy, at, ended=ended is not None)


def beside(pod: Object, _: Observed) -> Symptom | None:
    """A container that the trainer waits for has failed, or does not stay up."""
    for status in dig(pod, "status", "initContainerStatuses") or []:
        crashes = dig(status, "state", "waiting", "reason") == "CrashLoopBackOff"
        its = dig(status, "lastState" if crashes else "state", "terminated") or {}
        if code := its.get("exitCode"):
            name, of = text(status, "name"), text(pod, "metadata", "name")
            what = f"its pod does not start: {name} ended with code {code}"
            namespace = text(pod, "metadata", "namespace") or "default"
            see = f"see kubectl -n {namespace} logs {of} -c {name}"
            return Symptom("Start", what, see, since(pod), ended=not crashes)
    return None


def node_trouble(pod: Object, observed: Observed) -> Symptom | None:
    """The node has the pod, but not yet what its containers need: a network, a volume."""
    troubles = _troubles(pod, observed)
    if not troubles or observed.age(since(pod)) < STUCK:
        return None
    node = text(pod, "spec", "nodeName") or "its node"
    what = f"{node} cannot start its pod: {shorten(text(troubles[-1], 'message'), 150)}"
    return Symptom("Start", what, "ask whoever runs the cluster", seen(troubles[-1]))


def silent(observed: Observed) -> Symptom | None:
    """Rank 0's container runs, but it has reported nothing that a trainer does."""
    for pod in observed.pods:
        started = dig(status_of(pod), "state", "running", "startedAt")
        if started and rank(pod) == 0 and not observed.trains and observed.age(started) > STUCK:
            what, remedy = no_trainer(observed.job)
            return Symptom("NoTrainer", what, remedy, str(started), rank=0)
    return None


def no_trainer(job: Object | None) -> tuple[str, str]:
    """Return what is wrong with a container that runs and does not train, and the remedy."""
    its = container(dig(job, "spec", "template", "spec"))
    what = "its container runs, but its log holds nothing that the trainer says"
    remedy = f"see whether image {its.get('image')} is the trainer's"
    return what, f"{remedy}; if it is, its data are still being loaded or peers are missing"


def _waiting(pod: Object, *reasons: str) -> Object | None:
    """Return the container status that waits for one of these reasons."""
    for each in ("initContainerStatuses", "containerStatuses"):
        for status in dig(pod, "status", each) or []:
            if dig(status, "state", "waiting", "reason") in reasons:
                return dict(status)
    return None
