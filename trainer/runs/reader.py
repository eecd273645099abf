"""Runs as their folders tell of them, also while they go on; read only."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from trainer.errors import ConfigError, DataError
from trainer.runs import run_folder
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most

Model = TypeVar("Model", bound=BaseModel)


Steps = Annotated[int, Field(ge=0, le=1 << 53)]
Amount = Annotated[float, Field(ge=0, le=1e15)]  # a NaN is none, nor what no chart could hold
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """A line of metrics.jsonl."""

    step: Steps
    train_seconds: Amount
    loss: float | None = None
    accuracy: Share | None = None
    validation_accuracy: Share | None = None
    validation_loss: float | None = None


class Result(BaseModel):
    """What result.json says of the end."""

    test_accuracy: Share
    test_loss: Annotated[float, Field(allow_inf_nan=False)]
    steps: Steps
    train_seconds: Amount
    images_per_second: Amount
    workers: Steps


class Cause(BaseModel):
    """Why an attempt ended."""

    message: str


class Attempt(BaseModel):
    """A line of attempts.jsonl."""

    cause: Cause | None = None


@dataclass(frozen=True)
class Run:
    """What a run's folder tells.

    Attributes:
        uri: of the folder.
        settings: that decide the weights; ``data`` is the beginning of the data's SHA-256, and
            ``workers``, which a finished run tells, decides the speed.
        records: its metrics, in the order of the steps.
        result: how it ended, or None while it has not.
        attempts: as far as they have ended.
    """

    uri: str
    settings: dict[str, Any]
    records: tuple[Record, ...]
    result: Result | None
    attempts: tuple[Attempt, ...]


def find(uris: Iterable[str]) -> list[str]:
    """Return the URIs of the runs at or below some folders, each once.

    Raises:
        ConfigError: there is none at or below one of them.
    """
    found: dict[str, str] = {}
    for uri in uris:
        storage = run_folder.open_folder(uri)
        if any(entry.name == run_folder.CONFIG for entry in storage.list(run_folder.CONFIG)):
            runs = [storage.uri]
        else:
            end = f"/{run_folder.CONFIG}"
            names = [entry.name for entry in storage.list() if entry.name.endswith(end)]
            runs = [f"{storage.uri.rstrip('/')}/{name.removesuffix(end)}" for name in names]
        if not runs:
            raise ConfigError(
                f"{storage.uri}: no run there: no {run_folder.CONFIG} in it or below; "
                "give folders of runs, or one that holds them"
            )
        for each in runs:
            found.setdefault(_place(each), each)
    return list(found.values())


def read(uri: str) -> Run:
    """Return what a run's folder tells.

    Raises:
        ConfigError: the folder is no run's.
        DataError: an object is damaged.
    """
    storage = run_folder.open_folder(uri)
    settings = run_folder.read_config(storage)
    if settings is None:
        raise ConfigError(f"{storage.uri}: no {run_folder.CONFIG} there; give the folder of a run")
    for name in run_folder.INFORMATIONAL:
        settings.pop(name, None)
    settings["data"] = str(settings.pop("data_sha256", None))[:12]
    stored = run_folder.read_result(storage)
    result = None
    if stored is not None:
        result = _checked(Result, [stored], storage, run_folder.RESULT)[0]
        settings["workers"] = result.workers
    lines = run_folder.read_metrics(storage, result.steps if result else 1 << 62)
    return Run(
        uri=storage.uri,
        settings=settings,
        records=_checked(Record, lines, storage, run_folder.METRICS),
        result=result,
        attempts=_checked(Attempt, _attempts(storage), storage, run_folder.ATTEMPTS),
    )


def _checked(
    model: type[Model], values: Sequence[Any], storage: Storage, name: str
) -> tuple[Model, ...]:
    try:
        return tuple(model.model_validate(value) for value in values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise DataError(
            f"{storage.uri}/{name}: damaged: {field}: {problem['msg']}; train the run again"
        ) from None


def _attempts(storage: Storage) -> list[Any]:
    try:
        data = read_at_most(storage, run_folder.ATTEMPTS, run_folder.MOST_ATTEMPTS)
        return [json.loads(line) for line in data.splitlines()]
    except ObjectNotFoundError:
        return []
    except (ValueError, RecursionError):
        raise DataError(
            f"{storage.uri}/{run_folder.ATTEMPTS}: damaged: must be one JSON object a line; "
            "delete it"
        ) from None


def _place(uri: str) -> str:
    """Return what two URIs of one folder share."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme.lower() != "file":
        return uri
    return os.path.realpath(Path(rest if separator else uri).expanduser())
