"""A run's weights and what they belong to, from its folder alone and without TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import checkpoint, run
from trainer.config import TrainConfig, parse
from trainer.errors import ConfigError, DataError
from trainer.storage import Storage, open_storage


@dataclass(frozen=True)
class Settings:
    """What a run's folder says of it.

    Attributes:
        config: its settings, with ``data`` as it was when the run began.
        data_sha256: of the dataset.
        digest: what its checkpoints carry.
        input_shape: height and width in pixels, and channels, of every image.
        classes: number of classes.
    """

    config: TrainConfig
    data_sha256: str
    digest: str
    input_shape: tuple[int, int, int]
    classes: int


@dataclass(frozen=True)
class Restored:
    """The weights that a run ends with, or has come to.

    Attributes:
        storage: the run's folder.
        settings: of the run.
        step: after which the weights are these.
        arrays: tensors of the state by name: ``parameters/PATH`` and ``buffers/PATH`` of the
            Keras variable PATH, and the optimizer's.
    """

    storage: Storage
    settings: Settings
    step: int
    arrays: Mapping[str, npt.NDArray[Any]]


def settings(storage: Storage) -> Settings:
    """Return the settings of a run.

    Raises:
        ConfigError: the folder is no run's.
        DataError: the settings are damaged.
    """
    stored = run.read_config(storage)
    if stored is None:
        raise ConfigError(f"run: {storage.uri}: no {run.CONFIG} there; give the folder of a run")
    try:
        told = {name: stored.pop(name) for name in run.TOLD}
        height, width, channels = map(int, told["input_shape"])
        digest, sha256 = run.digest(stored), str(stored.pop("data_sha256"))
        return Settings(
            config=parse({**stored, "data": told["data"]}),
            data_sha256=sha256,
            digest=digest,
            input_shape=(height, width, channels),
            classes=int(told["classes"]),
        )
    except (ConfigError, KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{storage.uri}/{run.CONFIG}: damaged, or of another version: {reason}; "
            "train the run again in a new folder"
        ) from None


def restore(run_uri: str) -> Restored:
    """Return a run's weights: those of the best validation with keep_best, else the newest.

    Raises:
        ConfigError: the folder is no run's.
        DataError: no checkpoint is good.
    """
    storage = open_storage(run_uri)
    of_run = settings(storage)
    warnings: list[str] = []
    found = checkpoint.newest_good(storage, None, of_run.digest, warnings.append)
    if found is None:
        reason = warnings[0].partition(";")[0] if warnings else "there is none"
        raise DataError(f"run: {storage.uri}: no usable checkpoint: {reason}; train it first")
    best = checkpoint.best_step(found.validations)
    if of_run.config.keep_best and best is not None and best != found.step:
        found = checkpoint.load(storage, best, None, of_run.digest)
    return Restored(storage, of_run, found.step, found.arrays)


def weights(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
    """Return a state's parameters and buffers by Keras variable path."""
    kinds = ("parameters", "buffers")
    pairs = ((*name.partition("/"), array) for name, array in arrays.items())
    return {path: array for kind, _, path, array in pairs if kind in kinds}
