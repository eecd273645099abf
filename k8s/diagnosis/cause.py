"""Why a run does not start, is broken, or failed: the first cause, in one line. Pure.

Symptoms of pods (pod_failures.py, pod_pending.py) and refusals (job_blocked.py) are put in order.
A consequence is no cause, nor is what was overcome; of the others, the earliest is.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from functools import partial

from k8s.diagnosis import network_policies
from k8s.diagnosis.evidence import (
    STOPPED,
    Object,
    Observed,
    Symptom,
    condition,
    dig,
    moment,
    rank,
    seen,
    shorten,
    text,
)
from k8s.diagnosis.job_blocked import held, indexes, leaving, missing_ranks, refusal
from k8s.diagnosis.pod_failures import CODES, ENDURED, FAIL_JOB, examine
from k8s.diagnosis.pod_pending import silent
from trainer.common.text import called
from trainer.common.text import ranks as named_ranks

LONGEST, SHORTEST = 300, 50  # characters of a message, and of what happened in it
OVERCOME = 600.0  # seconds that a pod has run when what ended the one before it is past
WAITING = ("FailedScheduling", "FailedMount")  # events of pods that never started


@dataclass(frozen=True)
class Cause:
    """Why a run does not continue.

    Attributes:
        kind: one word for programs, such as ImagePull or OutOfMemory.
        message: one line: what, where, the value, the remedy.
        final: whether it ended the run.
        rank: whose pod; None if it is nobody's or everybody's.
        at: since when, RFC 3339, or empty if that is not known.
    """

    kind: str
    message: str
    final: bool
    rank: int | None = None
    at: str = ""


def diagnose(observed: Observed) -> Cause | None:
    """Return the first cause of what is wrong with a run, or None if nothing is."""
    job, failed = observed.job, _failed(observed)
    if condition(job, "Complete") or condition(job, "SuccessCriteriaMet"):
        return None
    if not failed and (going := leaving(observed)):
        return replace(_cause(going, [], observed), final=True)
    if not failed and dig(job, "spec", "suspend"):
        first = held(observed)
        return _cause(first, [], observed) if first else None
    late = dig(failed, "reason") == "DeadlineExceeded"
    symptoms = list(_symptoms(observed, decided=failed is not None and not late))
    own = [each for each in symptoms if not each.consequence] or _hearsay(symptoms, observed)
    if failed and late:
        return _cause(_deadline(_first(own), failed, observed), [], observed)
    if failed:
        own = _decisive(own, failed, observed) or [_by_condition(failed, symptoms, observed)]
    first = _first(own, symptoms) or silent(observed)
    return _cause(first, symptoms, observed) if first else None


def _failed(observed: Observed) -> Object | None:
    """Return the condition that says that the Job has failed, or is about to."""
    return condition(observed.job, "Failed") or condition(observed.job, "FailureTarget")


def _symptoms(observed: Observed, *, decided: bool) -> Iterator[Symptom]:
    """Yield what is refused, and the symptoms of pods that count.

    Unless pods have ``decided`` the Job, what a healthy pod replaced is history.
    """
    refused = refusal(observed)
    if refused:
        yield refused
    unmade = missing_ranks(observed) if refused and not decided else []
    pods = [*observed.pods, *(_vanished(observed) if _failed(observed) else ())]
    of_rank: dict[int, list[Object]] = {}
    for pod in sorted(pods, key=lambda each: text(each, "metadata", "creationTimestamp")):
        of_rank.setdefault(rank(pod), []).append(pod)
    for number, of_it in of_rank.items():
        for pod in reversed(of_it):
            symptom = examine(pod, observed)
            if symptom and number not in unmade:
                yield symptom
            if _has_overcome(pod, symptom, observed, decided=decided):
                break


def _has_overcome(
    pod: Object, symptom: Symptom | None, observed: Observed, *, decided: bool
) -> bool:
    """Whether failures of this rank before this pod are past."""
    if not decided:
        return symptom is not None or dig(pod, "status", "phase") in ("Running", "Succeeded")
    began = moment(text(pod, "status", "startTime"))
    ended = moment(symptom.at) if symptom and symptom.ended else observed.now
    return bool(began and ended and (ended - began).total_seconds() > OVERCOME)


def _vanished(observed: Observed) -> Iterator[Object]:
    """Yield the pods of ranks that have none left and never started, from their events."""
    ranks = {rank(pod) for pod in observed.pods}
    last: dict[str, Object] = {}
    for event in sorted(observed.events, key=seen):
        if event.get("reason") in (*WAITING, "Started") or "to pull image" in text(
            event, "message"
        ):
            last[text(event, "involvedObject", "name")] = event
    for name, event in last.items():
        number = re.search(r"-(\d+)-[a-z0-9]+$", name)
        if number and int(number[1]) not in ranks:
            yield _as_pod(event, number[1], observed)


def _as_pod(event: Object, index: str, observed: Observed) -> Object:
    words, at = text(event, "message"), text(event, "firstTimestamp") or seen(event)
    unplaced = {"type": "PodScheduled", "status": "False", "message": words}
    waiting = {"reason": "ErrImagePull", "message": words}
    status: Object = {"phase": "Pending", "startTime": at}
    if event.get("reason") == "FailedScheduling":
        status["conditions"] = [{**unplaced, "lastTransitionTime": at}]
    elif "to pull image" in words:
        status["containerStatuses"] = [{"name": "trainer", "state": {"waiting": waiting}}]
    labels = {"batch.kubernetes.io/job-completion-index": index}
    return {
        "metadata": {**event["involvedObject"], "creationTimestamp": at, "labels": labels},
        "spec": dig(observed.job, "spec", "template", "spec") or {},
        "status": status,
    }


def _first(causes: Sequence[Symptom], symptoms: Sequence[Symptom] = ()) -> Symptom | None:
    """Return the earliest; of ranks that were waited for in vain, why they did not come."""
    first = _earliest(causes)
    if first and first.kind == "Peers":
        absent = (None, *first.missing)
        theirs = [each for each in (*causes, *symptoms) if each.rank in absent]
        theirs = [each for each in theirs if each.kind != "Peers" and not each.consequence]
        return _earliest(theirs) or first
    return first


def _earliest(symptoms: Sequence[Symptom]) -> Symptom | None:
    return min(symptoms, key=lambda each: (each.at or "9", each.rank or 0), default=None)


def _decisive(own: list[Symptom], failed: Object, observed: Observed) -> list[Symptom]:
    """Return the symptoms that can have failed the Job."""
    if failed.get("reason") == "PodFailurePolicy":
        return [each for each in own if each.kind in FAIL_JOB]
    counted = [each for each in own if each.ended and each.kind not in ENDURED]
    ranks = indexes(text(observed.job, "status", "failedIndexes"))
    return [each for each in counted if each.rank in ranks] or counted or own


def _hearsay(symptoms: Sequence[Symptom], observed: Observed) -> list[Symptom]:
    """Return what other ranks report about a rank whose own pod is gone."""
    running = {rank(pod) for pod in observed.pods if dig(pod, "status", "phase") == "Running"}
    past = set() if _failed(observed) else running
    return [
        replace(each, rank=each.blames, consequence=False)
        for each in symptoms
        if each.kind != STOPPED and each.blames is not None and each.blames not in past
    ]


def _by_condition(failed: Object, symptoms: Sequence[Symptom], observed: Observed) -> Symptom:
    """Return what the Job itself says: its pods are gone."""
    words, at = text(failed, "message"), text(failed, "lastTransitionTime")
    log = f"see {called('k8s')} logs {text(observed.job, 'metadata', 'name')}"
    if pod := re.search(r"pod \S*?-(\d+)-[a-z0-9]+ failed with exit code (\d+)", words):
        number, code = int(pod[1]), int(pod[2])
        kind, meaning = CODES.get(code, ("Crash", "its pod is gone"))
        theirs = [each.what for each in symptoms if each.blames == number and each.kind != STOPPED]
        what = (theirs or [f"it ended with code {code}: {meaning}"])[0]
        return Symptom(kind, what, f"{log} --rank {number}", at, number, ended=True)
    warnings = [
        each
        for each in sorted(observed.events, key=seen)
        if each.get("type") == "Warning" and dig(each, "involvedObject", "kind") == "Pod"
    ]
    what = f"the Job failed: {words or text(failed, 'reason') or 'it does not say why'}"
    if warnings:
        what += f"; last warning: {text(warnings[-1], 'message')}"
    return Symptom("Failed", what, log, at)


def _deadline(first: Symptom | None, failed: Object, observed: Observed) -> Symptom:
    seconds = dig(observed.job, "spec", "activeDeadlineSeconds")
    what = f"it did not end within its deadline{f' of {seconds} s' if seconds else ''}"
    if first:
        what += f"; before that {_whose([first.rank], observed)}{first.what}"
    remedy = "raise deadline and submit it again: it resumes from its last checkpoint"
    return Symptom("Deadline", what, remedy, text(failed, "lastTransitionTime"))


def _cause(first: Symptom, symptoms: Sequence[Symptom], observed: Observed) -> Cause:
    """Put the first cause into one line: whose, when, what, the remedy, and who followed."""
    alone, first = first, network_policies.suspect(first, observed)
    ranks = {first.rank}
    if not first.ended or first.kind == "NodeLost":  # others may wait for the same
        alike = partial(replace, rank=first.rank, at=first.at)
        ranks |= {each.rank for each in symptoms if alike(each) == alone}
    whose = _whose(ranks, observed)
    if whose and first.ended and (then := moment(first.at)):
        whose = f"{whose.removesuffix(': ')} at {then.astimezone(UTC):%H:%M:%S} UTC: "
    remedy = f"; {first.remedy}" if first.remedy else ""
    lost = {each.rank for each in symptoms if first.ended and _lost(each, first)}
    then_lost = f"; {_name(lost)} then lost {'its' if len(lost) == 1 else 'their'} peer"
    room = LONGEST - len(whose) - len(remedy)
    if lost and len(then_lost) + SHORTEST < room:
        remedy, room = remedy + then_lost, room - len(then_lost)
    message = shorten(f"{whose}{shorten(first.what, max(SHORTEST, room))}{remedy}", LONGEST)
    # A rank that ends by these fails the Job, which need not have noticed yet.
    final = bool(_failed(observed)) or (first.ended and first.kind in FAIL_JOB)
    return Cause(first.kind, message, final, first.rank, first.at)


def _lost(other: Symptom, first: Symptom) -> bool:
    """Whether another rank ended because of the first cause, and not because it was asked to."""
    return other.consequence and other.rank != first.rank and other.blames in (None, first.rank)


def _whose(ranks: Collection[int | None], observed: Observed) -> str:
    alone = dig(observed.job, "spec", "completions") == 1
    return "" if alone or not ranks or None in ranks else f"{_name(ranks)}: "


def _name(ranks: Collection[int | None]) -> str:
    """Return ranks for people: ``rank 2``, ``ranks 0, 1, 2, 3, 4 and 59 more``."""
    return named_ranks(sorted(each for each in ranks if each is not None), 5)
