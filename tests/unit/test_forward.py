"""A step in another order, or in parts, computes what Keras computes for the whole batch."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_loop import CLASSES, LABELS, RANDOM, SHAPE, build, run
from trainer import forward, models, presets

IMAGES = RANDOM.integers(0, 256, (48, 28, 28, 1)).astype(np.uint8)
WEIGHING = RANDOM.normal(size=(48, 10)).astype(np.float32)


def step_of(model: Any, count: int) -> list[Any]:
    """Return logits, other variables and gradients of a step in so many parts; 0: Keras's own."""
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
@pytest.mark.parametrize("count", [1, 2, 3])
def test_logits_statistics_and_gradients_are_those_of_keras(preset: str, count: int) -> None:
    model = models.build(presets.configure({}, {"preset": preset}), (28, 28, 1), 10)
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


@pytest.mark.parametrize("units", [(16, 3), (16, 8, 3), (3, 200)])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_layers_multiplied_at_once_are_those_layers(
    units: tuple[int, ...], bias: bool
) -> None:
    stack = [Dense(n, use_bias=bias, bias_initializer="normal") for n in units]
    stack[-1].activation = keras.activations.tanh
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), *stack])
    images = RANDOM.random((40, *SHAPE)).astype(np.float32)
    values = [tf.convert_to_tensor(each) for each in model.trainable_variables]

    def step(together: bool) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            if together:
                outputs, _ = forward.call(model, values, [], images, 1)
            else:
                outputs, _ = model.stateless_call(values, [], images, training=True)
            loss = tf.reduce_sum(tf.square(outputs))
        return [outputs, *tape.gradient(loss, values)]

    for got, told in zip(step(True), step(False), strict=True):
        np.testing.assert_allclose(got, told, rtol=1e-3, atol=1e-4)


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from(["SAME", "VALID"]),
)
def test_the_gradient_of_a_convolutions_input_is_tensorflows(
    height: int, width: int, kernel: tuple[int, int], strides: tuple[int, int], padding: str
) -> None:
    if padding == "VALID":
        height, width = height + kernel[0] - 1, width + kernel[1] - 1
    images = tf.constant(RANDOM.normal(size=(2, height, width, 3)).astype(np.float32))
    weights = tf.constant(RANDOM.normal(size=(*kernel, 3, 5)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = tf.nn.conv2d(images, weights, [1, *strides, 1], padding)
    gradient = tf.constant(RANDOM.normal(size=outputs.shape).astype(np.float32))
    told = tape.gradient(outputs, images, output_gradients=gradient)
    got = forward.input_gradient(gradient, weights, images.shape, strides, padding)
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
            layers.Dropout(0.3),
            keras.Sequential([layers.Flatten(), layers.Dense(8)]),
            layers.BatchNormalization(center=False, momentum=0.5),
            layers.Dense(CLASSES),
        ]
    )


def test_a_run_in_parts_has_the_losses_and_logits_of_one_in_whole_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuts: list[int] = []

    def call(*arguments: Any) -> Any:
        cuts.append(arguments[-1])
        return original(*arguments)

    original = forward.call
    monkeypatch.setattr(forward, "call", call)
    whole, cut = build(convolving), build(convolving, parts=4)
    state, losses = run(whole, [8, 16])
    state_cut, losses_cut = run(cut, [8, 16])
    np.testing.assert_allclose(losses_cut, losses, rtol=1e-4)
    assert set(cuts) == {4}
    assert losses[-1] < losses[0]
    indices = np.arange(len(LABELS), dtype=np.int32)
    np.testing.assert_allclose(
        cut.logits(cut.place(state_cut), indices),
        whole.logits(whole.place(state), indices),
        atol=1e-3,
    )


@given(threads=st.integers(1, 256), batch=st.integers(1, 4096))
def test_parts_are_equal_and_large_enough_and_no_more_than_threads(
    threads: int, batch: int
) -> None:
    count = forward.parts(threads, batch)
    assert 1 <= count <= threads
    assert batch % count == 0
    assert count == 1 or batch // count >= forward.LEAST


@pytest.mark.parametrize(
    ("threads", "batch", "count"),
    [(1, 128, 1), (2, 128, 2), (3, 128, 2), (8, 128, 4), (2, 129, 1), (3, 129, 3), (2, 63, 1)],
)
def test_there_are_as_many_parts_as_there_may_be(threads: int, batch: int, count: int) -> None:
    assert forward.parts(threads, batch) == count
