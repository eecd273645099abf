"""What a run prints while it trains: a bar on a terminal, plain lines, or JSON lines."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import ControlType

from trainer.cluster_spec import MOST_WORKERS
from trainer.common.text import one_line, printable

MOST_SLOW = 8  # ranks that a line of metrics names
MOST_TIMES = 1e6  # the median, that a rank may be said to take


class Reporter:
    """Prints a run's messages and metrics; this one says nothing."""

    def say(self, message: str, **facts: Any) -> None:
        """Print a message; ``facts`` say the same to a program."""

    def warn(self, message: str, **facts: Any) -> None:
        """Print a problem that does not end the run; ``facts`` as in ``say``."""

    def step(self, record: Mapping[str, Any], total: int) -> None:
        """Print the metrics after a chunk: a line of metrics.jsonl, and the steps of the run."""

    def close(self) -> None:
        """Restore the terminal."""


def create(log_format: str) -> Reporter:
    """Return the reporter for --log-format auto, text or json."""
    if log_format == "json":
        return JsonReporter()
    if log_format == "auto" and sys.stdout.isatty():
        return BarReporter()
    return TextReporter()


def describe(record: Mapping[str, Any]) -> str:
    """Return a line of metrics.jsonl in words."""
    if "validation_accuracy" in record:
        validation = (
            f"validation loss {record['validation_loss']:.4f}"
            f"  accuracy {record['validation_accuracy']:.2%}"
        )
        if "training_loss" not in record:  # of a version that recorded none
            return validation
        return (
            f"loss {record['training_loss']:.4f}  accuracy {record['training_accuracy']:.2%}"
            f"  {validation}"
        )
    return (
        f"loss {record['loss']:.4f}  accuracy {record['accuracy']:.2%}"
        f"  {record['images_per_second']:,.0f} images/s"
    )


def place(record: Mapping[str, Any], total: int | str) -> str:
    """Return where a line of metrics.jsonl stands in a run of so many steps, in words."""
    step, epoch = record["step"], record.get("epoch")
    words = f"step {step:>6}/{total}"
    if "validation_accuracy" in record and epoch and step and isinstance(total, int):
        words = f"epoch {round(epoch, 1):g}/{round(epoch * total / step, 1):g}  {words}"
    return words


def named(record: Mapping[str, Any], count: int) -> Sequence[int]:
    """Return whose values a line of metrics.jsonl lists, of so many ranks.

    It says so where not all ranks of the gang took part.
    """
    ranks = record.get("ranks")
    if isinstance(ranks, list) and len(ranks) == count:
        sound = all(type(each) is int and 0 <= each < MOST_WORKERS for each in ranks)
        if sound and len({*ranks}) == count:
            return ranks
    return range(count)


def slow_ranks(record: Mapping[str, Any]) -> dict[int, str]:
    """Return what a line of metrics.jsonl, which anybody may have written, says of slow ranks."""
    found = record.get("slow")
    said: dict[int, str] = {}
    for each in found[:MOST_SLOW] if isinstance(found, list) else ():
        match each:
            case {"rank": int(rank), "times": int() | float() as times, "host": str(host)} if (
                0 <= rank < MOST_WORKERS and 0 <= times < MOST_TIMES
            ):
                said[rank] = one_line(f"{times:.1f} times the median of the gang; {host}", 300)
    return said


class TextReporter(Reporter):
    """Prints plain lines: metrics at most once in ``every`` seconds, but every validation."""

    def __init__(self, every: float = 1.0) -> None:
        self._every = every
        self._last = float("-inf")

    def say(self, message: str, **_: Any) -> None:
        """See Reporter."""
        _line(message)

    def warn(self, message: str, **_: Any) -> None:
        """See Reporter."""
        _line(f"warning: {message}")

    def step(self, record: Mapping[str, Any], total: int) -> None:
        """See Reporter."""
        now = time.monotonic()
        rare = "validation_accuracy" in record or record["step"] == total
        if rare or now - self._last >= self._every:
            self._last = now
            _line(f"{place(record, total)}  {describe(record)}")


class JsonReporter(Reporter):
    """Prints one JSON object per line."""

    def say(self, message: str, **facts: Any) -> None:
        """See Reporter."""
        _line(json.dumps({"message": message, **facts}))

    def warn(self, message: str, **facts: Any) -> None:
        """See Reporter."""
        _line(json.dumps({"warning": message, **facts}))

    def step(self, record: Mapping[str, Any], total: int) -> None:
        """See Reporter."""
        _line(json.dumps({**record, "total_steps": total}))


class BarReporter(Reporter):
    """Prints plain lines above a progress bar."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._bar = Progress(
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task: Any = None

    def say(self, message: str, **_: Any) -> None:
        """See Reporter."""
        self._print(message)

    def warn(self, message: str, **_: Any) -> None:
        """See Reporter."""
        self._print(f"warning: {message}", style="yellow")

    def step(self, record: Mapping[str, Any], total: int) -> None:
        """See Reporter."""
        if "validation_accuracy" in record:
            self._say_validation(place(record, total), describe(record))
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=record["step"], description=describe(record))
        if record["step"] == total:
            self.close()

    def close(self) -> None:
        """See Reporter."""
        self._bar.stop()

    def _say_validation(self, where: str, words: str) -> None:
        """Print a line, or two on a narrow terminal, which would else break it in a number."""
        training, gap, validation = words.partition("  validation")
        if not gap or len(f"{where}  {words}") <= self._console.width:
            self.say(f"{where}  {words}")
            return
        self.say(f"{where}  {training}")
        self.say(f"{'':{len(where)}}{gap}{validation}")

    def _print(self, message: str, style: str | None = None) -> None:
        if not self._bar.live.is_started:
            # The cursor may stand at the end of the bar of a process that was killed.
            self._console.control(
                Control.move_to_column(0), Control((ControlType.ERASE_IN_LINE, 2))
            )
        self._console.print(printable(message), style=style, markup=False, soft_wrap=True)


class Follower(Reporter):
    """The reporter of every rank but 0, which prints for the whole gang."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def warn(self, message: str, **_: Any) -> None:
        """See Reporter."""
        _line(f"warning: rank {self._rank}: {message}")


def write(text: str) -> None:
    """Print text that may be part of a line."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader is gone, as with `| head`, which must not end the run
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


def _line(text: str) -> None:
    write(f"{printable(text)}\n")
