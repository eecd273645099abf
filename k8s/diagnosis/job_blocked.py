"""Why there is no pod at all: the API server refuses it, or a queue holds the Job. Pure."""

import re
from collections.abc import Callable

from k8s.diagnosis.evidence import (
    SETTLING,
    Observed,
    Symptom,
    condition,
    dig,
    rank,
    seen,
    text,
)
from k8s.quantity import parse, show

QUEUE = "kueue.x-k8s.io/queue-name"
TERMINATING = "Terminating"  # kind of the cause that ends a run without an end of its Job


def leaving(observed: Observed) -> Symptom | None:
    """Return that the namespace is being deleted: it takes no pods any more, and the Job waits.

    Since 1.33 a namespace deletes its pods before anything else, and a Job with
    backoffLimitPerIndex keeps the last failed pod of a rank until it can replace it.
    """
    namespace = text(observed.namespace, "metadata", "name")
    since = text(observed.namespace, "metadata", "deletionTimestamp")
    if not since:
        return None
    what = f"namespace {namespace} is being deleted, and takes no new pods"
    remedy = f"kubectl delete job {text(observed.job, 'metadata', 'name')} --namespace {namespace}"
    return Symptom(TERMINATING, what, f"if it does not go: {remedy}", since)


def held(observed: Observed) -> Symptom | None:
    """Return what a suspended Job waits for; None in its first seconds."""
    job = observed.job
    created = text(job, "metadata", "creationTimestamp")
    queue = dig(job, "metadata", "labels", QUEUE)
    if queue and dig(observed.workload, "spec", "active") is not False:
        return _queued(observed, str(queue), created)
    if observed.age(created) < SETTLING:
        return None
    since = text(condition(job, "Suspended"), "lastTransitionTime")
    return Symptom("Suspended", "it was asked to stop", "submit it again to resume", since)


def _queued(observed: Observed, queue: str, created: str) -> Symptom | None:
    if observed.age(created) < SETTLING:
        return None
    if observed.workload is None:
        what = f"queue {queue} ignores the run: it made no Workload for it"
        return Symptom("Queue", what, "see that Kueue runs and takes Jobs", created)
    if condition(observed.workload, "Admitted"):
        return None
    for kind in ("QuotaReserved", "Admitted"):
        if waits := condition(observed.workload, kind, "False"):
            words = text(waits, "message") or text(waits, "reason")
            remedy = "wait, or lower workers or resources"
            if "doesn't exist" in words:
                remedy = "correct queue, or have it made"
            what = f"queue {queue} has not admitted the run: {words}"
            return Symptom("Queue", what, remedy, text(waits, "lastTransitionTime"))
    return Symptom("Queue", f"queue {queue} has not admitted the run yet", "wait", created)


def missing_ranks(observed: Observed) -> list[int]:
    """Return the ranks that are not done and have no pod that is to run."""
    there = {rank(pod) for pod in observed.pods if dig(pod, "status", "phase") != "Failed"}
    there |= indexes(text(observed.job, "status", "completedIndexes"))
    workers = int(dig(observed.job, "spec", "completions") or 1) if observed.job else 0
    return [each for each in range(workers) if each not in there]


def indexes(listed: str) -> set[int]:
    """Return the indexes that a Job's status lists as ``0,2-4``."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", listed):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def refusal(observed: Observed) -> Symptom | None:
    """Return why the API server refuses the pods that are missing, if it still does."""
    refused = observed.events_of(observed.job, "FailedCreate")
    made = observed.events_of(observed.job, "SuccessfulCreate")
    missing = missing_ranks(observed)
    if not refused or not missing or (made and seen(made[-1]) > seen(refused[-1])):
        return None
    words = text(refused[-1], "message").removeprefix("Error creating: ")
    words = re.sub(r'^pods? "[^"]*" is (forbidden|invalid): ', "", words, flags=re.IGNORECASE)
    at = text(refused[-1], "firstTimestamp") or seen(refused[-1])
    workers = int(dig(observed.job, "spec", "completions") or 1)
    whose = f"{len(missing)} of {workers} pods" if workers > 1 else "its pod"
    for recognise in RECOGNISERS:
        if found := recognise(words, observed):
            kind, what, remedy = found
            return Symptom(kind, f"{whose} cannot be created: {what}", remedy, at)
    what = f"{whose} cannot be created: {words}"
    return Symptom("Refused", what, "ask whoever runs the cluster", at)


Found = tuple[str, str, str] | None  # kind, what, remedy


def _quota(words: str, observed: Observed) -> Found:
    if short := re.search(r"failed quota: (\S+): must specify (.*)", words):
        what = f"quota {short[1]} demands {short[2]}"
        return "Quota", what, "set resources"
    full = re.search(r"exceeded quota: (\S+), requested: (.*), used: (.*), limited: (.*)", words)
    if not full:
        return None
    pairs = r"([^=,\s]+)=([^,\s]+)"
    asked, used, hard = (dict(re.findall(pairs, part)) for part in full.groups()[1:])
    for quota in observed.quotas:  # the event's figures are as old as the last try
        if dig(quota, "metadata", "name") == full[1]:
            used |= dig(quota, "status", "used") or {}
            hard |= dig(quota, "status", "hard") or {}
    parts = [
        f"{_amount(each, amount)} {each} asked, {_amount(each, used.get(each))} of "
        f"{_amount(each, hard.get(each))} used"
        for each, amount in asked.items()
    ]
    remedy = "wait for others to end, lower workers or resources, or have it raised"
    if any(parse(amount) > parse(hard.get(each)) for each, amount in asked.items()):
        remedy = "lower resources, or have it raised"
    return "Quota", f"quota {full[1]} has no room: {'; '.join(parts)}", remedy


def _amount(resource: str, amount: str | None) -> str:
    return show(resource, parse(amount))


def _limit_range(words: str, _: Observed) -> Found:
    if not re.search(r"(maximum|minimum) \S+ usage per|limit to request ratio", words):
        return None
    return "LimitRange", f"the namespace's LimitRange says: {words.strip('[]')}", "change resources"


def _pod_security(words: str, _: Observed) -> Found:
    broken = re.search(r'violates PodSecurity "([^"]+)": (.*)', words)
    if not broken:
        return None
    rules = re.sub(r" \([^()]*\)", "", broken[2])
    what = f"the namespace's Pod Security level {broken[1]} refuses: {rules}"
    return "PodSecurity", what, "see what puts that into the pods, or take another namespace"


def _missing_object(words: str, _: Observed) -> Found:
    if found := re.search(r'serviceaccount "([^"]+)" not found', words):
        what = f"service account {found[1]} is not there"
        return "MissingReference", what, "create it, or correct service_account"
    if found := re.search(r"no PriorityClass with name (\S+) was found", words):
        what = f"PriorityClass {found[1]} is not there"
        return "MissingReference", what, "create it, or correct priority_class"
    return None


RECOGNISERS: tuple[Callable[[str, Observed], Found], ...] = (
    _quota,
    _limit_range,
    _pod_security,
    _missing_object,
)
