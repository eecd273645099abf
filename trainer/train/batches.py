"""The training images of each step, from memory or from shards that are read ahead."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trainer import schedule
from trainer.data import sampler, stream
from trainer.train.loop import Data, Loop
from trainer.train.run import Run


class Batches:
    """Gives the loop, which keeps images that are not in shards, its batches chunk by chunk.

    Raises:
        ConfigError: the shards do not fit into the memory that the settings allow.
    """

    def __init__(self, run: Run, loop: Loop) -> None:
        shards = run.dataset.shards
        self._run, self._loop = run, loop
        self._stream = stream.Stream(shards, run.config, run.total) if shards else None
        self._shared: tuple[stream.Buffer, Data] | None = None

    def chunk_end(self, step: int) -> int:
        """Return the step at which the chunk that starts at ``step`` ends."""
        run = self._run
        end = schedule.chunk_end(step, run.total, run.config.chunk_steps, run.eval_steps)
        return min(end, self._stream.end(step)) if self._stream else end

    def take(self, first: int, count: int) -> tuple[sampler.Indices, Data | None]:
        """Return the samples of a chunk of steps.

        Returns:
            Indices [count, batch], and the data they refer to, None for the loop's own.
        """
        if self._stream is None:
            config, samples = self._run.config, self._run.dataset.samples
            return sampler.batches(config.seed, samples, config.batch_size, first, count), None
        buffer, indices = self._stream.batches(first, count)
        if self._shared is None or self._shared[0] is not buffer:  # two buffers take turns
            self._shared = buffer, self._loop.share(*buffer)
        return indices, self._shared[1]

    def sample(self) -> Iterator[tuple[Data, npt.NDArray[np.int32]]]:
        """Yield the images of the first shards, and their labels; none without shards."""
        if self._stream is not None:
            for buffer, count in self._stream.sample():
                yield self._loop.share(*buffer), buffer.labels[:count]

    def close(self) -> None:
        """Stop reading ahead."""
        if self._stream:
            self._stream.close()
