"""The training loop inside the graph, the same for one device, several, and several workers.

The state of a run is a value: tensors go into a chunk of steps and come out of it. No variable
is shared with Python, so one compiled function holds K steps, a snapshot is the value that
came out, and a run can be taken up from any state.

With several replicas a step makes one collective: gradients, the running statistics of the
layers, loss, accuracy and the request to stop travel in one flat vector, whose sum every
replica gets. That is why all replicas keep the same bits, and stop at the same step.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data import stream
from trainer.train import forward
from trainer.train.all_reduce import Ring
from trainer.train.optimizers import Optimizer, Tensor

EVAL_BATCH = 500  # images a replica runs through the model at once, where no gradient is kept
EVAL_CALL = 10  # such batches in one graph call
CALL = 1.0  # seconds that a call may take inside of which steps cannot be counted


class State(NamedTuple):
    """What a step changes: tensors in the order of the model's variables.

    Attributes:
        parameters: trainable variables.
        slots: the optimizer's state, a tuple for each parameter.
        buffers: other variables of the model, such as running means.
    """

    parameters: tuple[Tensor, ...]
    slots: tuple[tuple[Tensor, ...], ...]
    buffers: tuple[Tensor, ...]


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
    """Graph functions for one model on one strategy.

    Args:
        strategy: any strategy of ``tf.distribute`` whose replicas run the same program.
        model: maps images uint8 [n, height, width, channels] to logits [n, classes].
        optimizer: the update rule.
        images: what indices refer to unless other data are given, uint8 [n, height, width,
            channels].
        labels: their classes, int32 [n].
        chunk_steps: the most steps in one call.
        xla: whether to compile with XLA.
        label_smoothing: share of the target spread over all classes.
        reordered: whether the model is computed by ``forward.py``; only for layers in a row.
        parts: how many parts of a replica's batch that computes side by side; only without XLA.
    """

    def __init__(
        self,
        strategy: Any,
        model: Any,
        optimizer: Optimizer,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int32],
        *,
        chunk_steps: int,
        xla: bool,
        label_smoothing: float = 0.0,
        reordered: bool = False,
        parts: int = 1,
    ) -> None:
        assert parts == 1 or (reordered and not xla)
        self.strategy = strategy
        self.replicas: int = strategy.num_replicas_in_sync
        self.local_replicas: int = self.replicas // max(1, _workers(strategy))
        self._rank = strategy.cluster_resolver.task_id if strategy.cluster_resolver else 0
        self._model = model
        self._optimizer = optimizer
        self._label_smoothing = label_smoothing
        self._chunk_steps = chunk_steps
        self.reordered, self.parts = reordered, parts
        weights = {id(v) for v in model.non_trainable_weights}
        self._is_buffer = [id(v) in weights for v in model.non_trainable_variables]
        self.generators = self._is_buffer.count(False)
        self.xla = xla
        self.gathering: int | None = None  # the progress when the gather under way began
        self.ring: Ring | None = None  # sums in place of the strategy, if it is given in time
        self._whole = whole = xla and self.replicas == 1
        self._calls = 0  # of the graph, that Python has made and that have returned
        self._most_steps = 1 if whole else chunk_steps  # of a call
        with tf.device("CPU"):
            self._steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._gradients, self._apply = self._gradients_of, self._apply_to
        if xla and not whole:  # the collective stands between two compiled halves of a step
            self._gradients = _graph(self._gradients_of, jit_compile=True)
            self._apply = _graph(self._apply_to, jit_compile=True)
        self._chunk = _graph(self._chunk_of, jit_compile=whole)
        self._logits = _graph(self._logits_of, jit_compile=whole)
        self._gather_values = _graph(self._gather_of)
        self._data = Data(self._on_devices(images), self._on_devices(labels))

    def initial_state(self) -> State:
        """Return the state before step 0, from the model's initial weights, as numpy arrays."""
        parameters = tuple(v.numpy() for v in self._model.trainable_variables)
        buffers = tuple(v.numpy() for v in self._model.non_trainable_weights)
        return State(parameters, tuple(self._optimizer.init(p) for p in parameters), buffers)

    def place(self, state: State) -> State:
        """Return a state of numpy arrays as tensors, a copy on every device."""
        placed: State = tf.nest.map_structure(self._on_devices, state)
        return placed

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
            data: what indices refer to; always of the same shape, or it is compiled anew.
        """
        count, batch = indices.shape
        assert batch % self.replicas == 0
        split = indices.reshape(count, self.replicas, batch // self.replicas)
        figures, start = [], 0
        while start < count:
            part = slice(start, min(count, start + self._most_steps))
            began = time.monotonic()
            state, *result = self._call(
                state,
                split[part],
                rates[part],
                seeds[part],
                first + start,
                stop,
                data or self._data,
            )
            figures.append(result)
            self._calls += 1
            if self._whole:  # nothing can be counted inside of it
                pace = (time.monotonic() - began) / (part.stop - start)
                self._most_steps = max(1, min(self._chunk_steps, int(CALL / pace)))
            start = part.stop
        losses, accuracies, stops = map(np.concatenate, zip(*figures, strict=True))
        return state, ChunkResult(losses, accuracies, bool(stops.any()))

    def _call(
        self,
        state: State,
        indices: npt.NDArray[np.int32],
        rates: npt.NDArray[np.float32],
        seeds: npt.NDArray[np.uint32],
        first: int,
        stop: bool,
        data: Data,
    ) -> tuple[Any, ...]:
        """Run steps in one graph call; return the state, and by step loss, accuracy and stop."""
        count = len(indices)
        pad = self._chunk_steps - count
        state, *figures = self._chunk(
            state,
            *data,
            tf.constant(np.pad(indices, ((0, pad), (0, 0), (0, 0)))),
            tf.constant(np.pad(rates, (0, pad))),
            tf.constant(np.pad(seeds, ((0, pad), (0, 0)))),
            tf.constant(first),
            tf.constant(count),
            tf.constant(float(stop)),
        )
        return state, *(values.numpy()[:count] for values in figures)

    def share(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32]) -> Data:
        """Return arrays of ``stream.allocate`` as data; on a CPU without copying them.

        There the tensors are the arrays' own memory, so what is written into these later is what
        later calls see.
        """
        if tf.config.list_physical_devices("GPU"):
            return Data(self._on_devices(images), self._on_devices(labels))
        assert not any(array.ctypes.data % stream.ALIGNMENT for array in (images, labels))
        # Copying 100 MB takes as long as training on it.
        pair = [tf.experimental.dlpack.from_dlpack(a.__dlpack__()) for a in (images, labels)]
        return Data(*(self._on_devices(tensor, tf.identity) for tensor in pair))

    def logits(
        self, state: State, indices: npt.NDArray[np.int32], data: Data | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the model's logits without dropout, [n, classes], on this process's devices.

        Args:
            state: the state to evaluate.
            indices: of the images, int32 [n].
            data: what indices refer to.
        """
        images = (data or self._data).images
        call = self.local_replicas * EVAL_CALL * EVAL_BATCH
        # A worker's share of a split smaller than the gang is empty.
        parts = [np.empty((0, self._model.output_shape[-1]), np.float32)]
        for start in range(0, len(indices), call):
            part = indices[start : start + call]
            padded = np.pad(part, (0, call - len(part)))
            shaped = padded.reshape(self.local_replicas, EVAL_CALL, EVAL_BATCH)
            result = self._logits(state, images, tf.constant(shaped))
            self._calls += 1
            whole = np.concatenate([t.numpy() for t in self._local(result)])
            parts.append(whole[: len(part)])
        return np.concatenate(parts)

    def progress(self) -> int:
        """Return a number that grows with each step, gather and call; safe in any thread.

        Where XLA compiles the whole loop, steps do not count; calls are then of about ``CALL``
        seconds.
        """
        return int(self._steps.numpy()) + self._calls

    def architecture(self) -> str:
        """Return Keras's description of the model, JSON."""
        description: str = self._model.to_json()
        return description

    def graph(self) -> bytes:
        """Return the graph from images to logits without dropout, a serialised GraphDef."""

        def logits(images: Tensor) -> Tensor:
            return self._model(images, training=False)

        images = tf.TensorSpec([None, *self._model.input_shape[1:]], tf.uint8, name="images")
        traced = _graph(logits).get_concrete_function(images)
        definition: bytes = traced.graph.as_graph_def().SerializeToString()
        return definition

    def gather(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the values of all workers, [workers, n] by rank; n is alike on all of them."""
        if self.replicas == 1:
            return values[None]
        # A float32 holds every rank exactly.
        row = np.concatenate([np.array([self._rank], values.dtype), values])
        self.gathering = self.progress()
        try:
            rows = self._local(self._gather_values(tf.constant(row)))[0].numpy()
        finally:
            self.gathering = None
        return by_rank(rows, self.replicas // self.local_replicas)

    def host_copy(self, state: State) -> State:
        """Return the state as numpy arrays."""
        copy: State = tf.nest.map_structure(lambda t: self._local(t)[0].numpy(), state)
        return copy

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
            state, *figures = self.strategy.run(
                self._step, args=(state, images, labels, indices[i], rates[i], seeds[i], step, stop)
            )
            figures = [self._local(f)[0] for f in figures]
            if not self._whole:
                self._count(figures)
            return i + 1, state, [a.write(i, f) for a, f in zip(arrays, figures, strict=True)]

        arrays = [tf.TensorArray(tf.float32, size=self._chunk_steps) for _ in range(3)]
        _, state, arrays = tf.while_loop(
            lambda i, *_: i < count, body, (tf.constant(0), state, arrays)
        )
        return state, *(a.stack() for a in arrays)

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
        replica = context.replica_id_in_sync_group if self.replicas > 1 else 0
        rows = indices[replica]
        gradients, buffers, loss, accuracy = self._gradients(
            state,
            tf.gather(images, rows),
            tf.gather(labels, rows),
            seeds,
            tf.cast(replica, tf.uint32),
        )
        if self.replicas > 1:
            values = [*gradients, *buffers, loss, accuracy, stop]
            flat = tf.concat([tf.reshape(tf.cast(v, tf.float32), [-1]) for v in values], 0)
            # Each replica's loss is already its share of the global mean; the layers' running
            # statistics are averaged by the same sum.
            flat = self._sum(flat, context)
            gradients, buffers, loss, accuracy, stop = _unflatten(flat, values, len(gradients))
        state = self._apply(state, gradients, buffers, rate, step)
        return state, loss, accuracy, stop

    def _sum(self, flat: Tensor, context: Any) -> Tensor:
        """Return the sum of all replicas' vectors."""
        if self.ring is None:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, flat)
        return tf.ensure_shape(tf.numpy_function(self.ring.sum, [flat], tf.float32), flat.shape)

    def _gradients_of(
        self, state: State, images: Tensor, labels: Tensor, seeds: Tensor, replica: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
        """Return this replica's share of the gradients, statistics, mean loss and accuracy."""
        with tf.GradientTape() as tape:
            tape.watch(state.parameters)
            others = self._others(state.buffers, seeds, replica)
            if self.reordered:
                logits, others = forward.call(
                    self._model, state.parameters, others, images, self.parts
                )
            else:
                logits, others = self._model.stateless_call(
                    state.parameters, others, images, training=True
                )
            logits = tf.cast(logits, tf.float32)
            losses = _cross_entropy(labels, logits, self._label_smoothing)
            loss = tf.reduce_mean(losses) / self.replicas
        gradients = tape.gradient(loss, state.parameters, unconnected_gradients="zero")
        buffers = tuple(
            tf.cast(v / self.replicas, v.dtype) if v.dtype.is_floating else v
            for v, is_buffer in zip(others, self._is_buffer, strict=True)
            if is_buffer
        )
        correct = tf.equal(tf.argmax(logits, 1, output_type=tf.int32), labels)
        accuracy = tf.reduce_mean(tf.cast(correct, tf.float32)) / self.replicas
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

    def _logits_of(self, state: State, images: Tensor, indices: Tensor) -> Tensor:
        return self.strategy.run(self._replica_logits, args=(state, images, indices))

    def _replica_logits(self, state: State, images: Tensor, indices: Tensor) -> Tensor:
        context = tf.distribute.get_replica_context()
        local = (
            context.replica_id_in_sync_group % self.local_replicas if self.local_replicas > 1 else 0
        )
        rows = indices[local]
        no_seeds = tf.zeros([self.generators], tf.uint32)

        def one(batch: Tensor) -> Tensor:
            others = self._others(state.buffers, no_seeds, tf.constant(0, tf.uint32))
            logits, _ = self._model.stateless_call(
                state.parameters, others, tf.gather(images, batch), training=False
            )
            return tf.cast(logits, tf.float32)

        classes = self._model.output_shape[-1]
        logits = tf.map_fn(
            one, rows, fn_output_signature=tf.float32, parallel_iterations=self.parts
        )
        return tf.reshape(logits, [-1, classes])

    def _gather_of(self, values: Tensor) -> Tensor:
        def one(row: Tensor) -> Tensor:
            return tf.distribute.get_replica_context().all_gather(row[None], axis=0)

        rows = self.strategy.run(one, args=(values,))
        self._count(self._local(rows))
        return rows

    def _count(self, done: Any) -> None:
        """Count, inside of the graph, what these tensors finish."""
        with tf.control_dependencies(list(done)), tf.device("CPU"):
            self._steps.assign_add(1)

    def _on_devices(self, array: Any, place: Callable[[Any], Tensor] = tf.constant) -> Tensor:
        value = self.strategy.experimental_distribute_values_from_function(lambda _: place(array))
        # run() returns plain tensors where there is one device; what goes in must be alike.
        return value if self.local_replicas > 1 else self._local(value)[0]

    def _local(self, value: Tensor) -> tuple[Tensor, ...]:
        """Return the value on each of this process's devices."""
        local: tuple[Tensor, ...] = self.strategy.experimental_local_results(value)
        return local


def by_rank(rows: npt.NDArray[Any], workers: int) -> npt.NDArray[Any]:
    """Return what was gathered in the order of ranks.

    A collective hands out rows in an order of its own: TensorFlow's in the text order of the
    tasks' names, which puts rank 10 before rank 2.

    Args:
        rows: [replicas, 1 + n] in any order, the first column the rank.
        workers: how many there are; each has one row or, with several devices, equal ones.

    Returns:
        [workers, n].
    """
    ranks, first = np.unique(rows[:, 0], return_index=True)
    assert np.array_equal(ranks, np.arange(workers)), f"gathered the ranks {ranks.tolist()}"
    result: npt.NDArray[Any] = rows[first, 1:]
    return result


def _graph(function: Callable[..., Any], *, jit_compile: bool = False) -> Any:
    # The loops here are the graph's own; having AutoGraph look for others takes 0.6 s.
    return tf.function(function, autograph=False, jit_compile=jit_compile)


def _workers(strategy: Any) -> int:
    resolver = strategy.cluster_resolver
    return len(resolver.cluster_spec().as_dict().get("worker", [0])) if resolver else 1


def _cross_entropy(labels: Tensor, logits: Tensor, smoothing: float) -> Tensor:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if smoothing:
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        losses = (1 - smoothing) * losses + smoothing * uniform
    return losses


def _unflatten(
    flat: Tensor, like: list[Tensor], gradients: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    parts = tf.split(flat, [v.shape.num_elements() for v in like])
    values = [tf.cast(tf.reshape(p, v.shape), v.dtype) for p, v in zip(parts, like, strict=True)]
    *tensors, loss, accuracy, stop = values
    return tuple(tensors[:gradients]), tuple(tensors[gradients:]), loss, accuracy, stop
