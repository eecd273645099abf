"""Stores what a run must not lose: checkpoints, the metrics up to them, and events."""

import contextlib
import functools
import threading
from dataclasses import dataclass
from typing import Any

from trainer.errors import UserError
from trainer.runs import checkpoint, goodput, run_folder, tensorboard_writer
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.tensorboard_writer import EventLog, Scored
from trainer.runs.uploader import Uploader
from trainer.train.loop import Loop
from trainer.train.run import Run
from trainer.train.state import TrainState, check_finite
from trainer.train.weight_digests import WeightDigests
from trainer.worker_events import tell_metrics, tell_parent


@dataclass(frozen=True)
class Snapshot:
    """The end of a finished chunk: its state, lines of metrics.jsonl, and newest validation."""

    checkpoint: Checkpoint
    metrics: list[dict[str, Any]]
    validated: Scored | None


class Saver:
    """Keeps the end of the last finished chunk, and stores it when it is due.

    Rank 0 commits while the run goes well, what all ranks agree on, see ``weight_digests``. After a
    fault any rank can rescue: a checkpoint's bytes are the same on all of them.

    Attributes:
        run: the run to save.
        uploader: stores checkpoints while training continues.
        events: writes the event files; None on other ranks, or if they are not wanted.
    """

    def __init__(self, run: Run, loop: Loop, digests: WeightDigests) -> None:
        self.run = run
        self.uploader = Uploader(run.reporter.warn)
        self.events: EventLog | None = None
        self._loop, self._digests = loop, digests
        self._due: tuple[Snapshot, bool] | None = None  # and whether to wait until it is stored
        self._finished: Snapshot | None = None
        self._saved = 0  # the last step of which a commit was started
        self._lock = threading.Lock()

    @property
    def finished_step(self) -> int | None:
        """The step at the end of the last chunk finished in this attempt, if there is one."""
        return self._finished.checkpoint.step if self._finished else None

    def start(self, step: int) -> None:
        """Prepare for an attempt that starts at this step."""
        self._saved = step
        if self.run.cluster.rank == 0 and tensorboard_writer.is_wanted(self.run.config):
            self.events = EventLog(
                self.run.storage,
                self.run.config,
                self.run.total,
                step,
                self.run.reporter.warn,
                self.run.dataset.class_names,
                self.run.epochs(self.run.total),
            )

    def finish_chunk(self, at: TrainState) -> None:
        """Keep the end of a chunk, which a fault from here on must not lose, and report it."""
        kept = Checkpoint(
            step=at.step,
            arrays=self._loop.named(self._loop.on_host(at.tensors)),
            config_digest=self.run.config_digest,
            validations=tuple(at.validations),
        )
        self._digests.begin(kept.step, kept.arrays)
        with self._lock:
            self._finished = Snapshot(kept, list(at.records), at.validated)
            for record in at.records[at.reported :]:
                if record.keys() & {"images_per_second", "validation_loss"}:  # not a first step
                    self.run.reporter.step(record, self.run.total)
                    if self.run.config.metrics_port and self.run.cluster.rank == 0:
                        tell_metrics(record, self.run.total)
            at.reported = len(at.records)
            tell_parent(event="step", step=at.step)

    def commit_if_due(self, *, best: bool) -> None:
        """Store the last finished chunk if it is due, or the ``best`` so far is wanted.

        A gang does so at the end of the next chunk, when all ranks have agreed on this one.
        """
        wanted = best and self.run.config.keep_best
        steps = (self.finished_step or 0) - self._saved
        if self._finished and (wanted or steps >= self.run.config.checkpoint_steps):
            self._due = self._finished, wanted
            if self.run.cluster.workers == 1:
                self.commit_agreed()

    def commit_agreed(self) -> None:
        """Store the chunk that is due, if there is one: all ranks agree on it."""
        if self._due:
            (snapshot, wait), self._due = self._due, None
            self._commit(snapshot, wait=wait, last=False)

    def commit(self, *, last: bool = False) -> None:
        """Store the last finished chunk, on rank 0, and return once it is stored.

        ``last``: whether no chunk follows in this attempt.

        Raises:
            ConfigError: it holds NaN or infinity; another run has taken the folder.
            UnavailableError: it could not be stored.
        """
        if self._finished:
            self._commit(self._finished, wait=True, last=last)

    def discard(self) -> None:
        """Forget the last finished chunk, which is wrong on some rank, so that nobody stores it."""
        with self._lock:
            self._finished = self._due = None

    def _commit(self, snapshot: Snapshot, *, wait: bool, last: bool) -> None:
        """See ``commit``.

        Without ``wait`` it is uploaded beside training, unless an earlier upload is in progress.
        If it could not be stored, a warning says so; what would fail again fails the next commit.
        """
        step = snapshot.checkpoint.step
        if self.run.cluster.rank == 0:
            self._trace()
            job = functools.partial(self._store, snapshot, last=last)
            if wait:
                self.uploader.finish(job)
            elif not self.uploader.submit(job):
                return  # an earlier one is in progress
        self._saved = step

    def _store(self, snapshot: Snapshot, *, last: bool) -> None:
        kept, metrics, config = snapshot.checkpoint, snapshot.metrics, self.run.config
        check_finite(kept.arrays, kept.step, self.run)
        self.run.keep_folder()
        # Metrics first: no checkpoint exists without the metrics up to its step.
        self.run.storage.replace(run_folder.METRICS, run_folder.lines(metrics))
        checkpoint.commit(self.run.storage, kept)
        tell_parent(event="committed", step=kept.step)
        if config.metrics_port:
            self._tell_goodput(metrics)
        best = checkpoint.best_step(kept.validations) if config.keep_best else None
        checkpoint.prune(self.run.storage, kept.step, config.keep_checkpoints, best)
        if self.events:
            self.events.write(metrics, kept.arrays, snapshot.validated, last=last)

    def _tell_goodput(self, metrics: list[dict[str, Any]]) -> None:
        if sum("time" in line for line in metrics) < 2:
            return  # of a single chunk nobody can tell how much of it was compiling
        with contextlib.suppress(UserError):
            if found := goodput.of_folder(self.run.storage, metrics, 0.0):
                tell_parent(
                    event="goodput", share=found.share, productive=found.productive, lost=found.lost
                )

    def _trace(self) -> None:
        """Give the events the model's graph; Keras traces on one thread only."""
        if self.events and self.events.wants_graph:
            self.events.wants_graph = False
            with contextlib.suppress(Exception):  # a user's model that needs its own loop
                self.events.graph = self._loop.graph()

    def rescue(self) -> int | None:
        """Commit the last finished chunk unless it is stored, from any thread.

        No chunk is finished after this call: what it commits is the last one that was reported,
        and a second call waits until the process ends. The metrics go into an object of this
        rank's own, because another worker may be ahead of it.

        Returns:
            The chunk's last step, or None if no chunk was finished.

        Raises:
            ConfigError: it holds NaN or infinity; another run has taken the folder.
            UnavailableError: it could not be stored.
        """
        self._lock.acquire()  # for good: whoever wants it from here on waits for the process's end
        snapshot = self._finished
        if snapshot is None:
            return None
        storage, step = self.run.storage, snapshot.checkpoint.step
        check_finite(snapshot.checkpoint.arrays, step, self.run)
        self.run.keep_folder()
        if step not in checkpoint.steps(storage):
            metrics = run_folder.lines(snapshot.metrics)
            storage.replace(run_folder.rank_metrics(self.run.cluster.rank), metrics)
            checkpoint.commit(storage, snapshot.checkpoint)
        tell_parent(event="committed", step=step)
        return step
