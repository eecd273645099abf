"""What the commands print: lines with a rank before them, and a bar on a terminal."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from k8s.diagnosis import run_phase
from trainer.common.text import duration, printable

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
WARNING = "yellow"


class Screen:
    """Lines on standard output; on a terminal rank 0's figures are a bar below them."""

    def __init__(self, workers: int) -> None:
        self._width = len(str(max(0, workers - 1)))
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        self._live = self._console.is_terminal

    def say(self, message: str, style: str | None = None) -> None:
        """Print a line of our own."""
        self._console.print(Text(printable(message), style or ""))
        sys.stdout.flush()

    def line(self, rank: int, facts: dict[str, Any], progress: run_phase.Progress) -> None:
        """Print one line of a rank's log."""
        if rank == 0 and run_phase.is_step(facts):
            if self._live and "loss" in facts:
                self._show_bar(progress)
                return
            suffix = "" if "validation_accuracy" in facts else _suffix(progress)
            self.ranked(rank, run_phase.as_text(facts) + suffix)
            return
        self.ranked(rank, run_phase.as_text(facts), WARNING if "warning" in facts else None)

    def ranked(self, rank: int, text: str, style: str | None = None) -> None:
        """Print a line with its rank before it."""
        # What a model prints must not move the cursor or set the terminal's title.
        prefix = Text(f"{rank:>{self._width}} | ", COLOURS[rank % len(COLOURS)])
        self._console.print(prefix + Text(printable(text), style or ""))
        sys.stdout.flush()

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show_bar(self, progress: run_phase.Progress) -> None:
        if self._bar is None:
            columns = (
                BarColumn(bar_width=12),
                TaskProgressColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._bar = Bar(*columns, console=self._console)
            self._bar.start()
            self._bar.add_task("", total=progress.total or None)
        text = run_phase.describe(progress.last) + _suffix(progress)
        self._bar.update(
            self._bar.task_ids[0], completed=progress.step, description=printable(text)
        )
        if progress.step == progress.total:
            self.close()


def _suffix(progress: run_phase.Progress) -> str:
    left = progress.seconds_left()
    text = f"  {duration(left)} left" if left else ""
    return text + (f"  restarts {progress.restarts}" if progress.restarts else "")
