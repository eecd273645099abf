"""Which samples make up step k, and where chunks of steps end: pure functions.

Sample order is one endless stream: the permutation of epoch 0, then that of epoch 1, and so
on, each a function of (seed, epoch). Step k takes the stream's positions
[k * batch, (k + 1) * batch). So every batch is whole, every sample comes once an epoch whatever
the batch size, and nothing about order needs saving: a run resumed at step k, also with
another number of workers, sees the same global batches.

Data in shards are never in memory as a whole. There an epoch's order is a permutation of the
shards, cut into windows of a few shards each, and in every window a permutation of its samples.
Steps take the stream's positions as before; a batch may begin in one window and end in the next,
and belongs to the latter.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int32]


@functools.lru_cache(maxsize=6)
def permutation(seed: int, epoch: int, samples: int, lane: int = 0) -> Indices:
    """Return the order of all samples in one epoch, int32 [samples], read-only.

    Each lane has permutations of its own. The raw stream of Philox is covered by numpy's
    compatibility policy (NEP 19), which that of ``Generator.permutation`` is not, so the order
    survives an upgrade of numpy.
    """
    key = np.array([seed, lane], np.uint64)
    words = np.random.Philox(key=key, counter=[0, 0, 0, epoch]).random_raw(samples)
    places = np.argsort(words)  # takes a quarter of a stable sort's time, but leaves ties to chance
    ordered = words[places]
    if (ordered[1:] == ordered[:-1]).any():
        places = np.argsort(words, kind="stable")
    order = places.astype(np.int32)
    order.flags.writeable = False  # the cache hands the same array to everybody
    return order


def batches(seed: int, samples: int, batch_size: int, first: int, count: int) -> Indices:
    """Return the samples of steps first .. first + count - 1, int32 [count, batch_size]."""
    start, stop = first * batch_size, (first + count) * batch_size
    epochs = range(start // samples, -(-stop // samples))
    stream = [permutation(seed, epoch, samples) for epoch in epochs]
    offset = start - epochs[0] * samples if count else 0
    return np.concatenate(stream or [np.empty(0, np.int32)])[
        offset : offset + stop - start
    ].reshape(count, batch_size)


class Window(NamedTuple):
    """Some shards whose samples are shuffled together.

    Attributes:
        epoch: of the pass over the data.
        place: in the epoch, from 0.
        shards: their numbers; the window's rows are their samples, one shard after the other.
        start: position in the stream of its first sample.
        stop: position after its last sample.
    """

    epoch: int
    place: int
    shards: tuple[int, ...]
    start: int
    stop: int

    def steps_done(self, batch_size: int) -> int:
        """Return how many steps of the run are done when the window's are."""
        return self.stop // batch_size

    def carried(self, batch_size: int) -> int:
        """Return how many samples of the window before its first batch begins with."""
        return self.start % batch_size


@dataclass(frozen=True)
class Windows:
    """The stream over data in shards.

    Attributes:
        seed: of the order.
        counts: samples of each shard, at least one.
        each: shards of a window; an epoch's last one may have fewer.
    """

    seed: int
    counts: tuple[int, ...]
    each: int

    @property
    def largest(self) -> int:
        """The most samples that a window can have."""
        return sum(sorted(self.counts)[-self.each :])

    @property
    def smallest(self) -> int:
        """The fewest samples that a window can have."""
        return sum(sorted(self.counts)[: len(self.counts) % self.each or self.each])

    def at(self, position: int) -> Window:
        """Return the window that a position of the stream lies in."""
        epoch, rest = divmod(position, sum(self.counts))
        shards = permutation(self.seed, epoch, len(self.counts), lane=1)
        ends = np.cumsum(np.array(self.counts, np.int64)[shards])
        place = int(np.searchsorted(ends, rest, side="right")) // self.each
        first, last = place * self.each, min((place + 1) * self.each, len(shards))
        begin = position - rest
        return Window(
            epoch,
            place,
            tuple(shards[first:last].tolist()),
            begin + (int(ends[first - 1]) if first else 0),
            begin + int(ends[last - 1]),
        )

    def of_step(self, step: int, batch_size: int) -> Window:
        """Return the window that a step, counted from 0, belongs to: that of its last sample."""
        return self.at((step + 1) * batch_size - 1)

    def rows(self, window: Window) -> Indices:
        """Return the window's samples in the order of the stream, as rows of the window."""
        return permutation(
            self.seed, window.epoch, window.stop - window.start, lane=2 + window.place
        )

    def carry(self, window: Window, batch_size: int) -> Indices:
        """Return the rows that the next window's first batch begins with."""
        rows = self.rows(window)
        return rows[len(rows) - window.stop % batch_size :]

    def batches(self, window: Window, batch_size: int, first: int, count: int) -> Indices:
        """Return the samples of steps of one window, int32 [count, batch_size].

        They are rows of a buffer that has ``batch_size - 1`` rows for the samples carried over,
        the last of them in its last row, and then those of the window.
        """
        spare, carried = batch_size - 1, window.carried(batch_size)
        begin = first * batch_size - (window.start - carried)
        stop = begin + count * batch_size
        assert begin >= 0, "the step belongs to an earlier window"
        assert first + count <= window.steps_done(batch_size), "the step belongs to a later window"
        before = np.arange(spare - carried, spare, dtype=np.int32)
        stream = np.concatenate([before, self.rows(window) + np.int32(spare)])
        return stream[begin:stop].reshape(count, batch_size)


def seeds(seed: int, first: int, count: int, generators: int) -> npt.NDArray[np.uint32]:
    """Return one seed per step and random generator of the model, uint32 [count, generators].

    The mixing function is that of SplitMix64 (Steele, Lea and Flood, 2014), so that
    neighbouring steps and generators get unrelated seeds.
    """
    steps = np.arange(first, first + count, dtype=np.uint64)[:, None]
    lanes = np.arange(generators, dtype=np.uint64)[None, :]
    word = np.uint64(seed) + (steps * np.uint64(max(generators, 1)) + lanes + np.uint64(1)) * (
        np.uint64(0x9E3779B97F4A7C15)
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    return (word >> np.uint64(32)).astype(np.uint32)
