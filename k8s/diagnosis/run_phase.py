"""The phase and progress of a run, from its objects and log lines. Pure."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeGuard

from k8s.diagnosis import sidecars
from k8s.diagnosis.evidence import (
    Object,
    condition,
    end,
    moment,
    rank,
    status_of,
)
from trainer import progress
from trainer.common.untrusted_json import json_object
from trainer.failure import BAD_MACHINE, Failure, parse

RUN_FILE = "trainyard/run-file"  # annotation of a Job, see ``manifest``
LARGEST = 1 << 53  # of a count in a log line; beyond it no figure of ours is a number
# What rank 0 logs as JSON, which the manifest has it do. Only this, its figures and its warnings
# prove that an image is the trainer's; a line of text is somebody's message.
EVENTS = ("started", "resumed", "restarting", "finished")


def by_rank(pods: list[Object]) -> dict[int, list[Object]]:
    """Return the pods of each rank, oldest first."""
    found = defaultdict(list)
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
        found[rank(pod)].append(pod)
    return dict(sorted(found.items()))


def current(pods: list[Object]) -> dict[int, Object]:
    """Return the newest pod of each rank."""
    return {number: all_of_it[-1] for number, all_of_it in by_rank(pods).items()}


def has_log(pod: Object) -> bool:
    """Whether the trainer's container was ever started."""
    return bool({"running", "terminated"} & (status_of(pod).get("state") or {}).keys())


def workers(job: Object) -> int:
    """Return the number of pods that the run has."""
    return int(job["spec"].get("completions") or 1)


def needed(job: Object) -> int:
    """Return how many of a run's pods it trains with at least."""
    annotations = job["metadata"].get("annotations") or {}
    train = (json_object(str(annotations.get(RUN_FILE))) or {}).get("train")
    least = train.get("min_workers") if isinstance(train, dict) else None
    return min(least, workers(job)) if type(least) is int and least > 0 else workers(job)


def restarted_pods(pods: list[Object]) -> int:
    """Return how many pods were replaced by another of their rank."""
    return sum(len(all_of_it) - 1 for all_of_it in by_rank(pods).values())


def phase(job: Object, pods: list[Object], *, trains: bool = False) -> str:
    """Return a run's phase in one word.

    Queued      waits for its queue
    Suspended   was asked to stop
    Pending     none of its pods runs
    Starting    some of them do, or the trainer has not reported yet
    Running     all of them do, or as many as the run needs, and it has
    Ended       every trainer ended with 0; only the run's result says whether it succeeded
    Failed, DeadlineExceeded

    The last two are the Job's, which waits for sidecars. It is not waited for where all trainers
    have ended with 0, or one with a code that fails the Job.
    """
    if condition(job, "Complete"):
        return "Ended"
    if failed := condition(job, "Failed"):
        late = failed.get("reason") == "DeadlineExceeded"
        return "DeadlineExceeded" if late else "Failed"
    if job["spec"].get("suspend"):
        queued = "kueue.x-k8s.io/queue-name" in (job["metadata"].get("labels") or {})
        return "Queued" if queued else "Suspended"
    kept = [pod for pod in current(pods).values() if sidecars.left(pod)]
    ends = [each for pod in current(pods).values() if (each := end(pod))]
    if kept and len(ends) == workers(job) and all(each.code == 0 for each in ends):
        return "Ended"
    if any(its.code in FAIL_JOB for pod in kept if (its := end(pod))):
        return "Failed"
    running = [pod for pod in current(pods).values() if _phase_of_pod(pod) != "Pending"]
    if not running:
        return "Pending"
    return "Running" if trains and len(running) >= needed(job) else "Starting"


OVER = ("Ended", "Failed", "DeadlineExceeded")


FAIL_JOB = (2, 65, BAD_MACHINE)  # exit codes of the Job's podFailurePolicy


def left_result(pods: list[Object]) -> dict[str, Any]:
    """Return what rank 0 left when it ended, once its result was stored; empty if it left none."""
    for pod in pods:
        ended = (status_of(pod).get("state") or {}).get("terminated") or {}
        if rank(pod) == 0 and ended.get("exitCode") == 0:
            facts = json_object(str(ended.get("message"))) or {}
            if is_result(facts):
                return facts
    return {}


def _phase_of_pod(pod: Object) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))


def pod_state(pod: Object) -> str:
    """Return a pod's state in the word that kubectl shows."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    state = status_of(pod).get("state") or {}
    for kind in ("waiting", "terminated"):
        if reason := (state.get(kind) or {}).get("reason"):
            return str(reason)
    return str(pod.get("status", {}).get("reason") or _phase_of_pod(pod))


def seconds_between(earlier: str, later: datetime) -> float:
    """Return the seconds from an RFC 3339 time to another."""
    return (later - datetime.fromisoformat(earlier)).total_seconds()


def parse_line(line: str) -> dict[str, Any]:
    """Return a log line's facts; a line that is no JSON object is a message."""
    return json_object(line) or {"message": line}


def is_step(facts: dict[str, Any]) -> bool:
    """Whether a log line has the metrics of a chunk of steps."""
    return _is_count(facts.get("step")) and ("loss" in facts or "validation_accuracy" in facts)


def is_report(facts: dict[str, Any]) -> bool:
    """Whether a log line of rank 0 is one that the trainer writes, and others hardly do."""
    warns = facts.keys() == {"warning"} and isinstance(facts["warning"], str)
    return is_step(facts) or warns or facts.get("event") in EVENTS


def is_result(facts: dict[str, Any]) -> bool:
    """Whether the trainer reports by this that the run's result is stored."""
    return facts.get("event") == "finished"


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def as_text(facts: dict[str, Any]) -> str:
    """Return a log line, as ``parse_line`` gives it, for people."""
    if is_step(facts):
        total = facts.get("total_steps", "?")
        try:
            return f"{progress.place(facts, total)}  {describe(facts)}"
        except (TypeError, ValueError, OverflowError):  # of an epoch that is none
            return f"step {facts['step']:>6}/{total}  {json.dumps(facts)}"
    if "warning" in facts:
        return f"warning: {facts['warning']}"
    return str(facts.get("message", json.dumps(facts)))


def describe(facts: dict[str, Any]) -> str:
    """Return the figures of a step for people."""
    try:
        return progress.describe(facts)
    except (KeyError, TypeError, ValueError, OverflowError):  # of another version of the trainer
        return json.dumps(facts)


@dataclass
class Progress:
    """How far a run is, by the log of its rank 0.

    Attributes:
        step: last one finished, and ``total`` of the run; 0 before the first.
        restarts: of the gang in place.
        failure: before the last restart.
        last: the figures of the last chunk.
        result: what it said at its end.
        trains: whether it has said anything that only a trainer says.
        ended: whether it has said that its result is stored.
    """

    step: int = 0
    total: int = 0
    restarts: int = 0
    failure: Failure | None = None
    last: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    trains: bool = False
    ended: bool = False
    _since: tuple[datetime, int] | None = None
    _until: tuple[datetime, int] | None = None

    def take(self, time: str, facts: dict[str, Any]) -> None:
        """Take one line of rank 0's log."""
        self.trains = self.trains or is_report(facts)
        if is_result(facts):
            self.ended, self.result = True, facts
            told = facts.get("restarts")  # by what it left in its pod, for who reads no log
            self.restarts = told if _is_count(told) else self.restarts
        if facts.get("event") == "restarting":
            self.restarts += 1
            self.failure = parse(facts.get("failure"))
            self._since = self._until = None
        elif is_step(facts):
            total = facts.get("total_steps")
            self.step, self.total = facts["step"], total if _is_count(total) else 0
            if "loss" in facts:
                self.last = facts
            if at := moment(time):
                now = (at, self.step)
                # The first chunk holds the compiling, so time is counted from its end.
                self._since, self._until = self._since or now, now

    def seconds_left(self) -> float | None:
        """Return how long the rest takes at the pace so far, where there is one."""
        if not (self._since and self._until and self._until[1] > self._since[1]):
            return None
        seconds = (self._until[0] - self._since[0]).total_seconds()
        return seconds / (self._until[1] - self._since[1]) * max(0, self.total - self.step)

    def accuracy(self) -> float | None:
        """Return the newest accuracy: of the test images at the end, else of the training."""
        value = self.result.get("test_accuracy", self.last.get("accuracy"))
        finite = isinstance(value, float) and math.isfinite(value)
        return value if finite or _is_count(value) else None

    def slow(self) -> list[str]:
        """Return which ranks were slow in the last chunk, and how, a sentence each."""
        found = progress.slow_ranks(self.last)
        return [f"rank {rank} is slow: {words}" for rank, words in found.items()]
