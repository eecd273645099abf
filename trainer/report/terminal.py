"""The report of a run for a terminal: 80 columns of plain text."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from trainer.classification import LONGEST_NAME, Quality, matrix_lines
from trainer.common.text import class_label, class_name, plural, printable
from trainer.report import run_page
from trainer.report.facts import Facts
from trainer.report.series import MOST_POINTS, Kind, Points, text, thin

COLUMNS = 80
CURVE_COLUMNS, CURVE_ROWS = 60, 4
MOST_CONFUSED = 5  # pairs of classes
KINDS: dict[str, Kind] = {"loss": "number", "accuracy": "percent"}
EIGHTHS = " ▁▂▃▄▅▆▇█"


def as_text(found: Facts) -> str:
    """Return the report, every line at most 80 columns wide."""
    console = Console(
        file=io.StringIO(), width=COLUMNS, color_system=None, markup=False, highlight=False
    )
    console.print(Text(printable(f"{found.name}  {found.uri}")))
    headline = run_page.headline(found)
    for parts in (headline[:2], headline[2:]):
        console.print(Text(printable("  ".join(parts))))
    for line in (found.status.why, found.status.remedy):
        if line:
            console.print(Text(printable(line)))
    _print_curves(console, found)
    if isinstance(found.quality, Quality):
        _print_quality(console, found.quality, found.class_names)
    else:
        _section(console, "test images")
        console.print(Text(printable(found.quality)))
    _section(console, "settings that differ from the defaults")
    changed = [
        each
        for each in run_page.settings(found.stored, run_page.epochs_done(found))
        if each.changed
    ]
    rows = ((each.name, each.value, f"default {each.default or 'none'}") for each in changed)
    console.print(_table((), rows, "left") if changed else "none")
    _print_restarts(console, found)
    if spent := run_page.time_rows(found):
        _section(console, "where the time went")
        console.print(_table((), spent, "left"))
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def blocks(points: Points, columns: int, rows: int) -> list[str]:
    """Return a curve, at least one point, as rows of block characters; the highest fills all."""
    xs, ys = zip(*thin(points, columns), strict=True)
    values = np.interp(np.linspace(xs[0], xs[-1], columns), xs, ys)
    low, high = values.min(), values.max()
    span = (high - low) or 1.0
    # One eighth at least, so that the lowest is seen too.
    heights = [1 + round((value - low) / span * (8 * rows - 1)) for value in values]
    return [
        "".join(EIGHTHS[max(0, min(8, height - 8 * row))] for height in heights)
        for row in reversed(range(rows))
    ]


def _print_curves(console: Console, found: Facts) -> None:
    _section(console, "training")
    reason = found.metrics if isinstance(found.metrics, str) else "No step has been reported yet."
    steps = found.points("loss") or found.points("accuracy")
    if not steps:
        console.print(Text(printable(reason)))
        return
    if len(steps) == 1:  # no curve
        at = text(steps[0][0], "number")
        for name, kind in KINDS.items():
            if points := found.points(name):
                console.print(f"{name} {text(points[0][1], kind)} at step {at}")
        return
    for name, kind in KINDS.items():
        if points := thin(found.points(name), MOST_POINTS):
            high = text(max(y for _, y in points), kind)
            low = text(min(y for _, y in points), kind)
            for row, line in enumerate(blocks(points, CURVE_COLUMNS, CURVE_ROWS)):
                label = {0: high, CURVE_ROWS - 1: low}.get(row, name if row == 1 else "")
                console.print(f"{label:>12}  {line}")
    first, last = text(steps[0][0], "number"), text(steps[-1][0], "number")
    console.print(f"{'step':>12}  {first}{last:>{CURVE_COLUMNS - len(first)}}")
    for name, kind in KINDS.items():
        if points := found.points(f"validation_{name}"):
            step, value = points[-1]
            console.print(f"validation {name} {text(value, kind)} at step {step:,.0f}")


def _print_quality(console: Console, quality: Quality, names: Sequence[str]) -> None:
    _section(console, plural(quality.images, "test image"))
    rows = [
        (
            class_label(label, names, LONGEST_NAME, cell_len),
            *((f"{share:.2%}" for share in shares) if count else ("no images", "", "")),
            str(count),
        )
        for label, (*shares, count) in enumerate(
            zip(quality.precision, quality.recall, quality.f1, quality.support, strict=True)
        )
    ]
    console.print(_table(("class", "precision", "recall", "F1", "images"), rows))
    _section(console, "confusion matrix: rows are true classes, columns predicted ones")
    many = f"{len(quality.matrix)} classes are too many for {COLUMNS} columns; see report.html"
    for line in matrix_lines(quality.matrix, names, COLUMNS) or [many]:
        console.print(line)
    _section(console, "most confused")
    for i, j, times in quality.confused(MOST_CONFUSED):
        label, predicted = (class_name(each, names, 24, cell_len) for each in (i, j))
        console.print(f"{label} predicted as {predicted}  {plural(times, 'time')}")
    if not quality.wrong:
        console.print("the model predicted every test image right")


def _print_restarts(console: Console, found: Facts) -> None:
    _section(console, "restarts")
    if isinstance(found.attempts, str):
        console.print(Text(printable(found.attempts)))
        return
    for before, after in zip(found.attempts, found.attempts[1:], strict=False):
        console.print(
            Text(printable(f"from step {after.first_step}: {before.ended_by or 'unknown cause'}"))
        )
    if len(found.attempts) < 2:
        console.print("none")


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(title, align="left", style="", characters="─"))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], justify: str = "right") -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=bool(heads))
    for head in heads:
        table.add_column(head, justify="right" if justify == "right" else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
