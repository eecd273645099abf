"""How the times of all ranks become computing, waiting and adding up."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trainer.train import step_breakdown
from trainer.train.all_reduce import AllReduce

pytestmark = pytest.mark.tensorflow  # trainer.train imports it


def test_a_rank_s_times_are_those_before_and_inside_its_sums() -> None:
    found = step_breakdown.of_rank(10.0, [(11.0, 11.5), (14.5, 15.0)])
    assert found.tolist() == [[1.0, 3.0], [0.5, 0.5]]


def test_the_last_to_enter_a_sum_waits_for_nobody() -> None:
    """Rank 0 is slow in the second step, rank 1 in the third; the first does not count."""
    computing = [[9.0, 0.004, 0.001], [1.0, 0.001, 0.003]]
    summing = [[9.0, 0.002, 0.004], [9.0, 0.005, 0.002]]
    seconds = np.stack([computing, summing], axis=1).astype(np.float32)
    found = step_breakdown.record(seconds, single_steps=True)
    assert found == {
        "compute_ms": [2.5, 2.0],
        "wait_ms": [1.0, 1.5],
        "sum_ms": 2.0,
        "steps_ms": [[[4.0, 2.0], [1.0, 4.0]], [[1.0, 5.0], [3.0, 2.0]]],
    }


def test_single_steps_are_left_out_where_they_are_many_or_not_wanted() -> None:
    seconds = np.ones((step_breakdown.SHOWN_RANKS, 2, 100), np.float32)
    assert len(step_breakdown.record(seconds, single_steps=True)["steps_ms"][0]) == 4
    assert "steps_ms" not in step_breakdown.record(seconds, single_steps=False)
    more = np.ones((step_breakdown.SHOWN_RANKS + 1, 2, 1), np.float32)
    assert step_breakdown.record(more, single_steps=True).keys() == {
        "compute_ms",
        "wait_ms",
        "sum_ms",
    }


class Pair:
    """What a clock needs of an all-reduce, between two threads."""

    def __init__(self, rank: int, rows: list[np.ndarray], barrier: threading.Barrier) -> None:
        self.sums: list[tuple[float, float]] = [(0.0, 1.0)]  # of before the chunk
        self._rank, self._rows, self._barrier = rank, rows, barrier

    def step(self, seconds: float) -> None:
        time.sleep(seconds)
        entered = time.perf_counter()
        self._barrier.wait(10)
        self.sums.append((entered, time.perf_counter()))

    def share(self, mine: np.ndarray) -> np.ndarray:
        self._rows[self._rank] = mine
        self._barrier.wait(10)
        return np.stack(self._rows)


def test_the_rank_that_computes_longer_makes_the_other_one_wait() -> None:
    rows, barrier = [np.empty(0)] * 2, threading.Barrier(2)

    def rank(number: int) -> dict[str, list[float]]:
        pair = Pair(number, rows, barrier)
        clock = step_breakdown.Clock(pair)  # type: ignore[arg-type]
        for _ in range(3):
            pair.step(0.05 if number else 0.0)
        found, beside = clock.read(np.array([number, 7], np.float32), single_steps=False)
        assert beside is not None
        assert beside.tolist() == [[0, 7], [1, 7]]
        return found

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(rank, range(2))
    assert first == second
    assert len(first["cpu_ms"]) == 2
    assert first["compute_ms"][1] >= 50 > first["compute_ms"][0]
    assert first["wait_ms"][0] > first["wait_ms"][1]


def test_without_our_all_reduce_nothing_is_known() -> None:
    none: AllReduce | None = None
    assert step_breakdown.Clock(none).read(np.ones(1, np.float32), single_steps=True) == ({}, None)
