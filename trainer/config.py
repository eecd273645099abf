"""Every setting of a training run: its meaning, unit, default and check."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trainer.errors import ConfigError

# Settings that say where and how a run executes. All others decide the weights it ends with: they
# are written to RUN/config.json, and a run folder with others there is refused. What workers,
# threads, all_reduce and layers change in the weights is in docs/reliability.md.
PLACEMENT = frozenset(
    {
        "data",
        "run",
        "workers",
        "port",
        "peer_deadline",
        "max_restarts",
        "chunk_steps",
        "checkpoint_steps",
        "keep_checkpoints",
        "log_format",
        "ship_logs",
        "report",
        "tensorboard",
        "memory",
        "threads",
        "all_reduce",
        "layers",
    }
)

# Settings that are not told at these values, so that runs from before they were there go on.
UNTOLD = {"shuffle_shards": 1}


class TrainConfig(BaseModel):
    """A training run. Values come from a preset, a YAML file and flags; the later one wins."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: str = Field("cnn", description="named model and hyperparameters")
    model: str | None = Field(
        None,
        description="your own model, package.module:function of (input_shape, classes) that "
        "returns a keras.Model with one logit a class",
    )
    data: str = Field(
        "data", description="URI of the folder with the four IDX files, or with shards"
    )
    run: str = Field(
        "runs/{preset}-{digest}",
        description="URI of the run's folder; {preset} and {digest} of the settings are filled in",
    )
    seed: int = Field(1, ge=0, lt=2**31, description="of weights, sample order and dropout")
    validation: int = Field(
        5000, ge=0, description="first training images set apart for validation, images"
    )
    batch_size: int = Field(
        128, ge=1, description="global batch, images a step over all workers together"
    )
    epochs: float = Field(
        5.0, gt=0, description="passes over the training images, used where steps is 0"
    )
    steps: int = Field(0, ge=0, description="optimiser steps; 0: as many as epochs need")
    shuffle_shards: int = Field(
        1, ge=1, description="shards that are shuffled together, where the data are in shards"
    )
    optimizer: Literal["sgd", "adam", "adagrad"] = Field("adam", description="update rule")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant", description="learning rate over the run"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled, times the learning rate, a step; on kernels only"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target spread over all classes"
    )
    precision: Literal["float32", "mixed_bfloat16"] = Field(
        "float32", description="of the layers' arithmetic; bfloat16 is for GPUs"
    )
    xla: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compile with XLA; auto: on GPUs, and on CPUs where one device trains a "
        "model without convolutions",
    )
    all_reduce: Literal["auto", "ring", "tensorflow"] = Field(
        "auto",
        description="how workers add up their gradients: by a ring of our own or by TensorFlow's "
        "collectives; auto: ring on CPUs",
    )
    layers: Literal["auto", "keras"] = Field(
        "auto",
        description="keras: training computes them one after the other, each for the whole batch; "
        "auto: those of presets, in float32, on CPUs in an order that is faster there",
    )
    eval_epochs: float = Field(
        1.0, ge=0, description="epochs between validations; 0: only at the end"
    )
    early_stopping: int = Field(
        0, ge=0, description="stop after this many validations without a better one; 0: never"
    )
    keep_best: bool = Field(
        False, description="end with the weights of the best validation instead of the last ones"
    )
    workers: int = Field(1, ge=1, le=1024, description="worker processes in the gang")
    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="rank r of a local gang listens on port + r, its roll call on the port after "
        "the last; 0: free ones",
    )
    peer_deadline: float = Field(300.0, gt=0, description="time for all workers to meet, seconds")
    max_restarts: int = Field(
        5, ge=0, description="restarts in a row without a new checkpoint before giving up"
    )
    chunk_steps: int = Field(
        100, ge=1, description="steps inside one graph call, between two looks at the outside"
    )
    checkpoint_steps: int = Field(500, ge=1, description="steps between checkpoints, at least")
    keep_checkpoints: int = Field(3, ge=2, description="newest checkpoints kept, objects")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="auto: a progress bar on a terminal, else text"
    )
    ship_logs: bool = Field(False, description="copy what every rank prints to RUN/logs")
    tensorboard: Literal["off", "on", "histograms"] = Field(
        "on", description="event files in RUN/events; histograms: of the weights, too"
    )
    memory: int = Field(
        400,
        ge=1,
        description="most that training images take on a worker, where the data are in shards, MiB",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="threads that a worker computes on; 0: one for each core, of which the workers "
        "of a local gang get a part each; only one where steps are small. Where presets "
        "with convolutions have their layers reordered, each computes a part of the batch",
    )
    report: bool = Field(True, description="write RUN/report.html at the end")

    @field_validator("model")
    @classmethod
    def _model_is_a_reference(cls, value: str | None) -> str | None:
        if value is not None and not all(part.strip() for part in value.partition(":")):
            raise ValueError("must be package.module:function")
        return value

    def identity(self) -> dict[str, Any]:
        """The settings that decide the weights, by name."""
        values = self.model_dump().items()
        return {k: v for k, v in values if k not in PLACEMENT and (k, v) not in UNTOLD.items()}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the clause ``; did you mean X?`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def parse(values: Mapping[str, Any]) -> TrainConfig:
    """Check values by field name.

    Raises:
        ConfigError: with the field, the value, the rule and, for an unknown field, the
            nearest known one.
    """
    try:
        config = TrainConfig.model_validate(dict(values))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if not problem["loc"]:
            raise ConfigError("settings: a name is not valid Unicode; remove it") from None
        field = str(problem["loc"][0])
        if problem["type"] == "extra_forbidden":
            raise ConfigError(
                f"unknown setting {field!r}{nearest(field, TrainConfig.model_fields)}"
                " (trainer train --help lists all)"
            ) from None
        rule = problem["msg"].removeprefix("Value error, ")
        meaning = TrainConfig.model_fields[field].description
        raise ConfigError(f"{field}: {problem['input']!r}: {rule} ({meaning})") from None
    if (config.early_stopping or config.keep_best) and not (
        config.validation and config.eval_epochs
    ):
        field = "early_stopping" if config.early_stopping else "keep_best"
        raise ConfigError(
            f"{field}: {getattr(config, field)}: needs validations, but validation is "
            f"{config.validation} and eval_epochs {config.eval_epochs:g}; set both above 0"
        )
    return config


def read_yaml(path: str) -> dict[str, Any]:
    """Read settings from a YAML file.

    Raises:
        ConfigError: the file is missing, no YAML, or not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; give a readable file") from None
    except (yaml.YAMLError, ValueError) as error:  # not UTF-8, or a date that does not exist
        raise ConfigError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"--config {path}: must be a mapping of settings, such as 'seed: 1'")
    return values
