"""A model as data that a page computes it from: its layers in order, and their weights.

pages/network.js is the reader. Every layer has a "type" and the shapes of its "input" and "output",
height, width and channels or units; a weight is where its numbers start in one row of little-endian
float32, counted in numbers.
"""

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import DataError
from trainer.runs import checkpoint, run_folder, trained_weights
from trainer.runs.trained_weights import weights
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most

Array = npt.NDArray[Any]
Config = Mapping[str, Any]
Shape = tuple[int, ...]

MAX_WEIGHTS = 250_000  # 1.3 MB in base64: the page is to stay below 2 MB
_MOST_ARCHITECTURE = 1 << 22  # bytes
MAX_BYTES = 1 << 24  # of a checkpoint with them and what an optimizer keeps of them
REMEDY = "python -m trainer predict reads pictures with it."

# The layers and activations of the presets. Those of other models are computed by predict.
ACTIVATIONS = ("relu", "log_sigmoid")
_NOTHING_WHEN_PREDICTING = ("Dropout", "InputLayer")


class _UnfitError(Exception):
    """Why a model cannot be in the page, to be continued with a remedy."""


@dataclass
class _Network:
    """What is described so far.

    Attributes:
        variables: weights by Keras variable path.
        shape: what comes out of the layers so far.
        layers: their descriptions.
        weights: what they take, float32 of any shape.
        scope: names of the models around the layer that is being described.
    """

    variables: Mapping[str, Array]
    shape: Shape
    layers: list[dict[str, Any]] = field(default_factory=list)
    weights: list[npt.NDArray[np.float32]] = field(default_factory=list)
    scope: tuple[str, ...] = ()

    def add(self, kind: str, shape: Shape, facts: Config, **weights: Array) -> None:
        """Append a layer whose output has this shape."""
        layer = {"type": kind, "input": list(self.shape), "output": list(shape), **facts}
        for name, array in weights.items():
            layer[name] = sum(each.size for each in self.weights)
            self.weights.append(np.ascontiguousarray(array, "<f4"))
        self.layers.append(layer)
        self.shape = shape

    def variable(self, config: Config, name: str, shape: Shape) -> Array:
        """Return a layer's variable.

        How many of the models around a layer are named in a path depends on how they were built,
        so the longest ending that is found counts.
        """
        names = (*self.scope, config["name"], name)
        for start in range(len(names) - 1):
            ending = "/".join(names[start:])
            found = [path for path in self.variables if f"/{path}".endswith(f"/{ending}")]
            if ending in found:
                found = [ending]
            if len(found) == 1 and self.variables[found[0]].shape == shape:
                return self.variables[found[0]]
            if found:
                break
        raise _UnfitError(f"{name} of its layer {config['name']} was not found")

    def activate(self, name: Any, config: Config) -> None:
        """Append the activation that a layer ends with, given as Keras' name."""
        if name in (None, "linear"):
            return
        if name not in ACTIVATIONS:
            raise _UnfitError(
                f"its layer {config['name']} has an activation that the page does not compute"
            )
        self.add("activation", self.shape, {"name": name})


def describe(
    architecture: Config | None, arrays: Mapping[str, Array], input_shape: Shape, classes: int
) -> dict[str, Any] | str:
    """Return a model as JSON values, or the reason why it cannot be in the page.

    Args:
        architecture: ``json.loads(model.to_json())`` of a model of ``models.build``; None if
            Keras could not describe it.
        arrays: its weights, parameters/PATH and buffers/PATH by Keras' variable paths; others
            are left alone.
        input_shape: height, width, channels.
        classes: number of logits.

    Returns:
        input_shape, classes, layers, and weights in base64; or a sentence that also says what
        to do instead.
    """
    variables = weights(arrays)
    try:
        if architecture is None:
            raise _UnfitError("Keras cannot describe it as a list of layers")
        _check_sizes(variables, input_shape)
        network = _Network(variables, input_shape)
        if architecture["class_name"] != "Sequential":
            raise _UnfitError("it is no Sequential model")
        for number, (layer, network.scope) in enumerate(_chain(architecture, ())):
            _append(network, layer, first=number == 0)
        if network.shape != (classes,):
            raise _UnfitError(f"its output has shape {network.shape}, not one value a class")
    except _UnfitError as reason:
        return refusal(str(reason))
    row = b"".join(array.tobytes() for array in network.weights)
    return {
        "input_shape": list(input_shape),
        "classes": classes,
        "layers": network.layers,
        "weights": base64.b64encode(row).decode(),
    }


def of_run(storage: Storage) -> dict[str, Any] | str:
    """Return the model of a run, see ``describe``.

    Raises:
        ConfigError: the folder is no run's.
        DataError: the checkpoints or the architecture are damaged.
    """
    if not checkpoint.steps(storage) and not run_folder.has(storage, run_folder.RESULT):
        return "No checkpoint is stored yet: the model is here once there is one."
    largest = max((entry.size for entry in storage.list(checkpoint.PREFIX)), default=0)
    if largest > MAX_BYTES:
        return refusal(
            f"its checkpoint has {largest:,} bytes, and a page takes {MAX_WEIGHTS:,} "
            "weights at most"
        )
    restored = trained_weights.restore(storage.uri)
    settings = restored.settings
    try:
        architecture = json.loads(
            read_at_most(storage, run_folder.ARCHITECTURE, _MOST_ARCHITECTURE)
        )
    except ObjectNotFoundError:
        # One of an earlier version stores it at the end.
        if not run_folder.has(storage, run_folder.RESULT):
            return "What the model looks like is stored at the end of the run."
        architecture = None
    except (ValueError, RecursionError):
        architecture = {}
    try:
        return describe(architecture, restored.arrays, settings.input_shape, settings.classes)
    # Keras decides what a layer's description holds, and changes it between versions.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise DataError(
            f"{storage.uri}/{run_folder.ARCHITECTURE}: damaged, or of another version of Keras: "
            f"{type(error).__name__} {error}"
        ) from None


def refusal(reason: str) -> str:
    """Return a sentence that says why a model is not in the page, and what to do instead."""
    return f"This model is not in the page: {reason}. {REMEDY}"


def _check_sizes(variables: Mapping[str, Array], input_shape: Shape) -> None:
    height, width, channels = input_shape
    if height != width or channels != 1:
        raise _UnfitError(
            f"its images are {height}x{width}x{channels}, and a drawing is square and grey"
        )
    count = sum(array.size for array in variables.values())
    if count > MAX_WEIGHTS:
        raise _UnfitError(f"it has {count:,} weights, and a page takes {MAX_WEIGHTS:,} at most")


def _chain(model: Config, scope: tuple[str, ...]) -> Iterator[tuple[Config, tuple[str, ...]]]:
    """Yield the layers of a model and of those inside it, each with the names of its models."""
    for layer in model["config"]["layers"]:
        if _is_keras(layer) and layer["class_name"] == "Sequential":
            yield from _chain(layer, (*scope, layer["config"]["name"]))
        else:
            yield layer, scope


def _is_keras(layer: Config) -> bool:
    return str(layer["module"]).partition(".")[0] == "keras"


def _append(network: _Network, layer: Config, *, first: bool) -> None:
    """Append what a layer does when predicting."""
    kind, config = layer["class_name"], layer["config"]
    # The presets' augmentation, whose module has had other names in older runs.
    if kind == "Warp" and str(layer["module"]).partition(".")[0] == "trainer":
        return
    dtype = config.get("dtype", "float32")
    if isinstance(dtype, dict):
        dtype = dtype["config"].get("name")
    # The images come as bytes, and every layer computes as its policy says.
    if dtype != "float32" and not (first and kind == "InputLayer"):
        raise _UnfitError(f"its layer {config.get('name', kind)} computes in {dtype}, not float32")
    if not _is_keras(layer) or kind not in (*_LAYERS, *_NOTHING_WHEN_PREDICTING):
        raise _UnfitError(f"it has a layer {kind}, which the page does not compute")
    if config.get("data_format", "channels_last") != "channels_last":
        raise _UnfitError(f"its layer {config['name']} has its channels first")
    if kind in _LAYERS:
        _LAYERS[kind](network, config)


def _rescaling(network: _Network, config: Config) -> None:
    channels = network.shape[-1]
    parts = {
        name: np.broadcast_to(np.asarray(config[key], np.float64), (channels,))
        for name, key in (("scale", "scale"), ("shift", "offset"))
    }
    network.add("affine", network.shape, {}, **parts)


def _batch_normalization(network: _Network, config: Config) -> None:
    axis = config["axis"]
    if (axis[0] if isinstance(axis, list) else axis) not in (-1, len(network.shape)):
        raise _UnfitError(f"its layer {config['name']} does not normalise the last axis")
    shape = (network.shape[-1],)
    variance = network.variable(config, "moving_variance", shape).astype(np.float64)
    scale = 1 / np.sqrt(variance + config["epsilon"])
    if config["scale"]:
        scale = scale * network.variable(config, "gamma", shape)
    shift = -network.variable(config, "moving_mean", shape) * scale
    if config["center"]:
        shift = shift + network.variable(config, "beta", shape)
    network.add("affine", network.shape, {}, scale=scale, shift=shift)


def _flatten(network: _Network, config: Config) -> None:  # noqa: ARG001
    """Change the shape; the numbers stay in their order, so there is nothing to compute."""
    network.shape = (math.prod(network.shape),)


def _dense(network: _Network, config: Config) -> None:
    units = config["units"]
    kernel = network.variable(config, "kernel", (network.shape[-1], units))
    bias = {"bias": network.variable(config, "bias", (units,))} if config["use_bias"] else {}
    network.add("dense", (*network.shape[:-1], units), {}, kernel=kernel, **bias)
    network.activate(config["activation"], config)


def _convolution(network: _Network, config: Config) -> None:
    if config["groups"] != 1 or set(config["dilation_rate"]) != {1}:
        raise _UnfitError(f"its layer {config['name']} convolves in groups or with gaps")
    size, filters = tuple(config["kernel_size"]), config["filters"]
    kernel = network.variable(config, "kernel", (*size, network.shape[-1], filters))
    bias = {"bias": network.variable(config, "bias", (filters,))} if config["use_bias"] else {}
    height, width, facts = _window(network, config, size)
    network.add("convolution", (height, width, filters), facts, kernel=kernel, **bias)
    network.activate(config["activation"], config)


def _window(network: _Network, config: Config, size: Shape) -> tuple[int, int, dict[str, Any]]:
    """Return height and width of what a sliding window gives, and how it slides.

    Padding is what lies above and to the left of the image. With "same", TensorFlow puts the
    smaller half there (https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2).
    """
    if config["padding"] not in ("valid", "same"):
        raise _UnfitError(f"its layer {config['name']} pads in a way of its own")
    counts, padding = [], []
    for length, window, step in zip(network.shape[:2], size, config["strides"], strict=True):
        if config["padding"] == "same":
            counts.append(-(-length // step))
            padding.append(max((counts[-1] - 1) * step + window - length, 0) // 2)
        else:
            counts.append((length - window) // step + 1)
            padding.append(0)
    facts = {"size": list(size), "strides": list(config["strides"]), "padding": padding}
    return counts[0], counts[1], facts


def _relu(network: _Network, config: Config) -> None:
    if config["negative_slope"] or config.get("threshold") or config.get("max_value") is not None:
        raise _UnfitError(f"its layer {config['name']} has a slope, a threshold or a ceiling")
    network.activate("relu", config)


_LAYERS: dict[str, Callable[[_Network, Config], None]] = {
    "BatchNormalization": _batch_normalization,
    "Conv2D": _convolution,
    "Dense": _dense,
    "Flatten": _flatten,
    "ReLU": _relu,
    "Rescaling": _rescaling,
}
