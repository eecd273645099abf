"""What checkpoints cost: stretches of one run with one at every chunk and with none, in turns.

    python -m benchmarks.checkpoints --data URI [--preset NAME] [--pairs N]

A machine's speed changes by a quarter from run to run, so both sides are measured in the same
run, next to each other. Prints the median of images per second of the stretches of each side, and
of the cost within each pair of them.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer import checkpoint, dataset, presets, run
from trainer.cluster import ALONE
from trainer.storage import open_storage
from trainer.train import Trainer

STRETCH = 6  # chunks; the first of them still has the other side's last checkpoint on its way
NEVER = 10**9  # steps between checkpoints


class Turns:
    """A reporter that turns checkpoints on and off, and notes how long each stretch took.

    Attributes:
        seconds: of the stretches with checkpoints and of those without, in order.
    """

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self._chunks = 0
        self._began = 0.0

    def say(self, message: str, **facts: Any) -> None:
        """See Reporter."""

    def warn(self, message: str) -> None:
        """See Reporter."""
        print(message)

    def step(self, record: Mapping[str, Any], total: int) -> None:
        """See Reporter."""
        del record, total
        assert self.trainer
        config, now = self.trainer.config, time.perf_counter()
        self._chunks += 1
        if self._chunks % STRETCH == 1:
            self._began = now
        if self._chunks % STRETCH == 0:
            on = config.checkpoint_steps == 1
            self.seconds[on].append(now - self._began)
            # A pair is with, without, the next one without, with: neither is always the later.
            if self._chunks // STRETCH % 2:
                update = {"checkpoint_steps": NEVER if on else 1}
                self.trainer.config = config.model_copy(update=update)

    def close(self) -> None:
        """See Reporter."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="cnn", choices=list(presets.PRESETS))
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    data = dataset.load(options.data)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"preset": options.preset, "data": options.data, "run": folder}
        settings |= {"eval_epochs": 0, "keep_checkpoints": 10**6, "checkpoint_steps": 1}
        chunk = presets.configure({}, settings).chunk_steps
        config = presets.configure(settings, {"steps": (2 * options.pairs + 2) * STRETCH * chunk})
        turns, storage = Turns(), open_storage(folder)
        digest = run.claim(storage, config, data.sha256)
        turns.trainer = Trainer(config, ALONE, data, storage, digest, turns)
        turns.trainer.train(threading.Event(), time.time())
        count = len(checkpoint.steps(storage))
    # The first pair has the compiling.
    pairs = list(zip(turns.seconds[True], turns.seconds[False], strict=True))[1:]
    costs = sorted(1 - without / with_ for with_, without in pairs)
    images = (STRETCH - 1) * chunk * config.batch_size
    rates = [images / statistics.median(side) for side in zip(*pairs, strict=True)]
    quarter = len(costs) // 4
    print(
        f"{options.preset}: {rates[0]:,.0f} images/s with a checkpoint every chunk "
        f"({count} in all), {rates[1]:,.0f} without\n"
        f"cost: median {statistics.median(costs):.2%} of {len(costs)} pairs, "
        f"middle half {costs[quarter]:.2%} to {costs[-1 - quarter]:.2%} "
        f"(TensorFlow {tf.__version__})"
    )


if __name__ == "__main__":
    main()
