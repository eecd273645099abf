"""What a report shows of a run, computed without TensorFlow from what ``runs.reader`` reads.

Whatever is missing or damaged leaves one part without content; that part is then a sentence that
says why. Anybody may have written the texts in a run's folder and the values in its JSON.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from trainer import schedule
from trainer.classification import Quality, judge
from trainer.common.text import one_line
from trainer.common.untrusted_json import number
from trainer.errors import DataError, UserError
from trainer.report import network, shared_work, status
from trainer.report.series import MOST_POINTS, Points
from trainer.runs import goodput, predictions, reader, run_folder, trained_weights
from trainer.runs.predictions import Predictions
from trainer.storage.base import Storage

T = TypeVar("T")

UNFINISHED = "The run has not finished: this is known at its end."
NONE_STORED = f"The run has finished, but its folder holds no {run_folder.PREDICTIONS}."


@dataclass(frozen=True)
class Facts:
    """What is known of a run. A string stands for an unknown part: why, in one sentence.

    Attributes:
        uri: of the run's folder.
        stored: its config.json.
        result: its result.json, empty while the run has not finished.
        metrics: (step, value) by the names in metrics.jsonl.
        learning_rate: (step, value).
        attempts: that have ended.
        quality: on the test images.
        predictions: of the test images.
        images: the test images [n, height, width, channels] and their labels [n].
        network: the model for the page.
        start: its start.json, empty if there is none.
        class_names: of class 0 on; none if the classes have none, or config.json is damaged.
        work: how the workers shared it, None if that was not measured.
        spent: where its time went, None if that is not known.
    """

    uri: str
    stored: Mapping[str, Any]
    result: Mapping[str, Any] | str
    metrics: Mapping[str, Points] | str
    learning_rate: Points | str
    attempts: Sequence[reader.Attempt] | str
    quality: Quality | str
    predictions: Predictions | str
    images: reader.LabelledImages | str
    network: Mapping[str, Any] | str
    start: Mapping[str, Any] | str
    class_names: tuple[str, ...] = ()
    work: shared_work.Work | None = None
    spent: goodput.Goodput | None = None

    @property
    def name(self) -> str:
        """Return the name of what was trained."""
        return str(self.stored.get("model") or self.stored.get("preset") or "run")

    @property
    def status(self) -> status.Status:
        """Return how the run stands, and why."""
        steps = self.points("loss") or self.points("accuracy")
        return status.of(
            result=self.result,
            attempts=self.attempts,
            last_step=int(steps[-1][0]) if steps else 0,
        )

    @property
    def restarts(self) -> list[int]:
        """Return the steps from which the run resumed after an interruption."""
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
    """Read what a run's folder and the two test files of its dataset hold; see ``of_folder``."""
    return of_folder(run_folder.open_folder(run_uri))


def of_folder(storage: Storage) -> Facts:
    """Read what a run's folder and the two test files of its dataset hold.

    Raises:
        ConfigError: the folder is no run's.
        DataError: its config.json is damaged.
        UnavailableError: the run's storage was not reached.
    """
    stored = run_folder.config(storage)
    settings = _or_reason(lambda: trained_weights.settings(storage))
    result = _or_reason(lambda: run_folder.read_result(storage) or {})
    end = None if isinstance(result, str) else number(result.get("steps"))
    lines = _or_reason(lambda: run_folder.read_metrics(storage, int(end) if end else 2**63))
    attempts = _or_reason(lambda: reader.attempts(storage))
    start = _or_reason(lambda: run_folder.read_start(storage) or {})
    found = _or_reason(lambda: predictions.read(storage) or (NONE_STORED if result else UNFINISHED))
    return Facts(
        uri=storage.uri,
        stored=stored,
        result=result,
        metrics=lines if isinstance(lines, str) else points_by_name(lines),
        learning_rate=_learning_rate(settings, lines),
        attempts=attempts,
        predictions=found,
        quality=found if isinstance(found, str) else judge(found.logits, found.labels),
        images=_or_reason(
            lambda: reader.test_images(
                str(stored.get("data")), None if isinstance(found, str) else found
            ),
            UserError,
        ),
        network=_or_reason(lambda: network.of_run(storage)),
        start=start,
        class_names=() if isinstance(settings, str) else settings.class_names,
        work=shared_work.of_run(stored, lines),
        spent=_spent(result, lines, attempts, start),
    )


def _spent(
    result: Mapping[str, Any] | str,
    lines: Sequence[Mapping[str, Any]] | str,
    attempts: Sequence[reader.Attempt] | str,
    start: Mapping[str, Any] | str,
) -> goodput.Goodput | None:
    """Return where the time of a run went: by its result or, before that, up to its last chunk."""
    if result and not isinstance(result, str):
        return goodput.parse(result)
    if isinstance(lines, str) or isinstance(attempts, str) or isinstance(start, str):
        return None
    return goodput.of(lines, attempts, run_folder.starts(start), 0.0)


def points_by_name(lines: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Return (step, value) of each metric in lines of metrics.jsonl, finite, by step."""
    found: dict[str, dict[float, float]] = {}
    for line in lines:
        step = number(line.get("step"))
        for name, value in line.items():
            if step is not None and (finite := number(value)) is not None:
                found.setdefault(name, {})[step] = finite
    return {name: tuple(sorted(points.items())) for name, points in found.items()}


def _or_reason(read: Callable[[], T | str], errors: type[UserError] = DataError) -> T | str:
    """Return what is read, or as a sentence why it is not."""
    try:
        return read()
    except errors as error:
        return f"{one_line(error)}."


def _learning_rate(
    settings: trained_weights.Settings | str, lines: Sequence[Mapping[str, Any]] | str
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
