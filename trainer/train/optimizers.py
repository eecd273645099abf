"""Update rules as pure functions of tensors.

Keras's optimizers keep state in variables, add a collective for each of them under
``tf.distribute``, and refuse to run on plain tensors with the TensorFlow backend. As pure
functions the same rules compile into the training loop. Formulas and defaults are those of
Keras 3 and of the papers named here; a test compares them with Keras.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config import TrainConfig

Tensor = Any  # TensorFlow ships no types
Slots = tuple[Tensor, ...]

ADAM_BETAS = (0.9, 0.999)
EPSILON = 1e-7
ADAGRAD_START = 0.1


@dataclass(frozen=True)
class Optimizer:
    """An update rule over one parameter tensor at a time.

    Attributes:
        slots: names of its state tensors, each of the parameter's shape and dtype.
        start: the value that fills every slot before step 0.
        update: (parameter, gradient, slots, learning rate, step counted from 1) -> (new
            parameter, new slots).
        weight_decay: share of the parameter, times the learning rate, that each step subtracts
            (decoupled: Loshchilov and Hutter, arXiv 1711.05101), from tensors of two or more
            dimensions only, so not from biases and normalisation.
    """

    slots: tuple[str, ...]
    start: float
    update: Callable[[Tensor, Tensor, Slots, Tensor, Tensor], tuple[Tensor, Slots]]
    weight_decay: float

    def init(self, parameter: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        """Return the slots of a parameter before step 0."""
        return tuple(np.full_like(parameter, self.start) for _ in self.slots)

    def apply(
        self, parameter: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, Slots]:
        """Return the parameter and its slots after one step."""
        rate, step = (tf.cast(each, parameter.dtype) for each in (rate, step))
        if self.weight_decay and parameter.shape.rank >= 2:
            parameter -= rate * self.weight_decay * parameter
        return self.update(parameter, gradient, slots, rate, step)


def create(config: TrainConfig) -> Optimizer:
    """Return the update rule that the configuration names."""
    if config.optimizer == "adam":
        return Optimizer(("momentum", "velocity"), 0.0, _adam, config.weight_decay)
    if config.optimizer == "adagrad":
        return Optimizer(("accumulator",), ADAGRAD_START, _adagrad, config.weight_decay)
    if config.momentum:
        return Optimizer(("momentum",), 0.0, _momentum(config.momentum), config.weight_decay)
    return Optimizer((), 0.0, _sgd, config.weight_decay)


def _sgd(
    parameter: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, _: Tensor
) -> tuple[Tensor, Slots]:
    return parameter - rate * gradient, slots


def _momentum(momentum: float) -> Callable[..., tuple[Tensor, Slots]]:
    def update(
        parameter: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, _: Tensor
    ) -> tuple[Tensor, Slots]:
        velocity = momentum * slots[0] - rate * gradient
        return parameter + velocity, (velocity,)

    return update


def _adam(
    parameter: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor
) -> tuple[Tensor, Slots]:
    """Kingma and Ba, arXiv 1412.6980, in the form before its section 2.1."""
    beta1, beta2 = ADAM_BETAS
    mean, square = slots
    mean += (gradient - mean) * (1 - beta1)
    square += (tf.square(gradient) - square) * (1 - beta2)
    power1, power2 = (tf.pow(tf.constant(beta, step.dtype), step) for beta in ADAM_BETAS)
    scale = rate * tf.sqrt(1 - power2) / (1 - power1)
    return parameter - scale * mean / (tf.sqrt(square) + EPSILON), (mean, square)


def _adagrad(
    parameter: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, _: Tensor
) -> tuple[Tensor, Slots]:
    """Duchi, Hazan and Singer, JMLR 12 (2011)."""
    total = slots[0] + tf.square(gradient)
    return parameter - rate * gradient / tf.sqrt(total + EPSILON), (total,)
