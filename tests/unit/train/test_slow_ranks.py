"""Which ranks count as slow, whatever the noise and the size of the gang."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.cluster_spec import Cluster
from trainer.progress import Reporter
from trainer.train.all_reduce import AllReduce
from trainer.train.slow_ranks import CHUNKS, SlowRanks, slow

NONE: frozenset[int] = frozenset()
sizes = st.one_of(st.integers(2, 9), st.sampled_from([64, 255, 1024]))
seeds = st.integers(0, 2**32 - 1)


def times(seed: int, ranks: int, chunks: int, noise: float) -> np.ndarray:
    """Milliseconds [chunks, ranks] of equal machines whose chunks differ by up to ``noise``."""
    return 5 * np.random.default_rng(seed).uniform(1, 1 + noise, (chunks, ranks))


@given(sizes, seeds, st.floats(0, 0.29))
def test_nobody_is_slow_where_all_differ_by_less_than_the_limit(
    ranks: int, seed: int, noise: float
) -> None:
    assert slow(times(seed, ranks, CHUNKS, noise).tolist(), NONE) == NONE


@given(sizes, seeds)
def test_one_that_takes_twice_as_long_is_named_and_nobody_else(ranks: int, seed: int) -> None:
    history = times(seed, ranks, CHUNKS, 0.25)
    history[:, seed % ranks] *= 2
    assert slow(history.tolist(), NONE) == {seed % ranks}


@given(st.integers(1, 512), seeds)
def test_half_of_a_gang_can_be_slow(pairs: int, seed: int) -> None:
    history = times(seed, 2 * pairs, CHUNKS, 0.25)
    chosen = np.random.default_rng(seed).permutation(2 * pairs)[:pairs]
    history[:, chosen] *= 2
    assert slow(history.tolist(), NONE) == set(chosen.tolist())


@given(sizes, seeds, st.integers(0, CHUNKS - 1))
def test_one_quick_chunk_clears_a_rank_that_was_not_named(
    ranks: int, seed: int, quick: int
) -> None:
    history = times(seed, ranks, CHUNKS, 0.25)
    slowed = [chunk for chunk in range(CHUNKS) if chunk != quick]
    history[slowed, seed % ranks] *= 9
    assert slow(history.tolist(), NONE) == NONE


@given(sizes, seeds)
def test_a_named_rank_stays_named_until_it_is_quick_for_as_long(ranks: int, seed: int) -> None:
    history = times(seed, ranks, CHUNKS, 0.1)
    named = frozenset({seed % ranks})
    history[0, seed % ranks] *= 1.4
    assert slow(history.tolist(), named) == named
    history[0, seed % ranks] /= 1.4
    assert slow(history.tolist(), named) == NONE


def test_before_there_are_enough_chunks_nothing_changes() -> None:
    history = [[1.0, 9.0]] * (CHUNKS - 1)
    assert slow(history, NONE) == NONE
    assert slow(history, frozenset({0})) == {0}


@pytest.mark.parametrize("value", [0.0, 1e-12])
def test_times_of_nothing_are_no_trouble(value: float) -> None:
    assert slow([[value, value]] * CHUNKS, NONE) == NONE


class Alike:
    """An all-reduce of ranks that all give the same."""

    def __init__(self, count: int) -> None:
        self._count = count

    def share(self, mine: np.ndarray) -> np.ndarray:
        return np.stack([mine] * self._count)


class Said(Reporter):
    def __init__(self) -> None:
        self.lines: list[tuple[str, list[int]]] = []

    def say(self, message: str, **facts: Any) -> None:
        self.lines.append((message, facts["ranks"]))

    warn = say


def test_after_a_shrink_ranks_are_named_as_before_it() -> None:
    said, members = Said(), (0, 2, 5, 7)
    cluster = Cluster(0, ("localhost:0",) * 4, local=True, members=members)
    slow_ranks = SlowRanks(cluster, cast(AllReduce, Alike(4)), said)

    def look(*ms: float) -> list[int]:
        lines = slow_ranks.look({"compute_ms": [*ms], "cpu_ms": [*ms]})
        return [each["rank"] for each in lines]

    found = [look(5, 5, 15, 10) for _ in range(CHUNKS + 1)]  # the first one compiles
    assert found == [[]] * CHUNKS + [[5, 7]]
    found = [look(5, 5, 15, 5) for _ in range(CHUNKS)]
    assert found == [[5, 7]] * (CHUNKS - 1) + [[5]]
    (first, named), (second, back) = said.lines
    assert (named, back) == ([5, 7], [7])
    assert first.startswith("rank 5 is slow: 15 ms a step, 3.0 times the median")
    assert first.endswith("; slow as well: rank 7")
    assert second == "rank 7: as fast as the others again"
