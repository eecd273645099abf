"""The model of a run for other programs, each file loaded again and checked before it is stored.

Whatever the format, images are uint8 [n, height, width, channels]. A Keras file answers with
logits; the other two know ``images`` by name and answer with ``logits``, ``probabilities`` and
``classes``, the classes with the largest logits, as int64 [n]. Names of classes lie beside them.
"""

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer import classification
from trainer.common.text import nearest, one_line, plural
from trainer.errors import ConfigError, DataError, UserError
from trainer.inference.formats import (
    EXTRA_LABELS,
    FORMATS,
    LABELS,
    MODEL_PB,
    Format,
    Images,
    Logits,
    Outputs,
    Predict,
    labels_file,
    logits_of,
    missing,
    remedy,
)
from trainer.runs import predictions
from trainer.runs.trained_weights import Restored, dataset_of, restore_with
from trainer.storage.base import Storage, open_storage
from trainer.train.quick_import import quick_imports

FOLDER = "model"  # below the run's
BATCH = 1000  # images a call
SPARE = 1000  # random images, where the test images are gone
# Largest difference of a probability, and of a logit as a share of the largest logit. With
# bfloat16, whose numbers have 8 bits, fusing two operations is already seen in the results.
TOLERANCE = {"float32": 1e-5, "mixed_bfloat16": 0.05}


@dataclass(frozen=True)
class Reference:
    """What an export must say.

    Attributes:
        images: uint8 [n, height, width, channels].
        expected: logits that it must give, [n, classes] each.
        tolerance: see TOLERANCE.
        origin: what images these are, and whose predictions, for people.
    """

    images: Images
    expected: tuple[Logits, ...]
    tolerance: float
    origin: str


@dataclass(frozen=True)
class Export:
    """A checked export that lies on this machine.

    Attributes:
        target: as in Format.
        path: of the file or folder.
        difference: the largest of a probability.
        seconds: to write, load and check it.
    """

    target: str
    path: Path
    difference: float
    seconds: float


def export(
    run_uri: str,
    to: str | None,
    formats: str | None,
    say: Callable[[str], object],
    own_model: str | None = None,
) -> None:
    """Write the model of a run in some formats, check all of them, then store them.

    Args:
        run_uri: the run's folder.
        to: folder for the exports; the run's folder ``model`` if None.
        formats: names with commas; if None, every format whose packages are installed.
        say: takes each line of what was done.
        own_model: see ``restore_with``.

    Raises:
        ConfigError: a format is unknown or its packages are missing, or the folder is no run's.
        DataError: no checkpoint is good, or it is not what the run's predictions are from.
        UserError: an export differs, and nothing was stored; or a format cannot hold this
            model, and the others were stored.
    """
    names = choose(formats)
    restored = restore_with(run_uri, own_model)
    class_names = restored.settings.class_names
    storage, below = (restored.storage, f"{FOLDER}/") if to is None else (open_storage(to), "")
    with quick_imports():
        from trainer.train import models

    model = models.load(restored)
    reference = _reference(restored, lambda images: Outputs(logits_of(model, images)))
    say(f"{restored.storage.uri} at step {restored.step}, {reference.origin}")
    if formats is None and (left := [name for name in FORMATS if name not in names]):
        say(f"without {left[0]}: {remedy(left[0])}")
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="trainyard-export-") as folder:
        exports = []
        for name in names:
            try:
                exports.append(_make(FORMATS[name], model, reference, Path(folder), class_names))
            except UserError:
                raise
            except Exception as error:  # a layer of the user's that the format has no room for
                failed.append(f"{name}: cannot hold this model: {_reason(error)}")
        for each in exports:
            began = time.monotonic()
            size = _store(storage, below, each)
            seconds = each.seconds + time.monotonic() - began
            say(
                f"{each.target:<13}{size / 1e6:>7.2f} MB  probabilities within "
                f"{each.difference:.1e}  {seconds:.1f} s"
            )
    if exports and class_names:
        storage.replace(below + LABELS, labels_file(class_names))
        say(f"{LABELS:<13}{plural(len(class_names), 'class name')}, a line each")
    for stale in [] if class_names else _names_there(storage, below, exports):
        storage.delete(stale)
        say(f"{stale.removeprefix(below)} deleted: this model's classes have no names")
    if exports:
        say(f"stored in {storage.uri}/{below}")
    if failed:
        raise UserError("; ".join(failed) + "; --format with the other formats leaves it out")


def choose(formats: str | None) -> list[str]:
    """Return the names of the formats to write, in the order of FORMATS.

    Raises:
        ConfigError: one is unknown, or its packages are not installed.
    """
    if formats is None:
        return [name for name in FORMATS if not missing(name)]
    given = [name.strip() for name in formats.split(",")]
    for name in given:
        if name not in FORMATS:
            raise ConfigError(
                f"--format {formats!r}: {name!r} is not one of {', '.join(FORMATS)}"
                f"{nearest(name, FORMATS)}; give some of them, with commas"
            )
        if missing(name):
            raise ConfigError(f"--format {formats!r}: {name}: {remedy(name)}")
    return [name for name in FORMATS if name in given]


def check(outputs: Outputs, reference: Reference, name: str) -> float:
    """Return the largest difference of a probability.

    Raises:
        UserError: outputs are not those of the reference.
    """
    found = (
        classification.probabilities(outputs.logits)
        if outputs.probabilities is None
        else outputs.probabilities
    )
    in_probability = in_logit = 0.0
    for expected in reference.expected:
        if outputs.logits.shape != expected.shape or found.shape != expected.shape:
            raise UserError(
                f"export: {name}: answers with {outputs.logits.shape} logits, the run with "
                f"{expected.shape}; nothing was stored"
            )
        scale = max(1.0, float(np.abs(expected).max()))
        logit = float(np.abs(outputs.logits - expected).max()) / scale
        probability = float(np.abs(found - classification.probabilities(expected)).max())
        in_logit = float(np.maximum(in_logit, logit))  # keeps NaN, unlike max
        in_probability = float(np.maximum(in_probability, probability))
    if not (in_probability <= reference.tolerance and in_logit <= reference.tolerance):
        raise UserError(
            f"export: {name}: differs from the run by up to {in_probability:.1e} in probabilities "
            f"and {in_logit:.1e} of the largest logit, on {len(reference.images):,} images; at "
            f"most {reference.tolerance:.0e} is allowed; nothing was stored"
        )
    classes = outputs.classes
    if classes is not None and not np.array_equal(classes, outputs.logits.argmax(axis=1)):
        raise UserError(
            f"export: {name}: its classes are not those of its largest logits; nothing was stored"
        )
    return in_probability


def _reference(restored: Restored, predict: Predict) -> Reference:
    """Return the test images if they can be had, else random ones, and the run's predictions."""
    of_run = restored.settings
    tolerance = TOLERANCE[of_run.config.precision]
    try:
        data = dataset_of(of_run)
    except UserError as error:
        draws = np.random.default_rng(0)
        images = draws.integers(0, 256, (SPARE, *of_run.input_shape), np.uint8)
        origin = (
            f"checked on {SPARE:,} random images against its restored model alone, because the "
            f"test images are gone: {one_line(error).partition(';')[0]}"
        )
        return Reference(images, (_all(predict, images).logits,), tolerance, origin)
    images = data.test.images
    own = _all(predict, images).logits
    origin = f"checked on {plural(len(images), 'test image')}"
    stored = predictions.read(restored.storage)
    if stored is None:
        origin += " against its restored model alone: a run stores its predictions when it ends"
        return Reference(images, (own,), tolerance, origin)
    digest = predictions.images_sha256(images)
    if (stored.step, stored.images_sha256) != (restored.step, digest):
        raise DataError(
            f"run: {restored.storage.uri}: its newest good checkpoint is of step {restored.step}, "
            f"but its predictions are of step {stored.step}, or of other test images; delete "
            "result.json and train it again to its end"
        )
    reference = Reference(images, (stored.logits,), tolerance, origin)
    check(Outputs(own), reference, "the restored model")
    return replace(reference, expected=(stored.logits, own))


def _make(
    form: Format, model: Any, reference: Reference, folder: Path, class_names: Sequence[str]
) -> Export:
    """Write a model, load it again and check what it says."""
    began = time.monotonic()
    path = folder / form.target.rstrip("/")
    form.write(model, path, class_names)
    difference = check(_all(form.load(path), reference.images), reference, form.target)
    return Export(form.target, path, difference, time.monotonic() - began)


def _store(storage: Storage, below: str, made: Export) -> int:
    """Store an export's files below a name and return their size, bytes."""
    if made.path.is_file():
        files = {made.target: made.path}
    else:
        files = {
            made.target + path.relative_to(made.path).as_posix(): path
            for path in sorted(made.path.rglob("*"))
            if path.is_file()
        }
    size = 0
    # A server that watches the folder takes a version for whole once this file is there.
    for name in sorted(files, key=lambda name: name.endswith(MODEL_PB)):
        data = files[name].read_bytes()
        storage.replace(below + name, data)
        size += len(data)
    return size


def _names_there(storage: Storage, below: str, exports: Sequence[Export]) -> list[str]:
    """Return the files of class names that an earlier export has left beside these."""
    names = [LABELS] if exports else []
    names += [each.target + EXTRA_LABELS for each in exports if each.target.endswith("/")]
    return [below + name for name in names if storage.list(below + name)]


def _all(predict: Predict, images: Images) -> Outputs:
    """Return what is said of all images, asked for in batches of which the last may be short."""
    parts = [predict(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    columns: list[Any] = list(zip(*parts, strict=True))
    whole: list[Any] = [None if each[0] is None else np.concatenate(each) for each in columns]
    return Outputs(*whole)


def _reason(error: Exception) -> str:
    """Return an error on one line; Keras has the cause last, behind a description of the model."""
    text = str(error).rpartition("Exception encountered:")[2]
    text = re.split(r"Full object config:|\nExample:", text)[0]
    # tf2onnx leaves what it does not know as it is, for onnxruntime to find.
    if lacking := re.search(r'In Node, \("([^"]*)".*No Op registered for (\w+)', text):
        return f"ONNX has no operation {lacking[2]}, which {lacking[1].split('/')[-2:][0]} needs"
    text = re.sub(r"Load model from \S+ failed:", "", text)  # which is gone by now
    return f"{type(error).__name__}: {one_line(text, 300).rstrip('.')}"
