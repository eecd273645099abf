"""A model of your own, for own.yaml beside it: a function of the images' shape and the classes."""

import keras
from keras import layers


def small(input_shape, classes):
    """Take images scaled to 0 to 1 and end with one logit for each class."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(classes),
        ]
    )
