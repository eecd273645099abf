"""Folders of runs, written without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import TrainConfig
from trainer.data import dataset, idx
from trainer.runs import checkpoint, predictions, run_folder
from trainer.storage.base import open_storage


def digits(classes: int, size: int = 8, count: int = 60) -> tuple[Any, Any]:
    """Return test images and labels that are random but for a bright column of their class."""
    random = np.random.default_rng(classes)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, count)])
    images = random.integers(0, 100, (len(labels), size, size), np.uint8)
    images[np.arange(len(labels)), :, labels % size] = 255
    return images, labels.astype(np.uint8)


def make_run(
    folder: Path, classes: int = 10, class_names: Sequence[str] = (), **settings: Any
) -> Path:
    """Write the folder of a finished run of 1,000 steps, and its dataset, and return the run's."""
    data, where = folder / "data", folder / "run"
    data.mkdir(parents=True)
    images, labels = digits(classes)
    for name, array in zip(dataset.FILES, (images, labels, images, labels), strict=True):
        (data / name).write_bytes(idx.encode(array))
    storage = open_storage(str(where))
    config = TrainConfig(data=str(data), run=str(where), epochs=10.0, **settings)
    digest = run_folder.claim(
        storage, config, "ab" * 32, (8, 8, 1), classes, class_names=class_names
    )
    storage.create(run_folder.METRICS, run_folder.lines(metric_lines(1000)))
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (len(labels), classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 4
    right = float((logits.argmax(axis=1) == labels).mean())
    found = predictions.Predictions(
        1000, predictions.images_sha256(images), logits, labels.astype(np.int32)
    )
    storage.create(run_folder.PREDICTIONS, predictions.encode(found))
    storage.create(run_folder.RESULT, run_folder.pretty(result(right)))
    storage.create(run_folder.ATTEMPTS, run_folder.lines([attempt(1, 0, 1000, None)]))
    arrays = {"parameters/model/dense/kernel": np.zeros((64, classes), np.float32)}
    point = checkpoint.Checkpoint(1000, arrays, digest)
    storage.create(checkpoint.object_name(1000), checkpoint.encode(point))
    return where


def metric_lines(steps: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        line: dict[str, Any] = {"step": step, "epoch": step / 100, "train_seconds": step / 50}
        lines.append({**line, "loss": 9 / step, "accuracy": 1 - 1 / step, "images_per_second": 5e3})
        if step % 200 == 0:
            lines.append({**line, "validation_accuracy": 0.9, "validation_loss": 0.3})
    return lines


def attempt(number: int, first: int, last: int, message: str | None) -> dict[str, Any]:
    cause = {"rank": 1, "code": 1, "message": message} if message else None
    start = 1.7e9 + 100 * number
    steps = {"first_step": first, "last_step": last}
    return {"attempt": number, "start": start, "end": start + 9, **steps, "cause": cause}


def result(accuracy: float, **others: Any) -> dict[str, Any]:
    return {
        "preset": "cnn",
        "test_accuracy": accuracy,
        "test_loss": 0.25,
        "validation_accuracy": 0.9,
        "steps": 1000,
        "selected_step": 1000,
        "train_seconds": 20.0,
        "images_per_second": 5000.0,
        "weights_sha256": "cd" * 32,
        "workers": 2,
        "versions": {"trainyard": "0.1.0", "tensorflow": "2.21.0"},
        **others,
    }
