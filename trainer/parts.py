"""A model's step over parts of a batch, side by side on the cores of a CPU.

oneDNN hands out parts of a convolution of this size to threads at about the cost of what they
save. Whole parts of the batch that never meet, but in the sums of batch norm, do keep several
cores busy. What is computed is the same as for the batch at once, up to rounding.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

Tensor = Any  # TensorFlow ships no types

# Layers that treat every image by itself, and alike in training and predicting.
BY_IMAGE = (layers.Rescaling, layers.Conv2D, layers.Dense, layers.ReLU, layers.Flatten)
LEAST = 32  # images of a part; smaller ones were not measured


def count(threads: int, batch: int) -> int:
    """Return into how many equal parts a batch is cut.

    Args:
        threads: that can compute.
        batch: images.
    """
    fitting = [n for n in range(1, threads + 1) if batch % n == 0 and batch // n >= LEAST]
    return max(fitting, default=1)


def call_in_parts(
    model: keras.Sequential,
    trainable: Sequence[Tensor],
    others: Sequence[Tensor],
    images: Tensor,
    parts: int,
) -> tuple[Tensor, list[Tensor]]:
    """Return logits [n, classes] and the non-trainable variables after a step in training.

    Like ``model.stateless_call(trainable, others, images, training=True)``.

    Args:
        model: layers in a row, in float32.
        trainable: values of its trainable variables.
        others: values of its non-trainable variables.
        images: uint8 [n, height, width, channels]; n is a multiple of ``parts``.
        parts: how many to compute side by side.
    """
    variables = itertools.chain(model.trainable_variables, model.non_trainable_variables)
    values = itertools.chain(trainable, others)
    with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
        batch = tf.split(images, parts)
        for layer in in_a_row(model):
            if isinstance(layer, BY_IMAGE):
                batch = [layer(part) for part in batch]
            elif isinstance(layer, layers.BatchNormalization):
                batch = _normalized(layer, batch)
            else:  # draws random numbers for the whole batch, or is not known
                batch = tf.split(layer(tf.concat(batch, 0), training=True), parts)
        logits = tf.concat(batch, 0)
    return logits, [scope.get_current_value(each) for each in model.non_trainable_variables]


def in_a_row(model: keras.Sequential) -> Iterator[Any]:
    """Yield the layers that compute, in their order."""
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            yield from in_a_row(layer)
        else:
            yield layer


def _normalized(layer: layers.BatchNormalization, parts: list[Tensor]) -> list[Tensor]:
    """Normalise by mean and variance of all parts, as the layer would (arXiv:1502.03167)."""
    assert layer.axis in (-1, parts[0].shape.rank - 1)
    axes = list(range(parts[0].shape.rank - 1))

    def mean_of(values: list[Tensor]) -> Tensor:
        return tf.add_n([tf.reduce_mean(each, axes) for each in values]) / len(values)

    mean = mean_of(parts)
    variance = mean_of([tf.math.squared_difference(part, mean) for part in parts])
    for moving, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + now * (1 - layer.momentum))
    scale = tf.math.rsqrt(variance + layer.epsilon)
    if layer.scale:
        scale *= layer.gamma
    shift = -mean * scale
    if layer.center:
        shift += layer.beta
    return [part * scale + shift for part in parts]
