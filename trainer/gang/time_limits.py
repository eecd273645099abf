"""How long workers may take, and supervisors be silent. Pure.

A worker's heartbeats come from a thread of their own: they continue while a step never ends. So
each one carries what the worker does and a count that grows with every step. The limit of the time
without growth follows from how long earlier steps took.
"""

from trainer.worker_events import AT_THE_STORE, EVALUATING, GATHERING, TRAINING, Pulse

BEAT = 2.0  # seconds between two signs of life of a supervisor
SILENCE = 12.0  # seconds without one after which its connection is lost
PROOF = 5.0  # seconds for it to prove to be of the gang
FROZEN = 10.0  # seconds without a sign of life of a worker after which it counts as frozen
LOADING = 900.0  # seconds to import TensorFlow and load the data
JOINING = 60.0  # seconds for workers that were started together to meet
LEAVING = 10.0  # seconds from a peer's loss until a worker is killed that does not commit
# Of a request to stop, each process has longer than those that it waits for.
GRACE = 25.0  # seconds until a supervisor kills its worker: 5 for the chunk, the rest for the store
ENDING = 7.0  # more until a local gang kills that supervisor, which stores attempts and logs
RUN_GRACE = 40.0  # seconds in all until a sweep kills a run; a Job's manifest gives pods as many
LOST_GRACE = LEAVING + 2.0  # seconds for the other supervisors to end when a local gang has failed
PORT_PATIENCE = 10.0  # seconds for another process to free our port
SETTLE = 5.0  # seconds that a gang trains on after a rank has come, as others may come with it
LINGER = 15.0  # seconds that rank 0's supervisor waits for others to finish

FLOOR = 60.0  # seconds; a machine that swaps or is throttled holds up any step for a while
FACTOR = 10.0  # times the longest step so far
FIRST = 900.0  # seconds for a first step of which nothing is known: it traces and compiles
WAITING = 600.0  # seconds at least where a step waits for other ranks, which may use the store
# Times the limit there, as what holds up another rank is found on that one first; and times the
# first step, where no other is known.
PATIENT = 3.0
OTHER = 1800.0  # seconds for all else: a store that recovers, or other ranks that wait for it


class Stall:
    """Finds the worker of one rank stalled; knows from its predecessors how long steps take."""

    def __init__(self, now: float) -> None:
        self._first: dict[str, float] = {}  # by work: seconds of a worker's first step
        self._longest: dict[str, float] = {}  # of all others
        self.begin(now)

    def begin(self, now: float) -> None:
        """Take note that another worker was started at ``now``, monotonic seconds."""
        self._pulse = Pulse(AT_THE_STORE, 0, waits=False)
        self._since = now
        self._begun: set[str] = set()  # work of which this worker has finished a step

    def take(self, pulse: Pulse, now: float) -> None:
        """Take a heartbeat that came at ``now``, monotonic seconds."""
        before, self._pulse = self._pulse, pulse
        # What was under way has been finished, whatever is under way now.
        if pulse.count != before.count and before.work in (TRAINING, EVALUATING):
            known = self._longest if before.work in self._begun else self._first
            known[before.work] = max(known.get(before.work, 0.0), now - self._since)
            self._begun.add(before.work)
        if not pulse.first:  # it may all have been quicker than a heartbeat
            self._begun.add(pulse.work)
        if pulse != before:  # also where it waits or ceases to: that time is other ranks'
            self._since = now

    def limit(self) -> float:
        """Return how long the step under way may take, seconds."""
        work, waits = self._pulse.work, self._pulse.waits
        first, longest = self._first.get(work), self._longest.get(work)
        if work == GATHERING and not waits:  # it has come, and nothing is made of it
            return FLOOR
        if work not in (TRAINING, EVALUATING):
            return OTHER
        if work not in self._begun:
            limit = FIRST if first is None else _scaled(first)
        elif work == EVALUATING:  # it may be compiled again, for a part of another size
            limit = _scaled(max(first or 0.0, longest or 0.0))
        elif longest is None:  # the first step had to be compiled, and so took longer than others
            limit = max(FLOOR, PATIENT * (first or 0.0))
        else:
            limit = _scaled(longest)
        return max(WAITING, PATIENT * limit) if waits else limit

    def overdue(self, now: float) -> str | None:
        """Return how the worker has stalled at ``now``, for people, or None if it has not."""
        if now - self._since <= self.limit():
            return None
        seconds = f"{now - self._since:.0f} s"
        if self._pulse.waits:
            return f"has waited {seconds} for other ranks"
        what = {TRAINING: "step", EVALUATING: "batch of its evaluation"}
        unit = what.get(self._pulse.work, "work")
        return f"is alive but has finished no {unit} for {seconds}"


def _scaled(known: float) -> float:
    return max(FLOOR, min(FACTOR * known, known + OTHER))
