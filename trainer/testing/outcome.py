"""What a series of runs under faults came to: counts and times, for programs and for people."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

from trainer.common.text import plural
from trainer.testing.faults import KINDS, Kind, Planned


@dataclass
class Outcome:
    """Counts and measurements; times in seconds.

    A recovery lasts from a fault to the end of the first chunk after it; only faults that strike a
    stepping gang and a healthy store, and that overlap no other, count. A frozen or held worker is
    found, by kind and rank, when its supervisor gives it up. Lost steps are finished ones that are
    done again, after a single fault or after several that overlap.

    Attributes:
        chunk_steps: of the runs.
    """

    chunk_steps: int

    faults: Counter[Kind] = field(default_factory=Counter)
    recoveries: dict[Kind, list[float]] = field(default_factory=dict)
    found: dict[Kind, dict[int, list[float]]] = field(default_factory=dict)
    lost_steps: list[int] = field(default_factory=list)
    lost_steps_overlapping: list[int] = field(default_factory=list)
    runs: int = 0
    hangs: int = 0
    mismatches: int = 0
    seconds: float = 0.0
    fault_free_seconds: float = 0.0
    growth_files: int = 0
    growth_mib: float = 0.0

    def count_fault(self, fault: Planned, recovered: float = 0.0, found: float = 0.0) -> None:
        """Count a fault; times in seconds, which count only above 0."""
        self.faults[fault.kind] += 1
        if recovered > 0:
            self.recoveries.setdefault(fault.kind, []).append(recovered)
        if found > 0 and fault.kind in ("freeze", "hold"):
            by_rank = self.found.setdefault(fault.kind, {})
            by_rank.setdefault(fault.rank, []).append(found)

    def count_run(
        self,
        seconds: float,
        lost: Iterable[tuple[int, int]],
        growth: tuple[int, float],
        *,
        hung: bool,
        wrong: bool,
    ) -> None:
        """Count a run, which ``lost`` (steps, after how many faults) and grew by (files, MiB)."""
        self.runs += 1
        self.hangs += hung
        self.mismatches += wrong
        self.seconds += seconds
        for steps, faults in lost:
            (self.lost_steps if faults < 2 else self.lost_steps_overlapping).append(steps)
        self.growth_files = max(self.growth_files, growth[0])
        self.growth_mib = max(self.growth_mib, growth[1])


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome for programs."""
    fault_free = outcome.runs * outcome.fault_free_seconds
    return {
        "faults": dict(outcome.faults),
        "runs": outcome.runs,
        "hangs": outcome.hangs,
        "mismatches": outcome.mismatches,
        "recovery_seconds": {
            kind: {
                "count": len(times),
                "p50": round(percentile(times, 50), 2),
                "p95": round(percentile(times, 95), 2),
                "worst": round(max(times), 2),
            }
            for kind, times in outcome.recoveries.items()
        },
        "found_seconds": {
            kind: {
                rank: {"count": len(times), "worst": round(max(times), 2)}
                for rank, times in sorted(by_rank.items())
            }
            for kind, by_rank in outcome.found.items()
        },
        "lost_steps": {
            "total": sum(outcome.lost_steps + outcome.lost_steps_overlapping),
            "worst": max(outcome.lost_steps, default=0),
            "worst_overlapping": max(outcome.lost_steps_overlapping, default=0),
            "chunk_steps": outcome.chunk_steps,
        },
        "seconds": round(outcome.seconds, 1),
        "effective_training_time": round(fault_free / outcome.seconds, 3),
        "seconds_a_fault": round(
            (outcome.seconds - fault_free) / max(1, outcome.faults.total()), 2
        ),
        "supervisor_growth": {"files": outcome.growth_files, "mib": round(outcome.growth_mib, 1)},
    }


def as_text(outcome: Outcome) -> Iterator[str]:
    """Yield the outcome in lines for people."""
    values = as_json(outcome)
    faults, runs = plural(outcome.faults.total(), "fault"), plural(outcome.runs, "run")
    yield f"{faults} in {runs}, {outcome.seconds:.0f} s:"
    for kind in get_args(Kind):
        if outcome.faults[kind]:
            line = f"  {outcome.faults[kind]:>4}  {KINDS[kind]}"
            if recovery := values["recovery_seconds"].get(kind):
                line = (
                    f"{line:<38} back in {recovery['p50']:.1f} s, 95% {recovery['p95']:.1f} s, "
                    f"worst {recovery['worst']:.1f} s"
                )
            yield line
    words = {"freeze": "frozen", "hold": "held"}
    for kind, by_rank in values["found_seconds"].items():
        for rank, found in by_rank.items():
            times = plural(found["count"], "time")
            yield f"rank {rank} {words[kind]} {times}, found within {found['worst']} s"
    yield f"hangs {outcome.hangs}, other weights at the end {outcome.mismatches}"
    lost = values["lost_steps"]
    yield (
        f"finished steps done again: {lost['total']}; at most {lost['worst']} for one fault, "
        f"{lost['worst_overlapping']} for several at once"
    )
    if values["effective_training_time"] > 1:
        # Other programs took more time from the undisturbed run than the faults from the others.
        yield "effective training time: not measurable, the undisturbed run was slower"
    else:
        yield (
            f"effective training time {values['effective_training_time']:.0%}, "
            f"{values['seconds_a_fault']} s a fault"
        )
    growth = values["supervisor_growth"]
    yield f"supervisors grew by at most {growth['files']} open files and {growth['mib']} MiB"


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile, linear between the two nearest values."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
