"""What is known of a run: its objects, and how to read them. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trainer.common.untrusted_json import json_object
from trainer.failure import Failure, parse

Object = dict[str, Any]

SETTLING = 5.0  # seconds in which schedulers and kubelets may say no to what they then grant
STUCK = 30.0  # seconds after which a node that has not done its part is in trouble
STOPPED = "Stopped"  # kind of a symptom that names no cause: asked to stop, or another rank is gone
GOES_ON = "the Job starts another pod, which resumes from the last checkpoint"


@dataclass(frozen=True)
class Observed:
    """Objects as the API server gives them; all but ``now`` may be missing or empty.

    Attributes:
        job: the run's.
        pods: of the Job, older ones of a rank too.
        events: v1 Events of the Job and its pods, in any order.
        quotas: ResourceQuotas of the namespace, where readable.
        workload: Kueue's, of the Job.
        policies: NetworkPolicies of the namespace, where readable.
        namespace: that they are in, where readable.
        trains: whether rank 0 has reported that it trains.
        now: with a time zone.
    """

    job: Object | None
    pods: Sequence[Object]
    events: Sequence[Object]
    quotas: Sequence[Object] = ()
    workload: Object | None = None
    policies: Sequence[Object] = ()
    namespace: Object | None = None
    trains: bool = True
    now: datetime = field(kw_only=True)

    def age(self, at: str) -> float:
        """Return the seconds since a time, for ever if it is not known."""
        then = moment(at)
        return (self.now - then).total_seconds() if then else float("inf")

    def events_of(self, item: Object | None, *reasons: str) -> list[Object]:
        """Return an object's events for one of these reasons, oldest first."""
        uid = dig(item, "metadata", "uid")
        found = [each for each in self.events if each.get("reason") in reasons]
        its = [each for each in found if uid and dig(each, "involvedObject", "uid") == uid]
        return sorted(its, key=seen)


@dataclass(frozen=True)
class Symptom:
    """A reason, as one pod shows it or the API server gave it.

    Attributes:
        kind: as of a Cause.
        what: happened, with values.
        remedy: what to do.
        at: since when, RFC 3339, or empty.
        rank: whose pod.
        ended: whether the pod has ended by it.
        consequence: whether it follows from another rank's failure, or from the pod's deletion.
        blames: the rank whose failure the trainer reports.
        missing: the ranks that this one waited for in vain.
    """

    kind: str
    what: str
    remedy: str = ""
    at: str = ""
    rank: int | None = None
    ended: bool = False
    consequence: bool = False
    blames: int | None = None
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class End:
    """How the trainer's container ended.

    Attributes:
        code: its exit code.
        reason: Kubernetes' word for it.
        failure: what the trainer reported; None if it reported nothing that can be read.
        words: the trainer's for people, or the last of the log.
        at: RFC 3339, or empty.
    """

    code: int
    reason: str
    failure: Failure | None
    words: str
    at: str


def dig(item: Any, *path: str) -> Any:
    """Return what lies along a path of keys, or None."""
    for key in path:
        item = item.get(key) if isinstance(item, dict) else None
    return item


def moment(at: str) -> datetime | None:
    """Return an RFC 3339 time, or None if it is none."""
    try:
        then = datetime.fromisoformat(at)
    except ValueError:
        return None
    return then if then.tzinfo else then.replace(tzinfo=UTC)


def seen(event: Object) -> str:
    """Return when an event was last seen, RFC 3339."""
    last = dig(event, "series", "lastObservedTime") or event.get("lastTimestamp")
    return str(last or event.get("eventTime") or dig(event, "metadata", "creationTimestamp") or "")


def condition(item: Object | None, kind: str, status: str = "True") -> Object | None:
    """Return an object's condition of this type, if it has this status."""
    for each in dig(item, "status", "conditions") or []:
        if each.get("type") == kind and each.get("status") == status:
            return dict(each)
    return None


def text(item: Object | None, *path: str) -> str:
    """Return the text along a path on one line, empty if there is none."""
    found = str(dig(item, *path) or "")
    return " ".join("".join(c if c.isprintable() else " " for c in found).split())


def rank(pod: Object) -> int:
    """Return the rank that a pod has in its gang."""
    index = "batch.kubernetes.io/job-completion-index"
    given = dig(pod, "metadata", "annotations", index) or dig(pod, "metadata", "labels", index)
    return int(given or 0)


def end(pod: Object) -> End | None:
    """Return how the trainer ended, or None while it has not."""
    state = dig(status_of(pod), "state", "terminated")
    if not state:
        return None
    message = str(state.get("message") or "")
    failure = parse(json_object(message))
    return End(
        int(state.get("exitCode") or 0),
        str(state.get("reason") or ""),
        failure,
        failure.message if failure else _last_words(message),
        str(state.get("finishedAt") or ""),
    )


def container(spec: Object | None) -> Object:
    """Return the trainer's container of a pod's spec, beside which there may be sidecars."""
    containers = dig(spec, "containers") or [{}]
    return dict(next((each for each in containers if each.get("name") == "trainer"), containers[0]))


def status_of(pod: Object) -> Object:
    """Return the status of the trainer's container, empty if there is none yet."""
    statuses = dig(pod, "status", "containerStatuses") or [{}]
    return dict(next((each for each in statuses if each.get("name") == "trainer"), statuses[0]))


def _last_words(message: str) -> str:
    """Return the telling line of a message that is no record: of an older trainer, or a log's end.

    Where Python's name of an exception is in one, that is it.
    """
    lines = [line for line in re.split(r"[\r\n]+", message) if line.strip()]
    named = [line for line in lines if re.search(r"(Error|Exception|Exit)\b", line)]
    last = (named or lines or [""])[-1]
    entry = json_object(last) or {}
    return text({"line": entry.get("message") or entry.get("warning") or last}, "line")


def since(pod: Object) -> str:
    """Return when a pod began, RFC 3339, or empty."""
    return text(pod, "status", "startTime") or text(pod, "metadata", "creationTimestamp")


def shorten(words: str, longest: int) -> str:
    """Return a text's beginning and end, where the telling parts are."""
    if len(words) <= longest:
        return words
    tail = longest // 3
    return f"{words[: longest - tail - 5].rstrip()} ... {words[-tail:].lstrip()}"
