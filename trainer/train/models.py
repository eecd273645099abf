"""Models by name, and a user's own: functions of (input_shape, classes) to a keras.Model.

A model's function gets images scaled to [0, 1] as float [n, height, width, channels] and
returns logits [n, classes]. ``build`` puts the scaling in front, so that training, evaluation
and prediction all start from the same bytes.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
from keras import layers

from trainer.config import TrainConfig
from trainer.errors import DataError
from trainer.presets import check_images, hidden_units
from trainer.runs.trained_weights import Restored, weights
from trainer.train import own_model
from trainer.train.augmentation import Warp
from trainer.train.own_model import Shape as Shape
from trainer.train.own_model import Warn

Layer = Callable[[int], Any]  # of units
Layers = list[Any]

MOST_LAYERS = 1000  # in a table of them


def build(
    config: TrainConfig, input_shape: Shape, classes: int, warn: Warn = lambda _: None
) -> Any:
    """Return the configured model: images uint8 [n, *input_shape] -> logits [n, classes].

    Equal configurations get equal weights, in every process.

    Raises:
        ConfigError: the images are too small for the preset, or the user's own model is not one,
            see ``own_model.build``, which also says what ``warn`` is called with.
    """
    keras.utils.clear_session()  # layer names count up from here: checkpoints go by name
    keras.utils.set_random_seed(config.seed)
    keras.mixed_precision.set_global_policy(config.precision)

    def of_bytes(body: Any) -> Any:
        scaling = layers.Rescaling(1 / 255, name="scaling")
        return keras.Sequential(
            [keras.Input(input_shape, dtype="uint8"), scaling, body], name="trainer"
        )

    if config.model is None:
        return of_bytes(_preset(config, input_shape, classes))
    return own_model.build(config.model, input_shape, classes, warn, of_bytes)


def check_size(restored: Restored) -> None:
    """Check that a run's model takes no more memory than its stored weights.

    A preset's size follows from the size of images and the number of classes, and a run's folder
    can claim any. A user's own function is trusted.

    Raises:
        ConfigError: the images are too small for the preset.
        DataError: fewer weights are stored.
    """
    of_run = restored.settings
    if of_run.config.model is not None:
        return
    stored = sum(array.size for array in weights(restored.arrays).values())
    wanted = _kernel_weights(of_run.config, of_run.input_shape, of_run.classes)
    if wanted > stored:
        raise DataError(
            f"run: {restored.storage.uri}: has {stored:,} weights, and {of_run.config.preset} for "
            f"images of {'x'.join(map(str, of_run.input_shape))} {wanted:,}; "
            "use the settings that it was trained with"
        )


def check_weights(restored: Restored, wanted: Mapping[str, Any]) -> None:
    """Check that a run's weights are those of a model: ``wanted``, by path, of these shapes.

    Raises:
        DataError: they belong to another model; names the first that differs.
    """
    arrays = weights(restored.arrays)
    for path in [*wanted, *sorted(arrays.keys() - wanted.keys())]:
        found, here = (
            "x".join(map(str, each[path].shape)) if path in each else "no"
            for each in (arrays, wanted)
        )
        if found != here:
            raise DataError(
                f"run: {restored.storage.uri}: has {found} weights for {path}, and the model here "
                f"{here}; use the model that it was trained with"
            )


def load(restored: Restored) -> Any:
    """Return the model of a run with its weights: images uint8 [n, h, w, c] -> logits [n, classes].

    It leaves out layers of this project that work in training only, so that other programs can
    load the saved model.

    Raises:
        ConfigError: see ``build``.
        DataError: the weights belong to another model, for example because the user's function
            changed.
    """
    check_size(restored)
    of_run = restored.settings
    model = build(of_run.config, of_run.input_shape, of_run.classes)
    variables = {variable.path: variable for variable in model.weights}
    check_weights(restored, variables)
    for path, array in weights(restored.arrays).items():
        variables[path].assign(array)
    *_, body = model.layers
    kept = [each for each in getattr(body, "layers", []) if not isinstance(each, Warp)]
    if isinstance(body, keras.Sequential) and len(kept) < len(body.layers):
        body = keras.Sequential([keras.Input(of_run.input_shape), *kept])
    inputs = keras.Input(of_run.input_shape, dtype="uint8")
    return keras.Sequential([inputs, model.get_layer("scaling"), body], name="trainer")


def layer_table(model: Any) -> list[dict[str, Any]]:
    """Return name, type, output shape without the batch, if known, and weights of each layer.

    The layers of a model inside the model stand in its place.
    """
    found: list[dict[str, Any]] = []
    for layer in getattr(model, "layers", ()):
        if inner := layer_table(layer):
            found += inner
        elif type(layer).__name__ != "InputLayer":
            try:
                shape = [*layer.output.shape[1:]]
            except (AttributeError, TypeError, ValueError):  # several outputs, or not known yet
                shape = None
            found.append(
                {
                    "name": str(layer.name),
                    "type": type(layer).__name__,
                    "output": shape,
                    "weights": int(layer.count_params()) if layer.built else None,
                }
            )
    return found[:MOST_LAYERS]


def has_convolutions(model: Any) -> bool:
    """Return whether any layer convolves: XLA is slower for those on CPUs."""
    return any("Conv" in type(layer).__name__ for layer in model._flatten_layers())


def relu(units: int) -> Any:
    """Return a dense layer of ReLU units."""
    return layers.Dense(units, activation="relu")


def linear(units: int) -> Any:
    """Return a dense layer without activation, with larger initial weights than usual."""
    return layers.Dense(
        units,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.1),
        bias_initializer=keras.initializers.Constant(0.1),
    )


def zeros(units: int) -> Any:
    """Return a dense layer without activation whose weights start at zero."""
    return layers.Dense(units, kernel_initializer="zeros")


def log_sigmoid(units: int) -> Any:
    """Return a dense layer whose outputs, each a sigmoid of its own, stand for the classes.

    Cross-entropy over outputs s_i that need not add up to 1 divides by their sum. With
    log s_i as logits, softmax cross-entropy is that same loss.
    """
    return layers.Dense(units, activation="log_sigmoid")


def dense(
    config: TrainConfig, classes: int, hidden_layer: Layer = relu, outputs: Layer = layers.Dense
) -> Layers:
    """Return dense layers one after the other, with dropout after the hidden ones if wanted."""
    hidden = hidden_units(config)
    assert hidden is not None
    stack = [layers.Flatten()]
    for units in hidden:
        stack.append(hidden_layer(units))
        if config.dropout:
            stack.append(layers.Dropout(config.dropout))
    return [*stack, outputs(classes)]


def cnn(_: TrainConfig, classes: int) -> Layers:
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


def cnn_best(_: TrainConfig, classes: int) -> Layers:
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


BUILDERS: dict[str, Callable[[TrainConfig, int], Layers]] = {
    "softmax": partial(dense, outputs=zeros),
    "single-layer": partial(dense, outputs=log_sigmoid),
    "linear-512-256-128": partial(dense, hidden_layer=linear, outputs=linear),
    "mlp-100": partial(dense, outputs=log_sigmoid),
    "mlp-65-65": dense,
    "dnn-128-32": dense,
    "cnn": cnn,
    "cnn-best": cnn_best,
}


def is_dense(config: TrainConfig) -> bool:
    """Return whether a preset trains, all of whose layers are dense."""
    return hidden_units(config) is not None


def multiply_adds(config: TrainConfig, input_shape: Shape, classes: int) -> int | None:
    """Return the multiply-adds of one image's forward pass, None unless the preset is dense.

    Builds no model: after that TensorFlow's threads can no longer be chosen.
    """
    hidden = hidden_units(config)
    if hidden is None:
        return None
    widths = (math.prod(input_shape), *hidden, classes)
    return sum(before * after for before, after in itertools.pairwise(widths))


def _preset(config: TrainConfig, input_shape: Shape, classes: int) -> Any:
    check_images(config.preset, *input_shape[:2])
    stack = BUILDERS[config.preset](config, classes)
    return keras.Sequential([keras.Input(input_shape), *stack])


def _kernel_weights(config: TrainConfig, input_shape: Shape, classes: int) -> int:
    """Return how many weights the kernels of a preset have, without allocating them."""
    check_images(config.preset, *input_shape[:2])
    count, shape = 0, (None, *input_shape)
    for layer in BUILDERS[config.preset](config, classes):
        channels = shape[-1] or 1
        if isinstance(layer, layers.Dense):
            count += channels * layer.units
        elif isinstance(layer, layers.Conv2D):
            count += channels * layer.filters * math.prod(layer.kernel_size)
        elif not isinstance(layer, layers.Flatten):
            continue  # it keeps the shape
        shape = layer.compute_output_shape(shape)
    return count
