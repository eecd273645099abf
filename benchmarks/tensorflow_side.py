"""Two sides in TensorFlow: our loop, and Keras ``fit`` of the same model.

    python -m benchmarks.tensorflow_side ours|keras SETTINGS DATA

Requests: {"do": "variants"}, {"do": "train", "variant", "steps"}, {"do": "loss"}; see ``serve``.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
from keras import losses, optimizers

from benchmarks.common import Answer, serve
from trainer import classification, presets
from trainer import schedule as schedule
from trainer.cluster_spec import ALONE
from trainer.config import TrainConfig
from trainer.data import dataset, sampler
from trainer.data.dataset import Dataset
from trainer.train import models
from trainer.train.augmentation import Warp
from trainer.train.devices import make_strategy, set_threads
from trainer.train.optimizers import ADAGRAD_START
from trainer.train.replicas import Replicas
from trainer.train.trainer import assemble

PROBE = 2000  # images whose loss is looked at
TOTAL = 10**6  # steps of the schedule; it is constant
EXECUTIONS = (5, 20, 50)  # steps_per_execution tried


class Peer(Protocol):
    """What a side can do."""

    variants: tuple[str, ...]
    parameters: int

    def train(self, variant: str, steps: int) -> tuple[int, float]:
        """Train at least so many steps and return how many they were, and the seconds."""

    def logits(self) -> npt.NDArray[np.float32]:
        """Return the logits of the first images."""


class Ours:
    """The trainer's loop, without what a run does around it."""

    variants: tuple[str, ...] = ("",)

    def __init__(self, config: TrainConfig, data: Dataset) -> None:
        self._config, self._samples, self._step = config, len(data.train.labels), 0
        self._loop = assemble(config, data, Replicas(make_strategy(ALONE)))
        fresh = self._loop.initial_state()
        self.parameters = sum(each.size for each in fresh.parameters)
        self._state = self._loop.place(fresh)

    def train(self, variant: str, steps: int) -> tuple[int, float]:
        """See Peer."""
        del variant
        config, first, began = self._config, self._step, time.perf_counter()
        while self._step < first + steps:
            at, count = self._step, config.chunk_steps
            self._state, _ = self._loop.run_chunk(
                self._state,
                sampler.batches(config.seed, self._samples, config.batch_size, at, count),
                schedule.learning_rates(config, TOTAL, at, count),
                sampler.seeds(config.seed, at, count, self._loop.generators),
                at,
            )
            self._step += count
        return self._step - first, time.perf_counter() - began

    def logits(self) -> npt.NDArray[np.float32]:
        """See Peer."""
        return self._loop.logits(self._state, np.arange(PROBE, dtype=np.int32))


class Fit:
    """Keras's own loop over arrays in memory, one compiled model for each variant."""

    variants: tuple[str, ...] = (
        "fit",
        *(f"fit, steps_per_execution {count}" for count in EXECUTIONS),
    )

    def __init__(self, config: TrainConfig, data: Dataset) -> None:
        self._config, self._data = config, data
        classes = keras.utils.to_categorical(data.train.labels, data.classes)
        self._targets = classes if config.label_smoothing else data.train.labels
        self._models = {name: self._compiled(name) for name in self.variants}
        plain = self._models["fit"]
        self.parameters = sum(int(np.prod(v.shape)) for v in plain.trainable_variables)

    def train(self, variant: str, steps: int) -> tuple[int, float]:
        """See Peer: one epoch of data made as long as these steps, outside of the clock."""
        batch = self._config.batch_size
        rows = np.arange(steps * batch) % len(self._data.train.labels)
        images, targets = self._data.train.images[rows], self._targets[rows]
        began = time.perf_counter()
        self._models[variant].fit(images, targets, batch_size=batch, epochs=1, verbose=0)
        return steps, time.perf_counter() - began

    def logits(self) -> npt.NDArray[np.float32]:
        """See Peer."""
        trained = self._models["fit"]
        found: npt.NDArray[np.float32] = trained.predict(
            self._data.train.images[:PROBE], batch_size=500, verbose=0
        )
        return found

    def _compiled(self, variant: str) -> Any:
        config = self._config
        if config.label_smoothing:
            loss = losses.CategoricalCrossentropy(True, config.label_smoothing)
        else:
            loss = losses.SparseCategoricalCrossentropy(True)
        rules = {
            "adam": optimizers.Adam(config.learning_rate),
            "adagrad": optimizers.Adagrad(config.learning_rate, ADAGRAD_START),
            "sgd": optimizers.SGD(config.learning_rate, config.momentum),
        }
        model = models.build(config, self._data.input_shape, self._data.classes)
        number = variant.rpartition(" ")[2]
        count = int(number) if number.isdecimal() else 1
        model.compile(rules[config.optimizer], loss, steps_per_execution=count)
        return model


def still(input_shape: tuple[int, int, int], classes: int) -> Any:
    """Return the model of ``cnn-best`` without the layer that warps images."""
    kept = [
        e for e in models.cnn_best(presets.configure({}, {}), classes) if not isinstance(e, Warp)
    ]
    return keras.Sequential([keras.Input(input_shape), *kept])


def answers(peer: Peer, labels: npt.NDArray[np.int32]) -> Callable[..., Answer]:
    """Return what answers requests."""

    def work(do: str, variant: str = "", steps: int = 0) -> Answer:
        if do == "variants":
            return {"variants": list(peer.variants), "parameters": peer.parameters}
        if do == "loss":
            return {"loss": float(classification.losses(peer.logits(), labels[:PROBE]).mean())}
        done, seconds = peer.train(variant, steps)
        return {"seconds": seconds, "steps": done}

    return work


def main() -> None:
    """Be the side that the arguments name."""
    kind, settings, uri = sys.argv[1:]
    config = presets.configure({}, json.loads(settings))
    data = dataset.load(uri, config.validation)
    if kind == "ours" or models.is_dense(config):  # threads of microbatches are no help to fit
        set_threads(config, ALONE, data)
    side: Ours | Fit = Ours(config, data) if kind == "ours" else Fit(config, data)
    serve(answers(side, data.train.labels))


if __name__ == "__main__":
    main()
