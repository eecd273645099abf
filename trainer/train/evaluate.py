"""Scores a run's final weights on the test images of a dataset."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len

from trainer import classification
from trainer.classification import LONGEST_NAME, Quality, matrix_lines
from trainer.cluster_spec import ALONE
from trainer.common.text import class_label, plural, printable
from trainer.config import TrainConfig
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError
from trainer.runs import checkpoint
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.trained_weights import Restored, dataset_of, restore_with, weights
from trainer.train import models
from trainer.train.devices import make_strategy
from trainer.train.own_model import Warn
from trainer.train.replicas import Replicas
from trainer.train.trainer import assemble

COLUMNS = 80


@dataclass(frozen=True)
class Report:
    """How good a run's weights are on one set of test images.

    Attributes:
        run: URI of the run's folder.
        data: URI of the dataset.
        step: of the checkpoint.
        quality: of the predictions.
        class_names: the run's or, where it has none, the data's.
    """

    run: str
    data: str
    step: int
    quality: Quality
    class_names: tuple[str, ...] = ()


def evaluate(
    run_uri: str, data_uri: str | None, model: str | None = None, warn: Warn = lambda _: None
) -> Report:
    """Score a run's weights: those of the best validation with keep_best, else the last ones.

    ``data_uri`` is None for the run's own data; for ``model`` see ``restore_with``; ``warn`` is
    called with what is suspicious and no mistake for certain.

    Raises:
        ConfigError: the folder does not belong to a run, or the data does not fit the model.
        DataError: no checkpoint is usable.
    """
    restored = restore_with(run_uri, model)
    storage = restored.storage
    models.check_size(restored)
    config, data = _dataset(restored, data_uri)
    check_names(restored.settings.class_names, data.class_names, config.data, warn)
    loop = assemble(config, data, Replicas(make_strategy(ALONE)))
    found = Checkpoint(restored.step, restored.arrays, restored.settings.digest)
    initial = loop.named(loop.initial_state())
    models.check_weights(restored, weights(initial))
    checkpoint.check_fits(found, initial, storage.uri)
    test = data.test
    start = len(data.train.labels)
    indices = np.arange(start, start + len(test.labels), dtype=np.int32)
    logits = loop.logits(loop.place(loop.unnamed(found.arrays)), indices)
    names = restored.settings.class_names or data.class_names
    quality = classification.judge(logits, test.labels)
    return Report(storage.uri, config.data, restored.step, quality, names)


def as_json(report: Report) -> str:
    """Return the report for programs; precision and recall of a class without images are null."""
    quality = report.quality
    tested = (quality.support > 0).tolist()
    precision, recall = (
        [share if has else None for share, has in zip(shares.tolist(), tested, strict=True)]
        for shares in (quality.precision, quality.recall)
    )
    values = {
        "run": report.run,
        "data": report.data,
        "step": report.step,
        "images": quality.images,
        "accuracy": quality.accuracy,
        "loss": quality.loss,
        "class_names": list(report.class_names) or None,
        "precision": precision,
        "recall": recall,
        "confusion": quality.matrix.tolist(),
    }
    return json.dumps(values, indent=2) + "\n"


def as_text(report: Report) -> str:
    """Return the report for people, below its first line at most 80 columns wide."""
    quality = report.quality
    classes = range(len(quality.recall))
    labels = [class_label(c, report.class_names, LONGEST_NAME, cell_len) for c in classes]
    width = max(5, *map(cell_len, labels))
    heads = [" " * (width - cell_len(label)) + label for label in labels]
    shares = [
        f"{quality.precision[c]:>10.2%} {quality.recall[c]:>8.2%}"
        if quality.support[c]
        else f"{'no images':>10}"
        for c in classes
    ]
    images = plural(quality.images, "test image")
    many = f"{len(shares)} classes are too many for {COLUMNS} columns; --json prints all"
    lines = [
        printable(f"{report.run} at step {report.step}, on {images} of {report.data}"),
        f"accuracy {quality.accuracy:.2%}  loss {quality.loss:.4f}",
        "",
        f"{'class':>{width}}  precision   recall",
        *(f"{head} {share}" for head, share in zip(heads, shares, strict=True)),
        "",
        "confusion: rows are true classes, columns predicted ones",
        *(matrix_lines(quality.matrix, report.class_names, COLUMNS) or [many]),
    ]
    return "\n".join(lines) + "\n"


def check_names(ours: Sequence[str], theirs: Sequence[str], data_uri: str, warn: Warn) -> None:
    """Compare the names of the run's classes and of the data's, which a dataset may lack.

    Raises:
        ConfigError: the data has a name at the number of another class.
    """
    differing = [number for number, name in enumerate(theirs) if ours and name != ours[number]]
    for number in sorted(differing, key=lambda number: theirs[number] not in ours)[:1]:
        name = theirs[number]
        words = f"data: {data_uri}: class {number} is {name!r}, and {ours[number]!r} for the run"
        if name in ours:
            raise ConfigError(
                f"{words}, which has {name!r} as class {ours.index(name)}; put the data with the "
                "classes in the run's order"
            )
        warn(f"{words}; see that their classes are the same ones")


def _dataset(restored: Restored, data_uri: str | None) -> tuple[TrainConfig, Dataset]:
    """Return a run's configuration with the data to score on, and that data."""
    of_run = restored.settings
    config = of_run.config.model_copy(update={"data": data_uri or of_run.config.data})
    data = dataset_of(of_run, data_uri)
    if data.input_shape != of_run.input_shape or data.classes != of_run.classes:
        sizes = ["x".join(map(str, each.input_shape)) for each in (data, of_run)]
        raise ConfigError(
            f"data: {config.data}: images are {sizes[0]} of {data.classes} classes, and the run's "
            f"model takes {sizes[1]} of {of_run.classes}; give other --data"
        )
    return config, data
