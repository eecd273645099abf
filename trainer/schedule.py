"""Step arithmetic: how many steps, where chunks end, and the learning rate of each step."""

import math

import numpy as np
import numpy.typing as npt

from trainer.config import TrainConfig
from trainer.errors import ConfigError

# One-cycle of Smith and Topin (arXiv 1708.07120) in the cosine form of fast.ai and PyTorch: up
# from PEAK / START over the first share of the run, then down to nearly nothing.
WARMUP_SHARE = 0.3
START_DIVISOR = 25.0


def check_batch(batch_size: int, samples: int, replicas: int) -> None:
    """Check that a global batch fits the data and splits evenly.

    Raises:
        ConfigError: it is larger than the data, or not divisible by the number of replicas.
    """
    if batch_size > samples:
        raise ConfigError(
            f"batch_size: {batch_size}: more than the {samples} training images; "
            f"give at most {samples}"
        )
    if batch_size % replicas:
        fewer = batch_size // replicas * replicas
        raise ConfigError(
            f"batch_size: {batch_size}: not divisible by the {replicas} workers' devices; "
            f"give {f'{fewer} or ' if fewer else ''}{fewer + replicas}"
        )


def total_steps(samples: int, batch_size: int, epochs: float, steps: int) -> int:
    """Return the steps of a run: ``steps`` unless it is 0, else enough for ``epochs``."""
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


def learning_rates(
    config: TrainConfig, total: int, first: int, count: int
) -> npt.NDArray[np.float32]:
    """Return the learning rate of steps first .. first + count - 1, float32 [count]."""
    progress = (np.arange(first, first + count) + 0.5) / total
    if config.schedule == "constant":
        factor = np.ones(count)
    elif config.schedule == "cosine":
        factor = 0.5 * (1 + np.cos(np.pi * progress))
    else:
        assert config.schedule == "one-cycle"
        rising = 0.5 * (1 - np.cos(np.pi * progress / WARMUP_SHARE))
        falling = 0.5 * (1 + np.cos(np.pi * (progress - WARMUP_SHARE) / (1 - WARMUP_SHARE)))
        start = 1 / START_DIVISOR
        factor = np.where(progress < WARMUP_SHARE, start + (1 - start) * rising, falling)
    return (config.learning_rate * factor).astype(np.float32)
