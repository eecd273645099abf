"""ranks.json: what each rank does at present, for those who watch a run from outside."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from trainer.errors import UserError
from trainer.runs import run_folder
from trainer.storage.base import Storage

EVERY = 1.0  # seconds between two looks; an object is written where something has changed


class RankStates:
    """Writes ranks.json on a thread of its own: a store may take its time, or fail unheard.

    Args:
        open_store: returns the run's folder; called on that thread.
        states: returns the object's content, see ``Coordinator.states``; called there, too.
    """

    def __init__(
        self, open_store: Callable[[], Storage], states: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._open, self._states = open_store, states
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Record that the gang has ended, and wait for it, but not longer than this."""
        self._closed.set()
        self._thread.join(seconds)

    def _write(self) -> None:
        storage: Storage | None = None
        written: dict[str, Any] = {}
        over = False
        while not over:
            over = self._closed.wait(EVERY if written else EVERY / 10)
            found = {**self._states(), "over": over}
            if found != written:
                with contextlib.suppress(UserError):
                    storage = storage or self._open()
                    storage.replace(run_folder.RANKS, run_folder.lines([found]))
                    written = found
