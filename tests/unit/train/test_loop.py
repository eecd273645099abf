from functools import cache
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from keras import layers

from tests.support import series
from tests.support.loops import (
    CLASSES,
    DEVICES,
    IMAGES,
    LABELS,
    RATE,
    SAMPLES,
    SHAPE,
    build,
    network,
    noisy,
    plain,
    run,
    run_steps,
)
from trainer.data import sampler, stream
from trainer.train import loop
from trainer.train.loop import Loop
from trainer.train.state import State

pytestmark = pytest.mark.tensorflow


def built(make: Any, replicas: int = 1, *, xla: bool = False) -> Loop:
    """Build a loop once for all tests, as tracing takes longer than most of them."""
    return _built(make, replicas, xla)


@cache
def _built(make: Any, replicas: int, xla: bool) -> Loop:
    return build(make, replicas, xla=xla)


def bits(state: Any) -> list[bytes]:
    return [np.asarray(array).tobytes() for array in tf.nest.flatten(state)]


def reference(it: Loop, state: State) -> Any:
    """The loop's model as plain Keras, with the state's values in its variables."""
    model = it._model
    for variable, value in zip(model.trainable_variables, state.parameters, strict=True):
        variable.assign(value)
    for variable, value in zip(model.non_trainable_weights, state.buffers, strict=True):
        variable.assign(value)
    return model


@pytest.mark.parametrize("xla", [False, True])
def test_the_result_depends_on_seeds_but_not_on_how_steps_are_cut_into_chunks(xla: bool) -> None:
    it = built(noisy, xla=xla)
    whole, losses = run(it, [8, 16, 24])
    another = build(noisy, xla=xla, chunk_steps=12)  # traced and compiled again
    for state, again in (run(it, [1, 8, 11, 16, 17, 24]), run(another, [12, 24])):
        assert again.tobytes() == losses.tobytes()
        assert bits(state) == bits(whole)
    other, _ = run(it, [8, 16, 24], seed=2)
    assert bits(other) != bits(whole)


def test_a_run_goes_on_from_a_copy_of_its_state() -> None:
    whole, _ = run(built(noisy), [8, 16])
    state, _ = run(built(noisy), [8])
    other = build(noisy, seed=2)  # whose own weights do not matter
    state, _ = run_steps(other, other.place(state), 8, 8)
    assert bits(other.on_host(state)) == bits(whole)


def test_the_state_has_all_that_a_step_changes() -> None:
    it = built(noisy)
    assert it.generators == 2
    before, (after, _) = it.initial_state(), run(it, [1])
    for name, one, other in zip(State._fields, before, after, strict=True):
        assert bits(one) != bits(other), name
    assert len(before.buffers) == 2  # mean and variance, but no generator
    assert [len(slots) for slots in before.slots] == [2] * len(before.parameters)


@pytest.mark.parametrize("xla", [False, True])
def test_dropout_is_another_one_in_every_step(xla: bool) -> None:
    it, steps = built(noisy, xla=xla), 6
    indices = np.tile(np.arange(16, dtype=np.int32), (steps, 1))

    def losses(seeds: npt.NDArray[np.uint32]) -> list[float]:
        # Nothing is learnt, so that steps differ by their dropout alone.
        rates = np.zeros(steps, np.float32)
        _, chunk = it.run_chunk(it.place(it.initial_state()), indices, rates, seeds, 0)
        return [float(loss) for loss in chunk.losses]

    assert len(set(losses(sampler.seeds(1, 0, steps, it.generators)))) == steps
    assert len(set(losses(np.full((steps, it.generators), 7, np.uint32)))) == 1
    # Each of the two generators has an effect of its own.
    one = np.stack([np.arange(steps), np.full(steps, 7)], axis=1).astype(np.uint32)
    assert len(set(losses(one))) == len(set(losses(one[:, ::-1]))) == steps


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_accuracy_are_those_of_keras(smoothing: float) -> None:
    it = build(plain, label_smoothing=smoothing)
    state, batch = it.initial_state(), np.arange(16, dtype=np.int32)[None]
    _, chunk = it.run_chunk(
        it.place(state), batch, np.zeros(1, np.float32), np.zeros((1, 0), np.uint32), 0
    )
    logits = reference(it, state)(IMAGES[:16])
    targets = keras.utils.to_categorical(LABELS[:16], CLASSES)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    assert chunk.losses[0] == pytest.approx(float(loss(targets, logits)), rel=1e-6)
    assert chunk.accuracies[0] == np.mean(np.argmax(logits, axis=1) == LABELS[:16])


def square() -> Any:
    return network(layers.Dense(20, activation="relu"))  # as many as there are inputs


@pytest.mark.parametrize(
    ("make", "reordered", "xla"),
    [
        (plain, False, False),
        # The losses of two devices, below, are those of one, compiled or not.
        pytest.param(plain, False, True, marks=series.only_long),
        (square, True, False),
        (square, True, True),
    ],
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_step_of_sgd_is_that_of_a_plain_tape(
    make: Any, reordered: bool, xla: bool, replicas: int
) -> None:
    it = build(make, replicas, xla=xla, optimizer="sgd", reordered=reordered)
    start = it.initial_state()
    state, _ = run_steps(it, it.place(start), 0, 1)
    rows = sampler.batches(1, SAMPLES, 16, 0, 1)[0]
    model = reference(it, start)
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            LABELS[rows], model(IMAGES[rows], training=True), from_logits=True
        )
        loss = tf.reduce_mean(losses)
    for found, before, gradient in zip(
        it.on_host(state).parameters,
        start.parameters,
        tape.gradient(loss, variables),
        strict=True,
    ):
        np.testing.assert_allclose(found, before - RATE * gradient.numpy(), rtol=1e-5, atol=1e-7)
        assert np.abs(gradient).max() > 1e-3


class Centred(layers.Layer):  # type: ignore[misc]  # Keras ships no types
    """Adds a loss of its inputs."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(0.3 * tf.reduce_mean(tf.square(inputs)))
        return inputs


def penalised() -> Any:
    return network(
        layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1)),
        layers.ReLU(activity_regularizer=keras.regularizers.L1(0.2)),
        Centred(),
        layers.Dense(8, kernel_constraint=keras.constraints.UnitNorm()),
    )


@pytest.mark.parametrize(("replicas", "xla"), [(1, False), (1, True), (2, False), (2, True)])
def test_losses_and_constraints_of_layers_count_as_in_keras(replicas: int, xla: bool) -> None:
    it = build(penalised, replicas, xla=xla, optimizer="sgd")
    start = it.initial_state()
    state, chunk = run_steps(it, it.place(start), 0, 1)
    rows = sampler.batches(1, SAMPLES, 16, 0, 1)[0]
    model = reference(it, start)
    logits = model(IMAGES[rows])
    entropy = keras.losses.sparse_categorical_crossentropy(LABELS[rows], logits, from_logits=True)
    assert chunk.losses[0] == pytest.approx(float(tf.reduce_mean(entropy)), rel=1e-5)
    model.compile(
        keras.optimizers.SGD(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.train_on_batch(IMAGES[rows], LABELS[rows])
    for found, wanted in zip(it.on_host(state).parameters, model.trainable_variables, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("rule", [{"momentum": 0.9}, {"optimizer": "adam"}])
def test_layers_may_be_of_float64(replicas: int, rule: dict[str, Any]) -> None:
    def make() -> Any:
        return network(
            layers.Dense(8, activation="relu", dtype="float64"),
            layers.BatchNormalization(dtype="float64"),
        )

    it = build(make, replicas, **{"optimizer": "sgd", **rule})
    state, _ = run(it, [8])
    for found, before in zip(
        tf.nest.flatten(state), tf.nest.flatten(it.initial_state()), strict=True
    ):
        assert found.dtype == before.dtype
        assert np.isfinite(found).all()
        assert bits(found) != bits(before)


class Steps(layers.Layer):  # type: ignore[misc]  # Keras ships no types
    """Counts steps in integers, and has weights that no step changes."""

    def build(self, input_shape: Any) -> None:
        del input_shape
        kinds = {"a": "int32", "b": "int64", "c": "uint8", "d": "bool"}
        self.counts = [
            self.add_weight(name=name, initializer="zeros", trainable=False, dtype=dtype)
            for name, dtype in kinds.items()
        ]
        self.frozen = self.add_weight(name="frozen", shape=(100,), trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            a, b, c, d = self.counts
            a.assign(a - 70_000)
            b.assign(b + 2**40 + 1)
            c.assign(c + 100)
            d.assign(True)
        return inputs + tf.reduce_mean(self.frozen)


@pytest.mark.parametrize("replicas", [1, 3])
def test_integers_and_frozen_weights_are_not_summed_over_devices(replicas: int) -> None:
    it = build(lambda: network(Steps()), replicas)
    start = it.initial_state()
    state, _ = run(it, [8], batch=12)
    a, b, c, d, frozen = state.buffers
    assert (a, b, c, d) == (-560_000, 8 * (2**40 + 1), 800 % 256, True)
    assert [each.dtype for each in state.buffers] == [each.dtype for each in start.buffers]
    assert bits(frozen) == bits(start.buffers[-1])


def test_a_bfloat16_model_keeps_float32_weights_and_figures() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        it = build(plain)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    state, losses = run(it, [2])
    assert {array.dtype for array in tf.nest.flatten(state)} == {np.dtype(np.float32)}
    assert np.isfinite(losses).all()
    assert it.logits(it.place(state), np.arange(3, dtype=np.int32)).dtype == np.float32


@pytest.mark.parametrize(("xla", "steps"), [(False, 200), (True, 48)])
def test_two_devices_give_the_losses_of_one(xla: bool, steps: int) -> None:
    ends = list(range(8, steps + 1, 8))
    one, losses = run(built(plain), ends, rate=5e-3)
    two, shared = run(built(plain, 2, xla=xla), ends, rate=5e-3)
    assert len(losses) == steps
    np.testing.assert_allclose(shared, losses, rtol=0, atol=1e-4)
    assert losses[-8:].mean() < losses[:8].mean() - 0.01  # something was learnt
    for mine, yours in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
        np.testing.assert_allclose(mine, yours, rtol=0, atol=1e-3)


def test_devices_have_dropout_of_their_own() -> None:
    # Both get the same images: equal masks would give the loss of one device.
    it, half = built(noisy, 2), np.arange(8, dtype=np.int32)
    rates, seeds = np.zeros(1, np.float32), sampler.seeds(1, 0, 1, it.generators)
    batch = np.concatenate([half, half])[None]
    _, two = it.run_chunk(it.place(it.initial_state()), batch, rates, seeds, 0)
    alone = built(noisy)
    _, one = alone.run_chunk(alone.place(alone.initial_state()), half[None], rates, seeds, 0)
    assert abs(two.losses[0] - one.losses[0]) > 1e-3


class Counter(layers.Layer):  # type: ignore[misc]  # Keras ships no types
    """Counts how often it saw each sample, which its only pixel numbers."""

    def build(self, input_shape: Any) -> None:
        del input_shape
        self.seen = self.add_weight(shape=(SAMPLES,), initializer="zeros", trainable=False)

    def call(self, numbers: Any) -> Any:
        one_hot = tf.one_hot(tf.cast(tf.round(numbers[:, 0]), tf.int32), SAMPLES)
        self.seen.assign(self.seen + tf.reduce_sum(one_hot, axis=0))
        return numbers


@pytest.mark.parametrize("replicas", range(1, DEVICES + 1) if series.LONG else (1, 2, 3, DEVICES))
def test_the_devices_see_every_sample_once_an_epoch(replicas: int) -> None:
    numbers = np.arange(SAMPLES, dtype=np.uint8).reshape(SAMPLES, 1, 1, 1)

    def make() -> Any:
        return keras.Sequential(
            [keras.Input((1, 1, 1), dtype="uint8"), layers.Flatten(), Counter(), layers.Dense(3)]
        )

    it = build(make, replicas, images=numbers, chunk_steps=1, optimizer="sgd")
    batch = 2 * replicas
    state, seen = it.place(it.initial_state()), np.zeros(SAMPLES)
    for step in range(2 * SAMPLES // batch):
        state, _ = run_steps(it, state, step, 1, batch=batch, rate=0.0)
        # The devices' counts are averaged; together they are the global batch.
        now = np.round(it.on_host(state).buffers[0] * replicas).astype(int)
        wanted = np.bincount(sampler.batches(1, SAMPLES, batch, step, 1)[0], minlength=SAMPLES)
        np.testing.assert_array_equal(now - seen, wanted)
        seen = now
    if SAMPLES % batch == 0:
        assert set(seen) == {2}


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_state_comes_back_from_the_devices(replicas: int) -> None:
    it = built(noisy, replicas)
    state, _ = run(it, [3])
    assert bits(it.on_host(it.place(state))) == bits(state)
    assert all(isinstance(array, np.ndarray) for array in tf.nest.flatten(state))


@pytest.mark.parametrize(("replicas", "xla"), [(1, False), (1, True), (2, False)])
def test_a_state_on_the_host_is_no_copy_and_stays_while_training_goes_on(
    replicas: int, xla: bool
) -> None:
    it = built(noisy, replicas, xla=xla)
    state, _ = run_steps(it, it.place(it.initial_state()), 0, 3)
    kept = it.on_host(state)
    again = zip(tf.nest.flatten(kept), tf.nest.flatten(it.on_host(state)), strict=True)
    assert all(np.shares_memory(one, other) for one, other in again)
    before = bits(kept)
    for first in range(3, 12, 3):
        state, _ = run_steps(it, state, first, 3)  # nobody holds the tensors of ``kept`` any more
    assert bits(kept) == before != bits(it.on_host(state))


@pytest.mark.parametrize("replicas", [1, 2])
def test_all_workers_get_to_know_of_a_stop(replicas: int) -> None:
    it = built(noisy, replicas)
    state = it.place(it.initial_state())
    state, going = run_steps(it, state, 0, 3)
    _, stopping = run_steps(it, state, 3, 3, stop=True)
    assert (going.stop, stopping.stop) == (False, True)
    assert len(stopping.losses) == len(stopping.accuracies) == 3


@pytest.mark.parametrize("replicas", [1, 2])
def test_logits_are_exact_for_any_number_of_images(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVAL_BATCH", 4)
    monkeypatch.setattr(loop, "EVAL_CALL", 2)
    it = build(noisy, replicas)
    state, _ = run(it, [8])
    indices = np.random.default_rng(2).permutation(SAMPLES).astype(np.int32)
    wanted = reference(it, state)(IMAGES[indices], training=False).numpy()
    for count in (0, 1, 4, 7, 8, 9, 16, 17, SAMPLES):
        found = it.logits(it.place(state), indices[:count])
        assert found.shape == (count, CLASSES)
        np.testing.assert_allclose(found, wanted[:count], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("xla", [False, True])
def test_logits_of_large_images_take_few_of_them_at_once_and_compile_once(
    xla: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVAL_VALUES", 4 * SHAPE[0] * SHAPE[1])
    batches: list[int] = []

    class Seen(layers.Layer):  # type: ignore[misc]  # Keras ships no types
        def call(self, inputs: Any) -> Any:
            batches.append(inputs.shape[0])
            return inputs

    it = build(lambda: network(Seen()), xla=xla)
    state = it.place(it.initial_state())
    batches.clear()
    for count in (1, 9, 90, 3):
        assert it.logits(state, np.arange(count, dtype=np.int32)).shape == (count, CLASSES)
    assert batches == [4]


def test_a_call_computes_no_batch_that_holds_no_image() -> None:
    calls: list[int] = []

    def count(inputs: Any) -> Any:
        calls.append(len(inputs))
        return inputs

    class Counted(layers.Layer):  # type: ignore[misc]  # Keras ships no types
        def call(self, inputs: Any) -> Any:
            return tf.ensure_shape(tf.numpy_function(count, [inputs], tf.float32), inputs.shape)

    it = build(lambda: network(Counted()))
    state = it.place(it.initial_state())
    it.logits(state, np.arange(60, dtype=np.int32))
    assert calls == [loop.EVAL_BATCH]


@pytest.mark.parametrize("replicas", [1, 2])
def test_data_may_be_given_later(replicas: int) -> None:
    it = build(plain, replicas, images=np.zeros_like(IMAGES[:1]), labels=LABELS[:1])
    whole = built(plain, replicas)
    buffer = stream.allocate(SAMPLES, SHAPE)
    data = it.share(*buffer)
    buffer.images[:], buffer.labels[:] = IMAGES, LABELS
    if replicas > 1:  # there it may be copied
        data = it.share(*buffer)
    state, wanted = it.place(it.initial_state()), whole.place(whole.initial_state())
    indices = sampler.batches(1, SAMPLES, 16, 0, 4)
    rates, seeds = np.full(4, RATE, np.float32), sampler.seeds(1, 0, 4, it.generators)
    state, _ = it.run_chunk(state, indices, rates, seeds, 0, data=data)
    wanted, _ = whole.run_chunk(wanted, indices, rates, seeds, 0)
    assert bits(it.on_host(state)) == bits(whole.on_host(wanted))
    rows = np.arange(SAMPLES, dtype=np.int32)
    assert it.logits(state, rows, data).tobytes() == whole.logits(wanted, rows).tobytes()
