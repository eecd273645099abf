"""Goodput: the share of a run's time in which steps were done that counted, and what took the rest.

The time is that of the clock on the wall since the run was first started. While no command runs, no
machine is held, so the time between a command that has recorded its end and the next one does not
count. A command that was killed with all of its processes leaves no such record; the time up to
the next one counts as lost, since its machines, or their replacements, are held all the while.

Steps count from the beginning of a chunk to its end, less what ranks waited for each other, in the
mean over the ranks. The first chunk of an attempt traces and compiles, so it counts at the pace of
the others. Everything else has a cause.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any

from trainer.common.untrusted_json import measured
from trainer.runs import reader, run_folder
from trainer.runs.reader import Attempt
from trainer.storage.base import Storage

# Causes of lost time; a restart has the kind of the failure behind it.
STARTING, REPEATING, WAITING = "starting", "repeating", "waiting"
EVALUATING, STORING, VANISHED = "evaluating", "storing", "restarting: command killed"

_MOST_CAUSES = 50

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Goodput:
    """Where the time of a run went; all seconds.

    Attributes:
        wall: that count, see the module.
        productive: of steps that counted.
        lost: by cause; with ``productive`` they make up ``wall``.
    """

    wall: float
    productive: float
    lost: Mapping[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Return the goodput, from 0 to 1."""
        return self.productive / self.wall if self.wall > 0 else 0.0

    def record(self) -> dict[str, Any]:
        """Return it for result.json."""
        lost = sorted(self.lost.items(), key=lambda each: -each[1])
        return {
            "goodput": round(self.share, 4),
            "wall_seconds": round(self.wall, 3),
            "lost_seconds": {cause: round(s, 3) for cause, s in lost if s >= 0.0005},
        }


def of_folder(storage: Storage, lines: Sequence[Line], now: float) -> Goodput | None:
    """Return ``of`` a run's folder; ``lines`` and ``now`` as there.

    Raises:
        DataError: start.json or attempts.jsonl is damaged.
        UnavailableError: the run's storage was not reached.
    """
    starts = run_folder.starts(run_folder.read_start(storage) or {})
    return of(lines, reader.attempts(storage), starts, now)


def parse(result: Line) -> Goodput | None:
    """Return what a result.json says, which anybody may have written; None if it says nothing."""
    share, wall = measured(result.get("goodput")), measured(result.get("wall_seconds"))
    lost = result.get("lost_seconds")
    if share is None or share > 1 or wall is None or not isinstance(lost, dict):
        return None
    named = ((cause, measured(seconds)) for cause, seconds in list(lost.items())[:_MOST_CAUSES])
    return Goodput(wall, share * wall, {c: s for c, s in named if s is not None})


@dataclass
class _Chunk:
    end: float
    seconds: float
    steps: int
    waiting: float
    evaluated: bool  # whether a validation came before it
    first: bool = False  # of its attempt

    @property
    def begin(self) -> float:
        return self.end - self.seconds


def of(
    lines: Sequence[Line], attempts: Sequence[Attempt], starts: Sequence[float], now: float
) -> Goodput | None:
    """Return where the time of a run went up to ``now``; None if that is not known.

    Args:
        lines: of metrics.jsonl, of steps that count.
        attempts: that have ended.
        starts: of its commands in their order, seconds since the epoch.
        now: likewise: when its result was made, or the last chunk of the lines ended.
    """
    chunks = list(_chunks(lines))
    set_back = any(before > after for before, after in pairwise(starts))  # the clock, between them
    if not starts or not chunks or set_back:
        return None
    marks = sorted(_marks(attempts, starts[1:]), key=lambda mark: mark[0])
    turns = [at for at, kind, _ in marks if kind != "broke"]
    _trim_first(chunks, turns, starts[0])
    lost: dict[str, float] = defaultdict(float)
    away, at, where = 0.0, starts[0], STARTING
    tail = _Chunk(now, 0.0, 0, 0.0, evaluated=True)
    for chunk in (*chunks, tail):
        inside = [mark for mark in marks if at < mark[0] <= max(at, chunk.begin)]
        for when, kind, attempt in inside:
            cause, where = _passed(kind, attempt, where)
            if cause:
                lost[cause] += when - at
            else:
                away += when - at
            at = when
        if where == "":  # between two chunks of an attempt
            where = EVALUATING if chunk.evaluated else STORING
        lost[where] += max(0.0, chunk.begin - at)
        lost[WAITING] += min(chunk.waiting, chunk.seconds)
        at, where = max(at, chunk.end), ""
    productive = sum(max(0.0, chunk.seconds - chunk.waiting) for chunk in chunks)
    return Goodput(max(now, at) - starts[0] - away, productive, dict(lost))


def _passed(kind: str, attempt: Attempt | None, where: str) -> tuple[str, str]:
    """Return what the time up to a mark was lost to, nothing if it does not count, and what next.

    ``where``: what the time was lost to before; empty during the steps of an attempt.
    """
    if attempt is None:  # a command starts
        return ("" if where == _AWAY else VANISHED), STARTING
    cause = f"restarting: {attempt.cause.kind}" if attempt.cause else EVALUATING
    if kind == "broke":
        # What a worker does while nobody knows that another one hangs is not done again: it waits.
        hung = attempt.cause is not None and attempt.cause.kind == "stalled"
        return (cause if hung or where else REPEATING), cause
    return (where or cause), (_AWAY if attempt.over else cause)


_AWAY = "away"


def _marks(
    attempts: Sequence[Attempt], starts: Sequence[float]
) -> Iterator[tuple[float, str, Attempt | None]]:
    for start in starts:
        yield start, "start", None
    for attempt in attempts:
        if attempt.broke is not None:
            yield min(attempt.broke, attempt.end), "broke", attempt
        yield attempt.end, "end", attempt


def _chunks(lines: Sequence[Line]) -> Iterator[_Chunk]:
    """Yield the chunks of lines, whose times anybody may have written."""
    before, step, evaluated = 0.0, 0, False
    for line in lines:
        if "validation_accuracy" in line:
            evaluated = True
        end, total = measured(line.get("time")), measured(line.get("train_seconds"))
        if end is None or total is None:
            continue
        steps = max(0, int(line["step"]) - step)
        waits = [w for each in _list(line.get("wait_ms")) if (w := measured(each)) is not None]
        waiting = steps * fmean(waits) / 1e3 if waits else 0.0
        yield _Chunk(end, max(0.0, total - before), steps, waiting, evaluated)
        before, step, evaluated = total, int(line["step"]), False


def _trim_first(chunks: Sequence[_Chunk], turns: Sequence[float], start: float) -> None:
    """Cut the first chunk of each attempt to what its steps take at the pace of the others."""
    ends = [start, *(chunk.end for chunk in chunks)]
    for (before, end), chunk in zip(pairwise(ends), chunks, strict=True):
        chunk.first = before == start or any(before < turn <= end for turn in turns)
    others = [chunk for chunk in chunks if not chunk.first]
    steps = sum(chunk.steps for chunk in others)
    if steps:
        pace = sum(chunk.seconds for chunk in others) / steps
        for chunk in chunks:
            if chunk.first:
                chunk.seconds = min(chunk.seconds, pace * chunk.steps)


def _list(value: Any) -> list[Any]:
    return value[:1024] if isinstance(value, list) else []
