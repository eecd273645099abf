"""The predictions of the final weights for each test image: one object in the run's folder."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from trainer.errors import DataError
from trainer.runs import run_folder
from trainer.runs.checkpoint import KEY, MALFORMED, header
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most

MOST_BYTES = 1 << 27  # of the object: 3 million images of ten classes
MOST_CLASSES = 256  # labels of IDX files are bytes


@dataclass(frozen=True)
class Predictions:
    """Logits of a whole test split.

    Attributes:
        step: after which the weights were these.
        images_sha256: of the test images, see the function of this name.
        logits: float32 [n, classes].
        labels: int32 [n].
    """

    step: int
    images_sha256: str
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]


def images_sha256(images: npt.NDArray[np.uint8]) -> str:
    """Return the SHA-256 of the bytes of images, in hexadecimal, whatever their dimensions."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def encode(predictions: Predictions) -> bytes:
    """Return the object's bytes."""
    facts = {"step": predictions.step, "images_sha256": predictions.images_sha256}
    arrays = {"logits": predictions.logits, "labels": predictions.labels}
    return safetensors.numpy.save(arrays, {KEY: json.dumps(facts)})


def read(storage: Storage) -> Predictions | None:
    """Return a run's predictions, or None where it has not ended yet.

    Raises:
        DataError: the object is damaged.
    """
    try:
        data = read_at_most(storage, run_folder.PREDICTIONS, MOST_BYTES)
    except ObjectNotFoundError:
        return None
    try:
        _, facts = header(data, 1 << 16)
        arrays = safetensors.numpy.load(data)
        logits, labels = arrays["logits"], arrays["labels"]
        if logits.dtype != np.float32 or labels.dtype != np.int32 or logits.ndim != 2:
            raise ValueError
        if labels.shape != logits.shape[:1] or not np.isfinite(logits).all():
            raise ValueError
        if not 2 <= logits.shape[1] <= MOST_CLASSES:
            raise ValueError
        if labels.size and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
            raise ValueError
        if type(facts["step"]) is not int or not 0 <= facts["step"] <= run_folder.MOST_STEPS:
            raise ValueError
        return Predictions(facts["step"], str(facts["images_sha256"]), logits, labels)
    except MALFORMED:
        raise DataError(
            f"{storage.uri}/{run_folder.PREDICTIONS}: damaged; delete it, and "
            f"{run_folder.RESULT}, and train again to make it again"
        ) from None
