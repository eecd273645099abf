"""What the stream hands over, and how much memory and reading it takes."""

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.samples import SEEDS, delivered
from trainer.config import TrainConfig, parse
from trainer.data import dataset, idx, sampler, shards, stream
from trainer.data.shards import Shards
from trainer.data.stream import Stream
from trainer.errors import ConfigError, DataError


def write(folder: Path, counts: list[int], side: int = 4, *, gzip: bool = False) -> None:
    """Write shards whose image i, counted over all of them, holds the bytes of i."""
    first, listed = 0, []
    for number, count in enumerate(counts):
        images = np.zeros((count, side, side), np.uint8)
        numbers = np.arange(first, first + count, dtype="<u4")
        images.reshape(count, -1)[:, :4] = numbers.view(np.uint8).reshape(count, 4)
        labels = (numbers % 3).astype(np.uint8)
        for name, array in zip(shards.names(number, len(counts)), (images, labels), strict=True):
            stored = f"{name}.gz" if gzip else name
            (folder / stored).write_bytes(idx.encode(array, compress=gzip))
        listed.append(shards.Shard(count, idx.sha256(images), idx.sha256(labels)))
        first += count
    index = shards.Index((side, side, 1), 3, tuple(listed))
    (folder / shards.INDEX).write_bytes(shards.encode(index))
    for name, array in zip(dataset.FILES[2:], (images, labels), strict=True):
        (folder / name).write_bytes(idx.encode(array))


def load(folder: Path, validation: int = 0) -> Shards:
    found = dataset.load(str(folder), validation).shards
    assert found is not None
    return found


def config(**values: Any) -> TrainConfig:
    return parse({"validation": 0, **values})


def numbers(buffer: stream.Buffer, rows: npt.NDArray[np.int32]) -> list[list[int]]:
    """Return which images the rows hold."""
    images = buffer.images[rows]
    first = np.ascontiguousarray(images.reshape(*rows.shape, -1)[..., :4]).view("<u4")[..., 0]
    np.testing.assert_array_equal(buffer.labels[rows], first % 3)
    return [[int(n) for n in row] for row in first]


def follow(data: Shards, settings: TrainConfig, first: int, last: int) -> list[list[int]]:
    """Return the images of the steps, as the stream hands them over."""
    it, batches = Stream(data, settings, last), []
    while first < last:
        end = min(last, it.end(first), first + 3)  # chunks of three steps
        batches += numbers(*it.batches(first, end - first))
        first = end
    it.close()
    return batches


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(3, 12), min_size=1, max_size=5),
    each=st.integers(1, 3),
    seed=SEEDS,
    validation=st.integers(0, 2),
    memory=st.sampled_from(["enough", "for everything"]),
    choice=st.data(),
)
def test_every_step_gets_the_images_of_the_order_wherever_it_starts(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    each: int,
    seed: int,
    validation: int,
    memory: str,
    choice: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    write(folder, counts)
    data = load(folder, validation)
    windows = sampler.Windows(seed, data.counts, min(each, len(counts)))
    batch = choice.draw(st.integers(1, windows.smallest))
    settings = config(seed=seed, batch_size=batch, shuffle_shards=each, validation=validation)
    steps = 3 * sum(data.counts) // batch
    first = choice.draw(st.integers(0, steps))
    starts = [validation, *np.cumsum(counts)]
    wanted = [
        [int(starts[shard]) + row for shard, row in samples]
        for samples in delivered(windows, batch, first, steps)
    ]
    with pytest.MonkeyPatch.context() as patch:
        if memory == "enough":
            plan = stream.plan(data, settings)
            patch.setattr(
                stream, "plan", lambda *_: stream.Plan(windows, plan.rows, each, keep=False)
            )
        assert follow(data, settings, first, steps) == wanted


MANY, SIDE = [500] * 24, 32  # 24 shards of 0.5 MB, 12 MB


@pytest.mark.parametrize(("gzip", "memory"), [(False, 2), (True, 3)])
def test_memory_is_bounded_by_the_budget_however_much_data_there_are(
    gzip: bool, memory: int, tmp_path: Path
) -> None:
    write(tmp_path, MANY, SIDE, gzip=gzip)
    data, budget = load(tmp_path), config(batch_size=64, memory=memory)
    assert not stream.plan(data, budget).keep
    last = 2 * sum(MANY) // 64
    tracemalloc.start()
    try:
        it, step = Stream(data, budget, last), 0
        while step < last:
            end = min(last, it.end(step))
            it.batches(step, end - step)
            step = end
        _, peak = tracemalloc.get_traced_memory()
        it.close()
    finally:
        tracemalloc.stop()
    assert 1.2 * stream.MIB < peak < memory * stream.MIB  # the buffers were seen, but no more


@pytest.mark.parametrize(("memory", "times"), [(2, 3), (40, 1)])
def test_shards_that_all_fit_are_read_once(
    memory: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, MANY, SIDE)
    data, reads = load(tmp_path), Counter[int]()
    read = shards.read

    def count(storage: Any, data: Shards, number: int) -> shards.Part:
        reads[number] += 1
        return read(storage, data, number)

    monkeypatch.setattr(shards, "read", count)
    follow(data, config(batch_size=50, memory=memory), 0, 3 * sum(MANY) // 50)
    assert reads == dict.fromkeys(range(len(MANY)), times)


def test_the_next_window_is_read_while_this_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, MANY, SIDE)
    data = load(tmp_path)
    it = Stream(data, config(batch_size=50, memory=2), 100)
    it.batches(0, 1)
    assert it._coming is not None
    for read in it._coming[1]:
        read.result()
    monkeypatch.setattr(shards, "read", lambda *_: pytest.fail("read too late"))
    it.batches(10, 1)
    it.close()


@pytest.mark.parametrize(
    ("values", "gzip", "words"),
    [
        (
            {"memory": 1},
            False,
            "two windows of 1 of the 24 shards .* take 2 MiB; raise memory to 2,",
        ),
        (
            {"memory": 2, "shuffle_shards": 3},
            False,
            "take 4 MiB; raise memory to 4, lower shuffle_shards, or put the data in more",
        ),
        ({"memory": 1}, True, "take 3 MiB"),
        ({"batch_size": 501}, False, "batch_size: 501: more than the 500 images of the smallest"),
    ],
)
def test_what_does_not_fit_is_refused_with_figures(
    values: dict[str, Any], gzip: bool, words: str, tmp_path: Path
) -> None:
    write(tmp_path, MANY, SIDE, gzip=gzip)
    data = load(tmp_path)
    with pytest.raises(ConfigError, match=words) as caught:
        stream.plan(data, config(**{"batch_size": 64, **values}))
    assert "\n" not in str(caught.value)


def test_the_budget_that_is_asked_for_is_enough(tmp_path: Path) -> None:
    write(tmp_path, MANY, SIDE)
    data = load(tmp_path)
    stream.plan(data, config(batch_size=64, memory=2))
    stream.plan(data, config(batch_size=64, memory=4, shuffle_shards=3))


def test_a_shard_that_went_bad_is_told_when_it_is_needed(tmp_path: Path) -> None:
    write(tmp_path, [20, 20, 20])
    data, settings = load(tmp_path), config(batch_size=10)
    bad = sampler.Windows(settings.seed, data.counts, 1).at(20).shards[0]
    name = shards.names(bad, 3)[0]
    (tmp_path / name).write_bytes(b"\0" * (tmp_path / name).stat().st_size)
    assert len(follow(data, settings, 0, 2)) == 2
    with pytest.raises(DataError, match=f"{name}: "):
        follow(data, settings, 0, 3)


def test_the_scored_images_are_those_of_the_first_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [20, 21, 22, 23])
    data = load(tmp_path, 3)
    monkeypatch.setattr(stream, "SCORED", 30)
    it = Stream(data, config(batch_size=10, validation=3), 2)
    it.batches(0, 1)
    rows = [
        numbers(buffer, np.arange(count)[None].astype(np.int32))[0] for buffer, count in it.sample()
    ]
    assert [n for part in rows for n in part] == list(range(3, 41))
    it.close()
