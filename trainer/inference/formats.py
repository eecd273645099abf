"""The formats of exports: how each writes a model, loads it again, and what it needs for it."""

import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LABELS = "labels.txt"  # names of classes, a line each
EXTRA_LABELS = f"1/assets.extra/{LABELS}"  # of a SavedModel, where TensorFlow leaves files alone
MODEL_PB = "saved_model.pb"  # what makes a folder a SavedModel

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


class Outputs(NamedTuple):
    """What a loaded export says of n images; None where a format leaves it to its user."""

    logits: Logits
    probabilities: npt.NDArray[np.float32] | None = None
    classes: npt.NDArray[np.int64] | None = None


Predict = Callable[[Images], Outputs]


@dataclass(frozen=True)
class Format:
    """A way to write a model down.

    Attributes:
        target: name of the object, or with "/" at its end of the folder, that it becomes.
        write: writes a model (images -> logits) under a path of this machine, with the names
            of its classes, if they have some, where users of the format look for them.
        load: returns a function of images that uses nothing but what lies under the path.
        packages: that it needs besides TensorFlow.
    """

    target: str
    write: Callable[[Any, Path, Sequence[str]], None]
    load: Callable[[Path], Predict]
    packages: tuple[str, ...] = ()


def logits_of(model: Any, images: Images) -> Logits:
    """Return a model's logits [n, classes]."""
    return np.asarray(model(images, training=False)).astype(np.float32)


def labels_file(class_names: Sequence[str]) -> bytes:
    """Return the names as a file, a line each from class 0 on."""
    return "".join(f"{name}\n" for name in class_names).encode()


def _write_keras(model: Any, path: Path, class_names: Sequence[str]) -> None:
    del class_names  # for which the format has no place
    model.save(path)


def _load_keras(path: Path) -> Predict:
    import keras

    model = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda images: Outputs(logits_of(model, images))


def _write_savedmodel(model: Any, path: Path, class_names: Sequence[str]) -> None:
    _serving(model).export(path / "1", format="tf_saved_model", verbose=False)
    if class_names:
        extra = path / EXTRA_LABELS
        extra.parent.mkdir()
        extra.write_bytes(labels_file(class_names))


def _load_savedmodel(path: Path) -> Predict:
    import tensorflow as tf

    loaded = tf.saved_model.load(path / "1")

    def predict(images: Images) -> Outputs:
        # By way of the loaded object: the signature alone does not keep the weights alive.
        answers = loaded.signatures["serving_default"](images=tf.constant(images))
        return Outputs(*(answers[name].numpy() for name in Outputs._fields))

    return predict


def _write_onnx(model: Any, path: Path, class_names: Sequence[str]) -> None:
    _serving(model).export(path, format="onnx", verbose=False)
    if class_names:
        onnx = importlib.import_module("onnx")  # which tf2onnx brings
        whole = onnx.load(path)
        whole.metadata_props.add(key="class_names", value=json.dumps(class_names))
        onnx.save(whole, path)


def _load_onnx(path: Path) -> Predict:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: Outputs(*session.run(list(Outputs._fields), {"images": images}))


def _serving(model: Any) -> Any:
    """Return a model that names its input and answers as ``inference.export`` says."""
    import keras
    from keras import ops

    images = keras.Input(model.input_shape[1:], dtype="uint8", name="images")
    logits = ops.cast(model(images), "float32")
    # Of equal logits the first, as argmax does; that is made of operations ONNX does not have.
    classes = ops.squeeze(ops.top_k(logits, 1)[1], axis=-1)
    outputs = (logits, ops.softmax(logits), ops.cast(classes, "int64"))
    serving = keras.Model(images, dict(zip(Outputs._fields, outputs, strict=True)))
    serving(np.zeros((1, *model.input_shape[1:]), np.uint8))  # Keras exports what has been called
    return serving


FORMATS = {
    "keras": Format("model.keras", _write_keras, _load_keras),
    "savedmodel": Format("saved_model/", _write_savedmodel, _load_savedmodel),
    "onnx": Format("model.onnx", _write_onnx, _load_onnx, ("tf2onnx", "onnxruntime")),
}


def missing(name: str) -> list[str]:
    """Return the packages that a format needs and that are not installed."""
    packages = FORMATS[name].packages
    return [package for package in packages if importlib.util.find_spec(package) is None]


def remedy(name: str) -> str:
    """Return what to do about the missing packages of a format."""
    packages = missing(name)
    return f"{' and '.join(packages)} not installed; pip install {' '.join(packages)}"
