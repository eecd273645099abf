"""Where a run's time went, by what its folder says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.runs import goodput
from trainer.runs.goodput import Goodput
from trainer.runs.reader import Attempt

START = 1.7e9


def lines(*chunks: tuple[float, float], wait: float = 0.0) -> list[dict[str, Any]]:
    """Chunks of ten steps by (end after START, seconds)."""
    found, total = [], 0.0
    for number, (end, seconds) in enumerate(chunks, 1):
        total += seconds
        found.append(
            {
                "step": 10 * number,
                "time": START + end,
                "train_seconds": total,
                "wait_ms": [0.0, 2 * wait],
            }
        )
    return found


def attempt(
    start: float, end: float, kind: str | None, broke: float, over: bool = False
) -> Attempt:
    cause = {"kind": kind, "rank": 1, "message": "it ended"} if kind else None
    values = {"attempt": 1, "start": START + start, "end": START + end, "cause": cause}
    steps = {"first_step": 0, "last_step": 0, "broke": START + broke, "over": over}
    return Attempt.model_validate({**values, **steps})


def of(
    metrics: list[dict[str, Any]], *attempts: Attempt, starts: tuple[float, ...], now: float
) -> Goodput:
    found = goodput.of(metrics, attempts, [START + at for at in starts], START + now)
    assert found
    return found


def rounded(found: Goodput) -> dict[str, float]:
    return {cause: round(seconds, 3) for cause, seconds in found.lost.items() if seconds > 1e-5}


def test_a_clock_that_was_set_back_between_commands_leaves_nothing_known() -> None:
    assert goodput.of(lines((3, 1), (4, 1)), [], [START, START - 4e7], START - 3e7) is None


def test_an_undisturbed_run() -> None:
    """The first chunk took 2 s, of which 1 s was tracing: the others took 1 s each."""
    metrics = lines((5, 2), (6.25, 1), (7.25, 1))
    metrics.insert(2, {"step": 20, "validation_accuracy": 0.5, "train_seconds": 3.0})
    metrics[3]["time"] += 0.5
    found = of(metrics, starts=(0,), now=9)
    assert rounded(found) == {"starting": 4, "storing": 0.25, "evaluating": 0.5 + 1.25}
    assert (found.productive, found.wall) == (3, 9)
    assert found.record()["goodput"] == pytest.approx(1 / 3, abs=1e-4)
    assert list(found.record()["lost_seconds"]) == ["starting", "evaluating", "storing"]


def test_what_ranks_wait_for_each_other_is_lost() -> None:
    found = of(lines((2, 1), (3, 1), wait=25.0), starts=(1,), now=3)
    assert rounded(found) == {"waiting": 0.5}
    assert found.share == 0.75


def test_a_kill_costs_the_steps_under_way_and_the_restart() -> None:
    metrics = lines((2, 1), (3, 1), (7, 2), (8, 1))
    found = of(metrics, attempt(0, 4.5, "killed", 3.75), starts=(0,), now=8)
    lost = {"starting": 1, "repeating": 0.75, "restarting: killed": 0.75 + 1.5}
    assert rounded(found) == lost
    assert found.productive == 4


def test_until_a_frozen_worker_is_found_nobody_works() -> None:
    metrics = lines((2, 1), (3, 1), (17, 1))
    found = of(metrics, attempt(0, 14, "stalled", 13), starts=(0,), now=17)
    assert rounded(found) == {"starting": 1, "restarting: stalled": 13}


def test_the_time_between_a_stop_and_the_next_command_does_not_count() -> None:
    metrics = lines((2, 1), (3, 1), (1006, 1))
    stopped = attempt(0, 3.5, "stopped", 3.25, over=True)
    found = of(metrics, stopped, starts=(0, 1003), now=1006)
    lost = {"starting": 1 + 2, "repeating": 0.25, "restarting: stopped": 0.25}
    assert (rounded(found), found.wall) == (lost, 6.5)


def test_a_command_that_vanished_holds_its_machines_until_the_next_one() -> None:
    found = of(lines((2, 1), (3, 1), (12, 1)), starts=(0, 9), now=12)
    lost = {"starting": 1 + 2, "restarting: command killed": 6}
    assert (rounded(found), found.wall) == (lost, 12)


def test_nothing_is_known_without_a_chunk_or_a_start() -> None:
    assert goodput.of([], [], [START], START + 1) is None
    assert goodput.of(lines((1, 1)), [], [], START + 1) is None
    assert goodput.of([{"step": 1, "train_seconds": 1.0}], [], [START], START + 1) is None


moments = st.lists(st.floats(0, 100, width=32), max_size=6)


@given(moments, moments, st.lists(st.booleans(), min_size=6, max_size=6), moments)
def test_the_parts_make_up_the_whole_whatever_happened(
    ends: list[float], broken: list[float], over: list[bool], more: list[float]
) -> None:
    ends = sorted(ends)
    attempts = [
        attempt(before, end, "killed", min(max(before, broke), end), over=last)
        for before, end, broke, last in zip([0.0, *ends], ends, broken, over, strict=False)
    ]
    at, chunks = 0.0, []
    for moment in sorted(more):
        if moment - at > 0.01:
            chunks.append((moment, (moment - at) / 2))
            at = moment
    if chunks:
        found = of(lines(*chunks, wait=1.0), *attempts, starts=(0.0, 50.0), now=101)
        assert found.productive + sum(found.lost.values()) == pytest.approx(found.wall, abs=1e-3)
        assert min(found.lost.values()) >= 0
        assert 0 <= found.share <= 1


def test_a_result_says_what_it_was_given() -> None:
    found = Goodput(20.0, 12.0, {"starting": 5.0, "storing": 3.0})
    assert goodput.parse(json.loads(json.dumps(found.record()))) == found


@pytest.mark.parametrize(
    "other",
    [
        {"goodput": 1.5},
        {"goodput": "all"},
        {"goodput": True},
        {"wall_seconds": None},
        {"wall_seconds": 1e400},
        {"lost_seconds": [1.0]},
    ],
)
def test_a_result_of_an_earlier_version_or_of_anybody_says_nothing(other: dict[str, Any]) -> None:
    assert goodput.parse({}) is None
    assert goodput.parse({**Goodput(20.0, 12.0, {}).record(), **other}) is None


def test_of_the_causes_that_anybody_wrote_few_are_read_and_only_numbers() -> None:
    record = Goodput(20.0, 12.0, {}).record()
    found = goodput.parse({**record, "lost_seconds": {"a": "<b>", "b": -1.0, "c": 2.0}})
    assert found is not None
    assert found.lost == {"c": 2.0}
    many = goodput.parse({**record, "lost_seconds": {str(k): 1.0 for k in range(10_000)}})
    assert many is not None
    assert len(many.lost) <= 50
