"""Which gaps between steps count as a stall."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.gang import time_limits
from trainer.gang.time_limits import FACTOR, FIRST, FLOOR, Stall
from trainer.worker_events import AT_THE_STORE, EVALUATING, GATHERING, TRAINING, Pulse


def train(
    watch: Stall, steps: Iterable[float], now: float, *, waits: bool = False, work: str = TRAINING
) -> tuple[float, str | None]:
    """Take a heartbeat a second while steps of these lengths are done; return when, and an alarm.

    The next step is under way then.
    """
    count, ends = 0, now
    for seconds in steps:
        ends += seconds
        while now < ends:
            watch.take(Pulse(work, count, waits), now)
            if alarm := watch.overdue(now):
                return now, alarm
            now += min(1.0, ends - now)
        count += 1
    watch.take(Pulse(work, count, waits), now)
    return now, watch.overdue(now)


def found_after(watch: Stall, now: float, *, waits: bool = False, work: str = TRAINING) -> float:
    """How long after ``now`` a worker that finishes nothing more is found."""
    count = watch._pulse.count
    for seconds in range(100_000):
        watch.take(Pulse(work, count, waits), now + seconds)
        if watch.overdue(now + seconds):
            return seconds
    raise AssertionError("never found")


def test_three_hundred_steps_that_take_thirty_seconds_each_once_are_no_false_alarm() -> None:
    watch = Stall(0.0)
    now, alarm = train(watch, [20.0] + [0.01] * 1000 + [30.0] * 300 + [0.01] * 1000, 5.0)
    assert alarm is None
    assert FACTOR * 30 <= found_after(watch, now) <= FACTOR * 32


@given(st.lists(st.floats(0.001, 59), min_size=1, max_size=20), st.booleans())
def test_steps_below_the_floor_never_raise_an_alarm(steps: list[float], waits: bool) -> None:
    assert train(Stall(0.0), steps, 0.0, waits=waits)[1] is None


@given(st.floats(0.001, 150), st.floats(1.1, 9))
def test_the_limit_grows_with_what_steps_take_up_to_half_an_hour(
    seconds: float, slower: float
) -> None:
    watch = Stall(0.0)
    now, alarm = train(watch, [seconds] * 3 + [seconds * slower], 0.0)
    assert alarm is None
    longest = seconds * slower
    expected = max(FLOOR, min(FACTOR * longest, longest + time_limits.OTHER))
    assert expected - 2 <= found_after(watch, now) <= expected + FACTOR + 2


def test_an_evaluation_may_be_compiled_again_at_the_end() -> None:
    watch = Stall(0.0)
    now, _ = train(watch, [50.0, 0.1, 0.1], 0.0, work=EVALUATING)
    assert FACTOR * 50 <= found_after(watch, now, work=EVALUATING) <= FACTOR * 50 + 2


def test_quick_steps_that_cease_are_found_at_the_floor() -> None:
    watch = Stall(0.0)
    now, _ = train(watch, [30.0] + [0.01] * 500, 0.0)
    assert FLOOR <= found_after(watch, now) <= FLOOR + 2


def test_the_first_step_may_compile_and_a_later_worker_is_measured_by_it() -> None:
    watch = Stall(0.0)
    assert FIRST <= found_after(watch, 0.0) <= FIRST + 2
    watch = Stall(0.0)
    now, _ = train(watch, [40.0, 0.1, 0.1], 0.0)
    watch.begin(now)
    watch.take(Pulse(TRAINING, 0, waits=False), now)
    assert FACTOR * 40 <= found_after(watch, now) <= FACTOR * 40 + 2


def test_who_waits_for_another_rank_is_found_after_it() -> None:
    held, waiting = Stall(0.0), Stall(0.0)
    for watch in (held, waiting):
        now, _ = train(watch, [3.0] + [0.1] * 100, 0.0)
    after = found_after(waiting, now, waits=True)
    assert after > 2 * found_after(held, now)
    assert waiting.overdue(now + after) == f"has waited {after:.0f} s for other ranks"


@pytest.mark.parametrize(
    ("pulse", "limit", "words"),
    [
        (Pulse("", 9, waits=False), time_limits.OTHER, "is alive but has finished no work"),
        (Pulse(GATHERING, 9, waits=True), time_limits.OTHER, "has waited"),
        (Pulse(GATHERING, 9, waits=False), FLOOR, "is alive but has finished no work"),
        (Pulse(EVALUATING, 9, waits=False), FIRST, "has finished no batch of its evaluation"),
    ],
)
def test_whatever_a_worker_does_has_a_limit(pulse: Pulse, limit: float, words: str) -> None:
    watch = Stall(0.0)
    now, _ = train(watch, [1.0] + [0.01] * 100, 0.0)
    for seconds in range(int(limit) + 2):
        watch.take(pulse, now + seconds)
    assert watch.overdue(now + limit - 1) is None
    assert words in str(watch.overdue(now + limit + 1))


def test_a_worker_that_never_gives_a_heartbeat_of_its_own_has_one_too() -> None:
    watch = Stall(1e6)
    assert watch.overdue(1e6 + time_limits.OTHER - 1) is None
    assert watch.overdue(1e6 + time_limits.OTHER + 1)


@pytest.mark.parametrize(
    "after",
    [
        Pulse(TRAINING, 7, waits=True),
        Pulse(EVALUATING, 7, waits=False),
        Pulse(GATHERING, 7, waits=True),
        Pulse(AT_THE_STORE, 7, waits=False),
    ],
)
def test_a_step_counts_as_finished_whatever_follows_it(after: Pulse) -> None:
    watch = Stall(0.0)
    watch.take(Pulse(TRAINING, 3, waits=False), 1.0)
    watch.take(after, 4.0)
    watch.take(Pulse(TRAINING, 7, waits=False), 5.0)
    assert watch.overdue(5.0 + FLOOR - 1) is None
    assert watch.overdue(5.0 + FLOOR + 1)


def test_what_is_gathered_before_the_first_step_is_no_step() -> None:
    watch = Stall(0.0)
    watch.take(Pulse(AT_THE_STORE, 0, waits=False), 1.0)
    watch.take(Pulse(GATHERING, 1, waits=True), 2.0)
    watch.take(Pulse(TRAINING, 3, waits=False), 3.0)
    assert watch.overdue(3.0 + FIRST - 1) is None


def test_time_spent_waiting_for_others_does_not_raise_the_limit() -> None:
    watch = Stall(0.0)
    now, _ = train(watch, [1.0] + [0.01] * 100, 0.0)
    for seconds in range(300):
        watch.take(Pulse(TRAINING, 101, waits=True), now + seconds)
    watch.take(Pulse(TRAINING, 101, waits=False), now + 301)
    watch.take(Pulse(TRAINING, 102, waits=False), now + 302)
    assert watch.overdue(now + 302 + FLOOR - 1) is None
    assert watch.overdue(now + 302 + FLOOR + 1)


def test_steps_quicker_than_a_heartbeat_count_as_done() -> None:
    watch = Stall(0.0)
    watch.take(Pulse(GATHERING, 17, waits=True), 1.0)
    watch.take(Pulse(TRAINING, 39, waits=False, first=False), 2.0)
    assert watch.overdue(2.0 + FLOOR - 1) is None
    assert watch.overdue(2.0 + FLOOR + 1)
