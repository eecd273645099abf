"""Figures of a run's final weights on the test images of a dataset."""

import json
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from trainer import checkpoint, dataset, metrics, run
from trainer.cluster import ALONE
from trainer.config import TrainConfig, parse
from trainer.errors import ConfigError, DataError
from trainer.storage import Storage, open_storage
from trainer.train import assemble, make_strategy, named, unnamed


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


def evaluate(run_uri: str, data_uri: str | None) -> Report:
    """Score a run's weights: the best validation's with keep_best, else the last ones.

    Raises:
        ConfigError: the folder is no run's, or the data does not fit the model.
        DataError: no checkpoint is good.
    """
    storage = open_storage(run_uri)
    config, digest, data = _settings(storage, data_uri)
    loop, names = assemble(config, data, make_strategy(ALONE))
    like = loop.initial_state()
    arrays = named(like, names)
    warnings: list[str] = []
    found = checkpoint.newest_good(storage, arrays, digest, warnings.append)
    if found is None:
        reason = warnings[0].partition(";")[0] if warnings else "there is none"
        raise DataError(f"run: {storage.uri}: no usable checkpoint: {reason}; train it first")
    best = checkpoint.best_step(found.validations)
    if config.keep_best and best is not None and best != found.step:
        found = checkpoint.load(storage, best, arrays, digest)
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
        f"{report.run} at step {report.step}, on {report.images} test images of {report.data}",
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


def _settings(storage: Storage, data_uri: str | None) -> tuple[TrainConfig, str, dataset.Dataset]:
    """Return a run's configuration, the digest its checkpoints carry, and the data."""
    stored = run.read_config(storage)
    if stored is None:
        raise ConfigError(f"run: {storage.uri}: no {run.CONFIG} there; give the folder of a run")
    origin, sha256 = stored.pop("data", None), stored.get("data_sha256")
    digest = run.digest(stored)
    stored.pop("data_sha256", None)
    config = parse({**stored, "data": data_uri or origin})
    data = dataset.load(config.data, config.validation if data_uri is None else 0)
    if data_uri is None and data.sha256 != sha256:
        raise ConfigError(
            f"data: {config.data}: no longer what the run was trained on; give --data"
        )
    return config, digest, data


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
