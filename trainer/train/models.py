"""Models by name, and a user's own: functions of (input_shape, classes) to a keras.Model.

A model's function gets images scaled to [0, 1] as float [n, height, width, channels] and
returns logits [n, classes]. ``build`` puts the scaling in front, so that training, evaluation
and prediction all start from the same bytes.
"""

import importlib
import itertools
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.runs.restore import Restored, weights
from trainer.train.warp import Warp

Shape = tuple[int, int, int]  # height, width, channels
Layers = list[Any]
Builder = Callable[[int], Layers]  # of classes; the layers of a preset, one after the other


def build(config: TrainConfig, input_shape: Shape, classes: int) -> Any:
    """Return the configured model: images uint8 [n, *input_shape] -> logits [n, classes].

    Equal configurations get equal weights, in every process.

    Raises:
        ConfigError: the images are too small for the preset, or the user's function cannot be
            found, fails, or returns something else.
    """
    keras.utils.clear_session()  # layer names count up from here: checkpoints go by name
    keras.utils.set_random_seed(config.seed)
    keras.mixed_precision.set_global_policy(config.precision)
    if config.model is None:
        body = _preset(config.preset, input_shape, classes)
    else:
        body = _users_model(config.model, input_shape, classes)
    scaling = layers.Rescaling(1 / 255, name="scaling")
    return keras.Sequential(
        [keras.Input(input_shape, dtype="uint8"), scaling, body], name="trainer"
    )


def check_size(restored: Restored) -> None:
    """Check that a run's model takes no more memory than the weights that are there for it.

    A preset's size follows from the size of images and the number of classes, and a run's folder
    may name any. A user's own function is trusted.

    Raises:
        ConfigError: the images are too small for the preset.
        DataError: there are fewer weights.
    """
    of_run = restored.settings
    if of_run.config.model is not None:
        return
    stored = sum(array.size for array in weights(restored.arrays).values())
    wanted = _kernel_weights(of_run.config.preset, of_run.input_shape, of_run.classes)
    if wanted > stored:
        raise DataError(
            f"run: {restored.storage.uri}: has {stored:,} weights, and {of_run.config.preset} for "
            f"images of {'x'.join(map(str, of_run.input_shape))} {wanted:,}; "
            "use the settings that it was trained with"
        )


def load(restored: Restored) -> Any:
    """Return the model of a run with its weights: images uint8 [n, h, w, c] -> logits [n, classes].

    It has no layer that works in training only and that Keras does not know, so that it can be
    saved for programs that do not have this one.

    Raises:
        ConfigError: see ``build``.
        DataError: the weights are those of another model, as when the user's function changed.
    """
    check_size(restored)
    of_run = restored.settings
    model = build(of_run.config, of_run.input_shape, of_run.classes)
    arrays = weights(restored.arrays)
    for variable in model.weights:
        array = arrays.pop(variable.path, None)
        if array is None or array.shape != tuple(variable.shape):
            found = "no" if array is None else "x".join(map(str, array.shape))
            raise DataError(
                f"run: {restored.storage.uri}: has {found} weights for {variable.path}, of shape "
                f"{'x'.join(map(str, variable.shape))} here; use the model that it was trained with"
            )
        variable.assign(array)
    *_, body = model.layers
    kept = [each for each in getattr(body, "layers", []) if not isinstance(each, Warp)]
    if isinstance(body, keras.Sequential) and len(kept) < len(body.layers):
        body = keras.Sequential([keras.Input(of_run.input_shape), *kept])
    inputs = keras.Input(of_run.input_shape, dtype="uint8")
    return keras.Sequential([inputs, model.get_layer("scaling"), body], name="trainer")


def has_convolutions(model: Any) -> bool:
    """Return whether any layer convolves: there XLA loses on CPUs."""
    return any("Conv" in type(layer).__name__ for layer in model._flatten_layers())


def softmax(classes: int) -> Layers:
    """Softmax regression, weights from zero."""
    return [layers.Flatten(), layers.Dense(classes, kernel_initializer="zeros")]


def single_layer(classes: int) -> Layers:
    """One dense layer with sigmoid outputs."""
    return [layers.Flatten(), _sigmoid_outputs(classes)]


def mlp_100(classes: int) -> Layers:
    """100 ReLU units and sigmoid outputs."""
    hidden = layers.Dense(100, activation="relu")
    return [layers.Flatten(), hidden, _sigmoid_outputs(classes)]


def _sigmoid_outputs(classes: int) -> Any:
    """Return an output layer whose classes each have a sigmoid of their own.

    Cross-entropy over outputs s_i that need not add up to 1 divides by their sum. With
    log s_i as logits, softmax cross-entropy is that same loss.
    """
    return layers.Dense(classes, activation="log_sigmoid")


def linear_512_256_128(classes: int) -> Layers:
    """Three hidden layers without activation."""

    def dense(units: int) -> Any:
        return layers.Dense(
            units,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.1),
            bias_initializer=keras.initializers.Constant(0.1),
        )

    hidden = [dense(units) for units in (512, 256, 128)]
    return [layers.Flatten(), *hidden, dense(classes)]


def mlp(*units: int) -> Builder:
    """Return a builder of a ReLU network with these hidden layers."""

    def builder(classes: int) -> Layers:
        hidden = [layers.Dense(n, activation="relu") for n in units]
        return [layers.Flatten(), *hidden, layers.Dense(classes)]

    return builder


def cnn(classes: int) -> Layers:
    """Two strided convolutions and a dense layer; 80,000 weights.

    With the preset's 1.2 epochs: 99.01 to 99.21% test accuracy on MNIST over seeds 1 to 20, median
    99.10% (TensorFlow 2.21). The learning rate was chosen on the validation split (0.03: 99.07%,
    0.04: 99.10%, means of these seeds). Batch norm after the first convolution
    too costs a quarter more time and gained nothing there.
    """
    return [
        layers.Conv2D(16, 5, strides=2, activation="relu"),
        layers.Conv2D(32, 5, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(128, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dense(classes),
    ]


def cnn_best(classes: int) -> Layers:
    """Five convolutions, batch-normalised, on images warped at random; 166,000 weights.

    With the preset's 27 epochs over all 60,000 images: 99.64% test accuracy on MNIST with seed 1,
    in 255 s of training (TensorFlow 2.21, 2 cores of an AMD EPYC).
    """

    def convolution(filters: int, size: int, **settings: Any) -> list[Any]:
        kernel = layers.Conv2D(filters, size, use_bias=False, **settings)
        return [kernel, layers.BatchNormalization(), layers.ReLU()]

    return [
        Warp(),
        *convolution(24, 5, strides=2, padding="same"),
        *convolution(48, 3),
        *convolution(48, 3),
        *convolution(96, 3, strides=2, padding="same"),
        *convolution(96, 3),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(classes),
    ]


BUILDERS: dict[str, Builder] = {
    "softmax": softmax,
    "single-layer": single_layer,
    "linear-512-256-128": linear_512_256_128,
    "mlp-100": mlp_100,
    "mlp-65-65": mlp(65, 65),
    "dnn-128-32": mlp(128, 32),
    "cnn": cnn,
    "cnn-best": cnn_best,
}


# Units of the hidden layers of the presets that are dense throughout.
HIDDEN: dict[str, tuple[int, ...]] = {
    "softmax": (),
    "single-layer": (),
    "linear-512-256-128": (512, 256, 128),
    "mlp-100": (100,),
    "mlp-65-65": (65, 65),
    "dnn-128-32": (128, 32),
}


def multiply_adds(config: TrainConfig, input_shape: Shape, classes: int) -> int | None:
    """Return the multiply-adds of one image's forward pass, None unless the preset is dense.

    The model need not be built: once it is, TensorFlow's threads can no longer be chosen.
    """
    if config.model is not None or config.preset not in HIDDEN:
        return None
    widths = (math.prod(input_shape), *HIDDEN[config.preset], classes)
    return sum(before * after for before, after in itertools.pairwise(widths))


def _preset(name: str, input_shape: Shape, classes: int) -> Any:
    stack = BUILDERS[name](classes)
    try:
        return keras.Sequential([keras.Input(input_shape), *stack])
    except ValueError:  # Keras: an output of this convolution would have no pixels left
        raise _too_small(name, input_shape) from None


def _kernel_weights(name: str, input_shape: Shape, classes: int) -> int:
    """Return how many weights the kernels of a preset have; nothing is allocated."""
    count, shape = 0, (None, *input_shape)
    for layer in BUILDERS[name](classes):
        channels = shape[-1] or 1
        if isinstance(layer, layers.Dense):
            count += channels * layer.units
        elif isinstance(layer, layers.Conv2D):
            count += channels * layer.filters * math.prod(layer.kernel_size)
        elif not isinstance(layer, layers.Flatten):
            continue  # it leaves the shape as it is
        try:
            shape = layer.compute_output_shape(shape)
        except ValueError:
            raise _too_small(name, input_shape) from None
    return count


def _too_small(preset: str, input_shape: Shape) -> ConfigError:
    height, width, _ = input_shape
    return ConfigError(
        f"preset: {preset}: cannot take images of {height} x {width} pixels; "
        "give larger ones, a preset without convolutions, or --model"
    )


def _users_model(reference: str, input_shape: Shape, classes: int) -> Any:
    remedy = "give package.module:function of (input_shape, classes) that returns a keras.Model"
    module_name, _, function_name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        model = function(input_shape, classes)
        if isinstance(model, keras.Model):
            # A black, a grey and a white image build what is built by its first call, and show
            # what comes out.
            images = np.multiply.outer(np.linspace(0, 1, 3), np.ones(input_shape))
            answer = np.asarray(model(images.astype(np.float32), training=False), np.float32)
    except Exception as error:
        reason = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())  # Keras writes in bold
        raise ConfigError(
            f"model: {reference}: {type(error).__name__}: {reason}; {remedy}"
        ) from None
    if not isinstance(model, keras.Model):
        raise ConfigError(f"model: {reference}: returned a {type(model).__name__}; {remedy}")
    _check_logits(answer, classes, reference)
    return model


def _check_logits(answer: npt.NDArray[np.float32], classes: int, reference: str) -> None:
    if answer.shape != (3, classes):
        raise ConfigError(
            f"model: {reference}: its output for 3 images has shape {answer.shape}, "
            f"but the data has {classes} classes; end with Dense({classes})"
        )
    if (answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=5e-3):
        raise ConfigError(
            f"model: {reference}: its outputs are shares that add up to 1, as a softmax gives, "
            "but the loss takes logits; remove that activation"
        )
