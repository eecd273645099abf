"""Figures of a run's final weights on the test images of a dataset."""

import json
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from trainer import metrics
from trainer.cluster import ALONE
from trainer.config import TrainConfig
from trainer.data import dataset
from trainer.errors import ConfigError
from trainer.runs import checkpoint
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.restore import Restored, restore_with
from trainer.text import printable
from trainer.train import models
from trainer.train.devices import make_strategy
from trainer.train.trainer import assemble, named, unnamed


@dataclass(frozen=True)
class Report:
    """How good a run's weights are on one set of test images.

    Attributes:
        run: URI of the run's folder.
        data: URI of the dataset.
        step: of the checkpoint.
        images: number of test images.
        accuracy: share of images classified as labelled.
        loss: mean cross-entropy, nats.
        precision: share of the images taken for class i that are of class i, by class.
        recall: share of the images of class i that are taken for it, by class.
        confusion: how often class i (row) was taken for class j (column).
    """

    run: str
    data: str
    step: int
    images: int
    accuracy: float
    loss: float
    precision: list[float]
    recall: list[float]
    confusion: list[list[int]]


def evaluate(run_uri: str, data_uri: str | None, model: str | None = None) -> Report:
    """Score a run's weights: the best validation's with keep_best, else the last ones.

    Args:
        run_uri: the run's folder.
        data_uri: the dataset; the run's if None.
        model: see ``restore_with``.

    Raises:
        ConfigError: the folder is no run's, or the data does not fit the model.
        DataError: no checkpoint is good.
    """
    restored = restore_with(run_uri, model)
    storage = restored.storage
    models.check_size(restored)
    config, data = _dataset(restored, data_uri)
    loop, names = assemble(config, data, make_strategy(ALONE))
    like = loop.initial_state()
    found = Checkpoint(restored.step, restored.arrays, restored.settings.digest)
    checkpoint.check_fits(found, named(like, names), storage.uri)
    test = data.test
    start = len(data.train.labels) + len(data.validation.labels)
    indices = np.arange(start, start + len(test.labels), dtype=np.int32)
    logits = loop.logits(loop.place(unnamed(found.arrays, like, names)), indices)
    return _report(storage.uri, config.data, found.step, logits, test.labels)


def as_json(report: Report) -> str:
    """Return the report for programs."""
    values = {field.name: getattr(report, field.name) for field in fields(report)}
    return json.dumps(values, indent=2) + "\n"


def as_text(report: Report) -> str:
    """Return the report for people, at most 80 columns wide for ten classes."""
    classes = range(len(report.recall))
    lines = [
        printable(
            f"{report.run} at step {report.step}, on {report.images} test images of {report.data}"
        ),
        f"accuracy {report.accuracy:.2%}  loss {report.loss:.4f}",
        "",
        "class  precision   recall",
        *(f"{c:>5} {report.precision[c]:>10.2%} {report.recall[c]:>8.2%}" for c in classes),
        "",
        "confusion: rows are labels, columns what they were taken for",
        "       " + "".join(f"{c:>6}" for c in classes),
        *(
            f"{c:>5}  " + "".join(f"{count:>6}" for count in row)
            for c, row in enumerate(report.confusion)
        ),
    ]
    return "\n".join(lines) + "\n"


def _dataset(restored: Restored, data_uri: str | None) -> tuple[TrainConfig, dataset.Dataset]:
    """Return a run's configuration with the data to score on, and these."""
    of_run = restored.settings
    config = of_run.config.model_copy(update={"data": data_uri or of_run.config.data})
    data = dataset.load(config.data, config.validation if data_uri is None else 0)
    if data_uri is None and data.sha256 != of_run.data_sha256:
        raise ConfigError(
            f"data: {config.data}: no longer what the run was trained on; give --data"
        )
    if data.input_shape != of_run.input_shape or data.classes != of_run.classes:
        sizes = ["x".join(map(str, each.input_shape)) for each in (data, of_run)]
        raise ConfigError(
            f"data: {config.data}: images are {sizes[0]} of {data.classes} classes, and the run's "
            f"model takes {sizes[1]} of {of_run.classes}; give other --data"
        )
    return config, data


def _report(
    run_uri: str,
    data_uri: str,
    step: int,
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
) -> Report:
    predicted = logits.argmax(axis=1)
    matrix = metrics.confusion(predicted, labels, logits.shape[1])
    precision, recall = metrics.precision_recall(matrix)
    return Report(
        run=run_uri,
        data=data_uri,
        step=step,
        images=len(labels),
        accuracy=float((predicted == labels).mean()),
        loss=float(metrics.losses(logits, labels).mean()),
        precision=precision.tolist(),
        recall=recall.tolist(),
        confusion=matrix.tolist(),
    )
