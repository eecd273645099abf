"""The formats of exports: how each writes a model, loads it again, and what it needs for it."""

import importlib
import importlib.util
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LABELS = "labels.txt"  # names of classes, a line each
EXTRA_LABELS = f"1/assets.extra/{LABELS}"  # of a SavedModel, where TensorFlow leaves files alone
# Settings of layers that Keras 3.3 does not know, at the values that change nothing.
NEWER = {
    "input_axes": None,
    "output_axes": None,
    "quantization_config": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}
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


def _write_keras(model: Any, path: Path, _: Sequence[str]) -> None:
    """Write the model alone: the format has no place for the names of classes."""
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"], object_hook=_without_newer)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, "config.json": json.dumps(config).encode()}.items():
            archive.writestr(name, data)


def _without_newer(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if NEWER.get(name, settings) != value}


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
    serving = _serving(model)
    serving.export(path, format="onnx", verbose=False)
    onnx = importlib.import_module("onnx")  # which tf2onnx brings
    whole = onnx.load(path)
    _fill_in(whole.graph, serving.get_layer("classes").graph.captures)
    _fix_shapes(whole)
    if class_names:
        whole.metadata_props.add(key="class_names", value=json.dumps(class_names))
    onnx.save(whole, path)


def _fill_in(graph: Any, captures: Sequence[tuple[Any, Any]]) -> None:
    """Make constants of those inputs that are tensors of layers.

    What a layer holds besides its weights, such as the mean in Normalization, is an input of the
    graph that TensorFlow traces, and tf2onnx would have users give it with the images.

    Args:
        graph: to change.
        captures: tensors, and the ones that stand for them in the traced graph.
    """
    from_array = importlib.import_module("onnx.numpy_helper").from_array
    values = {inside.name: outside for outside, inside in captures}
    for each in [each for each in graph.input if each.name in values]:
        graph.initializer.append(from_array(values[each.name].numpy(), each.name))
        graph.input.remove(each)


def _fix_shapes(whole: Any) -> None:
    """Give every Reshape whose shape is computed for one dimension alone a constant shape.

    Keras' Flatten asks the graph for the number of images. OpenCV works that out when it loads the
    file, for one image, so that its answers for several were wrong.
    """
    onnx = importlib.import_module("onnx")
    to_array, graph = importlib.import_module("onnx.numpy_helper").to_array, whole.graph
    inferred = onnx.shape_inference.infer_shapes(whole).graph.value_info
    lengths = {
        each.name: each.type.tensor_type.shape.dim[0].dim_value
        for each in inferred
        if len(each.type.tensor_type.shape.dim) == 1
    }
    constants = {each.name: to_array(each) for each in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "Reshape"]:
        shape = made_by.get(node.input[1])
        while shape is not None and shape.op_type == "Cast":
            shape = made_by.get(shape.input[0])
        if shape is None or shape.op_type != "Concat":
            continue
        parts = [constants.get(name, np.array([-1])) for name in shape.input]
        fixed = np.concatenate(parts).astype(np.int64)
        if (fixed == -1).sum() == 1 and len(fixed) == lengths.get(shape.output[0]):
            name = f"{node.output[0]}/shape"
            graph.initializer.append(onnx.numpy_helper.from_array(fixed, name))
            node.input[1] = name
    _drop_unused(graph)


def _drop_unused(graph: Any) -> None:
    """Take out the operations and constants that nothing uses."""
    used = {each.name for each in graph.output}
    for node in reversed(list(graph.node)):  # each comes after those it uses
        if used.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            used.update(_inputs(node))
    for constant in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(constant)


def _inputs(node: Any) -> Iterator[str]:
    """Yield what an operation uses, also in its branches, as of an If."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs(inner)
        yield from (each.name for each in attribute.g.output)


def _load_onnx(path: Path) -> Predict:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: Outputs(*session.run(list(Outputs._fields), {"images": images}))


def _serving(model: Any) -> Any:
    """Return a model that names its input and answers as ``inference.export`` says."""
    import keras
    import tensorflow as tf
    from keras import ops

    class Classes(keras.layers.Layer):  # type: ignore[misc]
        def call(self, logits: Any) -> Any:
            # Not Keras's argmax, which is made of operations that ONNX does not have.
            classes = tf.argmax(logits, axis=-1)
            self.graph = getattr(classes, "graph", None)  # the one traced last
            return classes

    images = keras.Input(model.input_shape[1:], dtype="uint8", name="images")
    logits = ops.cast(model(images, training=False), "float32")
    outputs = (logits, ops.softmax(logits), Classes(name="classes")(logits))
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
