"""What checkpoints cost: the same run with one at every chunk and with none, in turns.

    python -m benchmarks.checkpoints --data URI [--preset NAME] [--steps N] [--rounds N]

Prints images per second of each round, from the end of the first chunk to that of the last, and
the median of the cost: by the clock, and by the processors' time, which other programs on the
machine do not change.
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
from trainer.dataset import Dataset
from trainer.storage import open_storage
from trainer.train import Trainer


class Clock:
    """A reporter that notes when chunks end."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float, int]] = []

    def say(self, message: str, **facts: Any) -> None:
        """See Reporter."""

    def warn(self, message: str) -> None:
        """See Reporter."""
        print(message)

    def step(self, record: Mapping[str, Any], total: int) -> None:
        """See Reporter."""
        del total
        self.ends.append((time.perf_counter(), time.process_time(), record["step"]))

    def close(self) -> None:
        """See Reporter."""


def throughput(settings: Mapping[str, Any], data: Dataset) -> tuple[float, float, int]:
    """Train once and return images per second, images per second of processor time, checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        config = presets.configure({}, {**settings, "run": folder})
        storage, clock = open_storage(folder), Clock()
        digest = run.claim(storage, config, data.sha256)
        Trainer(config, ALONE, data, storage, digest, clock).train(threading.Event(), time.time())
        (began, spent, first), (ended, spent_all, last) = clock.ends[0], clock.ends[-1]
        images = (last - first) * config.batch_size
        return (
            images / (ended - began),
            images / (spent_all - spent),
            len(checkpoint.steps(storage)),
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="cnn", choices=list(presets.PRESETS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    data = dataset.load(options.data)
    settings = {
        "preset": options.preset,
        "data": options.data,
        "steps": options.steps,
        "eval_epochs": 0,
        "keep_checkpoints": 10**6,
    }
    sides = ({**settings, "checkpoint_steps": 1}, {**settings, "checkpoint_steps": 10**9})
    throughput(sides[1], data)  # the first one in a process is slower
    costs, cpu_costs = [], []
    for number in range(options.rounds):
        turn = (0, 1) if number % 2 else (1, 0)
        measured = {side: throughput(sides[side], data) for side in turn}
        (with_, cpu_with, count), (without, cpu_without, _) = measured[0], measured[1]
        costs.append(1 - with_ / without)
        cpu_costs.append(1 - cpu_with / cpu_without)
        print(
            f"with {count} checkpoints {with_:>9,.0f} images/s   without {without:>9,.0f} images/s"
            f"   cost {costs[-1]:.2%}, of processor time {cpu_costs[-1]:.2%}",
            flush=True,
        )
    print(
        f"{options.preset}: a checkpoint every chunk costs {statistics.median(costs):.2%} of "
        f"throughput and {statistics.median(cpu_costs):.2%} of processor time "
        f"(medians of {options.rounds}; TensorFlow {tf.__version__})"
    )


if __name__ == "__main__":
    main()
