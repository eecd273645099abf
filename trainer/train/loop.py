"""The training loop inside the graph, the same for one device, several, and several workers.

The state of a run is a value: tensors go into a chunk of steps and come out of it. Python shares no
variable with it, so that one compiled function holds K steps, a snapshot is the value that came
out, and a run can continue from any state.

With several replicas each step makes one collective: gradients, the running statistics of the
layers, loss, accuracy and the request to stop travel in one flat vector, and every replica gets
its sum. That is why all replicas keep the same bits, and stop at the same step.
"""

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data import stream
from trainer.train import forward, models
from trainer.train.all_reduce import AllReduce
from trainer.train.optimizers import Optimizer, Tensor
from trainer.train.replicas import Replicas, as_graph
from trainer.train.state import Arrays, State

EVAL_BATCH = 500  # images that a replica evaluates at once, or fewer if they are large:
EVAL_VALUES = 2_000_000  # values of their pixels
EVAL_CALL = 10  # the most such batches in one graph call
CALL = 1.0  # seconds that a call may take if its steps cannot be counted


class Data(NamedTuple):
    """Images uint8 [n, height, width, channels] and labels int32 [n], on every device."""

    images: Tensor
    labels: Tensor


class ChunkResult(NamedTuple):
    """Per step of a chunk, over the global batch: mean loss, accuracy; and whether to stop."""

    losses: npt.NDArray[np.float32]
    accuracies: npt.NDArray[np.float32]
    stop: bool


class Loop:
    """Graph functions for one model on its replicas.

    Args:
        replicas: the devices that train.
        model: maps images uint8 [n, height, width, channels] to logits [n, classes].
        optimizer: the update rule.
        images: what indices refer to unless other data are given, uint8 [n, height, width,
            channels].
        labels: their classes, int32 [n].
        chunk_steps: the most steps in one call.
        xla: whether to compile with XLA.
        label_smoothing: share of the target spread over all classes.
        reordered: whether ``forward.py`` computes the model; only for layers in a row.
        microbatches: into how many equal parts ``forward.py`` cuts a replica's batch; more than
            one only without XLA.
        all_reduce: sums over the workers; None: TensorFlow's collectives do.

    Attributes:
        names: of the state's tensors, in its order.
        generators: number of the model's random generators.
    """

    def __init__(
        self,
        replicas: Replicas,
        model: Any,
        optimizer: Optimizer,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int32],
        *,
        chunk_steps: int,
        xla: bool,
        label_smoothing: float = 0.0,
        reordered: bool = False,
        microbatches: int = 1,
        all_reduce: AllReduce | None = None,
    ) -> None:
        assert microbatches == 1 or (reordered and not xla)
        self.replicas, self.all_reduce, self.xla = replicas, all_reduce, xla
        self.reordered, self.microbatches = reordered, microbatches
        self._model = model
        self._optimizer = optimizer
        self._label_smoothing = label_smoothing
        self._chunk_steps = chunk_steps
        weights = {id(v) for v in model.non_trainable_weights}
        self._is_buffer = [id(v) in weights for v in model.non_trainable_variables]
        self.generators = self._is_buffer.count(False)
        self.names = _names(model, optimizer)
        self._whole = whole = xla and replicas.count == 1
        # XLA multiplies by a dense layer's kernel [outputs, inputs] faster on CPUs: a step of
        # ``single-layer`` took 0.5 times as long, of ``mlp-100`` 0.75 times (a core of a Xeon).
        self._transposes = whole and reordered
        self._most_steps = 1 if whole else chunk_steps  # of a call
        self._gradients, self._apply = self._gradients_of, self._apply_to
        if xla and not whole:  # the collective stands between two compiled halves of a step
            self._gradients = as_graph(self._gradients_of, jit_compile=True)
            self._apply = as_graph(self._apply_to, jit_compile=True)
        self._chunk = as_graph(self._chunk_of, jit_compile=whole)
        self._logits = as_graph(self._logits_of, jit_compile=whole)
        self._data = Data(replicas.place(images), replicas.place(labels))

    def initial_state(self) -> State:
        """Return the state before step 0, from the model's initial weights, as numpy arrays."""
        parameters = tuple(v.numpy() for v in self._model.trainable_variables)
        buffers = tuple(v.numpy() for v in self._model.non_trainable_weights)
        return State(parameters, tuple(self._optimizer.init(p) for p in parameters), buffers)

    def place(self, state: State) -> State:
        """Return a state of numpy arrays as tensors, a copy on every device."""
        placed: State = tf.nest.map_structure(self.replicas.place, state)
        return placed

    def on_host(self, state: State) -> State:
        """Return the state as numpy arrays that nobody may write to.

        On a CPU they are the tensors' own memory, which no later step changes, and cost no copy.
        """
        found: State = tf.nest.map_structure(
            lambda tensor: np.asarray(self.replicas.here(tensor)[0]), state
        )
        return found

    def named(self, state: State) -> Arrays:
        """Return a state of numpy arrays by name."""
        return dict(zip(self.names, tf.nest.flatten(state), strict=True))

    def unnamed(self, arrays: Mapping[str, npt.NDArray[Any]]) -> State:
        """Return named arrays as a state; the inverse of ``named``."""
        values = [arrays[name] for name in self.names]
        state: State = tf.nest.pack_sequence_as(self.initial_state(), values)
        return state

    def run_chunk(
        self,
        state: State,
        indices: npt.NDArray[np.int32],
        rates: npt.NDArray[np.float32],
        seeds: npt.NDArray[np.uint32],
        first: int,
        stop: bool = False,
        data: Data | None = None,
    ) -> tuple[State, ChunkResult]:
        """Run steps first .. first + count - 1.

        Args:
            state: the state after step first - 1.
            indices: the global batches, int32 [count, batch].
            rates: learning rates, float32 [count].
            seeds: for the model's random generators, uint32 [count, generators].
            first: the first step, counted from 0.
            stop: whether this worker was asked to stop; every worker gets to know.
            data: what indices refer to; another shape costs another compilation.
        """
        count = len(indices)
        split = indices.reshape(count, self.replicas.count, -1)
        results, start = [], 0
        while start < count:
            end = min(count, start + self._most_steps)
            padded = [
                _padded(by_step[start:end], self._chunk_steps) for by_step in (split, rates, seeds)
            ]
            began = time.monotonic()
            state, *values = self._chunk(
                state,
                *(data or self._data),
                *padded,
                tf.constant(first + start),
                tf.constant(end - start),
                tf.constant(float(stop)),
            )
            results.append([each.numpy()[: end - start] for each in values])
            self.replicas.heartbeat.count_call()
            if self._whole:  # its steps cannot be counted
                pace = (time.monotonic() - began) / (end - start)
                self._most_steps = max(1, min(self._chunk_steps, int(CALL / pace)))
            start = end
        losses, accuracies, stops = map(np.concatenate, zip(*results, strict=True))
        return state, ChunkResult(losses, accuracies, bool(stops.any()))

    def share(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32]) -> Data:
        """Return arrays of ``stream.allocate`` as data; on a CPU without copying them.

        There the tensors are the arrays' own memory, so what is written into these later is what
        later calls see.
        """
        if tf.config.list_physical_devices("GPU"):
            return Data(self.replicas.place(images), self.replicas.place(labels))
        assert not any(array.ctypes.data % stream.ALIGNMENT for array in (images, labels))
        # Copying 100 MB takes as long as training on it.
        pair = [tf.experimental.dlpack.from_dlpack(a.__dlpack__()) for a in (images, labels)]
        return Data(*(self.replicas.place(tensor, tf.identity) for tensor in pair))

    def logits(
        self, state: State, indices: npt.NDArray[np.int32], data: Data | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the model's logits without dropout, [n, classes], on this process's devices.

        ``indices`` [n] refer to ``data`` or, where that is None, to the loop's own.
        """
        images = (data or self._data).images
        local, values = self.replicas.local, math.prod(self._model.input_shape[1:])
        batch = max(1, min(EVAL_BATCH, EVAL_VALUES // values))
        call = local * EVAL_CALL * batch
        # A worker's share of a split smaller than the gang is empty.
        parts = [np.empty((0, self._model.output_shape[-1]), np.float32)]
        for start in range(0, len(indices), call):
            part = indices[start : start + call]
            # All calls have one shape, which is compiled once; the graph stops after ``count``.
            count = math.ceil(len(part) / (local * batch))
            shaped = np.pad(part, (0, local * count * batch - len(part))).reshape(local, count, -1)
            padded = np.pad(shaped, ((0, 0), (0, EVAL_CALL - count), (0, 0)))
            result = self._logits(state, images, tf.constant(padded), tf.constant(count))
            self.replicas.heartbeat.count_call()
            whole = np.concatenate([t.numpy()[: count * batch] for t in self.replicas.here(result)])
            parts.append(whole[: len(part)])
        return np.concatenate(parts)

    def architecture(self) -> str | None:
        """Return Keras's description of the model, JSON, None if it has none."""
        try:
            description: str = self._model.to_json()
        except Exception:  # a user's model that Keras cannot describe
            return None
        return description

    def layers(self) -> list[dict[str, Any]]:
        """Return name, type, output shape, if known, and weights of each layer."""
        return models.layer_table(self._model)

    def graph(self) -> bytes:
        """Return the graph from images to logits without dropout, a serialised GraphDef."""

        def logits(images: Tensor) -> Tensor:
            return self._model(images, training=False)

        images = tf.TensorSpec([None, *self._model.input_shape[1:]], tf.uint8, name="images")
        traced = as_graph(logits).get_concrete_function(images)
        definition: bytes = traced.graph.as_graph_def().SerializeToString()
        return definition

    def _chunk_of(
        self,
        state: State,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        rates: Tensor,
        seeds: Tensor,
        first: Tensor,
        count: Tensor,
        stop: Tensor,
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        def body(i: Tensor, state: State, arrays: Any) -> Any:
            step = tf.cast(first + i + 1, tf.float32)
            state, *values = self.replicas.run(
                self._step, state, images, labels, indices[i], rates[i], seeds[i], step, stop
            )
            values = [self.replicas.here(each)[0] for each in values]
            if not self._whole:
                self.replicas.heartbeat.count(values)
            return i + 1, state, [a.write(i, v) for a, v in zip(arrays, values, strict=True)]

        arrays = [tf.TensorArray(tf.float32, size=self._chunk_steps) for _ in range(3)]
        _, state, arrays = tf.while_loop(
            lambda i, *_: i < count, body, (tf.constant(0), self._transposed(state), arrays)
        )
        return self._transposed(state), *(a.stack() for a in arrays)

    def _transposed(self, tensors: Any) -> Any:
        """Return tensors, or a state, as the steps of a chunk have them, or back again."""
        if not self._transposes:
            return tensors
        return tf.nest.map_structure(
            lambda each: tf.transpose(each) if each.shape.rank == 2 else each, tensors
        )

    def _step(
        self,
        state: State,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        rate: Tensor,
        seeds: Tensor,
        step: Tensor,
        stop: Tensor,
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """One replica's part of one step."""
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if self.replicas.count > 1 else 0
        rows = indices[replica]
        gradients, buffers, loss, accuracy = self._gradients(
            state,
            tf.gather(images, rows),
            tf.gather(labels, rows),
            seeds,
            tf.cast(replica, tf.uint32),
        )
        if self.replicas.count > 1:
            changed = [each for each in buffers if each is not None]
            values = [*gradients, *changed, loss, accuracy, stop]
            floats = [_as_floats(each, replica) for each in values]
            # Each replica's loss is already its share of the global mean; the layers' running
            # statistics are averaged by the same sum.
            weights = sum(each.shape.num_elements() for each in gradients)
            flat = self._sum(tf.concat(floats, 0), weights, context)
            parts = tf.split(flat, [each.shape.num_elements() for each in floats])
            *values, loss, accuracy, stop = map(_from_floats, parts, values)
            gradients, summed = tuple(values[: len(gradients)]), iter(values[len(gradients) :])
            buffers = tuple(None if each is None else next(summed) for each in buffers)
        buffers = tuple(
            old if new is None else new for old, new in zip(state.buffers, buffers, strict=True)
        )
        state = self._apply(state, gradients, buffers, rate, step)
        return state, loss, accuracy, stop

    def _sum(self, flat: Tensor, weights: int, context: Any) -> Tensor:
        """Return the sum of all replicas' vectors, which begin with the weights' gradients."""
        if self.all_reduce is None:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, flat)
        return tf.ensure_shape(
            tf.numpy_function(partial(self.all_reduce.sum_step, weights), [flat], tf.float32),
            flat.shape,
        )

    def _gradients_of(
        self, state: State, images: Tensor, labels: Tensor, seeds: Tensor, replica: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...], Tensor, Tensor]:
        """Return this replica's share of the gradients, statistics, mean loss and accuracy.

        Buffers that the step leaves as they are, such as frozen weights, are None: shares of them
        might not add up to the same bits. Integers are not shares, but whole.
        """
        with tf.GradientTape() as tape:
            tape.watch(state.parameters)
            before = self._others(state.buffers, seeds, replica)
            own_losses: list[Tensor] = []
            if self.reordered:
                logits, others = forward.call(
                    self._model,
                    self._transposed(state.parameters),
                    before,
                    images,
                    self.microbatches,
                    chained=self.xla,
                )
            else:
                logits, others, own_losses = self._model.stateless_call(
                    state.parameters, before, images, training=True, return_losses=True
                )
            logits = tf.cast(logits, tf.float32)
            losses = _cross_entropy(labels, logits, self._label_smoothing)
            loss = tf.reduce_mean(losses) / self.replicas.count
            total = loss
            for each in own_losses:  # of regularizers and add_loss, whose means are taken as well
                total += tf.reduce_sum(tf.cast(each, tf.float32)) / self.replicas.count
        gradients = tape.gradient(total, state.parameters, unconnected_gradients="zero")
        buffers = tuple(
            None
            if new is old
            else tf.cast(new / self.replicas.count, new.dtype)
            if new.dtype.is_floating
            else new
            for new, old, is_buffer in zip(others, before, self._is_buffer, strict=True)
            if is_buffer
        )
        correct = tf.equal(tf.argmax(logits, 1, output_type=tf.int32), labels)
        accuracy = tf.reduce_mean(tf.cast(correct, tf.float32)) / self.replicas.count
        return tuple(gradients), buffers, loss, accuracy

    def _apply_to(
        self,
        state: State,
        gradients: tuple[Tensor, ...],
        buffers: tuple[Tensor, ...],
        rate: Tensor,
        step: Tensor,
    ) -> State:
        pairs = [
            self._optimizer.apply(parameter, gradient, slots, rate, step)
            for parameter, gradient, slots in zip(
                state.parameters, gradients, state.slots, strict=True
            )
        ]
        constraints = [variable.constraint for variable in self._model.trainable_variables]
        pairs = [
            (tf.cast(constraint(new), new.dtype) if constraint else new, slots)
            for (new, slots), constraint in zip(pairs, constraints, strict=True)
        ]
        return State(tuple(p for p, _ in pairs), tuple(s for _, s in pairs), tuple(buffers))

    def _others(self, buffers: tuple[Tensor, ...], seeds: Tensor, replica: Tensor) -> list[Tensor]:
        """Return values for the model's non-trainable variables.

        Random generators hold no state of their own: their seed is a function of (seed, step),
        and the replica's number, shifted because a generator counts up from there.
        """
        buffer, generator, others = iter(buffers), 0, []
        for is_buffer, variable in zip(
            self._is_buffer, self._model.non_trainable_variables, strict=True
        ):
            if is_buffer:
                others.append(next(buffer))
            else:
                pair = tf.stack([seeds[generator], tf.bitwise.left_shift(replica, 16)])
                others.append(tf.cast(pair, variable.dtype))
                generator += 1
        return others

    def _logits_of(self, state: State, images: Tensor, indices: Tensor, count: Tensor) -> Tensor:
        return self.replicas.run(self._replica_logits, state, images, indices, count)

    def _replica_logits(
        self, state: State, images: Tensor, indices: Tensor, count: Tensor
    ) -> Tensor:
        context = tf.distribute.get_replica_context()
        local = (
            context.replica_id_in_sync_group % self.replicas.local if self.replicas.local > 1 else 0
        )
        rows = indices[local]
        no_seeds = tf.zeros([self.generators], tf.uint32)

        def one(i: Tensor, results: Any) -> Any:
            others = self._others(state.buffers, no_seeds, tf.constant(0, tf.uint32))
            logits, _ = self._model.stateless_call(
                state.parameters, others, tf.gather(images, rows[i]), training=False
            )
            return i + 1, results.write(i, tf.cast(logits, tf.float32))

        shape = [rows.shape[1], self._model.output_shape[-1]]
        _, results = tf.while_loop(
            lambda i, _: i < count,
            one,
            (tf.constant(0), tf.TensorArray(tf.float32, rows.shape[0], element_shape=shape)),
            parallel_iterations=self.microbatches,
        )
        return tf.reshape(results.stack(), [-1, shape[1]])


def _cross_entropy(labels: Tensor, logits: Tensor, smoothing: float) -> Tensor:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if smoothing:
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        losses = (1 - smoothing) * losses + smoothing * uniform
    return losses


def _as_floats(value: Tensor, replica: Tensor) -> Tensor:
    """Return what a replica adds to the sum for a value, float32 [n].

    The sum of integers is the first replica's, byte by byte: a step counter is not to count the
    replicas too, and a float32 does not hold all of its values.
    """
    if value.dtype.is_floating:
        return tf.reshape(tf.cast(value, tf.float32), [-1])
    value = tf.cast(value, tf.uint8) if value.dtype.is_bool else tf.bitcast(value, tf.uint8)
    is_first = tf.cast(tf.equal(replica, 0), tf.float32)
    return tf.reshape(tf.cast(value, tf.float32) * is_first, [-1])


def _from_floats(floats: Tensor, template: Tensor) -> Tensor:
    """Return the value that a sum of ``_as_floats`` stands for."""
    dtype, shape = template.dtype, template.shape
    if dtype.is_floating or dtype.is_bool:
        return tf.cast(tf.reshape(floats, shape), dtype)
    whole = [*shape, dtype.size] if dtype.size > 1 else shape
    return tf.bitcast(tf.reshape(tf.cast(floats, tf.uint8), whole), dtype)


def _padded(by_step: npt.NDArray[Any], steps: int) -> Tensor:
    """Return an array of so many steps as a tensor, filled up with zeros."""
    return tf.constant(np.pad(by_step, [(0, steps - len(by_step)), *[(0, 0)] * (by_step.ndim - 1)]))


def _names(model: Any, optimizer: Optimizer) -> list[str]:
    """Return the names of the state's tensors, in its order."""
    parameters = [variable.path for variable in model.trainable_variables]
    names = [f"parameters/{path}" for path in parameters]
    names += [f"{slot}/{path}" for path in parameters for slot in optimizer.slots]
    names += [f"buffers/{variable.path}" for variable in model.non_trainable_weights]
    assert len(set(names)) == len(names), "variable paths must be unique"
    return names
