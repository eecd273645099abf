"""Every setting of a training run: its meaning, unit, default and check."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from trainer.common import text
from trainer.errors import ConfigError

# Settings that say where and how a run executes. All others decide its weights: they are written
# to RUN/config.json, and a run refuses a folder that holds other values. How workers, threads,
# all_reduce and layers change the last bits of the weights is in docs/reliability.md.
RUNTIME_SETTINGS = frozenset(
    {
        "data",
        "run",
        "workers",
        "min_workers",
        "resize_after",
        "port",
        "metrics_port",
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

MOST_UNITS = 65_536
MOST = 2**31  # of counts and seconds: threads wait no longer, and Kubernetes counts no further


def _is_number(kind: Any) -> bool:
    """Return whether a field of this type, or the items of a list in it, are numbers."""
    return kind in (int, float) or any(_is_number(each) for each in get_args(kind))


def _without_ring(value: Any) -> Any:
    """Return a setting as it is called today; earlier versions wrote "ring" for "tcp"."""
    return "tcp" if value == "ring" else value


# Left out of config.json at these values, so that runs older than the setting still resume.
LEGACY_DEFAULTS = {
    "shuffle_shards": 1,
    "code": None,
    "units": None,
    "dropout": 0.0,
    "all_reduce_precision": "float32",
}


class Strict(BaseModel):
    """Settings that users write: finite, nothing unknown among them, and not to be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        items = value if isinstance(value, list) else [value]
        truth = any(isinstance(each, bool) for each in items)
        if truth and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must be a number, not true or false")
        return value


class TrainConfig(Strict):
    """A training run. Values come from a preset, a YAML file and flags; the later one wins."""

    preset: str = Field("cnn", description="Train this preset: a model with its hyperparameters.")
    model: str | None = Field(
        None,
        description="Train your own model: package.module:function, which takes (input_shape, "
        "classes) and returns a keras.Model with one logit per class.",
    )
    units: str | None = Field(
        None,
        description="Give the hidden layers of a preset without convolutions these units, such as "
        "512,256,128.",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Drop this share of each hidden layer's outputs in training, in a preset "
        "without convolutions.",
    )
    code: str | None = Field(
        None,
        description="Import your own model from this file or folder, of which the run keeps a "
        "copy; by default, from the module of that name in the current folder.",
    )
    data: str = Field(
        "data",
        description="Read the dataset from this folder or URI, which holds the four IDX files or "
        "shards.",
    )
    run: str = Field(
        "runs/{preset}-{digest}",
        description="Write the run to this folder or URI; {preset} and {digest} stand for the "
        "preset and a hash of the settings, followed by a hash of the data if the same settings "
        "have trained on data of another URI before. Data that changed under their URI need "
        "another --run.",
    )
    seed: int = Field(
        1,
        ge=0,
        lt=2**31,
        description="Seed the initial weights, the order of the samples and dropout.",
    )
    validation: int = Field(
        5000,
        ge=0,
        description="Keep the first N training images for validation.",
    )
    batch_size: int = Field(
        128, ge=1, description="Use N images per step, over all workers together."
    )
    epochs: float = Field(
        5.0,
        gt=0,
        description="Make this many passes over the training images, unless steps is above 0.",
    )
    steps: int = Field(
        0, ge=0, description="Train this many optimizer steps; 0: as many as epochs needs."
    )
    shuffle_shards: int = Field(
        1, ge=1, description="Shuffle the images of N shards together, if the data is in shards."
    )
    optimizer: Literal["sgd", "adam", "adagrad"] = Field(
        "adam", description="Update the weights by this rule."
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="Scale the optimizer's steps by X at the peak of the schedule."
    )
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant", description="Change the learning rate over the run along this curve."
    )
    momentum: float = Field(
        0.0, ge=0, lt=1, description="Use this momentum, if the optimizer is sgd."
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="Shrink the kernels by X times the learning rate each step (decoupled weight "
        "decay).",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Spread this share of the target evenly over all classes."
    )
    precision: Literal["float32", "mixed_bfloat16"] = Field(
        "float32", description="Compute the layers in this precision; mixed_bfloat16 is for GPUs."
    )
    xla: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compile the steps with XLA; auto: on GPUs, and on CPUs if one device trains "
        "a model without convolutions.",
    )
    all_reduce: Annotated[Literal["auto", "tcp", "tensorflow"], BeforeValidator(_without_ring)] = (
        Field(
            "auto",
            description="Add up the workers' gradients over our own TCP connections or with "
            "TensorFlow's collectives; auto: tcp on CPUs, tensorflow on GPUs.",
        )
    )
    all_reduce_precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Send gradients between workers in this precision, over our own connections; "
        "bfloat16 halves the bytes, which pays for large models on slow networks.",
    )
    layers: Literal["auto", "keras"] = Field(
        "auto",
        description="Compute the layers in this way in training; keras: one by one for the whole "
        "batch; auto: for presets in float32 on CPUs in a faster order, with results equal up to "
        "rounding.",
    )
    eval_epochs: float = Field(
        1.0, ge=0, description="Validate every X epochs; 0: only at the end."
    )
    early_stopping: int = Field(
        0, ge=0, description="Stop after N validations in a row without a better one; 0: never."
    )
    keep_best: bool = Field(
        False, description="End with the weights of the best validation instead of the last ones."
    )
    workers: int = Field(1, ge=1, le=1024, description="Train with a gang of N worker processes.")
    min_workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="Keep training with as few as N workers while others are away, and with all "
        "once they are back; 0: wait for all.",
    )
    resize_after: float = Field(
        30.0,
        gt=0,
        description="Continue without a worker that has been away for X seconds, if min_workers "
        "allows it.",
    )
    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Let rank r of a local gang listen on port N + r, and the rendezvous on the "
        "port after the last rank's; 0: on free ports.",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Serve metrics for Prometheus on this port of rank 0, to all pods in a "
        "cluster, otherwise only to this machine; 0: do not serve them.",
    )
    peer_deadline: float = Field(
        300.0, gt=0, description="Wait at most X seconds for all workers to meet."
    )
    max_restarts: int = Field(
        5, ge=0, description="Give up after N restarts in a row without a new checkpoint."
    )
    chunk_steps: int = Field(
        100,
        ge=1,
        description="Run N steps per graph call; metrics, stop requests and checkpoints wait for "
        "the end of a call.",
    )
    checkpoint_steps: int = Field(
        500, ge=1, description="Write a checkpoint at most every N steps."
    )
    keep_checkpoints: int = Field(3, ge=2, description="Keep the newest N checkpoints.")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="Print in this format; auto: a progress bar on a terminal, else text."
    )
    ship_logs: bool = Field(False, description="Copy what every rank prints to RUN/logs.")
    tensorboard: Literal["off", "on", "histograms"] = Field(
        "on",
        description="Write TensorBoard event files to RUN/events; histograms: with histograms of "
        "the weights.",
    )
    memory: int = Field(
        400,
        ge=1,
        description="Hold at most N MiB of training images on a worker, if the data is in shards.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Compute on N threads per worker; 0: one per core (local workers divide the "
        "cores), or a single one if the model is small. Presets with convolutions compute a "
        "microbatch on each.",
    )
    report: bool = Field(True, description="Write RUN/report.html at the end of the run.")

    @field_validator("*")
    @classmethod
    def _number_is_below_the_most(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "learning_rate":  # the loss says at which step it is too large
            return value
        if isinstance(value, int | float) and abs(value) >= MOST:
            raise ValueError(f"must be less than {MOST}")
        return value

    @field_validator("model")
    @classmethod
    def _model_is_a_reference(cls, value: str | None) -> str | None:
        if value is not None and not all(part.strip() for part in value.partition(":")):
            raise ValueError("must be package.module:function")
        module = (value or "").partition(":")[0]
        if "/" in module or module.endswith(".py"):
            raise ValueError("must be package.module:function; name its file or folder as code")
        return value

    @field_validator("units", mode="before")
    @classmethod
    def _units_are_numbers(cls, value: Any) -> Any:
        # YAML has 100 and [512, 256] for what flags write as 100 and 512,256.
        parts = value if isinstance(value, list) else str(value).split(",")
        numbers = [str(part).strip() for part in parts]
        if value is None:
            return None
        if not all(n.isascii() and n.isdigit() and 1 <= int(n) <= MOST_UNITS for n in numbers):
            raise ValueError(f"must be numbers from 1 to {MOST_UNITS}, with commas in between")
        return ",".join(str(int(number)) for number in numbers)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the weights, by name."""
        left_out = LEGACY_DEFAULTS if self.model is None else LEGACY_DEFAULTS | {"code": ""}
        return {
            name: value
            for name, value in self.model_dump().items()
            if name not in RUNTIME_SETTINGS and (name, value) not in left_out.items()
        }


def parse(values: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration with these values, by field name.

    Raises:
        ConfigError: a value breaks its rule, or a field is unknown; names the nearest known one.
    """
    try:
        config = TrainConfig.model_validate(dict(values))
    except ValidationError as error:
        problem = text.first_problem(error)
        if not problem.path:
            raise ConfigError("settings: a name is not valid Unicode; remove it") from None
        field = problem.path[0]
        if problem.kind == "extra_forbidden":
            raise ConfigError(
                f"unknown setting {field!r}{text.nearest(field, TrainConfig.model_fields)}"
                " (trainer train --help lists all)"
            ) from None
        meaning = TrainConfig.model_fields[field].description
        if problem.value is None:
            raise ConfigError(
                f"{field}: has no value; give it one, or leave it out ({meaning})"
            ) from None
        raise ConfigError(f"{field}: {problem.value!r}: {problem.rule} ({meaning})") from None
    if config.code is not None and config.model is None:
        raise ConfigError(
            f"code: {config.code!r}: is for a model of your own; name its function as "
            "model: package.module:function"
        )
    _check_sizes(config)
    if config.all_reduce == "tensorflow" and config.all_reduce_precision != "float32":
        raise ConfigError(float32_alone(config))
    if (config.early_stopping or config.keep_best) and not (
        config.validation and config.eval_epochs
    ):
        field = "early_stopping" if config.early_stopping else "keep_best"
        raise ConfigError(
            f"{field}: {getattr(config, field)}: needs validations, but validation is "
            f"{config.validation} and eval_epochs {config.eval_epochs:g}; set both above 0"
        )
    return config


def float32_alone(config: TrainConfig) -> str:
    """Return why gradients cannot travel in fewer bits where TensorFlow sums them."""
    return (
        f"all_reduce_precision: {config.all_reduce_precision!r}: TensorFlow's collectives, which "
        "sum here, send float32; leave it out or, if each worker has one device, set "
        "all_reduce to tcp"
    )


def _check_sizes(config: TrainConfig) -> None:
    """Check the sizes that a gang may have.

    Raises:
        ConfigError: they contradict each other.
    """
    least, most, wait = config.min_workers, config.workers, config.resize_after
    if least and most < max(2, least):
        raise ConfigError(
            f"min_workers: {least}: needs at least {max(2, least)} workers, but workers is {most}; "
            "raise that, or leave it out"
        )
    if least and wait >= config.peer_deadline:
        raise ConfigError(
            f"resize_after: {wait:g}: must be below peer_deadline, {config.peer_deadline:g}, which "
            "ends the run; lower it, or raise that"
        )


def flag(name: str, value: Any) -> str:
    """Return a setting as an argument of ``trainer train``: ``--seed=1``, ``--no-report``."""
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{words}" if value else f"--no-{words}"
    return f"--{words}={value}"


def read_yaml(path: str) -> dict[str, Any]:
    """Read settings from a YAML file.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    from trainer.common import yaml_text

    values = yaml_text.read(path, "file", "--config ")
    if values is None:
        return {}
    try:
        return yaml_text.mapping(values, "seed: 1")
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from None
