"""Values gathered from all workers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.loops import strategy
from trainer.train.replicas import Replicas, by_rank

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("replicas", [1, 2])
def test_gathering_gives_one_row_a_worker(replicas: int) -> None:
    # One process is one worker, however many devices it has.
    values = np.array([3, -(2**62)], np.int64)
    np.testing.assert_array_equal(Replicas(strategy(replicas)).gather(values), [values])


def test_an_exchange_gathers_in_place_of_tensorflow_and_counts_as_progress() -> None:
    replicas = Replicas(strategy(2))
    replicas.exchange = lambda values: np.stack([values, values + 1])
    before = replicas.heartbeat.progress()
    assert replicas.gather(np.array([1, 2])).tolist() == [[1, 2], [2, 3]]
    assert replicas.heartbeat.progress() > before


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 3), st.sampled_from([np.int64, np.float32]), st.data())
def test_rows_gathered_in_any_order_are_given_by_rank(
    workers: int, devices: int, dtype: Any, data: st.DataObject
) -> None:
    ranks = np.repeat(np.arange(workers), devices)
    rows = np.stack([ranks, ranks * 7], axis=1).astype(dtype)
    shuffled = rows[np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(rows))]
    assert np.array_equal(by_rank(shuffled, workers)[:, 0], np.arange(workers) * 7)


def test_a_rank_that_is_missing_from_what_was_gathered_is_no_result() -> None:
    with pytest.raises(AssertionError, match="gathered the ranks"):
        by_rank(np.array([[0, 5], [2, 6]]), 2)
