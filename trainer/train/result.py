"""The end of a run: its final weights, their scores, and what its folder says of them."""

import contextlib
import resource
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf

import trainer
from trainer import classification, presets
from trainer.common import cpu
from trainer.common.text import plural
from trainer.errors import UserError
from trainer.runs import checkpoint, goodput, predictions, reader, run_folder
from trainer.runs.predictions import Predictions
from trainer.runs.tensorboard_writer import EventLog, Scored
from trainer.train.loop import Loop
from trainer.train.resume import agree
from trainer.train.run import Run
from trainer.train.scoring import Scorer
from trainer.train.state import State, TrainState, weights_sha256

LARGEST_GAP = 0.2  # of accuracies on training images, in training and at the end


def finish(
    run: Run, loop: Loop, scorer: Scorer, at: TrainState, events: EventLog | None, started: float
) -> dict[str, Any]:
    """Score the final weights on every split, store their predictions, and return the result.

    ``started``: when the run began, seconds since the epoch.

    Raises:
        UnavailableError: the workers' weights differ, or the store was not reached.
    """
    step, tensors = _selected(run, loop, at)
    test, split = run.dataset.test, run.dataset.validation
    scored = Scored(step, scorer.logits(tensors, test), test)
    validated = Scored(step, scorer.logits(tensors, split), split) if len(split.labels) else None
    if run.cluster.rank == 0:
        _describe(run, loop, scored)
        if events:
            # A run that has validated before has events of that.
            events.finish(at.records, scored, None if at.validations else validated)
    scores = _scores(scorer.training_accuracy(tensors), scored, validated)
    if step == at.step:
        _warn_of_averages(run, loop, at, scores["train_accuracy"])
    result = presets.named(run.config.model_dump()) | scores
    digest = weights_sha256(loop.on_host(tensors))
    agree(run.cluster, loop.replicas, digest, "ended with")
    trained = at.step * run.config.batch_size
    usage = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    seconds = usage.ru_utime + usage.ru_stime
    sizes = {"sizes": _sizes(run)} if run.config.min_workers and run.cluster.rank == 0 else {}
    used = np.array([usage.ru_maxrss * scale, round(1000 * seconds)], np.int64)
    return result | {
        "steps": at.step,
        "selected_step": step,
        "epochs": run.epochs(at.step),
        "train_seconds": round(at.train_seconds, 3),
        "wall_seconds": round(time.time() - started, 3),
        "images_per_second": round(trained / max(at.train_seconds, 1e-9), 1),
        **_goodput(run, at),
        "weights_sha256": digest,
        "workers": run.cluster.workers,
        **sizes,
        "replicas": loop.replicas.count,
        "ranks": [
            {
                "rank": run.cluster.name(rank),
                "peak_memory_bytes": int(peak),
                "cpu_seconds": int(milliseconds) / 1000,
            }
            for rank, (peak, milliseconds) in enumerate(loop.replicas.gather(used))
        ],
        "versions": {
            "trainyard": trainer.__version__,
            "tensorflow": tf.__version__,
            "python": sys.version.split()[0],
            "numpy": np.__version__,
        },
        "processor": cpu.describe(),  # of rank 0
    }


def _sizes(run: Run) -> list[dict[str, int]]:
    """Return how many workers trained from which step on; empty where that is not known."""
    with contextlib.suppress(UserError):
        found = reader.sizes(reader.attempts(run.storage), run.cluster.workers)
        return [{"step": step, "workers": workers} for step, workers in found]
    return []


def _goodput(run: Run, at: TrainState) -> dict[str, Any]:
    """Return where the time since the first start went, on rank 0 and where it is known."""
    if run.cluster.rank > 0:
        return {}
    with contextlib.suppress(UserError):
        found = goodput.of_folder(run.storage, at.records, time.time())
        return found.record() if found else {}
    return {}


def _selected(run: Run, loop: Loop, at: TrainState) -> tuple[int, State]:
    """Return the step and the tensors that the run ends with."""
    best = checkpoint.best_step(at.validations)
    if not run.config.keep_best or best is None or best == at.step:
        return at.step, at.tensors
    template = loop.named(loop.initial_state())
    found = checkpoint.load(run.storage, best, template, run.config_digest)
    return best, loop.place(loop.unnamed(found.arrays))


def _warn_of_averages(run: Run, loop: Loop, at: TrainState, accuracy: float) -> None:
    """Warn if batch normalization makes the model worse than it was in the last chunk."""
    last = next((each["accuracy"] for each in reversed(at.records) if "accuracy" in each), 0.0)
    normalizes = any(layer["type"] == "BatchNormalization" for layer in loop.layers())
    if normalizes and last - accuracy > LARGEST_GAP:
        run.warn(
            f"accuracy on the training images: {accuracy:.2%} with the final weights, but "
            f"{last:.2%} in the last chunk of steps: predictions use moving averages of batch "
            f"normalization, which lag behind after only {plural(at.step, 'step')}; train for more"
        )


def _scores(
    training: tuple[float, int], tested: Scored, validated: Scored | None
) -> dict[str, Any]:
    test = classification.score(tested.logits, tested.split.labels)
    accuracy, images = training
    scores = {
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "train_accuracy": accuracy,
        "train_accuracy_images": images,
    }
    if validated:
        validation = classification.score(validated.logits, validated.split.labels)
        scores |= {
            "validation_accuracy": validation.accuracy,
            "validation_loss": validation.loss,
        }
    return scores


def _describe(run: Run, loop: Loop, scored: Scored) -> None:
    """Store what readers without TensorFlow need to know about the model."""
    images, labels = scored.split.images, scored.split.labels
    test = Predictions(scored.step, predictions.images_sha256(images), scored.logits, labels)
    run.storage.delete(run_folder.REPORT)  # one of the unfinished run holds less
    run.storage.replace(run_folder.PREDICTIONS, predictions.encode(test))
    if architecture := loop.architecture():
        run.storage.replace(run_folder.ARCHITECTURE, architecture.encode())
