"""Writes a run's event files for TensorBoard, beside training and never in its way.

They lie in the run's folder in parts, each written once, whose names sort as their steps do:

    events/events.out.tfevents.1-settings             for the HParams plugin
    events/events.out.tfevents.2-graph
    events/events.out.tfevents.3-end                  for the HParams plugin
    events/train/events.out.tfevents.00000500         after the earlier parts, up to step 500
    events/validation/events.out.tfevents.00000500
    events/test/events.out.tfevents.00000516

A metric has the same name in train, validation and test, so that TensorBoard draws them
into one chart. The packages that make a part are imported with the first one, on the thread that
writes it.
"""

import importlib.util
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer import classification, schedule
from trainer.common.text import printable
from trainer.config import TrainConfig
from trainer.data.dataset import Split
from trainer.errors import UserError
from trainer.runs import run_folder
from trainer.storage.base import Storage

PREFIX = "events/"
TRAIN, VALIDATION, TEST = KINDS = ("train", "validation", "test")
SETTINGS, GRAPH, END = "1-settings", "2-graph", "3-end"

_FILE = "events.out.tfevents."
_NAME = re.compile(rf"(?:(.+)/)?{PREFIX}(?:({'|'.join(KINDS)})/)?{re.escape(_FILE)}([^/]+)")

EVERY = 2.0  # seconds between two parts: pictures take 25 ms of the core that training needs, too

# Fields of metrics.jsonl to show, and as what.
_TRAINING = {"loss": "loss", "accuracy": "accuracy", "images_per_second": "images_per_second"}
_VALIDATION = {"validation_loss": "loss", "validation_accuracy": "accuracy"}


class Part(NamedTuple):
    """What an object's name says.

    Attributes:
        run: folder of the run, as the name has it; empty for none.
        kind: one of KINDS, or empty for what belongs to the whole run.
        part: SETTINGS, GRAPH, END, or the step.
    """

    run: str
    kind: str
    part: str


def object_name(part: str) -> str:
    """Return the object of SETTINGS, GRAPH or END."""
    return f"{PREFIX}{_FILE}{part}"


def step_name(kind: str, step: int) -> str:
    """Return the object of a kind's events up to a step."""
    return f"{PREFIX}{kind}/{_FILE}{step:08d}"


def parse(name: str) -> Part | None:
    """Return what an object's name says, or None if it holds no events of a run."""
    found = _NAME.fullmatch(name)
    return Part(found[1] or "", found[2] or "", found[3]) if found else None


@dataclass(frozen=True)
class Scored:
    """The logits of a whole split, float32 [n, classes], of the weights after a step."""

    step: int
    logits: npt.NDArray[np.float32]
    split: Split


class EventLog:
    """Continues the event files of a run in one attempt.

    Parts are written after the checkpoint of their last step, so that they are of steps that
    hold; should that checkpoint go bad, its parts are deleted by the attempt that starts before.

    Args:
        storage: the run's folder.
        config: the run's settings.
        total: steps of the whole run.
        resumed: the step at which this attempt started.
        warn: called with what could not be written.
        class_names: of class 0 on, or none.
        epochs: of the whole run, if steps overrule the setting.

    Attributes:
        graph: the model's graph, a serialised GraphDef, until it is stored.
        wants_graph: whether there is none yet, as far as is known.
    """

    def __init__(
        self,
        storage: Storage,
        config: TrainConfig,
        total: int,
        resumed: int,
        warn: Callable[[str], None],
        class_names: Sequence[str] = (),
        epochs: float | None = None,
    ) -> None:
        self.graph: bytes | None = None
        self.wants_graph = resumed == 0
        self._storage = storage
        self._config = config
        self._total = total
        self._resumed = resumed
        self._warn = warn
        self._class_names = class_names
        self._epochs = epochs
        self._written: dict[str, int] | None = None  # the last step of each kind, once known
        self._broken = False
        self._last = -EVERY

    def write(
        self,
        records: Sequence[Mapping[str, Any]],
        arrays: Mapping[str, npt.NDArray[Any]],
        validated: Scored | None,
        *,
        last: bool = False,
    ) -> None:
        """Write what no part has yet, unless one was written just now.

        What is not written, or fails to be with a warning, is left to the next call.

        Args:
            records: all lines of metrics.jsonl so far, of which the last is of a checkpoint.
            arrays: the state after the last of them, by name.
            validated: the newest validation.
            last: whether no call comes after this one.
        """
        if last or time.monotonic() - self._last >= EVERY:
            self._guarded(lambda: self._write(records, arrays, validated))
            self._last = time.monotonic()

    def finish(
        self, records: Sequence[Mapping[str, Any]], tested: Scored, validated: Scored | None = None
    ) -> None:
        """Write what is left, and the metrics of the final weights on the test split.

        ``validated``: of these weights, unless ``write`` has had validations.
        """
        self._guarded(lambda: self._finish(records, tested, validated))

    def _write(
        self,
        records: Sequence[Mapping[str, Any]],
        arrays: Mapping[str, npt.NDArray[Any]],
        validated: Scored | None,
    ) -> None:
        from trainer.runs import tensorboard_format

        written = self._begin()
        step, now = records[-1]["step"], time.time()
        times = tensorboard_format.times(records, now)
        fresh = [line for line in records if line["step"] > written[TRAIN]]
        values = tensorboard_format.scalars(fresh, _TRAINING)
        for at, of_step in values.items():
            rate = schedule.learning_rates(self._config, self._total, at - 1, 1)[0]
            of_step.append(tensorboard_format.scalar("learning_rate", rate))
        if self._config.tensorboard == "histograms" and step in values:
            values[step] += _histograms(arrays)
        self._put(TRAIN, step, values, times)
        fresh = [line for line in records if line["step"] > written[VALIDATION]]
        values = tensorboard_format.scalars(fresh, _VALIDATION)
        if validated and validated.step in values:
            values[validated.step] += _pictures(validated, self._class_names)
        self._put(VALIDATION, step, values, times)
        if self.graph is not None:
            self._storage.replace(object_name(GRAPH), tensorboard_format.graph(self.graph, now))
            self.graph = None

    def _finish(
        self, records: Sequence[Mapping[str, Any]], tested: Scored, validated: Scored | None
    ) -> None:
        from trainer.runs import tensorboard_format

        self._write(records, {}, None)
        now = time.time()
        for kind, scored in ((VALIDATION, validated), (TEST, tested)):
            if scored is None:
                continue
            score = classification.score(scored.logits, scored.split.labels)
            pairs = {"loss": score.loss, "accuracy": score.accuracy}
            values = [tensorboard_format.scalar(tag, value) for tag, value in pairs.items()]
            of_step = {scored.step: values + _pictures(scored, self._class_names)}
            self._put(kind, scored.step, of_step, {scored.step: now})
        self._storage.replace(object_name(END), tensorboard_format.end(now))

    def _begin(self) -> dict[str, int]:
        """Return the last step of each kind; delete what is of steps that are done again."""
        if self._written is None:
            names = {entry.name for entry in self._storage.list(PREFIX)}
            last = dict.fromkeys(KINDS, 0)
            for name in names:
                part = parse(name)
                step = int(part.part) if part and part.kind and part.part.isdecimal() else 0
                if step > self._resumed or name == object_name(END):
                    self._storage.delete(name)
                elif part and step:
                    last[part.kind] = max(last[part.kind], step)
            if (name := object_name(SETTINGS)) not in names:
                self._storage.replace(name, self._settings(time.time()))
            if self.graph is None:
                self.wants_graph = object_name(GRAPH) not in names
            self._written = last
        return self._written

    def _settings(self, now: float) -> bytes:
        """Return the part with the run's settings, named by its folder and their digest."""
        from trainer.runs import tensorboard_format

        values = self._config.identity()
        digest = run_folder.digest(values)[:8]
        name = printable(self._storage.uri.rpartition("/")[2])
        if self._config.steps and self._epochs is not None:
            values["epochs"] = self._epochs
        return tensorboard_format.settings(
            values, name if digest in name else f"{name} {digest}", now
        )

    def _put(
        self, kind: str, step: int, values: Mapping[int, Sequence[Any]], times: Mapping[int, float]
    ) -> None:
        """Write one part, unless it would be empty."""
        from trainer.runs import tensorboard_format

        assert self._written is not None
        if values:
            data = tensorboard_format.steps(values, times)
            self._storage.replace(step_name(kind, step), data)
            self._written[kind] = step

    def _guarded(self, work: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            work()
        except UserError as error:
            self._warn(f"{error}; TensorBoard lacks some metrics meanwhile")
        except Exception as error:  # never the end of a run
            self._broken = True
            reason = f"{type(error).__name__}: {error}"
            self._warn(f"no more event files for TensorBoard from this attempt: {reason}")


def is_wanted(config: TrainConfig) -> bool:
    """Return whether a run has a log: one is asked for, and its packages are there."""
    packages = ("tensorboard", "PIL")
    return config.tensorboard != "off" and all(map(importlib.util.find_spec, packages))


def _pictures(scored: Scored, names: Sequence[str]) -> list[Any]:
    from trainer.runs import tensorboard_format, tensorboard_images

    labels = scored.split.labels
    matrix = tensorboard_images.confusion_matrix(scored.logits, labels, names)
    wrong = tensorboard_images.wrong_pictures(scored.logits, labels, scored.split.images, names)
    pictures = {"confusion matrix": matrix, "wrong pictures": wrong}
    return [tensorboard_format.image(tag, picture, names) for tag, picture in pictures.items()]


def _histograms(arrays: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
    from trainer.runs import tensorboard_format

    kept = (name.partition("/") for name in arrays)
    return [
        tensorboard_format.histogram(f"weights/{path}", arrays[f"{kind}/{path}"])
        for kind, _, path in kept
        if kind == "parameters"
    ]
