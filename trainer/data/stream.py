"""Training images out of shards: read ahead by threads, within a budget of memory.

Two buffers take turns. While the steps of one window of shards (sampler.py) use one of them, the
shards of the next window are read, checked and put into the other. Nothing else is kept, unless
all shards fit into the budget, too.
"""

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.config import TrainConfig
from trainer.data import shards
from trainer.data.sampler import Indices, Window, Windows
from trainer.data.shards import Part, Shards
from trainer.errors import ConfigError
from trainer.storage.base import open_storage

MIB = 1 << 20
ALIGNMENT = 64  # bytes; TensorFlow aborts on memory of others that is less aligned
SCORED = 60_000  # training images, at least, whose accuracy is measured at the end of a run
_MOST_READERS = 4  # of one window, as its shards come from one place


class Buffer(NamedTuple):
    """Rows carried over, then those of a window: uint8 [n, h, w, c] and int32 [n]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Plan:
    """How a dataset is streamed.

    Attributes:
        windows: the order.
        rows: of a buffer.
        readers: threads, each of which holds one shard's files.
        keep: whether shards stay in memory once they were read.
    """

    windows: Windows
    rows: int
    readers: int
    keep: bool


def plan(data: Shards, config: TrainConfig) -> Plan:
    """Return how a dataset is streamed with these settings.

    Raises:
        ConfigError: the batch is larger than a window, or the windows do not fit into memory.
    """
    windows = Windows(config.seed, data.counts, min(config.shuffle_shards, len(data.counts)))
    if config.batch_size > windows.smallest:
        raise ConfigError(
            f"batch_size: {config.batch_size}: more than the {windows.smallest} images of the "
            f"smallest window of {windows.each} of {len(data.counts)} shards; give at most that, "
            "or put the data in fewer shards"
        )
    image = math.prod(data.index.image_shape) + np.dtype(np.int32).itemsize
    rows = config.batch_size - 1 + windows.largest
    file = max(shard.count for shard in data.index.shards) * (image + 1)
    file *= 2 if data.compressed else 1
    spare = config.memory * MIB - 2 * rows * image
    if spare < file:
        needed = math.ceil((2 * rows * image + file) / MIB)
        fewer = "lower shuffle_shards, " if windows.each > 1 else ""
        raise ConfigError(
            f"memory: {config.memory} MiB: two windows of {windows.each} of the "
            f"{len(data.counts)} shards and one more while it is read take {needed} MiB; raise "
            f"memory to {needed}, {fewer}or put the data in more shards"
        )
    everything = sum(shard.count for shard in data.index.shards) * (image + 1)
    if spare - file >= everything:
        return Plan(windows, rows, 1, keep=True)
    readers = min(int(spare // file), windows.each, _MOST_READERS)
    return Plan(windows, rows, readers, keep=False)


class Stream:
    """The windows of a run's steps, one after the other; nothing is read after step ``total``.

    Raises:
        ConfigError: see ``plan``.
    """

    def __init__(self, data: Shards, config: TrainConfig, total: int) -> None:
        self._data = data
        self._plan = plan(data, config)
        self._batch = config.batch_size
        self._total = total
        self._storage = open_storage(data.uri)
        self._pool = ThreadPoolExecutor(self._plan.readers, "shards")
        self._kept: dict[int, Part] = {}
        shape = data.index.image_shape
        self._current, self._other = (allocate(self._plan.rows, shape) for _ in range(2))
        self._window: Window | None = None
        self._coming: tuple[Window, list[Future[Any]]] | None = None

    def end(self, step: int) -> int:
        """Return the step at which the window of the step that starts at ``step`` ends."""
        return self._plan.windows.of_step(step, self._batch).steps_done(self._batch)

    def batches(self, first: int, count: int) -> tuple[Buffer, Indices]:
        """Return the samples of steps up to ``end(first)``: rows [count, batch] of a buffer.

        A buffer holds its rows until this is called for a step of another window.

        Raises:
            DataError: a shard is damaged or missing.
            UnavailableError: the storage was not reached.
        """
        window = self._plan.windows.of_step(first, self._batch)
        if window != self._window:
            self._exchange(window)
        return self._current, self._plan.windows.batches(window, self._batch, first, count)

    def sample(self) -> Iterator[tuple[Buffer, int]]:
        """Yield shards, each in a buffer's first rows, and their images, up to SCORED or more."""
        self._settle()
        self._window, done = None, 0
        for number, count in enumerate(self._data.counts):
            if done >= SCORED:
                break
            self._fill(self._other, 0, number)
            yield self._other, count
            done += count

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _exchange(self, window: Window) -> None:
        """Make ``window`` the current one, with the rows that it takes from the one before."""
        carried = window.carried(self._batch)
        if carried and (self._window is None or self._window.stop != window.start):
            self._turn(self._plan.windows.at(window.start - 1))
        before = self._window
        self._turn(window)
        if carried:
            assert before is not None
            spare = self._batch - 1
            rows = self._plan.windows.carry(before, self._batch) + spare
            self._current.images[spare - carried : spare] = self._other.images[rows]
            self._current.labels[spare - carried : spare] = self._other.labels[rows]
        if window.steps_done(self._batch) < self._total:
            self._expect(self._plan.windows.at(window.stop))

    def _turn(self, window: Window) -> None:
        """Have the window in the current buffer, and the current one in the other."""
        if self._coming is None or self._coming[0] != window:
            self._settle()
            self._expect(window)
        self._settle()
        self._current, self._other = self._other, self._current
        self._window = window

    def _expect(self, window: Window) -> None:
        """Start to read a window into the other buffer, over what was there."""
        reads: list[Future[Any]] = []
        row = self._batch - 1
        for number in window.shards:
            reads.append(self._pool.submit(self._fill, self._other, row, number))
            row += self._data.counts[number]
        reads.append(self._pool.submit(self._plan.windows.rows, window))  # it will be cached
        self._coming = window, reads

    def _settle(self) -> None:
        """Wait until nothing is read any more."""
        _, reads = self._coming or (None, [])
        self._coming = None
        for read in reads:
            read.result()

    def _fill(self, buffer: Buffer, row: int, number: int) -> None:
        """Put a shard's training images into a buffer."""
        part = self._kept.get(number) or shards.read(self._storage, self._data, number)
        if self._plan.keep:
            self._kept[number] = part
        apart = 0 if number else self._data.validation
        stop = row + len(part.labels) - apart
        buffer.images[row:stop] = part.images[apart:]
        buffer.labels[row:stop] = part.labels[apart:]


def allocate(rows: int, shape: tuple[int, int, int]) -> Buffer:
    """Return a buffer of zeros that ``Loop.share`` takes."""
    pixels = _aligned(rows * math.prod(shape)).reshape(rows, *shape)
    return Buffer(pixels, _aligned(rows * 4).view(np.int32))


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
