"""Small Keras models with random weights, as ``models.build`` makes them and a run stores them."""

import json
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from trainer.report import network

SIDE, CLASSES = 11, 4


def around(body: Any, rng: np.random.Generator) -> Any:
    """Return the model of a body, images uint8 [n, SIDE, SIDE, 1] -> logits."""
    inputs = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    scaling = keras.layers.Rescaling(1 / 255, name="scaling")
    model = keras.Sequential([inputs, scaling, body], name="trainer")
    for variable in model.weights:
        values = rng.normal(0, 0.2, variable.shape)
        variable.assign(np.abs(values) + 0.1 if "variance" in variable.path else values)
    return model


def stack(*layers: Any) -> Any:
    """Return a body that ends with a dense layer."""
    ending = (keras.layers.Flatten(), keras.layers.Dense(CLASSES))
    return keras.Sequential([keras.Input((SIDE, SIDE, 1)), *layers, *ending])


def arrays(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Return a model's weights by the names that a checkpoint gives them."""
    kinds = {"parameters": model.trainable_variables, "buffers": model.non_trainable_weights}
    return {f"{kind}/{v.path}": v.numpy() for kind, own in kinds.items() for v in own}


def describe(model: Any) -> dict[str, Any] | str:
    """Return what a page gets of a model."""
    return network.describe(json.loads(model.to_json()), arrays(model), (SIDE, SIDE, 1), CLASSES)


def probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return softmax of logits [n, classes]."""
    parts = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = parts / parts.sum(axis=1, keepdims=True)
    return result
