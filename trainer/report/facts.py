"""What a run's folder says of it, gathered without TensorFlow.

Whatever is missing or damaged leaves one part without content; that part is then a sentence that
says why. Text in a run's folder is anybody's, and so are the types of values in its JSON.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from trainer import metrics
from trainer import steps as schedule
from trainer.data import dataset
from trainer.errors import ConfigError, DataError, UserError
from trainer.report import network
from trainer.report.charts import MOST_POINTS, Points
from trainer.runs import checkpoint, predictions, restore, run_folder
from trainer.storage.base import ObjectNotFoundError, Storage, open_storage, read_at_most
from trainer.text import one_line

T = TypeVar("T")
Images = npt.NDArray[np.uint8]

UNFINISHED = "The run has not finished: this is known at its end."
NONE_STORED = f"The run has finished, but its folder holds no {run_folder.PREDICTIONS}."
_HUGE = 1e100
_MOST_ARCHITECTURE = 1 << 22  # bytes
_MOST_IMAGES = 1 << 30  # bytes of the test images
MOST_WRONG = 36  # images that are kept of those taken for another class
_PATIENCE = 20.0  # seconds for each call to the dataset's bucket; a report can do without


@dataclass(frozen=True)
class Wrong:
    """A test image that was taken for another class.

    Attributes:
        index: its place in the test files, from 0.
        label: the class it is of.
        predicted: the class it was taken for.
        probability: that the model gave to that class.
    """

    index: int
    label: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Quality:
    """Figures from the predictions of the test images.

    Attributes:
        matrix: how often class i (row) was taken for class j (column), int64.
        precision, recall, f1: by class.
        bins: of the probability of the predicted class.
        wrong: MOST_WRONG of the images that were taken for another class, at most, the most
            confident first.
    """

    matrix: npt.NDArray[np.int64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]
    bins: list[metrics.Bin]
    wrong: list[Wrong]

    @property
    def support(self) -> npt.NDArray[np.int64]:
        """Return the number of test images of each class."""
        result: npt.NDArray[np.int64] = self.matrix.sum(axis=1)
        return result

    @property
    def images(self) -> int:
        """Return the number of test images."""
        return int(self.matrix.sum())

    @property
    def errors(self) -> int:
        """Return how many test images were taken for another class."""
        return self.images - int(np.trace(self.matrix))

    @property
    def accuracy(self) -> float:
        """Return the share of test images classified right."""
        return float(np.trace(self.matrix)) / max(self.images, 1)

    @property
    def confidence(self) -> float:
        """Return the mean probability of the predicted class."""
        return sum(each.images * each.confidence for each in self.bins) / max(self.images, 1)

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """Return (class, taken for, times) of the commonest errors, the commonest first."""
        errors = self.matrix - np.diag(np.diag(self.matrix))
        order = np.argsort(-errors, axis=None, kind="stable")[:most]
        places = (divmod(int(place), len(errors)) for place in order)
        return [(i, j, int(errors[i, j])) for i, j in places if errors[i, j]]


@dataclass(frozen=True)
class Attempt:
    """A line of attempts.jsonl; see rollcall.Attempt.

    Attributes:
        number: counted from 1.
        start: when it began.
        seconds: how long it took.
        first_step, last_step: the newest committed step then and at its end.
        cause: of its end, empty where it came to the run's end.
    """

    number: int
    start: datetime
    seconds: float
    first_step: int
    last_step: int
    cause: str


@dataclass(frozen=True)
class Facts:
    """All that is known of a run. A string stands for what is not: why, in one sentence.

    Attributes:
        uri: of the run's folder.
        stored: its config.json.
        result: its result.json, empty while the run has not finished.
        metrics: (step, value) by the names in metrics.jsonl.
        learning_rate: (step, value).
        attempts: those that have ended.
        quality: on the test images.
        images: the test images [n, height, width, channels] and their labels [n].
        network: the model for the page.
    """

    uri: str
    stored: Mapping[str, Any]
    result: Mapping[str, Any] | str
    metrics: Mapping[str, Points] | str
    learning_rate: Points | str
    attempts: Sequence[Attempt] | str
    quality: Quality | str
    images: tuple[Images, npt.NDArray[np.int32]] | str
    network: Mapping[str, Any] | str

    @property
    def name(self) -> str:
        """Return the name of what was trained."""
        return str(self.stored.get("model") or self.stored.get("preset") or "run")

    @property
    def restarts(self) -> list[int]:
        """Return the steps from which the run went on after an interruption."""
        attempts = [] if isinstance(self.attempts, str) else self.attempts[1:]
        return sorted({attempt.first_step for attempt in attempts})

    def points(self, name: str) -> Points:
        """Return (step, value) of one of the metrics."""
        return () if isinstance(self.metrics, str) else self.metrics.get(name, ())

    def last(self, name: str) -> float | None:
        """Return the last value of one of the metrics."""
        points = self.points(name)
        return points[-1][1] if points else None

    def of_result(self, name: str) -> float | None:
        """Return a number of result.json, None if it is not there."""
        return None if isinstance(self.result, str) else number(self.result.get(name))


def gather(run_uri: str) -> Facts:
    """Read what a run's folder and the two test files of its dataset hold.

    Raises:
        ConfigError: the folder is no run's.
        DataError: its config.json is damaged.
        UnavailableError: the run's storage was not reached.
    """
    storage = run_folder.open_folder(run_uri)
    stored = run_folder.read_config(storage)
    if stored is None:
        raise ConfigError(
            f"run: {storage.uri}: no {run_folder.CONFIG} there; give the folder of a run"
        )
    settings = _or_reason(lambda: restore.settings(storage))
    result = _or_reason(lambda: run_folder.read_result(storage) or {})
    end = None if isinstance(result, str) else number(result.get("steps"))
    lines = _or_reason(lambda: run_folder.read_metrics(storage, int(end) if end else 2**63))
    found = _or_reason(lambda: predictions.read(storage) or (NONE_STORED if result else UNFINISHED))
    return Facts(
        uri=storage.uri,
        stored=stored,
        result=result,
        metrics=lines if isinstance(lines, str) else points_by_name(lines),
        learning_rate=_learning_rate(settings, lines),
        attempts=_or_reason(lambda: _attempts(storage)),
        quality=found if isinstance(found, str) else judge(found),
        images=_or_reason(lambda: _test_images(stored, found), UserError),
        network=_or_reason(lambda: _network(run_uri, storage)),
    )


def points_by_name(lines: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Return (step, value) of each figure in lines of metrics.jsonl, finite, by step."""
    found: dict[str, dict[float, float]] = {}
    for line in lines:
        step = number(line.get("step"))
        for name, value in line.items():
            if step is not None and (finite := number(value)) is not None:
                found.setdefault(name, {})[step] = finite
    return {name: tuple(sorted(points.items())) for name, points in found.items()}


def judge(found: predictions.Predictions) -> Quality:
    """Return the figures of predictions."""
    probabilities = metrics.probabilities(found.logits)
    predicted = found.logits.argmax(axis=1)
    confidence = probabilities[np.arange(len(predicted)), predicted]
    right = predicted == found.labels
    matrix = metrics.confusion(predicted, found.labels, found.logits.shape[1])
    precision, recall = metrics.precision_recall(matrix)
    misses = np.flatnonzero(~right)
    misses = misses[np.argsort(-confidence[misses], kind="stable")][:MOST_WRONG]
    return Quality(
        matrix=matrix,
        precision=precision,
        recall=recall,
        f1=metrics.f1(precision, recall),
        bins=metrics.calibration(confidence, right),
        wrong=[
            Wrong(int(i), int(found.labels[i]), int(predicted[i]), float(confidence[i]))
            for i in misses
        ],
    )


def number(value: Any) -> float | None:
    """Return a JSON value if it is a finite number, and not beyond what can be measured."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _HUGE else None  # not for NaN


def _or_reason(read: Callable[[], T | str], errors: type[UserError] = DataError) -> T | str:
    """Return what is read, or as a sentence why it is not."""
    try:
        return read()
    except errors as error:
        return f"{one_line(error)}."


def _learning_rate(
    settings: restore.Settings | str, lines: Sequence[Mapping[str, Any]] | str
) -> Points | str:
    """Return (step, learning rate) up to the last step of the metrics."""
    if isinstance(settings, str):
        return settings
    if isinstance(lines, str):
        return lines
    done = [line for line in lines if (number(line.get("step")) or 0) >= 1]
    if not done:
        return "No step has been reported yet."
    config, last = settings.config, int(done[-1]["step"])
    total = config.steps
    if not total:
        # metrics.jsonl has the epoch with 4 decimals: the last one is the most exact.
        share = (number(done[-1].get("epoch")) or 0) / config.epochs
        total = max(last, round(min(last / share, run_folder.MOST_STEPS)) if share > 0 else last)
    total = min(total, run_folder.MOST_STEPS)
    steps = np.unique(np.linspace(0, last - 1, min(last, MOST_POINTS)).astype(np.int64))
    with np.errstate(over="ignore"):
        rates = [schedule.learning_rates(config, total, int(step), 1)[0] for step in steps]
    return tuple(
        (float(step + 1), float(rate))
        for step, rate in zip(steps, rates, strict=True)
        if np.isfinite(rate)
    )


def _attempts(storage: Storage) -> list[Attempt]:
    try:
        data = read_at_most(storage, run_folder.ATTEMPTS, run_folder.MOST_ATTEMPTS)
        lines = data.decode(errors="replace").splitlines()
    except ObjectNotFoundError:
        return []
    try:
        return [_attempt(json.loads(line)) for line in lines]
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        raise DataError(f"{storage.uri}/{run_folder.ATTEMPTS}: damaged; delete it") from None


def _attempt(line: Mapping[str, Any]) -> Attempt:
    cause = line["cause"]
    if not 0 <= line["first_step"] <= line["last_step"] < _HUGE:
        raise ValueError
    return Attempt(
        number=int(line["attempt"]),
        start=datetime.fromtimestamp(line["start"], UTC),
        seconds=float(line["end"] - line["start"]),
        first_step=int(line["first_step"]),
        last_step=int(line["last_step"]),
        cause=f"rank {cause['rank']}: {cause['message']}" if cause else "",
    )


def _test_images(
    stored: Mapping[str, Any], found: predictions.Predictions | str
) -> tuple[Images, npt.NDArray[np.int32]] | str:
    """Return the test images of the run's dataset, if they are those of its predictions."""
    storage = open_storage(str(stored.get("data")), deadline=_PATIENCE)
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
        or math.prod(images.shape[1:]) > restore.MOST_VALUES
    ):
        return f"The test files in {storage.uri} do not fit together."
    if not isinstance(found, str) and not (
        np.array_equal(labels, found.labels)
        and predictions.images_sha256(images) == found.images_sha256
    ):
        return f"The test images in {storage.uri} are not those that the run was tested on."
    return images, labels.astype(np.int32)


def _network(run_uri: str, storage: Storage) -> Mapping[str, Any] | str:
    """Return the model as the page computes it, see network.describe."""
    largest = max((entry.size for entry in storage.list(checkpoint.PREFIX)), default=0)
    if largest > network.MAX_BYTES:
        return network.refusal(
            f"its checkpoint has {largest:,} bytes, and a page takes {network.MAX_WEIGHTS:,} "
            "weights at most"
        )
    restored = restore.restore(run_uri)
    settings = restored.settings
    try:
        architecture = json.loads(
            read_at_most(storage, run_folder.ARCHITECTURE, _MOST_ARCHITECTURE)
        )
    except ObjectNotFoundError:
        architecture = None
    except (ValueError, RecursionError):
        architecture = {}
    try:
        return network.describe(
            architecture, restored.arrays, settings.input_shape, settings.classes
        )
    # What stands in a layer's description is Keras' own matter, and changes with its versions.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise DataError(
            f"{storage.uri}/{run_folder.ARCHITECTURE}: damaged, or of another version of Keras: "
            f"{type(error).__name__} {error}"
        ) from None
