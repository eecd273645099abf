import hashlib
import itertools
import re

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import SEEDS, delivered
from trainer import schedule
from trainer.data import sampler
from trainer.errors import ConfigError


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, int, int]:
    """Batch size, samples, steps: the batch is within the data, but need not divide it."""
    batch = draw(st.integers(1, 64))
    samples = draw(st.integers(batch, 6 * batch + 5))
    return batch, samples, draw(st.integers(1, -(-3 * samples // batch)))


@given(runs(), SEEDS)
def test_every_sample_comes_once_an_epoch(run: tuple[int, int, int], seed: int) -> None:
    # That the ranks of a gang of 1 to 8 share these batches out exactly is shown in test_loop.
    batch, samples, steps = run
    stream = sampler.batches(seed, samples, batch, 0, steps).reshape(-1)
    for start in range(0, len(stream), samples):
        epoch = stream[start : start + samples].tolist()
        if len(epoch) == samples:
            assert sorted(epoch) == list(range(samples))
        else:  # the run ends within this epoch
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(samples))


@given(runs(), SEEDS, st.data())
def test_batches_do_not_depend_on_where_the_steps_are_cut(
    run: tuple[int, int, int], seed: int, data: st.DataObject
) -> None:
    batch, samples, steps = run
    whole = sampler.batches(seed, samples, batch, 0, steps)
    cuts = sorted({0, steps, *data.draw(st.lists(st.integers(0, steps), max_size=5))})
    parts = [
        sampler.batches(seed, samples, batch, first, last - first)
        for first, last in itertools.pairwise(cuts)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.int32
    assert sampler.batches(seed, samples, batch, data.draw(st.integers(0, steps)), 0).shape == (
        0,
        batch,
    )


@given(SEEDS, st.integers(0, 10**6), st.integers(1, 300))
def test_a_permutation_holds_every_sample_once(seed: int, epoch: int, samples: int) -> None:
    assert sorted(sampler.permutation(seed, epoch, samples)) == list(range(samples))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        sampler.permutation(seed, epoch, 100).tobytes() for seed in range(20) for epoch in range(20)
    }
    assert len(orders) == 400


def test_an_order_is_not_sorted_by_accident() -> None:
    positions = sampler.permutation(1, 0, 60_000).astype(np.float64)
    assert abs(np.corrcoef(positions, np.arange(60_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(positions, sampler.permutation(1, 1, 60_000))[0, 1]) < 0.02


def test_the_order_is_the_same_on_every_machine_and_numpy() -> None:
    # Resuming after an upgrade depends on it: never change these figures.
    digest = hashlib.sha256(sampler.permutation(1, 0, 60_000).astype("<i4").tobytes()).hexdigest()
    assert digest == "8793b348f83604014b026b3437a89247d3c1f120e1d74250f526c71b28c1a660"
    assert sampler.permutation(7, 3, 10).tolist() == [2, 0, 7, 3, 5, 4, 8, 9, 1, 6]


def test_samples_with_equal_random_numbers_are_in_their_own_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = np.random.default_rng(1).integers(0, 50, 1000).astype(np.uint64)

    class Repeating:
        def __init__(self, **_: object) -> None:
            pass

        def random_raw(self, count: int) -> npt.NDArray[np.uint64]:
            return words[:count]

    monkeypatch.setattr(np.random, "Philox", Repeating)
    got = sampler.permutation.__wrapped__(1, 0, 1000)
    assert got.tolist() == sorted(range(1000), key=lambda sample: (words[sample], sample))


def test_the_cached_permutation_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        sampler.permutation(1, 0, 10)[0] = 3


@given(
    total=st.integers(1, 400),
    chunk_steps=st.integers(1, 120),
    eval_steps=st.integers(0, 120),
)
def test_chunks_tile_the_run_and_end_on_every_validation(
    total: int, chunk_steps: int, eval_steps: int
) -> None:
    ends, step = [], 0
    while step < total:
        end = schedule.chunk_end(step, total, chunk_steps, eval_steps)
        assert step < end <= min(step + chunk_steps, total)
        ends.append(step := end)
    assert ends[-1] == total
    if eval_steps:
        assert set(range(eval_steps, total + 1, eval_steps)) <= set(ends)
    # A run resumed at any step falls into the same ends again, as far as they are ahead.
    for resumed in range(total):
        assert schedule.chunk_end(resumed, total, chunk_steps, eval_steps) == min(
            end for end in ends if end > resumed
        )


@given(SEEDS, st.integers(0, 10**6), st.integers(0, 5), st.lists(st.integers(0, 50), max_size=4))
def test_seeds_are_a_function_of_the_step(
    seed: int, first: int, generators: int, cuts: list[int]
) -> None:
    whole = sampler.seeds(seed, first, 50, generators)
    assert whole.shape == (50, generators)
    assert whole.dtype == np.uint32
    edges = sorted({0, 50, *cuts})
    parts = [
        sampler.seeds(seed, first + a, b - a, generators) for a, b in itertools.pairwise(edges)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_every_step_and_generator_has_a_seed_of_its_own() -> None:
    # Of 2,000 random 32-bit words two are alike with a chance of 1 in 2,000: none here.
    drawn = sampler.seeds(1, 0, 500, 4)
    assert len(np.unique(drawn)) == drawn.size
    assert len(np.unique(sampler.seeds(2, 0, 500, 4)[None] == drawn)) == 1
    assert sampler.seeds(1, 0, 2, 2).tolist() == [
        [2433363437, 3203108256],
        [4170425071, 1908508304],
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((60_000, 100, 5.0, 1000), 1000),  # steps given: epochs do not matter
        ((60_000, 100, 5.0, 0), 3000),
        ((60_000, 128, 1.0, 0), 469),  # 468.75: the last batch reaches into the next epoch
        ((60_000, 128, 0.5, 0), 235),
        ((10, 10, 0.001, 0), 1),
    ],
)
def test_total_steps(arguments: tuple[int, int, float, int], expected: int) -> None:
    assert schedule.total_steps(*arguments) == expected


def test_a_batch_that_fits_is_accepted() -> None:
    schedule.check_batch(128, 128, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (101, 100, 1),
            "batch_size: 101: more than the 100 training images; give at most 100",
        ),
        (
            (128, 1000, 3),
            "batch_size: 128: not divisible by the 3 workers' devices; give 126 or 129",
        ),
        ((2, 1000, 3), "batch_size: 2: not divisible by the 3 workers' devices; give 3"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(
    arguments: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        schedule.check_batch(*arguments)


# Data in shards.


@st.composite
def sharded(draw: st.DrawFn) -> tuple[sampler.Windows, int, int]:
    """Windows, a batch no larger than the smallest of them, and the steps of some epochs."""
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=9))
    windows = sampler.Windows(draw(SEEDS), tuple(counts), draw(st.integers(1, len(counts))))
    batch = draw(st.integers(1, windows.smallest))
    return windows, batch, draw(st.integers(1, max(1, 3 * sum(counts) // batch)))


@given(sharded())
def test_every_sample_of_every_shard_comes_once_an_epoch(
    run: tuple[sampler.Windows, int, int],
) -> None:
    windows, batch, steps = run
    stream = [sample for each in delivered(windows, batch, 0, steps) for sample in each]
    everything = [[shard, row] for shard, n in enumerate(windows.counts) for row in range(n)]
    for start in range(0, len(stream), len(everything)):
        epoch = stream[start : start + len(everything)]
        assert len({tuple(sample) for sample in epoch}) == len(epoch)
        if len(epoch) == len(everything):
            assert sorted(epoch) == everything


@given(sharded(), st.data())
def test_a_resumed_run_takes_the_same_samples_of_shards(
    run: tuple[sampler.Windows, int, int], data: st.DataObject
) -> None:
    windows, batch, steps = run
    whole = delivered(windows, batch, 0, steps)
    for first in data.draw(st.lists(st.integers(0, steps), max_size=4)):
        assert delivered(windows, batch, first, steps) == whole[first:]


@given(sharded())
def test_a_window_has_as_many_samples_as_is_said(run: tuple[sampler.Windows, int, int]) -> None:
    windows, _, _ = run
    position, epoch = 0, sum(windows.counts)
    while position < 2 * epoch:
        window = windows.at(position)
        assert (window.start, window.epoch) == (position, position // epoch)
        assert windows.at(window.stop - 1) == window
        samples = sum(windows.counts[shard] for shard in window.shards)
        assert window.stop == position + samples
        assert windows.smallest <= samples <= windows.largest
        position = window.stop
    assert position == 2 * epoch


def test_epochs_and_windows_have_orders_of_their_own() -> None:
    windows = sampler.Windows(1, (50,) * 20, 2)
    each = [windows.at(position) for position in range(0, 2000, 100)]
    assert [w.shards for w in each[:10]] != [w.shards for w in each[10:]]
    orders = {windows.rows(window).tobytes() for window in each}
    assert len(orders) == len(each)


def test_the_order_of_shards_does_not_change_between_versions() -> None:
    window = sampler.Windows(5, (3, 4, 5, 6), 2).at(18)
    assert window == sampler.Window(1, 0, (3, 1), 18, 28)
    assert sampler.Windows(5, (3, 4, 5, 6), 2).rows(window).tolist() == [
        9,
        2,
        3,
        5,
        1,
        7,
        4,
        6,
        0,
        8,
    ]
