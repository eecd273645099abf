"""Which runs of a sweep to start, and which to stop early, from what is known of each. Pure.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning",
2018): rungs are numbers of steps, each twice the one before. A run trains on past the last rung
that it has reached only while it is in the better half of all runs that have reached that rung.
Whoever is not is stopped with a checkpoint, and resumed if worse ones follow. What happens is
decided from the runs' metrics alone, so an interrupted sweep continues as it would have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.gang.sweep_file import Halving

# waiting: not under way; it was never started, or it was stopped with a checkpoint
# stopping: asked to stop, but its place is not free yet
# left: somebody else has stopped it, who does not want it to be started again
Phase = Literal["waiting", "running", "stopping", "finished", "failed", "left"]
Scores = tuple[tuple[int, float], ...]  # step and score of each validation; higher is better


@dataclass(frozen=True)
class Known:
    """What is known of a run."""

    phase: Phase
    scores: Scores = ()


@dataclass(frozen=True)
class Decision:
    """Places of the runs to start, the most promising first, and of those to stop early."""

    start: tuple[int, ...]
    stop: tuple[int, ...]


def decide(runs: Sequence[Known], parallel: int, halving: Halving | None) -> Decision:
    """Return what to do now; a sweep in which nothing runs and nothing is to start is over.

    Args:
        runs: in the order of the plan.
        parallel: runs that may be under way at the same time.
        halving: when to stop the worse half; None for never.
    """
    worse = stopped_early(runs, halving)
    free = parallel - sum(run.phase in ("running", "stopping") for run in runs)
    waiting = [
        place for place, run in enumerate(runs) if run.phase == "waiting" and place not in worse
    ]
    if halving:  # those that have come far first
        waiting.sort(key=lambda place: -_rung(runs[place].scores, halving.first))
    return Decision(
        start=tuple(waiting[: max(0, free)]),
        stop=tuple(place for place in sorted(worse) if runs[place].phase == "running"),
    )


def stopped_early(runs: Sequence[Known], halving: Halving | None) -> set[int]:
    """Return the places of unfinished runs in the worse half at the last rung that they reached."""
    if halving is None:
        return set()
    worse: set[int] = set()
    rungs = [_rung(run.scores, halving.first) for run in runs]
    rivals = [place for place, run in enumerate(runs) if run.phase not in ("failed", "left")]
    for rung in range(max(rungs, default=-1) + 1):
        steps = halving.first * 2**rung
        there = [place for place in rivals if rungs[place] >= rung]
        there.sort(key=lambda place: (-_score_at(runs[place].scores, steps), place))
        worse.update(p for p in there[math.ceil(len(there) / 2) :] if rungs[p] == rung)
    return {place for place in worse if runs[place].phase != "finished"}


def _rung(scores: Scores, first: int) -> int:
    """Return the last rung that a run has been validated at or after, -1 before the first."""
    last = max((step for step, _ in scores), default=0)
    return (last // first).bit_length() - 1


def _score_at(scores: Scores, steps: int) -> float:
    """Return the score of the first validation after so many steps, of which there must be one."""
    _, score = min(each for each in scores if each[0] >= steps)
    return score if math.isfinite(score) else -math.inf
