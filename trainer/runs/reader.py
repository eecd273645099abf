"""Reads the folders of runs, finished or in progress, and writes nothing."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from trainer.common.text import first_problem, one_line
from trainer.common.untrusted_json import json_object
from trainer.data import dataset
from trainer.errors import ConfigError, DataError
from trainer.failure import Kind, known_kind
from trainer.runs import run_folder
from trainer.runs.predictions import Predictions, images_sha256
from trainer.runs.trained_weights import MOST_VALUES
from trainer.storage.base import ObjectNotFoundError, Storage, open_storage, read_at_most

Model = TypeVar("Model", bound=BaseModel)
LabelledImages = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]

_MOST_IMAGES = 1 << 30  # bytes of the test images
_PATIENCE = 20.0  # seconds for each call to the dataset's bucket; a report can do without

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
    goodput: Share | None = None  # unknown of earlier versions


class Cause(BaseModel):
    """Why an attempt ended, see ``failure.Failure``; ``rank`` is the one that failed."""

    kind: Annotated[Kind, BeforeValidator(known_kind)] = "unknown"
    rank: int | None = None
    code: int = 1
    message: str
    remedy: str = ""

    @property
    def words(self) -> str:
        """Return it in words, for a terminal: whose, and what happened."""
        rank = "" if self.rank is None else f"rank {self.rank}: "
        return one_line(rank + self.message)

    @property
    def advice(self) -> str:
        """Return it in words, with the remedy if there is one."""
        return self.words + (f"; {one_line(self.remedy)}" if self.remedy else "")


class Attempt(BaseModel):
    """A line of attempts.jsonl, see ``gang.attempts``.

    Attributes:
        number: counted from 1.
        start: seconds since the epoch.
        end: likewise.
        first_step: the newest committed step at its start.
        last_step: the newest committed step at its end.
        workers: that took part; None in those of earlier versions.
        cause: of its end, None if it finished the run.
        broke: when its first failure was reported, None if none was, or if a version that did not
            record that wrote the line.
        over: whether its command ended with it; likewise False.
    """

    number: Steps = Field(alias="attempt")
    start: Annotated[float, Field(ge=0, le=2e11)]  # datetime ends at 2.5e11
    end: Annotated[float, Field(ge=0, le=2e11)]
    first_step: Steps
    last_step: Steps
    workers: Steps | None = None
    cause: Cause | None
    broke: Annotated[float, Field(ge=0, le=2e11)] | None = None
    over: bool = False

    @property
    def began(self) -> datetime:
        """Return the time of its start, UTC."""
        return datetime.fromtimestamp(self.start, UTC)

    @property
    def ended(self) -> datetime:
        """Return the time of its end, UTC."""
        return datetime.fromtimestamp(self.end, UTC)

    @property
    def ended_by(self) -> str:
        """Return the cause of its end in words, empty if it finished the run."""
        return self.cause.words if self.cause else ""


class Ranks(BaseModel):
    """What ranks.json says of a gang, see ``gang.rank_states``.

    Attributes:
        attempt: that is under way, or was the last; 0 before the first.
        ranks: state of each rank, in words.
        cause: what ended the attempt before, until the next one trains.
        over: whether the gang has ended, with a result or without.
        members: ranks of the newest attempt, where not all must take part; else empty.
    """

    attempt: Steps
    ranks: Annotated[tuple[Annotated[str, Field(max_length=20)], ...], Field(max_length=1024)]
    cause: Cause | None
    over: bool
    members: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=1024)], ...], Field(max_length=1024)
    ] = ()


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        uri: of the folder.
        settings: that decide the weights; ``data`` is the beginning of the data's SHA-256,
            ``epochs`` what was trained where ``steps`` overrules it, and ``workers``, which a
            finished run stores, decides the speed.
        records: its metrics, in the order of the steps.
        result: how it ended, or None while it has not.
        attempts: that have ended.
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
        if run_folder.has(storage, run_folder.CONFIG):
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
    """Return what a run's folder holds.

    Raises:
        ConfigError: the folder is no run's.
        DataError: an object is damaged.
    """
    storage = run_folder.open_folder(uri)
    settings = run_folder.config(storage)
    for name in run_folder.INFORMATIONAL:
        settings.pop(name, None)
    settings["data"] = str(settings.pop("data_sha256", None))[:12]
    stored = run_folder.read_result(storage)
    result = None
    if stored is not None:
        result = _checked(Result, [stored], storage, run_folder.RESULT)[0]
        settings["workers"] = result.workers
    lines = run_folder.read_metrics(storage, result.steps if result else 1 << 62)
    if settings.get("steps") and "epochs" in settings:  # which the steps overrule
        done = lines[-1].get("epoch") if lines else None
        plausible = isinstance(done, int | float) and 0 <= done < 1e15
        settings["epochs"] = float(f"{done:.4g}") if plausible else None
    return Run(
        uri=storage.uri,
        settings=settings,
        records=_checked(Record, lines, storage, run_folder.METRICS),
        result=result,
        attempts=attempts(storage),
    )


def attempts(storage: Storage) -> tuple[Attempt, ...]:
    """Return a run's attempts that have ended.

    Raises:
        DataError: attempts.jsonl is damaged.
    """
    try:
        data = read_at_most(storage, run_folder.ATTEMPTS, run_folder.MOST_ATTEMPTS)
        lines = [json.loads(line) for line in data.decode(errors="replace").splitlines()]
    except ObjectNotFoundError:
        return ()
    except (ValueError, RecursionError):
        raise DataError(
            f"{storage.uri}/{run_folder.ATTEMPTS}: damaged: must be one JSON object a line; "
            "delete it"
        ) from None
    return _checked(Attempt, lines, storage, run_folder.ATTEMPTS, "delete it")


def sizes(attempts: Iterable[Attempt], now: int | None = None) -> list[tuple[int, int]]:
    """Return from which steps on how many workers trained what a run consists of.

    Args:
        attempts: that have ended; those that brought no step, or were redone, do not count.
        now: workers of the attempt under way, if there is one.
    """
    found: list[tuple[int, int]] = []
    step = 0
    for each in attempts:
        step = each.last_step
        if each.workers and each.last_step > each.first_step:
            found = [*(size for size in found if size[0] < each.first_step)]
            found.append((each.first_step, each.workers))
    if now:
        found.append((step, now))
    pairs = zip(found, [(0, 0), *found], strict=False)
    return [size for size, before in pairs if size[1] != before[1]]


def ranks(storage: Storage) -> Ranks | None:
    """Return the state of a run's gang, or None where it has stored none.

    Raises:
        DataError: ranks.json is damaged.
    """
    try:
        stored = json_object(read_at_most(storage, run_folder.RANKS, run_folder.MOST_OBJECT))
    except ObjectNotFoundError:
        return None
    return _checked(Ranks, [stored], storage, run_folder.RANKS, "delete it")[0]


def _checked(
    model: type[Model],
    values: Sequence[Any],
    storage: Storage,
    name: str,
    remedy: str = "train the run again",
) -> tuple[Model, ...]:
    try:
        return tuple(model.model_validate(value) for value in values)
    except ValidationError as error:
        problem = first_problem(error)
        rule = f"{'.'.join(problem.path)}: {problem.rule}"
        if len(problem.path) < 2 and "instance of" in problem.rule:
            rule = f"{'.'.join(problem.path) or 'each line'}: must be a JSON object"
        raise DataError(f"{storage.uri}/{name}: damaged: {rule}; {remedy}") from None


def test_images(data: str, found: Predictions | None) -> LabelledImages | str:
    """Return the test images [n, height, width, channels] of a dataset and their labels [n].

    ``found`` is a run's predictions, which must be of these images.

    Returns:
        A sentence that says why, where they are not there or do not belong together.

    Raises:
        UserError: they cannot be read.
    """
    storage = open_storage(data, deadline=_PATIENCE)
    entries = dataset.locate(storage)
    names = dataset.FILES[2:]
    missing = [name for name in names if name not in entries]
    if missing:
        return f"The dataset is not there any more: no {missing[0]} in {storage.uri}."
    files = {entries[name].name: dataset.read_entry(storage, entries[name]) for name in names}
    parsed = dataset.parse(files, storage.uri, _MOST_IMAGES)
    images, labels = (file.elements for file in parsed)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if (
        images.ndim != 4
        or labels.shape != images.shape[:1]
        or 0 in images.shape
        or math.prod(images.shape[1:]) > MOST_VALUES
    ):
        return f"The test files in {storage.uri} do not fit together."
    if found is not None and not (
        np.array_equal(labels, found.labels) and images_sha256(images) == found.images_sha256
    ):
        return f"The test images in {storage.uri} are not the ones that the run was tested on."
    return images, labels.astype(np.int32)


def _place(uri: str) -> str:
    """Return what two URIs of one folder share."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme.lower() != "file":
        return uri
    return os.path.realpath(Path(rest if separator else uri).expanduser())
