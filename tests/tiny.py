"""Models for ``--model``."""

from typing import Any

import keras
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


def broken(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return a model that fails when it is trained."""

    class Failing(layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool = False) -> Any:
            return inputs * (1 // (1 - training))

    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(Failing()(inputs))))


def hungry(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return ``linear`` and take 4 GiB."""
    taken = [bytearray(1 << 20) for _ in range(4096)]
    return linear(input_shape, classes) if taken else None
