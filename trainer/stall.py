"""How long a worker that is alive may take for a step. Pure.

Heartbeats come from a thread of their own: they go on while a step never ends. So each tells what
the worker does and a count that grows with every step, and the time without growth has a limit
that follows from how long the steps before took.
"""

from dataclasses import dataclass

FLOOR = 60.0  # seconds; a machine that swaps or is throttled holds up any step for a while
FACTOR = 10.0  # times the longest step so far
FIRST = 900.0  # seconds for a first step of which nothing is known: it traces and compiles
WAITING = 3.0  # times the limit where a step waits for other ranks: they are found first
MEETING = 1800.0  # seconds to wait for other ranks outside of steps, where they may use the store

TRAINING, EVALUATING, GATHERING = "training", "evaluating", "gathering"
WHAT = {TRAINING: "step", EVALUATING: "batch of its evaluation"}


@dataclass(frozen=True)
class Pulse:
    """What a heartbeat tells.

    Attributes:
        work: TRAINING, EVALUATING, GATHERING, or empty for what has limits of its own.
        count: grows with every step.
        waits: whether the step waits for other ranks now.
    """

    work: str
    count: int
    waits: bool


class Stall:
    """Finds the worker of one rank stalled; knows from its predecessors how long steps take."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}  # by work: seconds of a worker's first step
        self._longest: dict[str, float] = {}  # of all others
        self.begin()

    def begin(self) -> None:
        """Take note that another worker was started."""
        self._pulse = Pulse("", 0, waits=False)
        self._since = 0.0
        self._begun: set[str] = set()  # work of which this worker has finished a step

    def take(self, pulse: Pulse, now: float) -> None:
        """Take a heartbeat that came at ``now``, monotonic seconds."""
        before, self._pulse = self._pulse, pulse
        if pulse.work != before.work:
            self._since = now
        elif pulse.count != before.count:
            known = self._longest if pulse.work in self._begun else self._first
            known[pulse.work] = max(known.get(pulse.work, 0.0), now - self._since)
            self._begun.add(pulse.work)
            self._since = now

    def limit(self) -> float:
        """Return how long the step under way may take, seconds."""
        work = self._pulse.work
        if not work:
            return float("inf")
        if work == GATHERING:
            return MEETING
        if work not in self._begun and work not in self._first:
            limit = FIRST
        else:
            known = self._first.get(work, 0.0)
            if work in self._begun:
                known = self._longest.get(work, known)
            limit = max(FLOOR, FACTOR * known)
        return limit * WAITING if self._pulse.waits else limit

    def overdue(self, now: float) -> str | None:
        """Return in words that the worker has stalled at ``now``, or None if it has not."""
        if now - self._since <= self.limit():
            return None
        seconds = f"{now - self._since:.0f} s"
        if self._pulse.work == GATHERING or self._pulse.waits:
            return f"its worker has waited {seconds} for other ranks"
        what = WHAT[self._pulse.work]
        return f"its worker is alive but has finished no {what} for {seconds}"
