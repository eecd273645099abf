"""A side that stores a state of so many megabytes (10^6 bytes) in a folder, as a run would.

    python -m benchmarks.checkpoint_side ours|orbax MEGABYTES FOLDER [DATA]

Requests: {}; answers: {"blocked", "stored"}: seconds for which training would stand still, and
until the checkpoint is in the folder. The state are the weights of two dense layers and Adam's two
slots. ``orbax`` runs where nothing of the trainer is installed.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import Answer, serve

PIXELS, CLASSES = 784, 10
COPIES = 3  # of each weight: itself and Adam's slots
MEGABYTES = "CHECKPOINT_MEGABYTES"


def wide(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return a model whose state is as large as the environment says."""
    import keras
    from keras import layers

    last = layers.Dense(classes, use_bias=False)
    hidden = layers.Dense(units(), use_bias=False, kernel_initializer="ones")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), hidden, last])


def units() -> int:
    """Return how many units the hidden layer has for a state as large as wanted."""
    return round(float(os.environ[MEGABYTES]) * 1e6 / (4 * COPIES * (PIXELS + CLASSES)))


def ours(folder: str, data: str) -> Callable[[], Answer]:
    """Return what stores the trainer's state after one chunk more."""
    from trainer import presets, progress
    from trainer.cluster_spec import ALONE
    from trainer.data import dataset
    from trainer.storage.base import open_storage
    from trainer.train.devices import make_strategy
    from trainer.train.replicas import Replicas
    from trainer.train.run import Run
    from trainer.train.saver import Saver
    from trainer.train.state import TrainState
    from trainer.train.trainer import assemble
    from trainer.train.weight_digests import WeightDigests

    class Silent(progress.Reporter):
        def warn(self, message: str, **_: Any) -> None:
            print(message, file=sys.stderr)

    settings: dict[str, Any] = {"model": "benchmarks.checkpoint_side:wide", "optimizer": "adam"}
    settings |= {
        "data": data,
        "run": folder,
        "tensorboard": "off",
        "steps": 10**6,
        "checkpoint_steps": 1,
    }
    config = presets.configure({}, settings)
    images, storage = dataset.load(data, config.validation), open_storage(folder)
    run = Run(config, ALONE, images, storage, "0" * 64, Silent())
    loop = assemble(config, images, Replicas(make_strategy(ALONE)))
    saver = Saver(run, loop, WeightDigests(ALONE))
    at = TrainState(0, loop.place(loop.initial_state()), [])

    def store() -> Answer:
        at.step += 1
        began = time.perf_counter()
        saver.finish_chunk(at)
        saver.commit_if_due(best=False)
        blocked = time.perf_counter() - began
        saver.uploader.finish(lambda: None)
        return {"blocked": blocked, "stored": time.perf_counter() - began}

    return store


def orbax(folder: str) -> Callable[[], Answer]:
    """Return what Orbax's manager stores, asynchronously as is its default."""
    import jax
    import numpy as np
    from jax import numpy as jnp
    from orbax import checkpoint

    shapes = {"hidden": (PIXELS, units()), "last": (units(), CLASSES)}
    state = {
        name: {layer: jnp.ones(shape, np.float32) for layer, shape in shapes.items()}
        for name in ("weights", "m", "v")
    }
    jax.block_until_ready(state)
    options = checkpoint.CheckpointManagerOptions(max_to_keep=3)
    manager = checkpoint.CheckpointManager(folder, options=options)
    step = 0

    def store() -> Answer:
        nonlocal step
        step += 1
        began = time.perf_counter()
        manager.save(step, args=checkpoint.args.StandardSave(state))
        blocked = time.perf_counter() - began
        manager.wait_until_finished()
        return {"blocked": blocked, "stored": time.perf_counter() - began}

    return store


def main() -> None:
    """Be the side that the arguments describe."""
    kind, megabytes, folder, *data = sys.argv[1:]
    os.environ[MEGABYTES] = megabytes
    serve(ours(folder, *data) if kind == "ours" else orbax(folder))


if __name__ == "__main__":
    main()
