"""Models for ``--model``."""

import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def noisy(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return a model with a random generator and with buffers."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(8),
            layers.BatchNormalization(momentum=0.8),
            layers.Dropout(0.3),
            layers.Dense(classes),
        ]
    )


def linear(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return one dense layer."""
    return keras.Sequential(
        [keras.Input(input_shape), layers.Flatten(), layers.Dense(classes, name="last")]
    )


def flipped(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return a model that flips training images at random."""
    last = [layers.Flatten(), layers.Dense(classes)]
    return keras.Sequential([keras.Input(input_shape), layers.RandomFlip(), *last])


def broken(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return a model that fails when it is trained, but not with the 3 images of its check."""

    class Failing(layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool = False) -> Any:
            return inputs * (1 // (1 - (training and inputs.shape[0] != 3)))

    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(Failing()(inputs))))


def hungry(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return ``linear`` and take 4 GiB."""
    taken = [bytearray(1 << 20) for _ in range(4096)]
    return linear(input_shape, classes) if taken else None


def held(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return ``linear`` that is held inside its 30th step, until the file HELD exists."""
    marker, steps = Path(os.environ["HELD"]), iter(range(1, 1 << 30))

    def hold(images: Any) -> Any:
        if next(steps) == 30 and not marker.exists():
            marker.touch()
            time.sleep(3600)
        return np.float32(images)

    class Holding(layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool = False) -> Any:
            if not training:
                return inputs
            return tf.ensure_shape(tf.numpy_function(hold, [inputs], tf.float32), inputs.shape)

    return keras.Sequential(
        [keras.Input(input_shape), Holding(), layers.Flatten(), layers.Dense(classes, name="last")]
    )


def twins(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return ``paced`` with two weights that are alike, or else the loss is NaN."""

    class Twins(layers.Layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            self.pair = self.add_weight(shape=(2,), initializer="zeros", name="pair")

        def call(self, logits: Any) -> Any:
            one, other = self.pair[0], self.pair[1]
            # Their gradients are the largest ones.
            added = 100.0 * (one + other) * tf.one_hot(0, classes)
            return logits + added + tf.where(one == other, 0.0, np.nan)

    return keras.Sequential([*paced(input_shape, classes).layers, Twins()])


def calm(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return ``noisy`` at the pace of ``paced``, for gangs that train while a test waits."""
    return _paced(noisy(input_shape, classes))


def paced(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return ``linear`` that takes its time, however busy the machine is: 10 ms a step."""
    return _paced(linear(input_shape, classes))


def _paced(model: Any) -> Any:
    def wait(images: Any) -> Any:
        time.sleep(0.01)
        return np.float32(images)

    class Pacing(layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool = False) -> Any:
            if not training:
                return inputs
            return tf.ensure_shape(tf.numpy_function(wait, [inputs], tf.float32), inputs.shape)

    return keras.Sequential([keras.Input(model.input_shape[1:]), Pacing(), *model.layers])


@keras.saving.register_keras_serializable("tests")
class Known(keras.layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return inputs * 2


class Unknown(keras.layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return inputs * 3


def known(input_shape: tuple[int, int, int], classes: int) -> Any:
    return _with(Known(), input_shape, classes)


def unknown(input_shape: tuple[int, int, int], classes: int) -> Any:
    return _with(Unknown(), input_shape, classes)


def _with(layer: Any, input_shape: tuple[int, int, int], classes: int) -> Any:
    flat, last = keras.layers.Flatten(), keras.layers.Dense(classes)
    return keras.Sequential([keras.Input(input_shape), layer, flat, last])
