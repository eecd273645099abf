"""What is known of a run while it trains: its folder is looked at again and again, in part."""

import math
from collections.abc import Mapping
from typing import Any

from trainer.common.text import one_line
from trainer.common.untrusted_json import number
from trainer.errors import DataError
from trainer.report.series import Points
from trainer.runs import reader, run_folder, tensorboard_format, tensorboard_writer
from trainer.runs.tail import GrowingLines
from trainer.storage.base import Storage, read_at_most

MOST_POINTS = 600  # of a curve
MOST_PART = 1 << 24  # bytes of an event file with pictures
CURVES = (  # fields of metrics.jsonl that are held
    *("loss", "accuracy", "validation_loss", "validation_accuracy"),
    *("images_per_second", "train_seconds"),
)


class Curve:
    """Points that come without end, of which at most MOST_POINTS are held: then means of them."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most, self._each = most, 1  # points in a mean
        self._means: list[tuple[float, float]] = []
        self._first = self._last = (-math.inf, 0.0)
        self._count, self._x, self._y = 0, 0.0, 0.0  # of the points since the last mean, their sums

    def add(self, x: float, y: float) -> None:
        """Add a point behind the last one; any other is passed over."""
        if x <= self._last[0]:
            return
        self._last = (x, y)
        if not self._means and not self._count:
            self._first = self._last
        self._count, self._x, self._y = self._count + 1, self._x + x, self._y + y
        if self._count == self._each:
            self._means.append((self._x / self._count, self._y / self._count))
            self._count, self._x, self._y = 0, 0.0, 0.0
        if len(self._means) == self._most:
            pairs = zip(self._means[::2], self._means[1::2], strict=False)
            self._means = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in pairs]
            self._each *= 2

    @property
    def points(self) -> Points:
        """Return (x, y) in the order of x: the first, the last, and means of those between."""
        if self._each == 1:
            return tuple(self._means)
        return (self._first, *self._means, self._last)


class Live:
    """A run as its folder, which need not be there yet, shows it after each ``look``.

    Attributes:
        stored: its config.json, None until it is there.
        finished: whether it has a result.
        curves: by the names of CURVES.
        newest: the last line with a loss.
        attempts: that have ended.
        ranks: the state of its gang, None where it stores none.
        pictures: of the newest validation, PNG by what they show.
        pictured: the step of that validation.
        faults: what of the folder is damaged, one sentence each.
        behind: whether more can be read at once.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.stored: Mapping[str, Any] | None = None
        self.finished = False
        self.curves: dict[str, Curve] = {}
        self.newest: Mapping[str, Any] = {}
        self.attempts: tuple[reader.Attempt, ...] = ()
        self.ranks: reader.Ranks | None = None
        self.pictures: Mapping[str, bytes] = {}
        self.pictured = 0
        self.faults: dict[str, str] = {}
        self.behind = False
        self._lines = GrowingLines(storage, run_folder.METRICS)
        self._attempts_size = -1
        self._part = ""  # the last event file that was read

    def look(self) -> None:
        """Read what is new; a part that is damaged stays as it was.

        Raises:
            UserError: the store cannot be read.
        """
        if self.stored is None:
            self.stored = run_folder.read_config(self.storage)
            if self.stored is None:
                return
        for name, read in (
            (run_folder.RANKS, self._read_ranks),
            (run_folder.ATTEMPTS, self._read_attempts),
            (run_folder.METRICS, self._read_metrics),
            (run_folder.RESULT, self._read_result),
            (tensorboard_writer.PREFIX, self._read_pictures),
        ):
            try:
                read()
                self.faults.pop(name, None)
            except DataError as error:
                self.faults[name] = f"{one_line(error)}."

    def _size(self, name: str) -> int:
        return dict(self.storage.list(name)).get(name, -1)

    def _read_ranks(self) -> None:
        self.ranks = reader.ranks(self.storage)

    def _read_attempts(self) -> None:
        size = self._size(run_folder.ATTEMPTS)
        if size != self._attempts_size:
            self.attempts = reader.attempts(self.storage)
            self._attempts_size = size

    def _read_metrics(self) -> None:
        size = self._size(run_folder.METRICS)
        if size < 0:
            return
        void, lines = self._lines.read(size)
        if void:
            self.curves, self.newest = {}, {}
        self.behind = bool(lines)
        for line in lines:
            if values := run_folder.metrics_line(line):
                self._add(values)

    def _add(self, values: Mapping[str, Any]) -> None:
        if "loss" in values:
            self.newest = values
        for name in CURVES:
            if (value := number(values.get(name))) is not None:
                self.curves.setdefault(name, Curve()).add(float(values["step"]), value)

    def _read_result(self) -> None:
        self.finished = run_folder.read_result(self.storage) is not None

    def _read_pictures(self) -> None:
        validated = self.curves.get("validation_accuracy")
        if not validated or validated.points[-1][0] <= self.pictured:
            return
        below = tensorboard_writer.step_name(tensorboard_writer.VALIDATION, 0).rpartition("/")[0]
        # Their names sort as their steps do; digits alone are of steps.
        names = [e.name for e in self.storage.list(f"{below}/") if e.name[-8:].isdecimal()]
        if names and names[-1] != self._part:
            data = read_at_most(self.storage, names[-1], MOST_PART)
            step, found = tensorboard_format.pictures(data)
            if found:
                self.pictured, self.pictures = step, found
            self._part = names[-1]
