"""attempts.jsonl: a line for each attempt of the gang, with its steps and what ended it.

The lines are those of `rendezvous.GangAttempt`; failures in them are records of `trainer.failure`.
"""

import json
import queue
import threading
from collections.abc import Callable
from typing import Any

from trainer.errors import UserError
from trainer.runs import run_folder
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most


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
