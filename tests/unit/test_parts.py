"""A step in parts computes what the step of the whole batch does."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_loop import CLASSES, LABELS, RANDOM, SHAPE, build, run
from trainer import loop, models, parts, presets

IMAGES = RANDOM.integers(0, 256, (48, 28, 28, 1)).astype(np.uint8)
WEIGHING = RANDOM.normal(size=(48, 10)).astype(np.float32)


def step_of(model: Any, count: int) -> list[Any]:
    """Return logits, other variables and gradients of a step in so many parts; 0: Keras's own."""
    trainable = [tf.convert_to_tensor(each) for each in model.trainable_variables]
    others = [tf.convert_to_tensor(each) for each in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        if count:
            logits, after = parts.call_in_parts(model, trainable, others, IMAGES, count)
        else:
            logits, after = model.stateless_call(trainable, others, IMAGES, training=True)
        loss = tf.reduce_sum(logits * WEIGHING)
    return [logits, *after, *tape.gradient(loss, trainable)]


@pytest.mark.parametrize("preset", sorted(presets.PRESETS.keys() - models.HIDDEN.keys()))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_logits_statistics_and_gradients_are_those_of_keras(preset: str, count: int) -> None:
    model = models.build(presets.configure({}, {"preset": preset}), (28, 28, 1), 10)
    for weight in model.trainable_variables:  # scales of 1 and shifts of 0 would hide mistakes
        weight.assign(weight + 0.1 * RANDOM.normal(size=weight.shape))
    for got, told in zip(step_of(model, count), step_of(model, 0), strict=True):
        scale = float(np.abs(told).max()) or 1.0
        np.testing.assert_allclose(got, told, rtol=1e-3, atol=1e-4 * scale)


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
        return parts.call_in_parts(*arguments)

    monkeypatch.setattr(loop, "call_in_parts", call)
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
    count = parts.count(threads, batch)
    assert 1 <= count <= threads
    assert batch % count == 0
    assert count == 1 or batch // count >= parts.LEAST


@pytest.mark.parametrize(
    ("threads", "batch", "count"),
    [(1, 128, 1), (2, 128, 2), (3, 128, 2), (8, 128, 4), (2, 129, 1), (3, 129, 3), (2, 63, 1)],
)
def test_there_are_as_many_parts_as_there_may_be(threads: int, batch: int, count: int) -> None:
    assert parts.count(threads, batch) == count
