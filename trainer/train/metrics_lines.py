"""The lines of metrics.jsonl: of a chunk of steps, and of a validation. Pure.

A chunk has one line, but a run's first chunk has several.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.train.run import Run

Line = dict[str, Any]
Values = npt.NDArray[np.float32]


def line(run: Run, step: int, train_seconds: float, **values: Any) -> Line:
    """Return a line of what is known after a step, ``train_seconds`` of training from the start."""
    return {
        "step": step,
        "epoch": run.epochs(step),
        **values,
        "train_seconds": round(train_seconds, 3),
    }


def of_chunk(
    run: Run,
    first: int,
    train_seconds: float,
    losses: Values,
    accuracies: Values,
    seconds: float,
    **last: Any,
) -> list[Line]:
    """Return the lines of a chunk that took so many seconds.

    Args:
        run: the run.
        first: steps before the chunk.
        train_seconds: of training before the chunk.
        losses: [n], of its steps.
        accuracies: [n].
        seconds: that it took.
        **last: what only its last line has.
    """
    count, lines = len(losses), []
    for start, end in itertools.pairwise((0, *_early(first, count), count)):
        means = {"loss": losses[start:end].mean(), "accuracy": accuracies[start:end].mean()}
        whole: Line = {}
        if end == count:
            whole = {"images_per_second": count * run.config.batch_size / seconds, **last}
        values = {name: float(mean) for name, mean in means.items()} | whole
        lines.append(line(run, first + end, train_seconds + seconds * end / count, **values))
    return lines


def _early(first: int, count: int) -> list[int]:
    """Return after which steps of a run's first chunk there is a line: 1, 2, 4, 8, ...

    Nowhere does the loss fall as steeply.
    """
    return [] if first else [1 << k for k in range((count - 1).bit_length())]


def training_means(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return mean loss and accuracy of the steps since the last validation.

    The names differ from those of a chunk's means, which the curves show.
    """
    lines: list[tuple[int, Mapping[str, Any]]] = []
    before = 0
    for record in records:
        if "loss" in record:
            lines.append((record["step"] - before, record))
            before = record["step"]
        else:
            lines = []
    steps = sum(count for count, _ in lines)
    return {
        f"training_{name}": sum(count * record[name] for count, record in lines) / steps
        for name in ("loss", "accuracy")
        if steps
    }
