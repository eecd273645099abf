"""A side in JAX, run by an interpreter that has nothing of the trainer.

    python -m benchmarks.jax_side SETTINGS ARRAYS

Arguments and requests are those of torch_side.py. The model is one of Flax's nnx, the update rule
optax's. Plain is the loop of Flax's MNIST example: one jitted step after the other, on batches of
floats, scaled ahead, that NumPy takes out of an array by a permutation. The other variant keeps the
images on the device and has ``lax.scan`` take many steps in one jitted call.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jax import lax
from jax import numpy as jnp

from benchmarks.common import Answer, serve

PROBE = 2000  # images whose loss is looked at
PLAIN = "plain"
SCAN = "lax.scan"
SCANNED = 500  # steps of a call
SLOW = {"cnn-best": 10}  # steps of a call where SCANNED would take minutes
DENSE: dict[str, tuple[list[int], Callable[..., Any] | None]] = {
    "softmax": ([], None),
    "single-layer": ([], None),
    "mlp-100": ([100], nnx.relu),
    "mlp-65-65": ([65, 65], nnx.relu),
    "dnn-128-32": ([128, 32], nnx.relu),
    "linear-512-256-128": ([512, 256, 128], None),
}

Rows = npt.NDArray[np.int32]  # [steps, batch]


def model(preset: str, rngs: nnx.Rngs) -> nnx.Sequential:
    """Return the model of a preset for images [n, 28, 28, 1]; ``cnn-best`` without its warp."""
    if preset == "cnn":
        return _cnn(rngs)
    if preset == "cnn-best":
        return _cnn_best(rngs)
    units, activation = DENSE[preset]
    stack: list[Any] = [_flat]
    for before, after in itertools.pairwise([784, *units]):
        stack += [nnx.Linear(before, after, rngs=rngs), *([activation] if activation else [])]
    stack.append(nnx.Linear([784, *units][-1], 10, rngs=rngs))
    if preset in ("single-layer", "mlp-100"):
        stack.append(nnx.log_sigmoid)
    return nnx.Sequential(*stack)


def _flat(images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1)


def _cnn(rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(
        nnx.Conv(1, 16, (5, 5), 2, padding="VALID", rngs=rngs),
        nnx.relu,
        nnx.Conv(16, 32, (5, 5), 2, padding="VALID", use_bias=False, rngs=rngs),
        nnx.BatchNorm(32, rngs=rngs),
        nnx.relu,
        _flat,
        nnx.Linear(512, 128, use_bias=False, rngs=rngs),
        nnx.BatchNorm(128, rngs=rngs),
        nnx.relu,
        nnx.Linear(128, 10, rngs=rngs),
    )


def _cnn_best(rngs: nnx.Rngs) -> nnx.Sequential:
    def convolution(inputs: int, filters: int, size: int, stride: int, padding: Any) -> list[Any]:
        kernel = nnx.Conv(
            inputs, filters, (size, size), stride, padding=padding, use_bias=False, rngs=rngs
        )
        return [kernel, nnx.BatchNorm(filters, rngs=rngs), nnx.relu]

    return nnx.Sequential(
        *convolution(1, 24, 5, 2, 2),
        *convolution(24, 48, 3, 1, "VALID"),
        *convolution(48, 48, 3, 1, "VALID"),
        *convolution(48, 96, 3, 2, 1),
        *convolution(96, 96, 3, 1, "VALID"),
        _flat,
        nnx.Dropout(0.3, rngs=rngs),
        nnx.Linear(864, 10, rngs=rngs),
    )


class Variant:
    """A model, its optimizer, and how they are run.

    Args:
        name: PLAIN or SCAN.
        settings: of the preset.
        images: float32 [n, h, w, c].
        labels: int32 [n].
    """

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        images: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int32],
    ) -> None:
        self._model = model(settings["preset"], nnx.Rngs(settings["seed"]))
        self._optimizer = nnx.Optimizer(self._model, _optimizer(settings), wrt=nnx.Param)
        parameters = jax.tree.leaves(nnx.state(self._model, nnx.Param))
        self.parameters = sum(each.size for each in parameters)
        self._images, self._labels, self._batch = images, labels, settings["batch_size"]
        self._scanned = SLOW.get(settings["preset"], SCANNED)
        self._generator = np.random.default_rng(1)
        self._batches = self._rows()
        update = partial(_update, smoothing=settings["label_smoothing"])
        self._take = self._scan(update) if name == SCAN else self._one_by_one(update)

    def _rows(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the images of every batch: another order each epoch, whole batches."""
        while True:
            rows = self._generator.permutation(len(self._labels))
            for start in range(0, len(rows) - self._batch + 1, self._batch):
                yield rows[start : start + self._batch]

    def train(self, steps: int) -> tuple[int, float]:
        """Train at least so many steps and return how many they were, and the seconds."""
        self._model.train()
        began = time.perf_counter()
        done = self._take(steps)
        return done, time.perf_counter() - began

    def _one_by_one(self, update: Callable[..., Any]) -> Callable[[int], int]:
        step = nnx.jit(update)

        def take(steps: int) -> int:
            for rows in itertools.islice(self._batches, steps):
                loss = step(self._model, self._optimizer, self._images[rows], self._labels[rows])
            jax.block_until_ready(loss)
            return steps

        return take

    def _scan(self, update: Callable[..., Any]) -> Callable[[int], int]:
        images, labels = jnp.asarray(self._images), jnp.asarray(self._labels)
        graph, state = nnx.split((self._model, self._optimizer))
        scanned = self._scanned

        @partial(jax.jit, donate_argnums=0)
        def call(state: Any, images: jax.Array, labels: jax.Array, rows: jax.Array) -> Any:
            def step(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
                merged = nnx.merge(graph, state)
                loss = update(*merged, images[rows], labels[rows])
                return nnx.state(merged), loss

            return lax.scan(step, state, rows)

        def take(steps: int) -> int:
            nonlocal state
            calls = -(-steps // scanned)
            for _ in range(calls):
                rows = np.stack([*itertools.islice(self._batches, scanned)]).astype(np.int32)
                state, losses = call(state, images, labels, rows)
            jax.block_until_ready(losses)
            nnx.update((self._model, self._optimizer), jax.tree.map(jnp.copy, state))
            return calls * scanned

        return take

    def loss(self) -> float:
        """Return the mean cross-entropy of the first images."""
        self._model.eval()
        logits = self._model(jnp.asarray(self._images[:PROBE]))
        return float(_cross_entropy(logits, jnp.asarray(self._labels[:PROBE]), 0.0))


def _update(
    trained: nnx.Module,
    optimizer: nnx.Optimizer,
    images: jax.Array,
    labels: jax.Array,
    *,
    smoothing: float,
) -> jax.Array:
    def loss_of(trained: Any) -> jax.Array:
        return _cross_entropy(trained(images), labels, smoothing)

    loss, gradients = nnx.value_and_grad(loss_of)(trained)
    optimizer.update(trained, gradients)
    return loss


def _cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    if smoothing:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean()
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _optimizer(settings: dict[str, Any]) -> optax.GradientTransformation:
    rate = settings["learning_rate"]
    if settings["optimizer"] == "adam":
        return optax.adam(rate, eps=1e-7)
    if settings["optimizer"] == "adagrad":
        return optax.adagrad(rate, initial_accumulator_value=0.1, eps=1e-7)
    return optax.sgd(rate, settings["momentum"])


def main() -> None:
    """Be the side that the arguments describe."""
    settings, arrays = json.loads(sys.argv[1]), np.load(sys.argv[2])
    images = arrays["images"].astype(np.float32) / 255
    labels = arrays["labels"].astype(np.int32)
    made: dict[str, Variant] = {}

    def get(name: str) -> Variant:
        if name not in made:
            made[name] = Variant(name, settings, images, labels)
        return made[name]

    def work(do: str, variant: str = PLAIN, steps: int = 0) -> Answer:
        if do == "variants":
            return {"variants": [PLAIN, SCAN], "parameters": get(PLAIN).parameters}
        if do == "loss":
            return {"loss": get(PLAIN).loss()}
        done, seconds = get(variant).train(steps)
        return {"seconds": seconds, "steps": done}

    serve(work)


if __name__ == "__main__":
    main()
