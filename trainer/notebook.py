"""Training from Python, as in a notebook: what ``trainer train`` does, without a shell.

    from trainer.notebook import load, start, train

    run = train(preset="mlp-100", data="bucket/data", run="bucket/runs/first", workers=2)
    run.result["test_accuracy"]
    run.points("loss")
    load("bucket/runs/first").report()

``start`` returns at once, so that you can watch the training, or kill one of its workers. All
settings are those of ``trainer train --help``, with ``_`` for ``-``. Mistakes raise the errors of
``trainer.errors``, with one line that says what to do.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import classification, failure, presets
from trainer.config import flag
from trainer.data import sources
from trainer.errors import (
    ConfigError,
    DataError,
    StoppedError,
    UnavailableError,
    UserError,
)
from trainer.failure import Failure
from trainer.gang.process import Child
from trainer.runs import predictions, reader, run_folder
from trainer.worker_events import Event

__all__ = ["Run", "Training", "load", "put", "start", "train"]

_ERRORS = {
    each.exit_code: each for each in (ConfigError, DataError, UnavailableError, StoppedError)
}

put = sources.put


class Run:
    """A run's folder, finished or in progress; every access reads it again."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._storage = run_folder.open_folder(uri)
        run_folder.config(self._storage)

    def __repr__(self) -> str:
        result = self.result
        end = f"test accuracy {result['test_accuracy']:.2%}" if result else "not finished"
        return f"Run({self.uri!r}: {end})"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, as config.json has them."""
        return run_folder.config(self._storage)

    @property
    def result(self) -> dict[str, Any] | None:
        """What result.json says, ``test_accuracy`` and others; None until the run has finished."""
        return run_folder.read_result(self._storage)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return run_folder.read_metrics(self._storage, run_folder.MOST_STEPS)

    @property
    def attempts(self) -> tuple[reader.Attempt, ...]:
        """Each start of all workers that has ended: from and to which step, and why it ended."""
        return reader.attempts(self._storage)

    def points(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric: ``loss``, ``accuracy``, ``validation_loss``, ..."""
        return [(line["step"], line[name]) for line in self.metrics if name in line]

    def probabilities(self, image: int) -> npt.NDArray[np.float64]:
        """Return the probability of each class, [classes], for a test image by its number.

        Raises:
            ConfigError: the run has not finished, or has no such image.
        """
        found = predictions.read(self._storage)
        if found is None:
            raise ConfigError(f"{self.uri}: not finished: predictions are known at its end")
        if not 0 <= image < len(found.labels):
            raise ConfigError(f"image {image}: must be from 0 to {len(found.labels) - 1}")
        shares: npt.NDArray[np.float64] = classification.probabilities(
            found.logits[image : image + 1]
        )[0]
        return shares

    def report(self) -> str:
        """Write report.html and return where it is."""
        from trainer.report import run_page

        return run_page.write(self.uri)


class Training:
    """A training under way, in processes of its own, which end with this one; see ``start``.

    Attributes:
        step: the last one that a worker has finished.
    """

    def __init__(self, uri: str, workers: int, flags: list[str]) -> None:
        self.step = 0
        self._count = workers
        self._failure: Failure | None = None  # the last one reported is that of the whole gang
        self._uri = uri
        self._workers: dict[int, int] = {}  # rank -> pid
        self._code: int | None = None
        self._changed = threading.Condition()
        self._folder = tempfile.TemporaryDirectory(prefix="trainyard-")
        self._log = Path(self._folder.name) / "log"
        self._shown = 0
        self._child = Child(["train", *flags], {}, self._take, out=self._log)

    def wait(self) -> Run:
        """Print what the training says until it ends, and return its run.

        An interrupt (the notebook's stop button) stops the training, which stores a checkpoint.

        Raises:
            UserError: it failed, or was stopped.
        """
        try:
            self._follow(lambda: False)
        except KeyboardInterrupt:
            self.stop()
            self._follow(lambda: False)
        self._child.close()
        self._folder.cleanup()
        if self._code:
            words = f"it ended with code {self._code}, and did not say why"
            if self._failure:
                words = self._failure.sentence(self._count)
            raise _ERRORS.get(self._code, UserError)(words)
        return Run(self._uri)

    def wait_for_step(self, step: int) -> None:
        """Print what the training says until a worker has finished this step, or it ends."""
        self._follow(lambda: self.step >= step)

    def kill(self, rank: int = 0) -> None:
        """End the worker of a rank with SIGKILL, as a crash would.

        Raises:
            ConfigError: no worker of this rank is at work.
        """
        with self._changed:
            pid = self._workers.pop(rank, None)
        if pid is None:
            raise ConfigError(f"rank {rank}: no worker of this rank is at work")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ask the training to stop; ``train`` or ``start`` with the same settings resumes it."""
        self._child.say("stop")

    def _take(self, _: Child, event: Event) -> None:
        with self._changed:
            match event:
                case {"event": "started", "pid": pid, "rank": rank}:
                    self._workers[rank] = pid
                case {"event": "ended", "rank": rank}:
                    self._workers.pop(rank, None)
                case {"event": "step", "step": step}:
                    self.step = max(self.step, step)
                case {"failure": record}:
                    self._failure = failure.parse(record)
                case {"event": "exit", "code": code}:
                    self._code = code
            self._changed.notify_all()

    def _follow(self, reached: Callable[[], bool]) -> None:
        while True:
            with self._changed:
                over = self._code is not None or reached()
                if not over:
                    self._changed.wait(0.2)
            new = b""
            if self._log.exists():  # it is gone once all has been shown
                with self._log.open("rb") as log:
                    log.seek(self._shown)
                    new = log.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._shown += len(whole)
            sys.stdout.write(whole.decode(errors="replace"))
            if over:
                sys.stdout.flush()
                return


def start(*, data: str, run: str, **settings: Any) -> Training:
    """Begin to train, or to resume a run, and return at once.

    Args:
        data: folder or bucket of the dataset; ``put`` makes one.
        run: folder or bucket of the run.
        settings: those of ``trainer train --help``, such as ``preset``, ``workers``, ``epochs``.

    Raises:
        ConfigError: a setting is unknown or breaks its rule.
    """
    given = {"data": data, "run": run, **settings}
    config = presets.configure({}, given)
    flags = [flag(name, value) for name, value in given.items() if value is not None]
    return Training(run_folder.uri(config), config.workers, [*flags, "--log-format=text"])


def train(*, data: str, run: str, **settings: Any) -> Run:
    """Train to the end, print what happens, and return the run; see ``start``.

    Raises:
        UserError: it failed, or was stopped.
    """
    return start(data=data, run=run, **settings).wait()


def load(uri: str) -> Run:
    """Return the run of a folder or bucket.

    Raises:
        ConfigError: there is none.
    """
    return Run(uri)
