"""When the workers of a gang start, restart together, or give up.

Rank 0's supervisor holds the rendezvous. Each rank's supervisor reports when its worker could
start; once all have, rank 0 orders the next attempt. When one worker ends early, rank 0 orders the
others to leave at once. So nobody waits for TensorFlow to notice, and workers of two attempts never
meet.

    here       a supervisor is connected              -> start      all are ready: attempt N
    ready      its worker could start                 -> leave      commit and end attempt N
    resumed    its worker starts from this step       -> waiting    these ranks are missing
    committed  a checkpoint of this step is stored    -> give_up    with the root cause
    stopping   it was asked to stop                   -> dismissed  one that is gone may call again
    ended      its worker ended, with its failure
    finished   its worker is done                     -> resize     end it after a chunk, for more
    gone       its connection was lost                              workers; to rank 0, which all
    tick       time has passed; of rank 0                           others stop with

A gang may train with some of its ranks only (elastic.py). Then `members` in an order to start are
those who take part, by rank; in the attempt they count from 0 in that order.

This is pure: events in, orders out. wire.py carries them between machines.
"""

from typing import Any

from trainer.cluster_spec import MOST_WORKERS
from trainer.errors import StoppedError
from trainer.failure import FINAL, Failure, Kind, parse
from trainer.gang.attempts import GangAttempt
from trainer.gang.elastic import Elastic
from trainer.gang.restart_limit import RestartLimit
from trainer.gang.time_limits import SETTLE
from trainer.runs.run_folder import MOST_STEPS
from trainer.worker_events import Event

Order = tuple[int, Event]  # the rank it is for, and what to do

FEW = 8  # missing ranks up to which every rank hears of each arrival and loss


class Coordinator:
    """The state of a gang as rank 0's supervisor knows it.

    Args:
        workers: that the gang has; one of a higher rank that comes later makes it larger.
        max_restarts: in a row without a new step before it gives up.
        elastic: how it may train with fewer; None if all must take part.
    """

    def __init__(self, workers: int, max_restarts: int, elastic: Elastic | None = None) -> None:
        self._workers = workers
        self._limit = RestartLimit(max_restarts)
        self._elastic = elastic
        self._members = tuple(range(workers))  # of the newest attempt
        self._away: dict[int, float] = {}  # since when ranks are missing
        self._came = 0.0  # when the newest one was ready
        self._resizing = False
        self._present: set[int] = set()
        self._ready: set[int] = set()
        self._finished: set[int] = set()
        self._at_work: set[int] = set()  # started, and not known to have ended
        self._running = False
        self._given_up = False
        self._attempt: GangAttempt | None = None
        self._resumed: set[int] = set()  # of those at work, who have a state to train from
        self._cause: Failure | None = None  # of the end of the last attempt
        self._number = 0
        self._step = 0
        self.closed: list[dict[str, Any]] = []  # lines for attempts.jsonl; the reader empties it

    @property
    def all_finished(self) -> bool:
        """Whether nobody is left who has work."""
        working = self._present.intersection(self._members)
        return working <= self._finished and bool(self._finished)

    def missing(self) -> list[int]:
        """Return the ranks whose supervisors are not connected."""
        return sorted(set(range(self._workers)) - self._present - self._finished)

    def states(self) -> dict[str, Any]:
        """Return what each rank does, for ranks.json; safe in any thread.

        That is ``missing`` without its supervisor, ``loading``, ``ready`` to start with the others,
        ``starting``, ``training``, ``leaving`` an attempt that is broken, or ``finished``. The
        cause is that of the last end of an attempt, until all its members train again.
        """
        named = [
            (self._finished, "finished"),
            (self._at_work if not self._running else set(), "leaving"),
            (self._at_work & self._resumed, "training"),
            (self._at_work, "starting"),
            (self._ready, "ready"),
            (self._present, "loading"),
        ]
        ranks = [
            next((state for members, state in named if rank in members), "missing")
            for rank in range(self._workers)
        ]
        attempt = self._attempt  # another thread may end it
        cause = attempt.root_cause if attempt else None
        members = self._members
        if cause is None and not {ranks[each] for each in members} <= {"training", "finished"}:
            cause = self._cause
        record = cause.record() if cause else None
        found = {"attempt": self._number, "ranks": ranks, "cause": record}
        return found | ({"members": [*members]} if self._elastic else {})

    def handle(self, rank: int, event: Event, now: float) -> list[Order]:
        """Take one rank's event, at ``now`` seconds since the epoch, and return the orders."""
        match event["event"]:
            case "here":
                self._present.add(rank)
                self._away.pop(rank, None)
                self._workers = max(self._workers, rank + 1)
                # A rank lost as it finished has a successor, which must learn that it is finished.
                self._finished.discard(rank)
                return self._report_missing(rank)
            case "ready" | "tick" as name:
                if name == "ready" and rank not in self._at_work:  # else it was before the start
                    self._ready.add(rank)
                    self._came = now
                return self._start(now) or self._grow(now)
            case "resumed" | "committed":
                return self._know(rank, int(event["step"]), started=event["event"] == "resumed")
            case "stopping":
                return self._note(_own(rank, "stopped", "it was asked to stop"), now, rank)
            case "ended":
                failure = parse(event["failure"])
                assert failure
                late = self._running and rank not in self._at_work  # of an attempt that others left
                self._at_work.discard(rank)
                return [] if late and failure.code not in FINAL else self._broken(failure, now)
            case "finished":
                self._finished.add(rank)
                self._at_work.discard(rank)
                self._running = self._running and bool(self._at_work)
                if self.all_finished:
                    self.close(now)
                return self._start(now)
            case "gone":
                return self._lose(rank, now)
        raise AssertionError(event)

    def _know(self, rank: int, step: int, *, started: bool) -> list[Order]:
        """Take note of a stored step; ``started``: the rank trains from it."""
        self._step = max(self._step, step)
        if started:
            self._resumed.add(rank)
        if started and self._attempt:  # a command's first attempt knows of no step before
            self._attempt.first_step = max(self._attempt.first_step, step)
        return []

    def close(self, now: float) -> None:
        """Record the current attempt, if any, as ended."""
        if self._attempt:
            self._close(now, over=True)

    def _report_missing(self, newcomer: int | None = None) -> list[Order]:
        """Report missing ranks to all, or where many are missing to rank 0 and a newcomer alone.

        Reporting a thousand arrivals to a thousand ranks would keep rank 0 busy for minutes. Nobody
        is waited for while others train.
        """
        missing = [] if self._running else self.missing()
        ranks = [r for r in self._present if len(missing) <= FEW or r in (0, newcomer)]
        return [(rank, {"order": "waiting", "missing": missing}) for rank in sorted(ranks)]

    def _lose(self, rank: int, now: float) -> list[Order]:
        self._present.discard(rank)
        self._ready.discard(rank)
        self._away[rank] = now
        orders = []
        if rank in self._at_work:
            self._at_work.discard(rank)
            lost = _own(rank, "supervisor_lost", "its supervisor was lost")
            orders = self._broken(lost, now)
        return [*orders, (rank, {"order": "dismissed"}), *self._report_missing()]

    def _note(self, failure: Failure, now: float, rank: int = 0) -> list[Order]:
        """Take note of why the attempt is about to end; ``rank`` takes part in it if it runs."""
        if self._attempt and self._running and rank in self._at_work:
            self._attempt.blame(failure, now)
        return []

    def _broken(self, failure: Failure, now: float) -> list[Order]:
        failure = self._limit.judge(failure)
        if self._attempt:
            self._attempt.blame(failure, now)
        if failure.code in FINAL and not self._given_up:
            return self._give_up(failure, now)
        if not self._running:
            return []
        self._running = False
        leave = {"order": "leave", "attempt": self._number}
        orders = [(rank, leave) for rank in sorted(self._present - self._finished)]
        return orders + (self._report_missing() if self._elastic and self.missing() else [])

    def _next_members(self, now: float) -> tuple[int, ...]:
        """Return who would train in an attempt that starts now; nobody while others are awaited."""
        if self._finished:  # the others have only to learn that the result is stored
            return self._members if self._ready | self._finished >= {*self._members} else ()
        able = self._ready | self._at_work
        others = set(range(self._workers)) - able
        if not others and not self._elastic:
            return tuple(range(self._workers))
        if self._elastic is None or others & self._present:
            return ()
        since = min((now - self._away.setdefault(rank, now) for rank in others), default=0.0)
        if others and since < self._elastic.patience:
            return ()
        return self._elastic.members(able)

    def _grow(self, now: float) -> list[Order]:
        """End the attempt after its chunk if more workers could train."""
        if not self._elastic or not self._running or self._resizing or self._finished:
            return []
        before, after = len(self._members), len(self._next_members(now))
        if after <= before or now - self._came < SETTLE:
            return []
        self._resizing = True
        what = f"the gang grows from {before} to {after} workers"
        self._note(_own(0, "resized", what).but(rank=None), now)
        return [(0, {"order": "resize", "attempt": self._number})]

    def _start(self, now: float) -> list[Order]:
        """Start the next attempt if everybody is there who is waited for."""
        if self._given_up or self._running or self._at_work:
            return []
        members = self._next_members(now)
        starting = self._ready.intersection(members)
        if not starting:
            return []
        cause = None
        if self._attempt:
            cause, progress = self._close(now)
            fault = None if self._resizing else cause
            if self._limit.reached(fault, progress=progress) and cause:
                return self._give_up(cause, now)
        self._number += 1
        self._running, self._resizing, self._members = True, False, members
        self._attempt = GangAttempt(self._number, now, self._step, len(members))
        after = cause.record() if cause else None
        start = {"order": "start", "attempt": self._number, "after": after, "members": [*members]}
        self._at_work, self._ready, self._resumed = starting, self._ready - starting, set()
        awaited = self._report_missing() if self._elastic else []
        return [*((rank, start) for rank in sorted(starting)), *awaited]

    def _close(self, now: float, *, over: bool = False) -> tuple[Failure | None, bool]:
        """Record the attempt as ended; return its root cause, and whether it brought a step."""
        attempt, self._attempt = self._attempt, None
        assert attempt
        self.closed.append(attempt.record(now, self._step, over=over))
        self._cause = attempt.root_cause
        return self._cause, self._step > attempt.first_step

    def _give_up(self, cause: Failure, now: float) -> list[Order]:
        self.close(now)
        if self.closed:  # it may have been closed just before
            self.closed[-1]["over"] = True
        self._running, self._given_up = False, True
        order = {
            "order": "give_up",
            "cause": cause.record(),
            "restarts": self._limit.without_progress,
        }
        return [(rank, order) for rank in sorted(self._present - self._finished)]


def _own(rank: int, kind: Kind, message: str) -> Failure:
    """Return a failure that this rank need not report itself."""
    return Failure(kind=kind, rank=rank, code=StoppedError.exit_code, message=message)


def is_sound(event: Event, rank: int) -> bool:
    """Return whether an event that a member of this rank sent may be handled."""
    match event:
        case {"event": "ready" | "stopping" | "finished"}:
            return True
        case {"event": "resumed" | "committed", "step": int(step)}:
            return 0 <= step <= MOST_STEPS
        case {"event": "ended", "failure": failure}:
            found = parse(failure)
            # Of wrong weights, nobody may know whose they are.
            anybody = found is not None and found.kind == "corrupt" and found.rank is None
            return found is not None and (found.rank == rank or anybody)
    return False


def is_order(order: Event, rank: int) -> bool:
    """Return whether an order from outside may be obeyed by this rank."""
    match order:
        case {"order": "waiting", "missing": list(ranks)}:
            return _are_ranks(ranks)
        case {
            "order": "start",
            "attempt": int(),
            "after": after,
            "members": list(ranks),
            "addresses": list(each),
        }:
            known = after is None or parse(after) is not None
            fits = _are_ranks(ranks) and rank in ranks and len(each) == len(ranks)
            return known and fits and all(isinstance(at, str) for at in each)
        case {"order": "leave", "attempt": int()}:
            return True
        case {"order": "give_up", "cause": cause, "restarts": int()}:
            return parse(cause) is not None
    return False


def _are_ranks(values: list[Any]) -> bool:
    return all(type(each) is int and 0 <= each < MOST_WORKERS for each in values)
