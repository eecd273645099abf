"""attempts.jsonl: a line for each attempt of the gang, with its steps and what ended it.

Failures in it are records of `trainer.failure`.
"""

import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import UserError
from trainer.failure import Failure
from trainer.runs import run_folder
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most


@dataclass
class GangAttempt:
    """One attempt of the whole gang, a line of attempts.jsonl.

    Attributes:
        number: counted from 1 by this coordinator.
        start: when it began, seconds since the epoch.
        first_step: the step that it started from; the newest known one if it ended before.
        workers: that took part.
        failures: of its ranks, in the order of their reports.
        broke: when the first of them was reported.
    """

    number: int
    start: float
    first_step: int
    workers: int
    failures: list[Failure] = field(default_factory=list)
    broke: float | None = None

    def blame(self, failure: Failure, now: float) -> None:
        """Take the report of a failure."""
        self.broke = now if self.broke is None else self.broke
        self.failures.append(failure)

    @property
    def root_cause(self) -> Failure | None:
        """The first failure that is not a consequence of another one."""
        own = [each for each in self.failures if not each.consequence]
        return next(iter(own or self.failures), None)

    def record(self, end: float, last_step: int, *, over: bool) -> dict[str, Any]:
        """Return its line, for an end at this time with this newest committed step.

        ``over``: whether the command ended with it.
        """
        cause = self.root_cause
        return {
            "attempt": self.number,
            "workers": self.workers,
            "start": round(self.start, 3),
            "broke": None if self.broke is None else round(self.broke, 3),
            "end": round(end, 3),
            "over": over,
            "first_step": self.first_step,
            "last_step": last_step,
            "cause": cause.record() if cause else None,
            "others": [each.record() for each in self.failures if each is not cause],
        }


class AttemptLog:
    """Appends to attempts.jsonl on a thread of its own: a store may take its time.

    Args:
        open_store: returns the run's folder; called on that thread.
        warn: called with what could not be written.
    """

    def __init__(self, open_store: Callable[[], Storage], warn: Callable[[str], None]) -> None:
        self._open, self._warn = open_store, warn
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def add(self, attempt: dict[str, Any]) -> None:
        """Append one attempt; its number follows the last one in the file."""
        self._lines.put(attempt)

    def close(self, seconds: float) -> None:
        """Wait until all is written, but not longer than this."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _write(self) -> None:
        storage: Storage | None = None
        while (attempt := self._lines.get()) is not None:
            try:
                if storage is None:
                    opened = self._open()
                    storage, written = opened, _read(opened)
                line = json.dumps({**attempt, "attempt": len(written) + 1})
                storage.replace(
                    run_folder.ATTEMPTS, "".join(f"{each}\n" for each in [*written, line]).encode()
                )
                written.append(line)
            except UserError as error:
                self._warn(f"{run_folder.ATTEMPTS} not written: {error}")


def _read(storage: Storage) -> list[str]:
    try:
        data = read_at_most(storage, run_folder.ATTEMPTS, run_folder.MOST_ATTEMPTS)
        return data.decode(errors="replace").splitlines()
    except ObjectNotFoundError:
        return []
