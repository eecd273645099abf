"""A model's forward pass in training, in the order that CPUs are fastest at.

The results are those of Keras for these layers, up to rounding:

- Microbatches, equal parts of the batch, are computed side by side. oneDNN spends about as much on
  spreading a convolution of this size over threads as it saves; microbatches, which meet only in
  the sums of batch norm, keep several cores busy.
- Dense layers with nothing between them become one product of matrices, in the cheaper order,
  where XLA compiles them.
- The gradient of a strided convolution is computed as of one without stride, and that of batch
  norm in fewer operators.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

Tensor = Any  # TensorFlow ships no types

# Layers that compute each image by itself, and the same in training and prediction.
BY_IMAGE = (layers.Rescaling, layers.Conv2D, layers.Dense, layers.ReLU, layers.Flatten)
LEAST = 32  # images of a microbatch; smaller ones were not measured
# How many times larger a kernel may become when it is padded to a multiple of its stride. A 5x5
# kernel with stride 2, 1.44 times as large, took 0.6 times the time of oneDNN's strided gradient; a
# 3x3 kernel, 1.78 times as large, took 1.6 times (one core of an AMD EPYC).
MOST_FILLING = 1.5


def microbatches_for(threads: int, batch: int) -> int:
    """Return into how many equal microbatches a batch is cut."""
    fitting = [n for n in range(1, threads + 1) if batch % n == 0 and batch // n >= LEAST]
    return max(fitting, default=1)


def call(
    model: keras.Sequential,
    trainable: Sequence[Tensor],
    others: Sequence[Tensor],
    images: Tensor,
    microbatches: int,
    *,
    chained: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """Return logits [n, classes] and the non-trainable variables after a step in training.

    Like ``model.stateless_call(trainable, others, images, training=True)``.

    Args:
        model: layers in a row, in float32.
        trainable: values of its trainable variables.
        others: values of its non-trainable variables.
        images: uint8 [n, height, width, channels]; n is a multiple of ``microbatches``.
        microbatches: how many to compute side by side.
        chained: whether dense layers may become one product. Only XLA computes its gradients to
            the same bits in every run; TensorFlow's own executor does not.
    """
    variables = itertools.chain(model.trainable_variables, model.non_trainable_variables)
    values = itertools.chain(trainable, others)
    with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
        batch = tf.split(images, microbatches)
        first = True  # before the first parameters no gradient is needed
        stack = in_a_row(model)
        for layer, *more in together(stack) if chained else ([each] for each in stack):
            if more:
                batch = [_multiplied([layer, *more], part) for part in batch]
            elif not first and isinstance(layer, layers.Conv2D) and goes_back_unstrided(layer):
                batch = [_convolved(layer, part) for part in batch]
            elif isinstance(layer, BY_IMAGE):
                batch = [layer(part) for part in batch]
            elif isinstance(layer, layers.BatchNormalization):
                batch = _normalized(layer, batch)
            else:  # draws random numbers for the whole batch, or is unknown
                batch = tf.split(layer(tf.concat(batch, 0), training=True), microbatches)
            first = first and not layer.trainable_variables
        logits = tf.concat(batch, 0)
    return logits, [scope.get_current_value(each) for each in model.non_trainable_variables]


def in_a_row(model: keras.Sequential) -> Iterator[Any]:
    """Yield the layers that compute, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            yield from in_a_row(layer)
        else:
            yield layer


def together(stack: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield each layer by itself, but dense layers that follow each other as one group.

    All layers of a group but the last have no activation.
    """
    group: list[Any] = []
    for layer in stack:
        dense = isinstance(layer, layers.Dense)
        if group and not (dense and group[-1].activation is keras.activations.linear):
            yield group
            group = []
        if dense:
            group.append(layer)
        else:
            yield [layer]
    if group:
        yield group


def multiplies_first(group: list[layers.Dense], count: int) -> bool:
    """Return whether to multiply dense layers with each other before ``count`` images.

    A product of matrices may be computed from either end (matrix chain ordering). Starting at the
    last layer keeps the matrices as narrow as its outputs, and each image is multiplied by one of
    them only; so are the gradients on the way back.
    """
    units = group[-1].units
    first, *others = [layer.kernel.shape[0] for layer in group]
    sizes = [a * b for a, b in itertools.pairwise([first, *others, units])]
    return bool(units * (sum(sizes[:-1]) + count * first) < count * sum(sizes))


def _multiplied(group: list[layers.Dense], inputs: Tensor) -> Tensor:
    """Return the outputs of dense layers without activations between them."""
    assert inputs.shape.rank == 2
    if not multiplies_first(group, inputs.shape[0]):
        for layer in group:
            inputs = layer(inputs)
        return inputs
    *before, last = group
    kernel, bias = tf.convert_to_tensor(last.kernel), last.bias if last.use_bias else 0.0
    for layer in reversed(before):
        if layer.use_bias:
            bias += tf.linalg.matvec(kernel, layer.bias, transpose_a=True)
        kernel = tf.matmul(layer.kernel, kernel)
    return last.activation(tf.matmul(inputs, kernel) + bias)


def goes_back_unstrided(layer: layers.Conv2D) -> bool:
    """Return whether ``input_gradient`` applies to a layer, and is faster."""
    filling = 1.0
    for size, stride in zip(layer.kernel_size, layer.strides, strict=True):
        filling *= -(-size // stride) * stride / size
    plain = (layer.groups, layer.data_format, layer.padding) == (1, "channels_last", "valid")
    return plain and max(layer.strides) > 1 and filling <= MOST_FILLING


def _convolved(layer: layers.Conv2D, images: Tensor) -> Tensor:
    """Return the layer's outputs; their gradient is computed by ``input_gradient``."""
    strides = [1, *layer.strides, 1]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def convolved(images: Tensor, kernel: Tensor) -> Any:
        def gradients(gradient: Tensor) -> tuple[Tensor, Tensor]:
            of_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=images,
                filter_sizes=kernel.shape,
                out_backprop=gradient,
                strides=strides,
                padding="VALID",
            )
            return input_gradient(gradient, kernel, images.shape, layer.strides), of_kernel

        return tf.nn.conv2d(images, kernel, strides, "VALID"), gradients

    outputs = convolved(images, tf.convert_to_tensor(layer.kernel))
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, layer.bias)
    return layer.activation(outputs)


def input_gradient(
    gradient: Tensor, kernel: Tensor, shape: Sequence[int], strides: tuple[int, int]
) -> Tensor:
    """Return the gradient of the input of a strided convolution without padding.

    The kernel is padded with zeros to a multiple of the stride s. Then s x s neighbours of the
    input are the channels of one place, over which a kernel s times smaller moves without stride.

    Args:
        gradient: that of the outputs, [n, rows, columns, filters].
        kernel: [height, width, channels, filters].
        shape: that of the input, [n, height, width, channels].
        strides: down and across.
    """
    count, height, width, channels = shape
    tall, wide, _, filters = kernel.shape
    down, across = strides
    high, broad = -(-tall // down), -(-wide // across)
    filling = [[0, high * down - tall], [0, broad * across - wide], [0, 0], [0, 0]]
    blocks = tf.reshape(tf.pad(kernel, filling), [high, down, broad, across, channels, filters])
    depth = down * across * channels
    rows, columns = gradient.shape[1] + high - 1, gradient.shape[2] + broad - 1
    found = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[count, rows, columns, depth],
        filter=tf.reshape(tf.transpose(blocks, [0, 2, 1, 3, 4, 5]), [high, broad, depth, filters]),
        out_backprop=gradient,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    found = tf.reshape(found, [count, rows, columns, down, across, channels])
    found = tf.transpose(found, [0, 1, 3, 2, 4, 5])
    found = tf.reshape(found, [count, rows * down, columns * across, channels])
    found = found[:, :height, :width]
    unseen = [[0, height - found.shape[1]], [0, width - found.shape[2]]]  # no output sees these
    return tf.pad(found, [[0, 0], *unseen, [0, 0]])


def _normalized(layer: layers.BatchNormalization, batch: list[Tensor]) -> list[Tensor]:
    """Normalise by mean and variance of all microbatches, as the layer would (arXiv:1502.03167).

    The gradient is written out: the one that TensorFlow derives takes twice the operators.
    """
    assert layer.axis in (-1, batch[0].shape.rank - 1)
    axes = list(range(batch[0].shape.rank - 1))
    values = [tf.stop_gradient(part) for part in batch]

    def mean_of(tensors: list[Tensor]) -> Tensor:
        return tf.add_n([tf.reduce_mean(each, axes) for each in tensors]) / len(tensors)

    mean = mean_of(values)
    variance = mean_of([tf.math.squared_difference(part, mean) for part in values])
    for moving, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + now * (1 - layer.momentum))
    size = math.prod(batch[0].shape[:-1]) * len(batch)
    inverse = tf.math.rsqrt(variance + layer.epsilon)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def normalized(gamma: Tensor, beta: Tensor, *batch: Tensor) -> Any:
        scale = inverse * gamma
        shift = beta - mean * scale

        def gradients(*wanted: Tensor) -> tuple[Tensor, ...]:
            beta_wants = tf.add_n([tf.reduce_sum(each, axes) for each in wanted])
            products = [each * part for each, part in zip(wanted, batch, strict=True)]
            products_sum = tf.add_n([tf.reduce_sum(each, axes) for each in products])
            gamma_wants = inverse * (products_sum - mean * beta_wants)
            # Mean and variance depend on the batch, too.
            slope = -scale * inverse * gamma_wants / size
            level = -mean * slope - scale * beta_wants / size
            parts_want = [
                each * scale + (part * slope + level)
                for each, part in zip(wanted, batch, strict=True)
            ]
            return gamma_wants, beta_wants, *parts_want

        return [part * scale + shift for part in batch], gradients

    gamma = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones_like(mean)
    beta = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros_like(mean)
    outputs: list[Tensor] = normalized(gamma, beta, *batch)
    return outputs
