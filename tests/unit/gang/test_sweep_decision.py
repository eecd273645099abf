import itertools
import math
from dataclasses import replace
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.gang.sweep_decision import Decision, Known, Phase, decide, stopped_early
from trainer.gang.sweep_file import Halving

HALVING = Halving(first=100, metric="accuracy")


def curve(*values: float, every: int = 100) -> tuple[tuple[int, float], ...]:
    return tuple((every * place, value) for place, value in enumerate(values, 1))


scores = st.lists(
    st.tuples(st.integers(1, 2000), st.floats(0, 1) | st.just(math.nan)), max_size=5
).map(lambda found: tuple(sorted(found, key=lambda each: each[0])))
known = st.builds(Known, st.sampled_from(get_args(Phase)), scores)
runs_of = st.lists(known, max_size=12)
halvings = st.none() | st.builds(Halving, first=st.integers(1, 500))


@given(runs_of, st.integers(1, 5), halvings)
def test_a_decision_is_one_that_can_be_carried_out(
    runs: list[Known], parallel: int, halving: Halving | None
) -> None:
    found = decide(runs, parallel, halving)
    assert all(runs[place].phase == "waiting" for place in found.start)
    assert all(runs[place].phase == "running" for place in found.stop)
    assert len(set(found.start)) == len(found.start)
    busy = sum(run.phase in ("running", "stopping") for run in runs)
    assert len(found.start) <= max(0, parallel - busy)
    early = stopped_early(runs, halving)
    assert not early & set(found.start)
    wanted = [p for p, run in enumerate(runs) if run.phase == "waiting" and p not in early]
    assert len(found.start) == min(len(wanted), max(0, parallel - busy))
    assert halving or not found.stop
    assert decide(runs, parallel, halving) == found


@given(runs_of, halvings)
def test_at_most_half_of_those_at_the_last_rung_are_stopped_and_never_the_best(
    runs: list[Known], halving: Halving | None
) -> None:
    rivals = [p for p, run in enumerate(runs) if run.phase not in ("failed", "left")]
    early = stopped_early(runs, halving) & set(rivals)
    if halving:
        last = {p: max((step for step, _ in runs[p].scores), default=0) for p in rivals}
        highest = max(
            (math.floor(math.log2(s / halving.first)) for s in last.values() if s >= halving.first),
            default=None,
        )
        assert (highest is None) <= (not early)
        if highest is not None:
            there = [p for p in rivals if last[p] >= halving.first * 2**highest]
            assert len(early & set(there)) <= len(there) // 2


@given(st.lists(known, min_size=1, max_size=8), st.permutations(range(8)))
def test_the_order_of_the_runs_decides_among_equals_alone(
    runs: list[Known], order: list[int]
) -> None:
    distinct = [
        replace(run, scores=tuple((step, place + step / 1e4) for step, _ in run.scores))
        for place, run in enumerate(runs)
    ]
    order = [place for place in order if place < len(runs)]
    turned = [distinct[place] for place in order]
    early = {order[place] for place in stopped_early(turned, HALVING)}
    assert early == stopped_early(distinct, HALVING)


@pytest.mark.parametrize(
    ("others", "stops"),
    [
        ([], False),  # nothing to compare it with
        ([curve(0.6)], True),
        ([curve(0.4)], False),
        ([curve(0.6), curve(0.4)], False),  # in the middle of three: in the better half
        ([curve(0.6), curve(0.7)], True),
        ([curve(0.6), curve(0.7), curve(0.4)], True),
        ([curve(0.6), curve(0.4), curve(0.3)], False),
        ([()] * 5, False),  # those that have not come as far do not count
        ([curve(math.nan)], False),
    ],
)
def test_a_run_goes_on_while_it_is_in_the_better_half(others: list[Any], stops: bool) -> None:
    runs = [Known("running", curve(0.5)), *(Known("running", each) for each in others)]
    assert (0 in decide(runs, 9, HALVING).stop) is stops


def test_only_the_last_rung_that_a_run_has_reached_decides() -> None:
    # The first was better at 100 steps; the second has been better since.
    runs = [Known("running", curve(0.9, 0.5)), Known("running", curve(0.1, 0.6))]
    assert decide(runs, 2, HALVING).stop == (0,)
    # Rungs double: 300 steps are compared as 200 were.
    runs = [Known("running", curve(0.1, 0.6, 0.1)), Known("running", curve(0.1, 0.5, 0.9))]
    assert decide(runs, 2, HALVING).stop == (1,)


def test_a_stopped_run_resumes_before_new_ones_when_worse_ones_follow() -> None:
    runs = [Known("finished", curve(0.9)), Known("waiting", curve(0.5)), Known("waiting")]
    assert decide(runs, 1, HALVING) == Decision((2,), ())
    worse = Known("waiting", curve(0.4))
    runs = [*runs[:2], worse, replace(worse, scores=curve(0.3)), Known("waiting")]
    assert decide(runs, 1, HALVING) == Decision((1,), ())


def test_who_failed_is_no_rival() -> None:
    runs = [Known("failed", curve(0.9)), Known("running", curve(0.5))]
    assert decide(runs, 2, HALVING).stop == ()


class Simulation:
    """Runs that gain a validation a turn, and fail, end and stop at random."""

    def __init__(self, seed: int, halving: Halving | None) -> None:
        self.random, self.halving = Random(seed), halving
        self.parallel = self.random.randint(1, 4)
        self.total = self.random.randint(1, 8)
        self.skill = [self.random.random() for _ in range(self.random.randint(1, 10))]
        self.runs = [Known("waiting")] * len(self.skill)
        self.resumed = 0

    def turn(self) -> bool:
        found = decide(self.runs, self.parallel, self.halving)
        for place in found.start:
            self.resumed += bool(self.runs[place].scores)
            self.runs[place] = replace(self.runs[place], phase="running")
        for place in found.stop:
            self.runs[place] = replace(self.runs[place], phase="stopping")
        assert sum(run.phase in ("running", "stopping") for run in self.runs) <= self.parallel
        for place, run in enumerate(self.runs):
            if run.phase == "stopping" and self.random.random() < 0.7:
                self.runs[place] = replace(run, phase="waiting")
            elif run.phase == "running" and self.random.random() < 0.8:
                done = len(run.scores) + 1
                value = self.skill[place] + self.random.gauss(0, 0.1)
                phase: Phase = "finished" if done >= self.total else "running"
                if self.random.random() < 0.03:
                    phase = "failed"
                self.runs[place] = Known(phase, (*run.scores, (100 * done, value)))
        busy = any(run.phase in ("running", "stopping") for run in self.runs)
        return busy or bool(decide(self.runs, self.parallel, self.halving).start)


@pytest.mark.parametrize("halving", [None, HALVING, Halving(first=200, metric="loss")])
def test_a_sweep_ends_with_a_finished_run_wherever_it_is_interrupted(
    halving: Halving | None,
) -> None:
    for seed in range(150):
        sweep = Simulation(seed, halving)
        for turn in itertools.count():
            if not sweep.turn():
                break
            if turn == 5:  # interrupted, and resumed when all that ran has stopped
                sweep.runs = [
                    replace(r, phase="waiting") if r.phase in ("running", "stopping") else r
                    for r in sweep.runs
                ]
            assert turn < 1000, seed
        phases = [run.phase for run in sweep.runs]
        early = stopped_early(sweep.runs, halving)
        assert {p for p, phase in enumerate(phases) if phase == "waiting"} == early
        assert "finished" in phases or set(phases) == {"failed"}, seed
        if halving is None:
            assert set(phases) <= {"finished", "failed"}
