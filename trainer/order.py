"""Which samples make up step k, and where chunks of steps end: pure functions.

Sample order is one endless stream: the permutation of epoch 0, then that of epoch 1, and so
on, each a function of (seed, epoch). Step k takes the stream's positions
[k * batch, (k + 1) * batch). So every batch is whole, every sample comes once an epoch whatever
the batch size, and nothing about order needs saving: a run resumed at step k, also with
another number of workers, sees the same global batches.
"""

import functools
import math

import numpy as np
import numpy.typing as npt

from trainer.errors import ConfigError

Indices = npt.NDArray[np.int32]


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, samples: int) -> Indices:
    """Return the order of all samples in one epoch, int32 [samples], read-only.

    The raw stream of Philox is covered by numpy's compatibility policy (NEP 19), which that of
    ``Generator.permutation`` is not, so the order survives an upgrade of numpy.
    """
    words = np.random.Philox(key=seed, counter=[0, 0, 0, epoch]).random_raw(samples)
    order = np.argsort(words, kind="stable").astype(np.int32)
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


def check_batch(batch_size: int, samples: int, parts: int) -> None:
    """Check that a global batch fits the data and splits evenly.

    Raises:
        ConfigError: it is larger than the data, or not divisible by the number of parts.
    """
    if batch_size > samples:
        raise ConfigError(
            f"batch_size: {batch_size}: more than the {samples} training images; "
            f"give at most {samples}"
        )
    if batch_size % parts:
        fewer, more = batch_size // parts * parts, -(-batch_size // parts) * parts
        raise ConfigError(
            f"batch_size: {batch_size}: not divisible by the {parts} workers' devices; "
            f"give {f'{fewer} or ' if fewer else ''}{more}"
        )


def total_steps(samples: int, batch_size: int, epochs: float, steps: int) -> int:
    """Return the steps of a run: ``steps`` where given, else enough for ``epochs``."""
    return steps or max(1, math.ceil(epochs * samples / batch_size))


def chunk_end(step: int, total: int, chunk_steps: int, eval_steps: int) -> int:
    """Return where the chunk that starts at ``step`` ends.

    That is the next multiple of ``chunk_steps``, the next validation (every ``eval_steps``
    steps, 0 for none) or the run's end, whichever comes first.
    """
    assert step < total
    ends = [(step // chunk_steps + 1) * chunk_steps, total]
    if eval_steps:
        ends.append((step // eval_steps + 1) * eval_steps)
    return min(ends)


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
