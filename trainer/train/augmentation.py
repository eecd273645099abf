"""A layer that distorts training images at random, and leaves all others unchanged."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

Tensor = Any  # TensorFlow ships no types


class Warp(keras.layers.Layer):  # type: ignore[misc]
    """Distort every training image by a smooth random field, a new one each time.

    The field is a sum of low-frequency cosines with normally distributed coefficients. The
    constant moves the image, the lowest waves scale, shear and turn it, and the others bend its
    strokes, like the elastic distortions of Simard, Steinkraus and Platt (ICDAR 2003).
    Pixels outside the image are 0, and values between pixels are interpolated linearly.

    Args:
        shift: standard deviation of the move in each direction, pixels.
        bend: standard deviation of the lowest waves' amplitude, pixels; a wave of i half periods
            down and j across has bend / (i^2 + j^2).
        waves: i and j are below this.
    """

    def __init__(self, shift: float = 1.0, bend: float = 1.5, waves: int = 4) -> None:
        super().__init__()
        self.shift, self.bend, self.waves = shift, bend, waves
        self.seed_generator = keras.random.SeedGenerator()
        # One kernel instead of thirty: three times as fast on a CPU, where XLA is off for the rest.
        self._sample = tf.function(sample, jit_compile=True)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Compute the cosines for images [n, height, width, channels]."""
        _, height, width, _ = input_shape
        assert height
        assert width
        down, across = (_cosines(self.waves, size) for size in (height, width))
        i, j = np.indices((self.waves, self.waves))
        scale = self.bend / np.maximum(i**2 + j**2, 1)
        scale[0, 0] = self.shift
        field = np.einsum("ij,iy,jx->ijyx", scale, down, across)
        self._field = field.reshape(-1, height * width).astype(np.float32)
        self.built = True

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        """Return images of the same shape, [n, height, width, channels]."""
        if not training:
            return images
        shape = (tf.shape(images)[0], 2, len(self._field))
        coefficients = keras.random.normal(shape, dtype="float32", seed=self.seed_generator)
        return self._sample(images, tf.tensordot(coefficients, self._field, 1))


def sample(images: Tensor, field: Tensor) -> Tensor:
    """Return images whose pixel p is what the given ones show at p + field.

    Args:
        images: [n, height, width, channels].
        field: offsets down and to the right, pixels, float32 [n, 2, height * width].
    """
    height, width, channels = images.shape[1:]
    count = tf.shape(images)[0]
    # A border of zeros stands for everything outside.
    framed = tf.pad(tf.cast(images, tf.float32), [[0, 0], [1, 1], [1, 1], [0, 0]])
    stride = width + 2
    grid = np.indices((height, width), np.float32).reshape(2, -1) + 1
    y, x = tf.unstack(field + grid, axis=1)
    y, x = tf.clip_by_value(y, 0, height + 0.999), tf.clip_by_value(x, 0, width + 0.999)
    top, left = tf.floor(y), tf.floor(x)
    start = tf.range(count)[:, None] * (stride * (height + 2))
    corner = start + tf.cast(top, tf.int32) * stride + tf.cast(left, tf.int32)
    pixels = tf.reshape(framed, [-1, channels])
    a, b, c, d = (tf.gather(pixels, corner + at) for at in (0, 1, stride, stride + 1))
    down, right = (y - top)[..., None], (x - left)[..., None]
    upper, lower = a + right * (b - a), c + right * (d - c)
    return tf.cast(tf.reshape(upper + down * (lower - upper), tf.shape(images)), images.dtype)


def _cosines(count: int, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return waves of 0, 1, ... half periods over a side of ``size`` pixels, [count, size]."""
    return np.cos(np.pi * np.outer(np.arange(count), (np.arange(size) + 0.5) / size))
