"""The state of a run: what a step changes, and how far the run has come."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.errors import ConfigError
from trainer.runs import checkpoint
from trainer.runs.tensorboard_writer import Scored
from trainer.train import metrics_lines
from trainer.train.metrics_lines import Line, Values
from trainer.train.optimizers import Tensor
from trainer.train.run import Run

Arrays = dict[str, npt.NDArray[Any]]


class State(NamedTuple):
    """What a step changes: tensors in the order of the model's variables.

    Parameters are trainable; ``slots`` holds the optimizer's state, a tuple for each of them;
    buffers are the other variables, such as running means.
    """

    parameters: tuple[Tensor, ...]
    slots: tuple[tuple[Tensor, ...], ...]
    buffers: tuple[Tensor, ...]


@dataclass
class TrainState:
    """How far a run has come.

    Attributes:
        step: steps done.
        tensors: state after them.
        validations: (step, accuracy) of every validation.
        records: lines of metrics.jsonl.
        reported: how many of the records the reporter has got.
        train_seconds: time inside chunks, over all attempts.
        validated: the newest validation of this attempt.
    """

    step: int
    tensors: State
    validations: list[tuple[int, float]]
    records: list[Line] = field(default_factory=list)
    reported: int = 0
    train_seconds: float = 0.0
    validated: Scored | None = None

    def add_chunk(
        self, run: Run, losses: Values, accuracies: Values, seconds: float, parts: Mapping[str, Any]
    ) -> None:
        """Count the steps of a chunk, which took so many seconds, and add its lines to the metrics.

        ``parts`` is how its steps passed, for its last line.
        """
        now, before = round(time.time(), 3), self.train_seconds
        self.records += metrics_lines.of_chunk(
            run, self.step, before, losses, accuracies, seconds, time=now, **parts
        )
        self.step, self.train_seconds = self.step + len(losses), before + seconds


def weights_sha256(state: State) -> str:
    """Return the SHA-256 over parameters and buffers, in the order of the model's variables."""
    weights = (*state.parameters, *state.buffers)
    return hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in weights)).hexdigest()


def check_losses(losses: npt.NDArray[np.float32], first: int, run: Run) -> None:
    """Check the losses of steps first, first + 1, ...

    Raises:
        ConfigError: one is NaN or infinite. Another try would repeat it bit by bit.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        step = first + int(bad[0]) + 1
        if step == 1:
            raise ConfigError(
                f"loss is {losses[bad[0]]} at step 1, before any weight has changed, so the model "
                "itself gives it: look for a logarithm or a root of 0, or a division by 0"
            )
        raise _diverged(f"loss became {losses[bad[0]]}", step, run)


def check_finite(arrays: Mapping[str, npt.NDArray[Any]], step: int, run: Run) -> None:
    """Check every tensor of a state before it is stored.

    Raises:
        ConfigError: one holds NaN or infinity.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise _diverged(f"tensor {name} became NaN or infinite", step, run)


def _diverged(what: str, step: int, run: Run) -> ConfigError:
    kept = checkpoint.steps(run.storage)
    stays = f"; the checkpoint of step {kept[0]} stays in {run.storage.uri}" if kept else ""
    return ConfigError(
        f"{what} at step {step}; lower learning_rate ({run.config.learning_rate}){stays}"
    )
