"""How the supervisors of a gang start and restart their workers together.

Rank 0's supervisor calls the roll: it hears from each rank's supervisor whether its worker could
start, and when all could, tells all to start the next attempt. When one worker ends before its
time it tells the others to stop theirs at once, so nobody waits for TensorFlow to notice, and no
worker of an attempt meets one of another.

    here       a supervisor is connected              -> start      all are ready: attempt N
    ready      its worker could start                 -> leave      commit and end attempt N
    committed  a checkpoint of this step is stored    -> waiting    these ranks are missing
    stopping   it was asked to stop                   -> give_up    with the first cause
    ended      its worker ended, and why              -> dismissed  one that is gone may call again
    finished   its worker is done
    gone       its connection was lost

This is pure: events in, orders out. wire.py carries them between machines.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.errors import ConfigError, DataError, UnavailableError

Event = dict[str, Any]
Order = tuple[int, Event]  # the rank it is for, and what to do

FEW = 8  # missing ranks up to which all hear of each arrival and loss
MOST_STEPS = 1 << 53
FINAL = {ConfigError.exit_code, DataError.exit_code, UnavailableError.exit_code}


@dataclass(frozen=True)
class Cause:
    """Why a worker ended.

    Attributes:
        rank: of the worker.
        code: the exit code that says so to a scheduler.
        message: one line.
        consequence: whether it only followed another rank's.
        asked: whether somebody asked for it, which is no fault.
    """

    rank: int
    code: int
    message: str
    consequence: bool = False
    asked: bool = False


@dataclass
class Attempt:
    """One try of the whole gang, a line of attempts.jsonl.

    Attributes:
        number: counted from 1 by this roll call.
        start: when it began, seconds since the epoch.
        first_step: the newest committed step then, as far as known.
    """

    number: int
    start: float
    first_step: int
    causes: list[Cause] = field(default_factory=list)

    @property
    def first_cause(self) -> Cause | None:
        """What ended it, not what followed from that."""
        own = [cause for cause in self.causes if not cause.consequence]
        return next(iter(own or self.causes), None)


class RollCall:
    """The state of a gang as rank 0's supervisor knows it.

    Args:
        workers: how many there are.
        max_restarts: how many restarts in a row may bring no new committed step.
    """

    def __init__(self, workers: int, max_restarts: int) -> None:
        self._workers = workers
        self._max_restarts = max_restarts
        self._present: set[int] = set()
        self._ready: set[int] = set()
        self._finished: set[int] = set()
        self._at_work: set[int] = set()  # started, and not known to have ended
        self._running = False
        self._given_up = False
        self._attempt: Attempt | None = None
        self._number = 0
        self._step = 0
        self._barren = 0
        self.closed: list[dict[str, Any]] = []  # lines for attempts.jsonl; the reader empties it

    @property
    def all_finished(self) -> bool:
        """Whether nobody is left who has work."""
        return self._present <= self._finished and bool(self._finished)

    def missing(self) -> list[int]:
        """Return the ranks whose supervisors are not connected."""
        return sorted(set(range(self._workers)) - self._present - self._finished)

    def handle(self, rank: int, event: Event, now: float) -> list[Order]:
        """Take one rank's event, at ``now`` seconds since the epoch, and return what to do."""
        match event["event"]:
            case "here":
                self._present.add(rank)
                # The successor of one that was lost as it finished has that to hear of.
                self._finished.discard(rank)
                return self._tell_missing(rank)
            case "ready":
                if rank not in self._at_work:  # else it said so before it heard of the start
                    self._ready.add(rank)
                return self._start(now)
            case "committed":
                self._step = max(self._step, int(event["step"]))
                return []
            case "stopping":
                asked = Cause(rank, 75, f"rank {rank} was asked to stop", asked=True)
                return self._note(asked)
            case "ended":
                self._at_work.discard(rank)
                return self._broken(Cause(**event["cause"]), now)
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

    def close(self, now: float) -> None:
        """End the attempt on paper, if there is one."""
        if self._attempt:
            self._close(now)

    def _tell_missing(self, newcomer: int | None = None) -> list[Order]:
        """Tell who is missing: all, or rank 0 and a newcomer alone where many are.

        A thousand arrivals, each told to a thousand ranks, would keep rank 0 busy for minutes.
        """
        missing = self.missing()
        ranks = [r for r in self._present if len(missing) <= FEW or r in (0, newcomer)]
        return [(rank, {"order": "waiting", "missing": missing}) for rank in sorted(ranks)]

    def _lose(self, rank: int, now: float) -> list[Order]:
        self._present.discard(rank)
        self._ready.discard(rank)
        orders = []
        if rank in self._at_work:
            self._at_work.discard(rank)
            lost = Cause(rank, 75, f"rank {rank}: its supervisor was lost")
            orders = self._broken(lost, now)
        return [*orders, (rank, {"order": "dismissed"}), *self._tell_missing()]

    def _note(self, cause: Cause) -> list[Order]:
        if self._attempt and self._running:
            self._attempt.causes.append(cause)
        return []

    def _broken(self, cause: Cause, now: float) -> list[Order]:
        if self._attempt:
            self._attempt.causes.append(cause)
        if cause.code in FINAL and not self._given_up:
            return self._give_up(cause, now)
        if not self._running:
            return []
        self._running = False
        leave = {"order": "leave", "attempt": self._number}
        return [(rank, leave) for rank in sorted(self._present - self._finished)]

    def _start(self, now: float) -> list[Order]:
        """Start the next attempt if everybody is there who has not finished."""
        if self._given_up or self._running:
            return []
        if not self._ready or self._ready | self._finished != set(range(self._workers)):
            return []
        cause = None
        if self._attempt:
            cause, progress = self._close(now)
            fault = cause is not None and not cause.asked
            self._barren = 0 if progress else self._barren + fault
            if cause and self._barren > self._max_restarts:
                return self._give_up(cause, now)
        self._number += 1
        self._running = True
        self._attempt = Attempt(self._number, now, self._step)
        after = cause.message if cause else None
        start = {"order": "start", "attempt": self._number, "after": after}
        self._at_work, self._ready = self._ready, set()
        return [(rank, start) for rank in sorted(self._at_work)]

    def _close(self, now: float) -> tuple[Cause | None, bool]:
        """End the attempt on paper; return its first cause, and whether it brought a step."""
        attempt, self._attempt = self._attempt, None
        assert attempt
        cause = attempt.first_cause
        self.closed.append(
            {
                "attempt": attempt.number,
                "start": round(attempt.start, 3),
                "end": round(now, 3),
                "first_step": attempt.first_step,
                "last_step": self._step,
                "cause": asdict(cause) if cause else None,
                "others": [asdict(c) for c in attempt.causes if c is not cause],
            }
        )
        return cause, self._step > attempt.first_step

    def _give_up(self, cause: Cause, now: float) -> list[Order]:
        self.close(now)
        self._running, self._given_up = False, True
        order = {"order": "give_up", "cause": asdict(cause), "restarts": self._barren}
        return [(rank, order) for rank in sorted(self._present - self._finished)]


def is_sound(event: Event, rank: int) -> bool:
    """Return whether an event that a member of this rank sent may be handled."""
    match event:
        case {"event": "ready" | "stopping" | "finished"}:
            return True
        case {"event": "committed", "step": int(step)}:
            return 0 <= step <= MOST_STEPS
        case {"event": "ended", "cause": dict(cause)}:
            return _is_cause(cause) and cause["rank"] == rank
    return False


def is_order(order: Event, workers: int) -> bool:
    """Return whether an order from outside may be obeyed in a gang of this size."""
    match order:
        case {"order": "waiting", "missing": list(ranks)}:
            return all(type(rank) is int and 0 <= rank < workers for rank in ranks)
        case {"order": "start", "attempt": int(), "after": str() | None, "addresses": list(each)}:
            return len(each) == workers and all(isinstance(address, str) for address in each)
        case {"order": "leave", "attempt": int()}:
            return True
        case {"order": "give_up", "cause": dict(cause), "restarts": int()}:
            return _is_cause(cause)
    return False


def _is_cause(cause: Event) -> bool:
    match cause:
        case {
            "rank": int(),
            "code": int(),
            "message": str(),
            "consequence": bool(),
            "asked": bool(),
            **rest,
        }:
            return not rest
    return False
