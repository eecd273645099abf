"""Trains one run on one worker, from its newest checkpoint to its result."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer import schedule
from trainer.config import TrainConfig
from trainer.data import sampler
from trainer.data.dataset import Dataset
from trainer.errors import CorruptError, PeerLostError, StoppedError
from trainer.runs import run_folder
from trainer.train import (
    all_reduce,
    devices,
    lost_peer,
    models,
    optimizers,
    result,
    step_breakdown,
    validation,
)
from trainer.train.all_reduce import AllReduce
from trainer.train.announce import announce
from trainer.train.batches import Batches
from trainer.train.loop import Loop
from trainer.train.own_model import Warn
from trainer.train.replicas import Replicas
from trainer.train.resume import resume
from trainer.train.run import Run
from trainer.train.saver import Saver
from trainer.train.scoring import Scorer
from trainer.train.slow_ranks import SlowRanks
from trainer.train.state import TrainState, check_losses
from trainer.train.weight_digests import WeightDigests
from trainer.worker_events import AT_THE_STORE, TRAINING, Pulse, tell_parent


class Trainer:
    """Trains one run on one worker.

    Raises:
        ConfigError: the batch does not fit the data or the devices, or the model cannot be built.
        PeerLostError: a peer was lost.
        UnavailableError: a peer was not reached.
    """

    def __init__(self, run: Run) -> None:
        config, dataset = run.config, run.dataset
        self.run = run
        replicas = Replicas(devices.make_strategy(run.cluster))
        schedule.check_batch(config.batch_size, dataset.samples, replicas.count)
        with lost_peer.stop_if_lost(run.cluster):
            self.all_reduce = (
                all_reduce.join(run.cluster, replicas.gather, devices.sent_as(config))
                if devices.is_tcp_used(config, replicas)
                else None
            )
        if self.all_reduce:
            replicas.exchange = self.all_reduce.gather
        self.loop = assemble(config, dataset, replicas, self.all_reduce, run.warn)
        self.batches = Batches(run, self.loop)
        self.scorer = Scorer(run.cluster, dataset, self.loop, self.batches)
        self.digests = WeightDigests(run.cluster)
        self.saver = Saver(run, self.loop, self.digests)
        self.slow_ranks = SlowRanks(run.cluster, self.all_reduce, run.reporter)

    def train(self, stop: threading.Event, started: float, *, first: bool = True) -> dict[str, Any]:
        """Train from the newest checkpoint to the end, or until ``stop``, and return the result.

        ``started``: when the run began, seconds since the epoch; ``first``: whether this is the
        first attempt of this command.

        Raises:
            StoppedError: asked to stop.
            PeerLostError: a peer was lost.
            ConfigError: the loss became NaN or infinite.
            UnavailableError: the result could not be stored.
        """
        with self._guarded():
            tell_parent(event="joined")
            at = resume(self.run, self.loop)
            announce(self.run, self.loop, at.step, started, first=first)
            self.saver.start(at.step)
            while not validation.is_over(self.run, at):
                with self.loop.replicas.heartbeat.doing(TRAINING):
                    stopping = self._run_chunk(at, stop)
                    due = validation.is_due(self.run, at.step)
                    best = due and validation.validate(self.run, at, self.scorer)
                self.saver.finish_chunk(at)
                self.saver.commit_if_due(best=best)
                if stopping or (self.loop.replicas.count == 1 and stop.is_set()):
                    self._stop(at)
            self._commit_last()
            final = result.finish(self.run, self.loop, self.scorer, at, self.saver.events, started)
            self._store(final)
            return final

    def pulse(self) -> Pulse:
        """Return the current work and progress, from any thread."""
        summing = self.all_reduce.summing if self.all_reduce else None
        return self.loop.replicas.heartbeat.pulse(summing)

    def flip(self) -> None:
        """Get a wrong bit into this rank's next sum, as ``chaos`` asks."""
        if self.all_reduce:
            self.all_reduce.flip = True

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Stop if a peer is lost, and close what is open."""
        try:
            with lost_peer.stop_if_lost(self.run.cluster, self.all_reduce, self.saver.rescue):
                yield
        finally:
            self.batches.close()
            if self.all_reduce:
                self.all_reduce.close()

    def _run_chunk(self, at: TrainState, stop: threading.Event) -> bool:
        """Run the next chunk of steps; return whether a worker was asked to stop before it."""
        run, config, began = self.run, self.run.config, time.perf_counter()
        first, end = at.step, self.batches.chunk_end(at.step)
        count = end - first
        with self.loop.replicas.heartbeat.doing(AT_THE_STORE):
            indices, data = self.batches.take(first, count)
        clock = step_breakdown.Clock(self.all_reduce)
        at.tensors, chunk = self.loop.run_chunk(
            at.tensors,
            indices,
            schedule.learning_rates(config, run.total, first, count),
            sampler.seeds(config.seed, first, count, self.loop.generators),
            first,
            stop.is_set(),
            data,
        )
        seconds = time.perf_counter() - began
        if not np.isfinite(chunk.losses).all():  # whose weights are wrong now, if anybody's?
            self.digests.begin(end, self.loop.named(self.loop.on_host(at.tensors)))
        is_first = self.saver.finished_step is None
        parts, digests = clock.read(self.digests.mine(), single_steps=is_first)
        if slow := self.slow_ranks.look(parts):
            parts["slow"] = slow
        if parts and run.cluster.members:
            parts["ranks"] = [*run.cluster.members]
        self._compare(digests)
        check_losses(chunk.losses, first, run)
        self.saver.commit_agreed()
        at.add_chunk(run, chunk.losses, chunk.accuracies, seconds, parts)
        return chunk.stop

    def _compare(self, digests: Any = None) -> None:
        """Check that all ranks agree on the state of which each has begun a digest last.

        Where the digests of all ranks are not known, the ranks exchange them now.

        Raises:
            CorruptError, PeerLostError: they do not agree.
        """
        if self.run.cluster.workers == 1:
            return
        if digests is None:
            digests = self.loop.replicas.gather(self.digests.mine())
        try:
            self.digests.check(digests)
        except (CorruptError, PeerLostError):
            self.saver.discard()
            lost_peer.meet(self.loop.replicas)  # so that all have discarded it before one leaves
            raise

    def _commit_last(self) -> None:
        """Store the last finished chunk, once all ranks agree on it."""
        self._compare()
        self.saver.commit_agreed()
        self.saver.commit(last=True)

    def _stop(self, at: TrainState) -> None:
        """Store the last chunk, wait for the other workers, and raise StoppedError."""
        self._commit_last()
        lost_peer.meet(self.loop.replicas)
        raise StoppedError(
            f"stopped at step {at.step} of {self.run.total}; the same command resumes from there"
        )

    def _store(self, final: dict[str, Any]) -> None:
        """Store the result, and return once it is there.

        Raises:
            PeerLostError: a peer was lost before.
            ConfigError: another run has taken the folder.
        """
        storage = self.run.storage
        if self.run.cluster.rank == 0:
            self.run.keep_folder()
            storage.replace(run_folder.RESULT, run_folder.pretty(final))
        if not (lost_peer.meet(self.loop.replicas) or run_folder.has(storage, run_folder.RESULT)):
            raise PeerLostError("lost a peer before the result was stored")


def assemble(
    config: TrainConfig,
    dataset: Dataset,
    replicas: Replicas,
    all_reduce: AllReduce | None = None,
    warn: Warn = lambda _: None,
) -> Loop:
    """Return the loop over a dataset.

    The loop's indices count training (unless in shards), then validation, then test images.

    Raises:
        ConfigError: the model cannot be built.
    """
    model = models.build(config, dataset.input_shape, dataset.classes, warn)
    splits = (dataset.train, dataset.validation, dataset.test)
    return Loop(
        replicas,
        model,
        optimizers.create(config),
        np.concatenate([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
        chunk_steps=config.chunk_steps,
        xla=devices.is_xla_used(config, model, replicas.strategy),
        label_smoothing=config.label_smoothing,
        reordered=devices.is_reordered(config),
        microbatches=devices.microbatches_of(config),
        all_reduce=all_reduce,
    )
