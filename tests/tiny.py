"""A model for ``--model``: small, with dropout and running statistics."""

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
