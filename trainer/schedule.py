"""Learning rate as a pure function of the step."""

import numpy as np
import numpy.typing as npt

from trainer.config import TrainConfig

# One-cycle of Smith and Topin (arXiv 1708.07120) in the cosine form of fast.ai and PyTorch: up
# from PEAK / START over the first share of the run, then down to nearly nothing.
WARMUP_SHARE = 0.3
START_DIVISOR = 25.0


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
        rising = 0.5 * (1 - np.cos(np.pi * progress / WARMUP_SHARE))
        falling = 0.5 * (1 + np.cos(np.pi * (progress - WARMUP_SHARE) / (1 - WARMUP_SHARE)))
        start = 1 / START_DIVISOR
        factor = np.where(progress < WARMUP_SHARE, start + (1 - start) * rising, falling)
    return (config.learning_rate * factor).astype(np.float32)
