"""A step in another order, or in microbatches, computes what Keras computes for the whole batch."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.support import series
from tests.support.loops import CLASSES, LABELS, RANDOM, SHAPE, build, run
from trainer import presets
from trainer.train import forward, models

pytestmark = pytest.mark.tensorflow

IMAGES = RANDOM.integers(0, 256, (48, 28, 28, 1)).astype(np.uint8)
WEIGHING = RANDOM.normal(size=(48, 10)).astype(np.float32)


def step_of(model: Any, count: int) -> list[Any]:
    """Return logits, other variables and gradients of a step in microbatches; 0: Keras's own."""
    trainable = [tf.convert_to_tensor(each) for each in model.trainable_variables]
    others = [tf.convert_to_tensor(each) for each in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        if count:
            logits, after = forward.call(model, trainable, others, IMAGES, count)
        else:
            logits, after = model.stateless_call(trainable, others, IMAGES, training=True)
        loss = tf.reduce_sum(logits * WEIGHING)
    return [logits, *after, *tape.gradient(loss, trainable)]


@pytest.mark.parametrize("preset", presets.PRESETS)
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=series.only_long), 3])
def test_logits_statistics_and_gradients_are_those_of_keras(
    preset: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.build(presets.configure({}, {"preset": preset}), (28, 28, 1), 10)
    # Among a million units one may be so near to the kink of ReLU that rounding turns it on or off.
    monkeypatch.setattr(keras.layers.ReLU, "call", lambda _, inputs: keras.ops.softplus(inputs))
    for layer in forward.in_a_row(model):
        if getattr(layer, "activation", None) is keras.activations.relu:
            layer.activation = keras.activations.softplus
    for weight in model.trainable_variables:  # scales of 1 and shifts of 0 would hide mistakes
        weight.assign(weight + 0.1 * RANDOM.normal(size=weight.shape))
    for got, told in zip(step_of(model, count), step_of(model, 0), strict=True):
        scale = float(np.abs(told).max()) or 1.0
        np.testing.assert_allclose(got, told, rtol=1e-3, atol=1e-4 * scale)


Dense = keras.layers.Dense


@pytest.mark.parametrize(
    ("stack", "sizes"),
    [
        ([Dense(2), Dense(2), Dense(2, activation="relu"), Dense(2)], [3, 1]),
        ([Dense(2, activation="relu"), Dense(2), keras.layers.ReLU(), Dense(2)], [1, 1, 1, 1]),
        ([keras.layers.Flatten(), Dense(2), Dense(2)], [1, 2]),
        ([], []),
    ],
)
def test_dense_layers_are_together_up_to_an_activation(stack: list[Any], sizes: list[int]) -> None:
    groups = list(forward.together(stack))
    assert [len(group) for group in groups] == sizes
    assert [layer for group in groups for layer in group] == stack


@pytest.mark.parametrize(
    ("units", "images", "first"),
    [((16, 3), 40, True), ((16, 8, 3), 40, True), ((16, 3), 2, False), ((3, 200), 40, False)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_dense_layers_are_the_same_in_any_order(
    units: tuple[int, ...], images: int, first: bool, bias: bool
) -> None:
    stack = [Dense(n, use_bias=bias, bias_initializer="normal") for n in units]
    stack[-1].activation = keras.activations.tanh
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), *stack])
    assert forward.multiplies_first(stack, images) == first
    inputs = RANDOM.random((images, *SHAPE)).astype(np.float32)
    values = [tf.convert_to_tensor(each) for each in model.trainable_variables]

    def step(reordered: bool) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            if reordered:
                outputs, _ = forward.call(model, values, [], inputs, 1)
            else:
                outputs, _ = model.stateless_call(values, [], inputs, training=True)
            loss = tf.reduce_sum(tf.square(outputs))
        return [outputs, *tape.gradient(loss, values)]

    for got, told in zip(step(True), step(False), strict=True):
        np.testing.assert_allclose(got, told, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "strides", "settings", "unstrided"),
    [
        (5, 2, {}, True),
        (4, 2, {}, True),
        (5, (1, 2), {}, True),
        (3, 2, {}, False),  # there it takes longer
        (1, 2, {}, False),
        (5, 1, {}, False),
        (5, 2, {"padding": "same"}, False),
        (5, 2, {"groups": 2}, False),
    ],
)
def test_back_through_which_convolutions_there_is_no_stride(
    size: int, strides: int | tuple[int, int], settings: dict[str, Any], unstrided: bool
) -> None:
    layer = keras.layers.Conv2D(4, size, strides=strides, **settings)
    assert forward.goes_back_unstrided(layer) == unstrided


@given(
    outputs=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    unseen=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_the_gradient_of_a_convolutions_input_is_tensorflows(
    outputs: tuple[int, int],
    unseen: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
) -> None:
    """With rows and columns at the ends that no output sees, as long as they make none."""
    height, width = (
        (count - 1) * stride + size + min(more, stride - 1)
        for count, stride, size, more in zip(outputs, strides, kernel, unseen, strict=True)
    )
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(2, height, width, 3)).astype(np.float32))
    weights = tf.constant(random.normal(size=(*kernel, 3, 5)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        found = tf.nn.conv2d(images, weights, [1, *strides, 1], "VALID")
    assert found.shape[1:3] == outputs
    gradient = tf.constant(random.normal(size=found.shape).astype(np.float32))
    told = tape.gradient(found, images, output_gradients=gradient)
    got = forward.input_gradient(gradient, weights, images.shape, strides)
    np.testing.assert_allclose(got, told, rtol=1e-4, atol=1e-4)


def convolving() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(SHAPE, dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(scale=False, momentum=0.5),
            layers.ReLU(),
            layers.Conv2D(4, 2, strides=2, activation="relu"),
            layers.Dropout(0.3),
            keras.Sequential([layers.Flatten(), layers.Dense(8)]),
            layers.BatchNormalization(center=False, momentum=0.5),
            layers.Dense(CLASSES),
        ]
    )


@pytest.mark.parametrize("settings", [{"microbatches": 4}, {"xla": True}, {"replicas": 2}])
def test_a_run_reordered_has_the_losses_and_logits_of_keras(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[int] = []

    def call(*arguments: Any, chained: bool) -> Any:
        cuts.append(arguments[-1])
        assert chained == settings.get("xla", False)
        return original(*arguments, chained=chained)

    original = forward.call
    monkeypatch.setattr(forward, "call", call)
    # Adam would make steps of the rounding of what batch norm takes off again.
    as_keras = build(convolving, **{**settings, "microbatches": 1}, optimizer="sgd")
    reordered = build(convolving, **settings, reordered=True, optimizer="sgd")
    state, losses = run(as_keras, [8, 16])
    assert not cuts
    state_reordered, losses_reordered = run(reordered, [8, 16])
    np.testing.assert_allclose(losses_reordered, losses, rtol=1e-4)
    assert set(cuts) == {settings.get("microbatches", 1)}
    assert losses[-1] < losses[0]
    indices = np.arange(len(LABELS), dtype=np.int32)
    # The same function, whether a step is reordered or not.
    one, other = (
        as_keras.logits(as_keras.place(each), indices) for each in (state, state_reordered)
    )
    np.testing.assert_allclose(other, one, atol=5e-3)


@given(threads=st.integers(1, 256), batch=st.integers(1, 4096))
def test_microbatches_are_equal_and_large_enough_and_no_more_than_threads(
    threads: int, batch: int
) -> None:
    count = forward.microbatches_for(threads, batch)
    assert 1 <= count <= threads
    assert batch % count == 0
    assert count == 1 or batch // count >= forward.LEAST


@pytest.mark.parametrize(
    ("threads", "batch", "count"),
    [(1, 128, 1), (2, 128, 2), (3, 128, 2), (8, 128, 4), (2, 129, 1), (3, 129, 3), (2, 63, 1)],
)
def test_there_are_as_many_microbatches_as_there_may_be(
    threads: int, batch: int, count: int
) -> None:
    assert forward.microbatches_for(threads, batch) == count
