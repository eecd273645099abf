"""The warp: what it samples, that it trains only, and that its randomness is the loop's."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.train.augmentation import Warp, sample

pytestmark = pytest.mark.tensorflow

SIDES = st.integers(2, 9)


def shown_at(image: npt.NDArray[Any], y: float, x: float) -> npt.NDArray[Any]:
    """Return what an image [height, width, channels] shows between its pixels."""
    height, width, channels = image.shape
    value = np.zeros(channels)
    for row in range(height):
        for column in range(width):
            near = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
            value += near * image[row, column]
    return value


@settings(max_examples=20, deadline=None)
@given(SIDES, SIDES, st.integers(1, 3), st.floats(0, 20), st.integers(0, 2**32 - 1))
def test_sample_interpolates_and_is_zero_outside(
    height: int, width: int, channels: int, strength: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    images = random.random((2, height, width, channels), np.float32)
    field = (strength * random.standard_normal((2, 2, height * width))).astype(np.float32)
    found = sample(tf.constant(images), tf.constant(field)).numpy()
    for k in range(2):
        for p in range(height * width):
            y, x = p // width + field[k, 0, p], p % width + field[k, 1, p]
            expected = shown_at(images[k], y, x)
            # A position far outside is taken as up to 0.001 pixels inside the border.
            np.testing.assert_allclose(found[k, p // width, p % width], expected, atol=2e-3)


def test_warp_leaves_images_alone_outside_training() -> None:
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    assert np.array_equal(Warp()(images, training=False), images)
    assert np.array_equal(Warp(shift=0, bend=0)(images, training=True), images)


def test_warp_moves_by_shift_alone_where_nothing_bends() -> None:
    layer = Warp(shift=2.0, bend=0.0)
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (500, 40, 40, 1))
    moved = layer(ramp, training=True)[:, 20, 20, 0].numpy() - 20
    assert moved.std() == pytest.approx(2.0, rel=0.15)
    assert abs(moved.mean()) < 0.4


def test_warp_is_a_function_of_the_seed() -> None:
    model = keras.Sequential([keras.Input((28, 28, 1)), Warp()])
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)

    def warped(seed: int) -> npt.NDArray[Any]:
        state = [tf.constant([seed, 0], tf.uint32)]
        return np.asarray(model.stateless_call([], state, images, training=True)[0])

    assert np.array_equal(warped(1), warped(1))
    assert not np.array_equal(warped(1), warped(2))
    assert not np.array_equal(warped(1), images)
