"""Loops over small models, on up to eight devices of this process."""

from functools import cache
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers

from trainer.config import parse
from trainer.data import sampler
from trainer.train import optimizers
from trainer.train.loop import ChunkResult, Loop
from trainer.train.replicas import Replicas
from trainer.train.state import State

# Several devices of one process. It must be said before TensorFlow first uses one, so at import.
DEVICES = 8
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * DEVICES
)


SHAPE, CLASSES, SAMPLES = (4, 5, 1), 3, 90


RATE = 0.05


RANDOM = np.random.default_rng(1)


IMAGES = RANDOM.integers(0, 256, (SAMPLES, *SHAPE)).astype(np.uint8)


LABELS = (IMAGES.reshape(SAMPLES, -1).astype(int).sum(axis=1) % CLASSES).astype(np.int32)


def network(*hidden: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input(SHAPE, dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            *hidden,
            layers.Dense(CLASSES),
        ]
    )


def plain() -> Any:
    return network(layers.Dense(8, activation="relu"))


def noisy() -> Any:
    """With running statistics and two random generators."""
    return network(
        layers.Dropout(0.2),
        layers.Dense(8),
        layers.BatchNormalization(momentum=0.5),
        layers.ReLU(),
        layers.Dropout(0.5),
    )


@cache
def strategy(replicas: int) -> Any:
    if replicas == 1:
        return tf.distribute.get_strategy()
    # For tests, as TensorFlow says: several strategies in one process mistake each other's
    # collectives for their own.
    tf.distribute.MirroredStrategy._collective_key_base += 100_000
    return tf.distribute.MirroredStrategy([f"CPU:{device}" for device in range(replicas)])


def build(
    make: Any,
    replicas: int = 1,
    *,
    xla: bool = False,
    chunk_steps: int = 8,
    seed: int = 1,
    images: npt.NDArray[np.uint8] = IMAGES,
    labels: npt.NDArray[np.int32] = LABELS,
    label_smoothing: float = 0.0,
    reordered: bool = False,
    microbatches: int = 1,
    **settings: Any,
) -> Loop:
    keras.utils.set_random_seed(seed)
    config = parse({"optimizer": "adam", **settings})
    return Loop(
        Replicas(strategy(replicas)),
        make(),
        optimizers.create(config),
        images,
        labels,
        chunk_steps=chunk_steps,
        xla=xla,
        label_smoothing=label_smoothing,
        reordered=reordered,
        microbatches=microbatches,
    )


def run(
    it: Loop, ends: list[int], *, batch: int = 16, seed: int = 1, rate: float = RATE
) -> tuple[State, npt.NDArray[np.float32]]:
    """Return the state after chunks that end at these steps, and all losses."""
    state, losses, first = it.place(it.initial_state()), [], 0
    for end in ends:
        state, chunk = run_steps(it, state, first, end - first, batch=batch, seed=seed, rate=rate)
        losses.append(chunk.losses)
        first = end
    return it.on_host(state), np.concatenate(losses)


def run_steps(
    it: Loop,
    state: State,
    first: int,
    count: int,
    *,
    batch: int = 16,
    seed: int = 1,
    rate: float = RATE,
    stop: bool = False,
) -> tuple[State, ChunkResult]:
    return it.run_chunk(
        state,
        sampler.batches(seed, SAMPLES, batch, first, count),
        np.full(count, rate, np.float32),
        sampler.seeds(seed, first, count, it.generators),
        first,
        stop,
    )
