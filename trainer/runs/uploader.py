"""Uploads beside training, one at a time."""

import sys
import threading
from collections.abc import Callable

from trainer.errors import ConfigError, UserError


class Uploader:
    """Runs one job at a time on a thread of its own, so that training need not wait for it."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> bool:
        """Start the job and return True, or return False while one is running.

        Raises:
            ConfigError: the job before failed so; another try would fail the same.
        """
        if self._thread is not None and self._thread.is_alive():
            return False
        if isinstance(self._error, ConfigError):
            raise self._error
        if self._error is not None:
            self._warn(f"{self._error}; trying again with the next checkpoint")
        self._thread = threading.Thread(target=self._run, args=(job,), name="uploader")
        self._thread.start()
        return True

    def finish(self, job: Callable[[], None]) -> None:
        """Wait for the running job, then do this one; it is the one that must succeed."""
        if self._thread is not None:
            self._thread.join()
        job()
        self._error = None  # what failed before is stored now

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
            self._error = None
        except UserError as error:
            self._error = error
        except BaseException as error:  # a defect must not end in silence
            self._error = error
            sys.excepthook(type(error), error, error.__traceback__)
