"""A run's weights and what they belong to, from its folder alone and without TensorFlow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import presets
from trainer.config import TrainConfig, parse
from trainer.data import dataset
from trainer.data.dataset import Dataset, NoDatasetError
from trainer.data.description import names_fault
from trainer.errors import ConfigError, DataError
from trainer.runs import checkpoint, run_folder, user_code
from trainer.runs.predictions import MOST_CLASSES
from trainer.storage.base import Storage

MOST_VALUES = 1 << 22  # of one image: 2048 x 2048 pixels of one channel
MOST_BYTES = 1 << 31  # of a checkpoint; training, which knows its own, takes larger ones


@dataclass(frozen=True)
class Settings:
    """What a run's folder says of it.

    Attributes:
        config: its settings, with ``data`` as it was when the run began.
        data_sha256: of the dataset.
        digest: what its checkpoints carry.
        input_shape: height and width in pixels, and channels, of every image.
        classes: number of classes.
        class_names: of class 0 on; empty if they have none. Not to be shown before it is printable.
    """

    config: TrainConfig
    data_sha256: str
    digest: str
    input_shape: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...] = ()


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
    stored = run_folder.config(storage)
    try:
        data = {name: stored.pop(name) for name in run_folder.INFORMATIONAL if name in stored}
        (height, width, channels), classes = map(int, data["input_shape"]), int(data["classes"])
        _check_sizes((height, width, channels), classes)
        class_names = _class_names(data.get("class_names", []), classes)
        digest, sha256 = run_folder.digest(stored), str(stored.pop("data_sha256"))
        config = parse({**stored, "data": data["data"]})
        if config.preset not in presets.PRESETS:
            raise ValueError(f"preset: {config.preset!r}: not known")
        return Settings(
            config=config,
            data_sha256=sha256,
            digest=digest,
            input_shape=(height, width, channels),
            classes=classes,
            class_names=class_names,
        )
    except (ConfigError, KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{storage.uri}/{run_folder.CONFIG}: damaged, or of another version: {reason}; "
            "train the run again in a new folder"
        ) from None


def dataset_of(of_run: Settings, other: str | None = None) -> Dataset:
    """Return a run's dataset, which is what it was trained on, or the one at another URI.

    None of its images are set apart for validation.

    Raises:
        ConfigError: the data have changed since.
        DataError, UnavailableError: see ``dataset.load``.
    """
    try:
        data = dataset.load(other or of_run.config.data, 0)
    except NoDatasetError as error:
        if other is not None:
            raise
        # The usual advice is to put MNIST there: other images than the model was trained on.
        what = str(error).partition(";")[0]
        remedy = "name the folder that has the run's data now: --data URI"
        raise DataError(f"{what}; {remedy}") from None
    if other is None and data.sha256 != of_run.data_sha256:
        raise ConfigError(
            f"data: {of_run.config.data}: differs from the data that the run was trained on; put "
            "those back, or name other data with --data"
        )
    return data


def restore(run_uri: str, most: int = MOST_BYTES) -> Restored:
    """Return a run's weights: those of the best validation with keep_best, else the newest.

    Checkpoints of more than ``most`` bytes are passed over.

    Raises:
        ConfigError: the folder is no run's.
        DataError: no checkpoint is good.
    """
    storage = run_folder.open_folder(run_uri)
    return _restore(storage, settings(storage), most)


def restore_with(run_uri: str, model: str | None) -> Restored:
    """Return a run's weights, see ``restore``, with settings that ``models`` can build from.

    ``model`` is the user's own one, package.module:function; None for a preset's.

    Raises:
        ConfigError: the run has a model of its own, and the user names none. What a folder names
            is never imported.
    """
    storage = run_folder.open_folder(run_uri)
    of_run = settings(storage)
    if model is not None:
        config = parse({**of_run.config.model_dump(), "model": model})
        of_run = replace(of_run, config=config)
    elif of_run.config.model is not None:
        raise ConfigError(
            f"run: {storage.uri}: has a model of its own, {of_run.config.model!r}, and code that a "
            "run's folder names is not run; give --model package.module:function with your own "
            f"function for it{_or_trust(of_run.config.code)}"
        )
    return _restore(storage, of_run, MOST_BYTES)


def _or_trust(reference: str | None) -> str:
    if reference is None or not user_code.is_packed(reference):
        return ""
    return f", or trust the run's copy: --trust-code {reference.removeprefix(user_code.SCHEME)}"


def trusted(run_uri: str, sha256: str) -> tuple[str, user_code.Archive]:
    """Return the model of a run and its code, whose SHA-256 the user has named.

    Raises:
        ConfigError: the folder is no run's, or the run has other code or none.
        DataError: the code is missing or damaged.
    """
    storage = run_folder.open_folder(run_uri)
    config = settings(storage).config
    reference = user_code.SCHEME + sha256.removeprefix(user_code.SCHEME)
    if config.model is None or config.code != reference or not user_code.is_packed(reference):
        found = "no code of its own" if not _or_trust(config.code) else f"code {config.code}"
        raise ConfigError(f"--trust-code: {sha256!r}: the run {storage.uri} has {found}")
    name = f"{storage.uri}/{user_code.object_name(reference)}"
    archive = user_code.Archive(user_code.fetch(storage, reference), name)
    top = config.model.partition(":")[0].partition(".")[0]
    if not any(
        each == f"{top}.py" or each.startswith(f"{top}/") for each in user_code.names(archive)
    ):
        raise ConfigError(
            f"--trust-code: {name}: holds no module {top!r} for the run's model, "
            f"{config.model!r}; give --model instead"
        )
    return config.model, archive


def _check_sizes(shape: tuple[int, int, int], classes: int) -> None:
    if min(shape) < 1 or math.prod(shape) > MOST_VALUES:
        raise ValueError(f"input_shape: {shape}: must be of 1 to {MOST_VALUES:,} values")
    if not 2 <= classes <= MOST_CLASSES:
        raise ValueError(f"classes: {classes}: must be 2 to {MOST_CLASSES}")


def _class_names(names: Any, classes: int) -> tuple[str, ...]:
    if not isinstance(names, list) or len(names) not in (0, classes):
        raise ValueError(f"class_names: must be {classes} or none")
    if fault := names_fault(names):
        raise ValueError(f"class_names: {fault}")
    return tuple(names)


def _restore(storage: Storage, of_run: Settings, most: int) -> Restored:
    warnings: list[str] = []
    found = checkpoint.newest_good(storage, None, of_run.digest, warnings.append, most)
    if found is None:
        reason = warnings[0].partition(";")[0] if warnings else "there is none"
        raise DataError(f"run: {storage.uri}: no usable checkpoint: {reason}; train it first")
    best = checkpoint.best_step(found.validations)
    if of_run.config.keep_best and best is not None and best != found.step:
        found = checkpoint.load(storage, best, None, of_run.digest, most)
    for path, array in weights(found.arrays).items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"run: {storage.uri}: damaged: its weights {path!r} are not finite")
    return Restored(storage, of_run, found.step, found.arrays)


def weights(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
    """Return a state's parameters and buffers by Keras variable path."""
    kinds = ("parameters", "buffers")
    pairs = ((*name.partition("/"), array) for name, array in arrays.items())
    return {path: array for kind, _, path, array in pairs if kind in kinds}
