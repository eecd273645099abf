"""What a pod shows of the reason why it does not run, or has failed. Pure."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from k8s.diagnosis import sidecars
from k8s.diagnosis.evidence import (
    GOES_ON,
    STOPPED,
    STUCK,
    End,
    Object,
    Observed,
    Symptom,
    condition,
    container,
    dig,
    end,
    moment,
    rank,
    seen,
    since,
    text,
)
from k8s.diagnosis.pod_pending import (
    beside,
    claim,
    image,
    missing_reference,
    no_trainer,
    node_trouble,
    start,
    unnoticed,
    unschedulable,
)
from k8s.quantity import parse, show
from trainer.common.text import called
from trainer.errors import StoppedError
from trainer.failure import BAD_MACHINE, Kind

CODES = {  # exit codes of the trainer: the kind of cause, and what it means
    2: ("Config", "bad configuration"),
    65: ("Data", "bad data"),
    69: ("Store", "the store or a peer was not reached"),
    BAD_MACHINE: ("Corrupt", "its machine gives wrong results"),
}
KINDS: dict[Kind, str] = {  # of a cause, by that of the trainer's failure; others are crashes
    "config": "Config",
    "data": "Data",
    "unavailable": "Store",
    "port_taken": "Store",
    "peers_missing": "Peers",
    "out_of_memory": "OutOfMemory",
    "corrupt": "Corrupt",
    "stopped": STOPPED,
    "resized": STOPPED,
    "peer_lost": STOPPED,
    "supervisor_lost": STOPPED,
}
FAIL_JOB = ("Config", "Data", "Corrupt")  # kinds of the exit codes that fail the Job at once
ENDURED = ("Evicted", "Preempted", "NodeLost")  # kinds that do not count against a rank's retries
# https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
JOB = "batch.kubernetes.io/job-name"  # label
# Seconds without a node after which its pods are to be replaced by hand. They tolerate 30, and only
# then are asked to end.
AWAY = 90.0
NODE_LOST = ("DeletionByTaintManager", "DeletionByPodGC")


def _replace_by_hand(pod: Object) -> str:
    """Return the command that frees all pods of the run from their node."""
    namespace = text(pod, "metadata", "namespace") or "default"
    its = f"-l job-name={text(pod, 'metadata', 'labels', JOB)}"
    on = f"--field-selector spec.nodeName={text(pod, 'spec', 'nodeName')}"
    return f"kubectl -n {namespace} delete pods {its} {on} --force"


def _see_log(pod: Object) -> str:
    name = text(pod, "metadata", "labels", JOB) or "NAME"
    return f"see {called('k8s')} logs {name} --rank {rank(pod)}"


def node_lost(pod: Object, observed: Observed) -> Symptom | None:
    """The pod's node does not answer, or is gone."""
    node = text(pod, "spec", "nodeName") or "its node"
    target = condition(pod, "DisruptionTarget")
    ended = dig(pod, "status", "phase") in ("Succeeded", "Failed") or end(pod) is not None
    leaving = text(pod, "metadata", "deletionTimestamp")
    if target and target.get("reason") in NODE_LOST:
        what, at = f"its node {node} is lost", text(target, "lastTransitionTime")
    elif dig(pod, "status", "reason") == "NodeLost":
        what, at = f"its node {node} is lost", leaving or since(pod)
    elif leaving and not ended and observed.age(leaving) > STUCK:
        what, at = f"its pod was asked to end and its node {node} does not answer", leaving
    elif (unready := _unready(pod, observed)) is not None:
        what, at = f"its node {node} does not answer", unready
    else:
        return None
    if ended:
        return Symptom("NodeLost", what, GOES_ON, at, ended=True)
    remedy = "wait for it to come back"
    if observed.age(at) > AWAY:
        remedy = f"if it stays away: {_replace_by_hand(pod)}"
    return Symptom("NodeLost", what, remedy, at, ended=bool(leaving))


def _unready(pod: Object, observed: Observed) -> str | None:
    """Return since when a running pod's node has not answered."""
    ready = condition(pod, "Ready", "False") or condition(pod, "Ready", "Unknown")
    if dig(pod, "status", "phase") not in ("Running", "Unknown") or not ready:
        return None
    events = observed.events_of(pod, "NodeNotReady")
    return seen(events[-1]) if events else None


def disrupted(pod: Object, _: Observed) -> Symptom | None:
    """Evicted, drained or preempted."""
    target = condition(pod, "DisruptionTarget")
    if not target and dig(pod, "status", "reason") != "Evicted":
        return None
    at = text(target, "lastTransitionTime") or since(pod)
    why = text(pod, "status", "message") or text(target, "message")
    if dig(target, "reason") == "PreemptionByScheduler":
        remedy = f"{GOES_ON} when there is room; priority_class says who goes first"
        return Symptom("Preempted", f"its pod was preempted ({why})", remedy, at, ended=True)
    remedy = GOES_ON
    if "exceeds the" in why:  # its own limit of an emptyDir or of files, not the node's
        remedy = "have it write less to /tmp, or set a larger limit"
    return Symptom("Evicted", f"its pod was evicted ({why})", remedy, at, ended=True)


def consequence(pod: Object, _: Observed) -> Symptom | None:
    """Asked to stop, or ended because of another rank."""
    ended = end(pod)
    if not ended or ended.code == 0:
        return None
    failure, deleted = ended.failure, _killed_by_deletion(pod, ended)
    elsewhere = failure is not None and failure.rank not in (None, rank(pod))
    follows = elsewhere or (failure is not None and failure.consequence)
    if ended.code != StoppedError.exit_code and not follows and not deleted:
        return None
    blames = failure.rank if failure and failure.kind != "peer_lost" else None
    return Symptom(
        _kind(ended) if ended.words else STOPPED,
        ended.words or "it stopped",
        at=ended.at,
        ended=True,
        consequence=True,
        blames=rank(pod) if deleted else blames,
    )


def _kind(ended: End) -> str:
    """Return the kind of cause that the trainer reports, or else that its exit code means."""
    if ended.failure and ended.failure.kind != "unknown":
        return KINDS.get(ended.failure.kind, "Crash")
    if ended.code == StoppedError.exit_code:
        return STOPPED
    return CODES.get(ended.code, ("Crash", ""))[0]


def _killed_by_deletion(pod: Object, ended: End) -> bool:
    leaving, finished = moment(text(pod, "metadata", "deletionTimestamp")), moment(ended.at)
    if not leaving or ended.code not in (137, 143):
        return False
    grace = timedelta(seconds=int(dig(pod, "metadata", "deletionGracePeriodSeconds") or 0))
    return not finished or finished >= leaving - grace


def out_of_memory(pod: Object, _: Observed) -> Symptom | None:
    """The kernel killed the trainer or its worker."""
    ended = end(pod)
    if not ended or ended.code == 0:
        return None
    what, remedy = ended.words, "give it more memory or lower batch_size"
    if ended.failure and ended.failure.kind == "out_of_memory":
        remedy = ended.failure.remedy or remedy
    # The reason is also OOMKilled where an earlier kill was overcome and something else ended it.
    elif ended.reason == "OOMKilled" and (not ended.words or ended.code == 137):
        given = dig(container(dig(pod, "spec")), "resources", "limits", "memory")
        limit = f"limit {show('memory', parse(given))}" if given else "no limit"
        what = f"it was killed for lack of memory ({limit})"
    else:
        return None
    return Symptom("OutOfMemory", what, remedy, ended.at, ended=True)


def reported(pod: Object, _: Observed) -> Symptom | None:
    """The trainer reported what a user can fix."""
    ended = end(pod)
    if not ended or ended.code not in CODES:
        return None
    if not ended.words:
        what = f"it ended with code {ended.code}: {CODES[ended.code][1]}"
        return Symptom(_kind(ended), what, _see_log(pod), ended.at, ended=True)
    found = Symptom(_kind(ended), ended.words, "", ended.at, ended=True)
    if ended.failure:
        found = replace(found, remedy=ended.failure.remedy, missing=ended.failure.missing)
    return found


def crash(pod: Object, _: Observed) -> Symptom | None:
    """Anything else that ended the trainer."""
    ended = end(pod)
    if not ended or ended.code == 0:
        return None
    hints = {126: "not executable", 127: "command not found", 137: "SIGKILL", 139: "SIGSEGV"}
    hint = f" ({hints[ended.code]})" if ended.code in hints else ""
    what = ended.words or f"it ended with code {ended.code}{hint} and left no message"
    return Symptom("Crash", what, _see_log(pod), ended.at, ended=True)


def rejected(pod: Object, _: Observed) -> Symptom | None:
    """The pod failed before or beside its containers."""
    if dig(pod, "status", "phase") != "Failed":
        return None
    words = ": ".join(filter(None, (text(pod, "status", "reason"), text(pod, "status", "message"))))
    what = f"its pod failed: {words or 'no reason was given'}"
    return Symptom("Rejected", what, GOES_ON, since(pod), ended=True)


def _idle(pod: Object, observed: Observed) -> Symptom:
    """The pod ended with 0 before rank 0 reported anything."""
    ended = end(pod)
    what = "it ended with code 0 before rank 0 reported anything"
    _, remedy = no_trainer(observed.job)
    at = ended.at if ended else since(pod)
    return Symptom("NoTrainer", what, remedy.partition(";")[0], at, ended=True)


# The first that recognises a pod names its reason.
RECOGNISERS: tuple[Callable[[Object, Observed], Symptom | None], ...] = (
    node_lost,
    disrupted,
    claim,
    unschedulable,
    unnoticed,
    image,
    missing_reference,
    start,
    node_trouble,
    beside,
    consequence,
    out_of_memory,
    reported,
    crash,
    rejected,
)


def examine(pod: Object, observed: Observed) -> Symptom | None:
    """Return why a pod does not run or has failed, or None if all is well."""
    if dig(pod, "status", "phase") == "Succeeded":
        return None if observed.trains else replace(_idle(pod, observed), rank=rank(pod))
    for recognise in RECOGNISERS:
        if symptom := recognise(pod, observed):
            return replace(sidecars.after_failure(symptom, pod), rank=rank(pod))
    return None
