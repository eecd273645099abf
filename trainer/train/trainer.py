"""One training run, from its configuration to its result."""

import contextlib
import hashlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

import trainer
from trainer import metrics, steps
from trainer.cluster import Cluster
from trainer.config import TrainConfig
from trainer.data import sampler, stream
from trainer.data.dataset import Dataset, Split
from trainer.errors import ConfigError, DataError, PeerLostError, StoppedError, UnavailableError
from trainer.metrics import Score
from trainer.progress import Reporter
from trainer.runs import checkpoint, event_log, predictions, run_folder
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.event_log import EventLog, Scored
from trainer.runs.predictions import Predictions
from trainer.status import AT_THE_STORE, EVALUATING, GATHERING, TRAINING, Pulse, tell_parent
from trainer.storage.base import Storage
from trainer.train import devices, models, optimizers
from trainer.train.all_reduce import Ring, RingError, RingUnreachableError
from trainer.train.loop import ChunkResult, Data, Loop, State

# What TensorFlow raises on a worker whose peer is gone.
PEER_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

Arrays = dict[str, npt.NDArray[Any]]


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        step: steps done.
        state: after them.
        validations: (step, accuracy) of every one so far.
        records: lines of metrics.jsonl.
        told: how many of the records the reporter has got.
        train_seconds: inside of chunks, over all attempts.
        validated: the newest validation of this attempt.
    """

    step: int
    state: State
    validations: list[tuple[int, float]]
    records: list[dict[str, Any]] = field(default_factory=list)
    told: int = 0
    train_seconds: float = 0.0
    validated: Scored | None = None


@dataclass(frozen=True)
class Snapshot:
    """The end of a finished chunk: its checkpoint, how many of the records, what was validated."""

    checkpoint: Checkpoint
    records: list[dict[str, Any]]
    count: int
    validated: Scored | None


class Trainer:
    """The parts of one run on one worker, and the straight line through them."""

    def __init__(
        self,
        config: TrainConfig,
        cluster: Cluster,
        dataset: Dataset,
        storage: Storage,
        config_digest: str,
        reporter: Reporter,
    ) -> None:
        self.config = config
        self.cluster = cluster
        self.dataset = dataset
        self.storage = storage
        self.config_digest = config_digest
        self.reporter = reporter
        strategy = devices.make_strategy(cluster)
        steps.check_batch(config.batch_size, dataset.samples, strategy.num_replicas_in_sync)
        self.loop, self.names = assemble(config, dataset, strategy)
        samples = dataset.samples
        self.total = steps.total_steps(samples, config.batch_size, config.epochs, config.steps)
        self.eval_steps = (
            max(1, round(config.eval_epochs * samples / config.batch_size))
            if config.eval_epochs and len(dataset.validation.labels)
            else 0
        )
        self._stream = stream.Stream(dataset.shards, config, self.total) if dataset.shards else None
        self._shared: tuple[stream.Buffer, Data] | None = None
        self.uploader = checkpoint.Uploader(reporter.warn)
        self._events: EventLog | None = None
        self._work, self._done = AT_THE_STORE, set[str]()
        self._finished: Snapshot | None = None
        self._finishing = threading.Lock()

    def train(self, stop: threading.Event, started: float, *, first: bool = True) -> dict[str, Any]:
        """Train from the newest checkpoint to the end and return the result.

        Args:
            stop: set when the run shall stop at the end of a chunk.
            started: when the run began, seconds since the epoch.
            first: whether nobody has told yet what is trained.

        Raises:
            StoppedError: asked to stop, or a peer was lost.
            ConfigError: the loss became NaN or infinite.
            UnavailableError: the result could not be stored.
        """
        try:
            return self._train(stop, started, first)
        except (*PEER_LOST, RingError, tf.errors.UnknownError) as error:
            why = self._lost_peer(error)
            if why is None:
                raise
            step = self.rescue()
            when = f"after step {step}" if step is not None else "before its first chunk"
            raise PeerLostError(
                f"lost a peer ({why}) {when}; the same command resumes from there"
            ) from None
        finally:
            if self._stream:
                self._stream.close()
            if self.loop.ring:
                self.loop.ring.close()

    def _train(self, stop: threading.Event, started: float, first: bool) -> dict[str, Any]:
        if self._wants_ring():
            self.loop.ring = self._join_ring()
        tell_parent(event="joined")
        at = self._restore()
        self._announce(at, first)
        if self.cluster.rank == 0:
            self._events = event_log.open_log(
                self.storage, self.config, self.total, at.step, self.reporter.warn
            )
        saved = at.step
        while at.step < self.total and not self._enough(at):
            with self._at(TRAINING):
                chunk = self._advance(at, stop)
                better = self._validate(at) if self._is_validation(at.step) else False
            self._finish_chunk(at)
            if better and self.config.keep_best:
                self._commit(wait=True)
                saved = at.step
            elif at.step - saved >= self.config.checkpoint_steps and self._commit():
                saved = at.step
            if chunk.stop or (self.loop.replicas == 1 and stop.is_set()):
                self._commit(wait=True, last=True)
                self._meet()
                raise StoppedError(
                    f"stopped at step {at.step} of {self.total}; "
                    "the same command goes on from there"
                )
        self._commit(wait=True, last=True)
        result = self._result(self._selected(at), at, started)
        if self.cluster.rank == 0:
            self.storage.replace(run_folder.RESULT, run_folder.pretty(result))
        stored = self._meet() or any(
            e.name == run_folder.RESULT for e in self.storage.list(run_folder.RESULT)
        )
        if not stored:
            raise PeerLostError("lost a peer before the result was stored")
        return result

    def _lost_peer(self, error: Exception) -> str | None:
        """Return how a peer was lost, or None where the error means something else."""
        if self.cluster.workers == 1:
            return None
        if isinstance(error, PEER_LOST):
            return type(error).__name__
        if isinstance(error, RingError):
            return str(error)
        # What the ring raises inside of the graph comes out of it as an unknown error.
        broken = self.loop.ring.error if self.loop.ring else None
        return str(broken) if broken else None

    def _wants_ring(self) -> bool:
        """Whether gradients are summed by our own ring, see benchmarks/results.md.

        GPUs have NCCL, and a ring needs a neighbour.
        """
        if self.loop.replicas == 1 or self.loop.local_replicas > 1:
            return False
        return self.config.all_reduce == "ring" or (
            self.config.all_reduce == "auto" and not devices.on_gpus()
        )

    def _join_ring(self) -> Ring:
        """Return this worker's place in the ring, once all have theirs.

        Raises:
            RingError: a neighbour was lost meanwhile.
            UnavailableError: a neighbour was not reached, though it had joined the gang and the
                roll call misses nobody: another try would meet the same wall.
        """
        gang = self.cluster
        try:
            return Ring(gang.rank, gang.hosts, gang.ring_address, self.loop.gather)
        except RingUnreachableError as error:
            raise UnavailableError(str(error)) from None

    def pulse(self) -> Pulse:
        """Return what is done now and how far it is, from any thread."""
        gathering, count = self.loop.gathering, self.loop.progress()
        if gathering is not None:
            return Pulse(GATHERING, count, waits=count == gathering)
        if self.loop.ring:
            waits = self.loop.ring.summing
        else:  # TensorFlow's collectives do not tell
            waits = self._work == TRAINING and self.cluster.workers > 1
        return Pulse(self._work, count, waits, first=self._work not in self._done)

    @contextlib.contextmanager
    def _at(self, work: str) -> Iterator[None]:
        before, self._work = self._work, work
        try:
            yield
            self._done.add(work)
        finally:
            self._work = before

    @property
    def finished_step(self) -> int | None:
        """The step at the end of the last chunk finished in this attempt, if there is one."""
        return self._finished.checkpoint.step if self._finished else None

    def rescue(self) -> int | None:
        """Commit the last finished chunk unless it is stored, from any thread.

        No chunk is finished after it, so that what it commits is the last one that anybody was
        told of; a second call waits for the process to end. The checkpoint's bytes are the same
        on every worker, so it does not matter which of them do this. The metrics go into an
        object of this rank's own: another worker may be ahead of it.

        Returns:
            The chunk's last step, or None if no chunk was finished.

        Raises:
            ConfigError: it holds NaN or infinity.
            UnavailableError: it could not be stored.
        """
        self._finishing.acquire()
        kept = self._finished
        if kept is None:
            return None
        step = kept.checkpoint.step
        check_finite(kept.checkpoint.arrays, step, self.config, self.storage)
        if step not in checkpoint.steps(self.storage):
            records = run_folder.lines(kept.records[: kept.count])
            self.storage.replace(run_folder.rank_metrics(self.cluster.rank), records)
            checkpoint.commit(self.storage, kept.checkpoint)
        tell_parent(event="committed", step=step)
        return step

    def _meet(self) -> bool:
        """Wait for the others before leaving: a worker that ends breaks a collective under way.

        That includes this one, which some may have finished while others still fetch its
        parts, so a peer lost here need not be a loss.

        Returns:
            Whether all came.
        """
        try:
            self.loop.gather(np.zeros(1, np.int64))
        except PEER_LOST:
            return False
        return True

    def _restore(self) -> Position:
        """Start from the checkpoint that rank 0 picks, the same on every worker."""
        fresh = self.loop.initial_state()
        like = named(fresh, self.names)
        found = None
        if self.cluster.rank == 0:
            found = checkpoint.newest_good(
                self.storage, like, self.config_digest, self.reporter.warn
            )
        step = int(self.loop.gather(np.array([found.step if found else 0]))[0, 0])
        if step and found is None:
            found = self._load_agreed(step, like)
        state = unnamed(found.arrays, fresh, self.names) if found else fresh
        self._agree(weights_sha256(state), "start from")
        records = run_folder.read_metrics(self.storage, step, self.reporter.warn)
        tell_parent(event="resumed", step=step)
        return Position(
            step=step,
            state=self.loop.place(state),
            validations=list(found.validations) if found else [],
            records=records,
            told=len(records),
            train_seconds=records[-1].get("train_seconds", 0.0) if records else 0.0,
        )

    def _load_agreed(self, step: int, like: Arrays) -> Checkpoint:
        try:
            return checkpoint.load(self.storage, step, like, self.config_digest)
        except DataError as error:  # another gang pruned it since rank 0 read it, or it went bad
            raise StoppedError(f"could not read what rank 0 had read: {error}") from None

    def _agree(self, digest: str, verb: str) -> None:
        """Check that all workers have weights of this digest.

        Raises:
            UnavailableError: some have others.
        """
        words = self.loop.gather(np.array([int(digest[:15], 16)]))[:, 0]
        if other := np.flatnonzero(words != words[0]).tolist():
            raise UnavailableError(
                f"workers {verb} different weights: rank {other[0]} has {words[other[0]]:015x}, "
                f"rank 0 {words[0]:015x}; run the same image and settings on all of them"
            )

    def _announce(self, at: Position, first: bool) -> None:
        """Tell what is trained, and the batch arithmetic, or where it goes on."""
        if first:
            self._announce_plan()
        if at.step or not first:
            self.reporter.say(f"resuming at step {at.step}", event="resumed", step=at.step)

    def _announce_plan(self) -> None:
        samples, batch = self.dataset.samples, self.config.batch_size
        self.reporter.say(
            f"{self.config.model or self.config.preset}: {self.total} steps in "
            f"{self.total * batch / samples:.2f} epochs of {samples:,} images "
            f"({samples / batch:,.1f} steps an epoch)",
            event="started",
            steps=self.total,
        )
        self.reporter.say(
            f"batch: {batch} images a step = {self.loop.replicas} x "
            f"{batch // self.loop.replicas}, workers: {self.cluster.workers}",
            batch_size=batch,
            replicas=self.loop.replicas,
            workers=self.cluster.workers,
        )
        device = "GPU" if devices.on_gpus() else "CPU"
        parts, all_reduce = self.loop.parts, "ring" if self.loop.ring else "TensorFlow"
        layers = "reordered" if self.loop.reordered else "keras"
        threads = devices.threads(parts)
        self.reporter.say(
            f"device: {device}, threads: {threads}, XLA: {'on' if self.loop.xla else 'off'}"
            + f", layers: {layers}"
            + (f" in {parts} parts" if parts > 1 else "")
            + (f", all-reduce: {all_reduce}" if self.cluster.workers > 1 else ""),
            device=device,
            threads=threads,
            xla=self.loop.xla,
            layers=layers,
            parts=parts,
        )

    def _advance(self, at: Position, stop: threading.Event) -> ChunkResult:
        """Run the next chunk of steps."""
        config, began = self.config, time.perf_counter()
        end = steps.chunk_end(at.step, self.total, config.chunk_steps, self.eval_steps)
        if self._stream:
            end = min(end, self._stream.end(at.step))
        count = end - at.step
        with self._at(AT_THE_STORE):
            indices, data = self._batches(at.step, count)
        state, chunk = self.loop.run_chunk(
            at.state,
            indices,
            steps.learning_rates(config, self.total, at.step, count),
            sampler.seeds(config.seed, at.step, count, self.loop.generators),
            at.step,
            stop.is_set(),
            data,
        )
        seconds = time.perf_counter() - began
        check_losses(chunk.losses, at.step, config, self.storage)
        at.step, at.state, at.train_seconds = end, state, at.train_seconds + seconds
        self._record(
            at,
            loss=float(chunk.losses.mean()),
            accuracy=float(chunk.accuracies.mean()),
            images_per_second=count * config.batch_size / seconds,
        )
        return chunk

    def _batches(self, first: int, count: int) -> tuple[sampler.Indices, Data | None]:
        """Return the samples of a chunk of steps, and what they are rows of unless the loop's."""
        if self._stream is None:
            samples, batch = self.dataset.samples, self.config.batch_size
            return sampler.batches(self.config.seed, samples, batch, first, count), None
        buffer, indices = self._stream.batches(first, count)
        if self._shared is None or self._shared[0] is not buffer:  # windows take turns in two
            self._shared = buffer, self.loop.share(*buffer)
        return indices, self._shared[1]

    def _is_validation(self, step: int) -> bool:
        return bool(self.eval_steps) and (step % self.eval_steps == 0 or step == self.total)

    def _validate(self, at: Position) -> bool:
        """Score the validation split and return whether it is the best so far."""
        split = self.dataset.validation
        at.validated = Scored(at.step, self.logits(at.state, split), split)
        score = metrics.score(at.validated.logits, split.labels)
        at.validations.append((at.step, score.accuracy))
        self._record(at, validation_accuracy=score.accuracy, validation_loss=score.loss)
        return checkpoint.best_step(at.validations) == at.step

    def _enough(self, at: Position) -> bool:
        """Return whether early stopping ends the run here."""
        best = checkpoint.best_step(at.validations)
        since = [step for step, _ in at.validations if best is not None and step > best]
        return 0 < self.config.early_stopping <= len(since)

    def _record(self, at: Position, **figures: float) -> None:
        epoch = at.step * self.config.batch_size / self.dataset.samples
        at.records.append(
            {
                "step": at.step,
                "epoch": round(epoch, 4),
                **figures,
                "train_seconds": round(at.train_seconds, 3),
            }
        )

    def _finish_chunk(self, at: Position) -> None:
        """Keep what a fault from here on must not lose."""
        kept = Checkpoint(
            step=at.step,
            arrays=named(self.loop.host_copy(at.state), self.names),
            config_digest=self.config_digest,
            validations=tuple(at.validations),
        )
        with self._finishing:
            self._finished = Snapshot(kept, at.records, len(at.records), at.validated)
            for record in at.records[at.told :]:
                self.reporter.step(record, self.total)
            at.told = len(at.records)
            tell_parent(event="step", step=at.step)

    def _commit(self, *, wait: bool = False, last: bool = False) -> bool:
        """Store the last finished chunk; return False if an earlier one is still on its way."""
        snapshot = self._finished
        if self.cluster.rank != 0 or snapshot is None:
            return True
        kept = snapshot.checkpoint
        check_finite(kept.arrays, kept.step, self.config, self.storage)
        spare = checkpoint.best_step(kept.validations) if self.config.keep_best else None
        records = snapshot.records[: snapshot.count]
        self._trace()

        def job() -> None:
            # Metrics first: no checkpoint is there without the figures up to its step.
            self.storage.replace(run_folder.METRICS, run_folder.lines(records))
            checkpoint.commit(self.storage, kept)
            tell_parent(event="committed", step=kept.step)
            checkpoint.prune(self.storage, kept.step, self.config.keep_checkpoints, spare)
            if self._events:
                self._events.write(records, kept.arrays, snapshot.validated, last=last)

        if wait:
            self.uploader.finish(job)
            return True
        return self.uploader.submit(job)

    def _trace(self) -> None:
        """Hand over the model's graph where it is wanted; Keras traces on one thread only."""
        if self._events and self._events.wants_graph:
            self._events.wants_graph = False
            with contextlib.suppress(Exception):  # a model of the user's that needs its own loop
                self._events.graph = self.loop.graph()

    def _selected(self, at: Position) -> Position:
        """Return the position whose weights the run ends with."""
        best = checkpoint.best_step(at.validations)
        if not self.config.keep_best or best is None or best == at.step:
            return at
        like = self.loop.initial_state()
        found = checkpoint.load(self.storage, best, named(like, self.names), self.config_digest)
        state = self.loop.place(unnamed(found.arrays, like, self.names))
        return Position(best, state, list(found.validations))

    def logits(self, state: State, split: Split) -> npt.NDArray[np.float32]:
        """Return the logits of a whole split, [n, classes], the same on every worker."""
        first = self._offset(split)
        return self._logits(state, np.arange(first, first + len(split.labels), dtype=np.int32))

    def _logits(
        self, state: State, indices: sampler.Indices, data: Data | None = None
    ) -> npt.NDArray[np.float32]:
        shares = np.array_split(indices, self.cluster.workers)
        with self._at(EVALUATING):
            mine = self.loop.logits(state, shares[self.cluster.rank], data)
        longest = len(shares[0])
        padded = np.pad(mine, ((0, longest - len(mine)), (0, 0)))
        parts = self.loop.gather(padded.ravel()).reshape(len(shares), longest, -1)
        return np.concatenate([part[: len(s)] for part, s in zip(parts, shares, strict=True)])

    def score(self, state: State, split: Split) -> Score:
        """Return exact figures over a whole split, the same on every worker."""
        return metrics.score(self.logits(state, split), split.labels)

    def _score_training(self, state: State) -> tuple[float, int]:
        """Return accuracy on training images, and on how many: all, or the first shards'."""
        if self._stream is None:
            return self.score(state, self.dataset.train).accuracy, self.dataset.samples
        right = images = 0
        for buffer, count in self._stream.sample():
            rows = np.arange(count, dtype=np.int32)
            logits = self._logits(state, rows, self.loop.share(*buffer))
            right += int((logits.argmax(axis=1) == buffer.labels[:count]).sum())
            images += count
        return right / images, images

    def _offset(self, split: Split) -> int:
        before = {
            id(self.dataset.train): 0,
            id(self.dataset.validation): len(self.dataset.train.labels),
            id(self.dataset.test): len(self.dataset.train.labels)
            + len(self.dataset.validation.labels),
        }
        return before[id(split)]

    def _describe(self, test: Predictions) -> None:
        """Store what readers without TensorFlow need to know of the model."""
        self.storage.delete(run_folder.REPORT)  # one that was made halfway tells less
        self.storage.replace(run_folder.PREDICTIONS, predictions.encode(test))
        try:
            architecture = self.loop.architecture()
        except Exception:  # a model of the user's that Keras cannot describe
            return
        self.storage.replace(run_folder.ARCHITECTURE, architecture.encode())

    def _result(self, chosen: Position, at: Position, started: float) -> dict[str, Any]:
        """Score the final weights on every split, and store what they say of the test images."""
        logits = self.logits(chosen.state, self.dataset.test)
        test = metrics.score(logits, self.dataset.test.labels)
        if self.cluster.rank == 0:
            images, labels = self.dataset.test.images, self.dataset.test.labels
            digest = predictions.images_sha256(images)
            self._describe(Predictions(chosen.step, digest, logits, labels))
            if self._events:
                self._events.finish(at.records, Scored(chosen.step, logits, self.dataset.test))
        train_accuracy, train_images = self._score_training(chosen.state)
        result: dict[str, Any] = {
            "preset": self.config.preset,
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "train_accuracy": train_accuracy,
            "train_accuracy_images": train_images,
        }
        if len(self.dataset.validation.labels):
            result["validation_accuracy"] = self.score(
                chosen.state, self.dataset.validation
            ).accuracy
        digest = weights_sha256(self.loop.host_copy(chosen.state))
        self._agree(digest, "ended with")
        samples = self.dataset.samples
        return result | {
            "steps": at.step,
            "selected_step": chosen.step,
            "epochs": round(at.step * self.config.batch_size / samples, 4),
            "train_seconds": round(at.train_seconds, 3),
            "wall_seconds": round(time.time() - started, 3),
            "images_per_second": round(
                at.step * self.config.batch_size / max(at.train_seconds, 1e-9), 1
            ),
            "weights_sha256": digest,
            "workers": self.cluster.workers,
            "replicas": self.loop.replicas,
            "versions": {
                "trainyard": trainer.__version__,
                "tensorflow": tf.__version__,
                "python": sys.version.split()[0],
                "numpy": np.__version__,
            },
        }


def assemble(config: TrainConfig, dataset: Dataset, strategy: Any) -> tuple[Loop, list[str]]:
    """Return the loop over a dataset, and the names of the state's tensors.

    The loop's indices count training (unless in shards), then validation, then test images.

    Raises:
        ConfigError: the model cannot be built.
    """
    model = models.build(config, dataset.input_shape, dataset.classes)
    optimizer = optimizers.create(config)
    splits = (dataset.train, dataset.validation, dataset.test)
    loop = Loop(
        strategy,
        model,
        optimizer,
        np.concatenate([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
        chunk_steps=config.chunk_steps,
        xla=devices.is_xla_faster(model, strategy) if config.xla == "auto" else config.xla == "on",
        label_smoothing=config.label_smoothing,
        reordered=devices.is_reordered(config),
        parts=devices.parts_of(config),
    )
    parameters = [variable.path for variable in model.trainable_variables]
    names = [f"parameters/{path}" for path in parameters]
    names += [f"{slot}/{path}" for path in parameters for slot in optimizer.slots]
    names += [f"buffers/{variable.path}" for variable in model.non_trainable_weights]
    assert len(set(names)) == len(names), "variable paths must be unique"
    return loop, names


def named(state: State, names: list[str]) -> Arrays:
    """Return a state of numpy arrays by name."""
    return dict(zip(names, tf.nest.flatten(state), strict=True))


def unnamed(arrays: Mapping[str, npt.NDArray[Any]], like: State, names: list[str]) -> State:
    """Return named arrays as a state; the inverse of ``named``."""
    state: State = tf.nest.pack_sequence_as(like, [arrays[name] for name in names])
    return state


def weights_sha256(state: State) -> str:
    """Return the SHA-256 over parameters and buffers, in the order of the model's variables."""
    weights = (*state.parameters, *state.buffers)
    return hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in weights)).hexdigest()


def check_losses(
    losses: npt.NDArray[np.float32], first: int, config: TrainConfig, storage: Storage
) -> None:
    """Check the losses of steps first, first + 1, ...

    Raises:
        ConfigError: one is NaN or infinite. Another try would repeat it bit by bit.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise _diverged(f"loss became {losses[bad[0]]}", first + int(bad[0]) + 1, config, storage)


def check_finite(
    arrays: Mapping[str, npt.NDArray[Any]], step: int, config: TrainConfig, storage: Storage
) -> None:
    """Check every tensor of a state before it is stored.

    Raises:
        ConfigError: one holds NaN or infinity.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise _diverged(f"tensor {name} became NaN or infinite", step, config, storage)


def _diverged(what: str, step: int, config: TrainConfig, storage: Storage) -> ConfigError:
    return ConfigError(
        f"{what} at step {step}; lower learning_rate ({config.learning_rate}); "
        f"the last good checkpoint stays in {storage.uri}/{checkpoint.PREFIX}"
    )
