from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from trainer.config import parse
from trainer.train import optimizers

pytestmark = pytest.mark.tensorflow

STEPS = 20
SHAPES = {"kernel": (7, 5), "bias": (5,), "filters": (3, 3, 2, 4), "scale": ()}

Arrays = dict[str, npt.NDArray[np.float32]]
RULES: dict[str, tuple[dict[str, Any], Any]] = {
    "sgd": ({"optimizer": "sgd"}, keras.optimizers.SGD),
    "momentum": (
        {"optimizer": "sgd", "momentum": 0.9},
        lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    ),
    "adam": ({"optimizer": "adam"}, keras.optimizers.Adam),
    "adagrad": ({"optimizer": "adagrad"}, keras.optimizers.Adagrad),
    "adamw": (
        {"optimizer": "adam", "weight_decay": 0.1},
        lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.1),
    ),
    "sgd with decay": (
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
        lambda rate: keras.optimizers.SGD(rate, momentum=0.9, weight_decay=0.1),
    ),
}


def draw(random: np.random.Generator) -> Arrays:
    return {
        name: np.asarray(random.normal(size=shape), np.float32) for name, shape in SHAPES.items()
    }


def ours(settings: dict[str, Any], start: Arrays, steps: list[tuple[float, Arrays]]) -> Arrays:
    optimizer = optimizers.create(parse(settings))
    state = {name: (tf.constant(a), optimizer.init(a)) for name, a in start.items()}
    for step, (rate, gradients) in enumerate(steps, start=1):
        for name, (parameter, slots) in state.items():
            state[name] = optimizer.apply(
                parameter,
                tf.constant(gradients[name]),
                slots,
                tf.constant(rate, tf.float32),
                tf.constant(step, tf.float32),
            )
    return {name: parameter.numpy() for name, (parameter, _) in state.items()}


def theirs(optimizer: Any, start: Arrays, steps: list[tuple[float, Arrays]]) -> Arrays:
    variables = {name: keras.Variable(array, name=name) for name, array in start.items()}
    optimizer.exclude_from_weight_decay([v for v in variables.values() if len(v.shape) < 2])
    optimizer.build(list(variables.values()))
    for rate, gradients in steps:
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradients[name]) for name in variables])
    return {name: variable.numpy() for name, variable in variables.items()}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_that_of_keras(name: str) -> None:
    settings, make = RULES[name]
    random = np.random.default_rng(1)
    start = draw(random)
    # The rate changes from step to step, as schedules make it.
    steps = [(0.1 / step, draw(random)) for step in range(1, STEPS + 1)]
    found, wanted = ours(settings, start, steps), theirs(make(0.1), start, steps)
    for key in SHAPES:
        assert np.abs(wanted[key] - start[key]).max() > 1e-2  # it did move
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-6, atol=2e-6, err_msg=key)


def test_a_weight_decay_takes_kernels_only() -> None:
    start = draw(np.random.default_rng(1))
    nothing = {name: np.zeros_like(array) for name, array in start.items()}
    found = ours({"optimizer": "sgd", "weight_decay": 0.5}, start, [(0.1, nothing)])
    for name, array in start.items():
        share = 0.95 if array.ndim >= 2 else 1.0
        np.testing.assert_allclose(found[name], array * np.float32(share), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "slots"),
    [
        ({"optimizer": "sgd"}, ()),
        ({"optimizer": "sgd", "momentum": 0.9}, ("momentum",)),
        ({"optimizer": "adam"}, ("momentum", "velocity")),
        ({"optimizer": "adagrad"}, ("accumulator",)),
    ],
)
def test_slots_are_named_and_shaped_like_the_parameter(
    settings: dict[str, Any], slots: tuple[str, ...]
) -> None:
    optimizer = optimizers.create(parse(settings))
    assert optimizer.slots == slots
    parameter = np.ones((2, 3), np.float32)
    before = optimizer.init(parameter)
    _, after = optimizer.apply(
        tf.constant(parameter), tf.constant(parameter), before, tf.constant(0.1), tf.constant(1.0)
    )
    for each in (*before, *after):
        assert (each.shape, each.dtype) == ((2, 3), np.float32)
    assert len(before) == len(after) == len(slots)
