"""Runs beside each other: how they differ, what they came to, and their curves in one picture."""

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer import presets
from trainer.common.text import printable
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.runs import reader
from trainer.runs.reader import Run

READERS = 8  # runs that are read at the same time
# The metrics of the terminal's table, and how many columns of it each takes.
COLUMNS = {"accuracy": 8, "loss": 6, "steps": 6, "seconds": 7, "images/s": 8, "restarts": 8}
MORE_COLUMNS = COLUMNS | {"goodput": 7}  # where there is room
LONGEST_NAME = 24  # columns of a run's name beside columns for the settings
FOLDED_NAME = 12  # where there is no room for these, and all settings share one

Split = Literal["test", "validation", "training"]


@dataclass(frozen=True)
class Row:
    """A run in the table.

    Attributes:
        name: the end of its URI, by which it differs from the others.
        uri: of its folder.
        settings: the values of those that differ; None where the run does not know one.
        finished: whether it has ended; if not, the metrics are the last ones known.
        accuracy: share of the images of ``split`` that are classified as labelled.
        loss: mean cross-entropy over the same images, nats.
        split: the images of accuracy and loss.
        steps: done.
        train_seconds: of training.
        images_per_second: over all of them.
        restarts: attempts after the first.
        goodput: share of the time in which steps were done that counted; None if not known.
        trouble: what its last attempt ended with, if it is not finished.
    """

    name: str
    uri: str
    settings: dict[str, Any]
    finished: bool
    accuracy: float | None
    loss: float | None
    split: Split | None
    steps: int
    train_seconds: float | None
    images_per_second: float | None
    restarts: int
    goodput: float | None
    trouble: str | None

    @property
    def label(self) -> str:
        """Return what is different about it: its settings, or its name if they are all the same."""
        given = {key: value for key, value in self.settings.items() if value is not None}
        return ", ".join(f"{key} {shown(value)}" for key, value in given.items()) or self.name


@dataclass(frozen=True)
class Comparison:
    """Runs, the best first, a row of the table for each, and the settings that differ."""

    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    settings: tuple[str, ...]


def compare(uris: Iterable[str], warn: Callable[[str], object]) -> Comparison:
    """Compare the runs at or below some folders; warn of those left out because of damage.

    Raises:
        ConfigError: there is no run at or below one of them.
        DataError: the files of all are damaged.
    """
    good, bad = list[Run](), list[DataError]()
    with ThreadPoolExecutor(READERS) as pool:
        for found in pool.map(_read_or_error, reader.find(uris)):
            if isinstance(found, DataError):
                bad.append(found)
            else:
                good.append(found)
    if not good:
        raise bad[0]
    for error in bad:
        warn(f"left out: {error}")
    return tabulate(good)


def tabulate(found: Sequence[Run]) -> Comparison:
    """Return the table of some runs, the best first: finished ones, then those on their way."""
    settings = differing(found)
    names = short_names([each.uri for each in found])
    pairs = [(each, _row(each, name, settings)) for each, name in zip(found, names, strict=True)]
    pairs.sort(key=lambda pair: _rank(pair[1]))
    return Comparison(tuple(r for r, _ in pairs), tuple(row for _, row in pairs), tuple(settings))


def differing(found: Sequence[Run]) -> list[str]:
    """Return the settings that differ among runs, but not where others alone do it.

    Those are the preset, which implies most, and ``steps``, which overrules ``epochs``.
    """
    order = {name: place for place, name in enumerate(TrainConfig.model_fields)}
    views = [_named(each) for each in found]
    names = sorted({name for each in views for name in each}, key=lambda n: (len(n), n))
    names.sort(key=lambda name: order.get(name, len(order)))
    usual = [_usual_values(each) for each in found]

    def differs(name: str) -> bool:
        if name == "epochs" and all(view.get("steps") for view in views):
            return False
        if name == "code":  # two models have two codes; what counts is two versions of one model
            pairs = {(_text(view["model"]), _text(view.get(name))) for view in views}
            return len(pairs) > len({model for model, _ in pairs})
        return len({_text(view[name]) for view in views if name in view}) > 1

    def implied(name: str) -> bool:
        return name not in ("preset", "model") and all(
            name in values and values[name] == view.get(name)
            for view, values in zip(views, usual, strict=True)
        )

    return [name for name in names if differs(name) and not implied(name)]


def short_names(uris: Sequence[str]) -> list[str]:
    """Return URIs without the folders that all of them share."""
    parts = [uri.split("/") for uri in uris]
    shared = 0
    for level in zip(*(each[:-1] for each in parts), strict=False):
        if len(set(level)) > 1:
            break
        shared += 1
    return ["/".join(each[shared:]) for each in parts]


def as_json(comparison: Comparison) -> str:
    """Return the table for programs, the best run first."""
    hidden = ("name", "uri")
    rows = [
        {"run": row.uri, **{k: v for k, v in vars(row).items() if k not in hidden}}
        for row in comparison.rows
    ]
    return json.dumps(rows, indent=2) + "\n"


def as_text(comparison: Comparison, width: int = 80) -> str:
    """Return the table for people, ``width`` columns wide; ~ marks runs that are not finished."""
    rows, settings = comparison.rows, comparison.settings
    longest = min(LONGEST_NAME, max(3, *(len(row.name) for row in rows)))
    widths = [_column_width(key, rows) for key in settings]
    layouts = [(columns, gap) for columns in (MORE_COLUMNS, COLUMNS) for gap in (2, 1)]
    fits = [
        (columns, gap)
        for columns, gap in layouts
        if longest + sum((*widths, *columns.values())) + gap * (len(widths) + len(columns)) <= width
    ]
    columns, gap = fits[0] if fits else layouts[-1]
    name = longest if fits else min(longest, FOLDED_NAME)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column("run", overflow="fold", width=name)
    for key, wide in zip(settings, widths, strict=True) if fits else ():
        table.add_column(heading(key), width=wide, justify="right")
    if settings and not fits:
        rest = width - name - sum(columns.values()) - len(columns) - 1
        table.add_column("settings", overflow="fold", width=rest)
    for header, wide in columns.items():
        table.add_column(header, justify="right", min_width=wide, no_wrap=True)
    for row in rows:
        values = [shown(row.settings[key]) for key in settings]
        packed = [row.label] if settings else []
        cells = [row.name, *(values if fits else packed), *metrics(row)[: len(columns)]]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    for line in notes(comparison):
        console.print(Text(printable(line)))
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def metrics(row: Row) -> list[str]:
    """Return a row's metrics in the order of the table: accuracy to goodput."""
    mark = "" if row.finished else "~"
    return [
        "-" if row.accuracy is None else f"{mark}{row.accuracy:.2%}",
        "-" if row.loss is None else f"{row.loss:{'.4f' if abs(row.loss) < 100 else '.3g'}}",
        f"{row.steps:,}",
        "-" if row.train_seconds is None else f"{row.train_seconds:,.1f}",
        "-" if row.images_per_second is None else f"{row.images_per_second:,.0f}",
        str(row.restarts),
        "-" if row.goodput is None else f"{row.goodput:.1%}",
    ]


def notes(comparison: Comparison) -> list[str]:
    """Return what is to be said below the table."""
    unfinished = [row for row in comparison.rows if not row.finished]
    lines = []
    if unfinished:
        lines.append(
            f"~ {len(unfinished)} of {len(comparison.rows)} not finished: metrics so far, "
            "accuracy and loss on validation images, or else on training images"
        )
    return lines + [f"{row.name}: {row.trouble}" for row in unfinished if row.trouble]


def heading(setting: str) -> str:
    """Return the heading of a setting's column; the steps done have one of their own."""
    return "planned steps" if setting == "steps" else setting.replace("_", " ")


def shown(value: Any) -> str:
    """Return a setting's value for people."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:12]
    return "-" if value is None else str(value)


def _read_or_error(uri: str) -> Run | DataError:
    try:
        return reader.read(uri)
    except DataError as error:
        return error


def _named(each: Run) -> dict[str, Any]:
    """Return a run's settings, the preset and the model as their user named them."""
    return {**each.settings, "preset": None, "model": None, **presets.named(each.settings)}


def _usual_values(each: Run) -> dict[str, Any]:
    """Return the settings that come with the preset or model of a run; none if it is unknown."""
    try:
        return presets.configure(presets.named(each.settings), {}).identity()
    except (ConfigError, TypeError):
        return {}


def _row(each: Run, name: str, settings: Sequence[str]) -> Row:
    result = each.result
    last = each.records[-1] if each.records else None
    accuracy, loss, split = _last_score(each)
    steps = result.steps if result else last.step if last else 0
    seconds = result.train_seconds if result else last.train_seconds if last else None
    rate = result.images_per_second if result else None
    batch = each.settings.get("batch_size")
    if rate is None and seconds and isinstance(batch, int) and batch < 1 << 53:
        rate = steps * batch / seconds
    return Row(
        name=name,
        uri=each.uri,
        settings={key: _named(each).get(key) for key in settings},
        finished=result is not None,
        accuracy=accuracy,
        loss=None if loss is None or not math.isfinite(loss) else loss,
        split=split,
        steps=steps,
        train_seconds=seconds,
        images_per_second=rate,
        restarts=max(0, len(each.attempts) - 1),
        goodput=result.goodput if result else None,
        trouble=_trouble(each),
    )


def _trouble(each: Run) -> str | None:
    cause = each.attempts[-1].cause if each.attempts and not each.result else None
    return cause.advice if cause else None


def _last_score(each: Run) -> tuple[float | None, float | None, Split | None]:
    if each.result:
        return each.result.test_accuracy, each.result.test_loss, "test"
    for record in reversed(each.records):
        if record.validation_accuracy is not None:
            return record.validation_accuracy, record.validation_loss, "validation"
    for record in reversed(each.records):
        if record.accuracy is not None:
            return record.accuracy, record.loss, "training"
    return None, None, None


def _rank(row: Row) -> tuple[bool, float, float, str]:
    accuracy = -1.0 if row.accuracy is None else row.accuracy
    loss = math.inf if row.loss is None else row.loss
    return (not row.finished, -accuracy, loss, row.uri)


def _text(value: Any) -> str:
    # 5 and 5.0 are one setting, true and 1 are not.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        repr(float(value)) if number and abs(value) < 1 << 53 else json.dumps(value, sort_keys=True)
    )


def _column_width(key: str, rows: Sequence[Row]) -> int:
    words = (len(word) for word in heading(key).split())
    return max(*words, *(len(shown(row.settings[key])) for row in rows))
