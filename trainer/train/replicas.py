"""The replicas of a run: tensors on this worker's devices, and values from all workers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.train.heartbeat import Heartbeat

Tensor = Any  # TensorFlow ships no types
Rows = npt.NDArray[Any]


class Replicas:
    """The devices that train, on all workers; each holds a copy of the state.

    Made from any strategy of ``tf.distribute`` whose replicas run the same program.

    Attributes:
        count: replicas on all workers.
        local: replicas on this worker.
        heartbeat: counts gathers and steps.
        exchange: gathers in place of TensorFlow, which takes a graph, and so a tenth of a second
            of a worker's start, for each shape.
    """

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.count: int = strategy.num_replicas_in_sync
        resolver = strategy.cluster_resolver
        workers = len(resolver.cluster_spec().as_dict().get("worker", [0])) if resolver else 1
        self.local = self.count // max(1, workers)
        self.heartbeat = Heartbeat(workers)
        self.exchange: Callable[[Rows], Rows] | None = None
        self._rank = resolver.task_id if resolver else 0
        self._gather_values = as_graph(self._gather_of)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function on every replica, inside the graph."""
        return self.strategy.run(function, args=arguments)

    def place(self, array: Any, make: Callable[[Any], Tensor] = tf.constant) -> Tensor:
        """Return an array as a tensor on each of this worker's devices."""
        value = self.strategy.experimental_distribute_values_from_function(lambda _: make(array))
        # run() returns plain tensors for a single device; its arguments must be of the same kind.
        return value if self.local > 1 else self.here(value)[0]

    def here(self, value: Tensor) -> tuple[Tensor, ...]:
        """Return the value on each of this worker's devices."""
        local: tuple[Tensor, ...] = self.strategy.experimental_local_results(value)
        return local

    def gather(self, values: Rows) -> Rows:
        """Return the values of all workers, [workers, n] by rank; n is equal on all of them."""
        if self.count == 1:
            return values[None]
        if self.exchange:
            with self.heartbeat.gathering():
                rows = self.exchange(values)
                self.heartbeat.count_call()
            return rows
        # A float32 holds every rank exactly.
        row = np.concatenate([np.array([self._rank], values.dtype), values])
        with self.heartbeat.gathering():
            rows = self.here(self._gather_values(tf.constant(row)))[0].numpy()
        return by_rank(rows, self.count // self.local)

    def _gather_of(self, values: Tensor) -> Tensor:
        def one(row: Tensor) -> Tensor:
            return tf.distribute.get_replica_context().all_gather(row[None], axis=0)

        rows = self.run(one, values)
        self.heartbeat.count(self.here(rows))
        return rows


def by_rank(rows: Rows, workers: int) -> Rows:
    """Return gathered rows in the order of ranks.

    A collective returns rows in an order of its own: TensorFlow sorts the tasks' names as text,
    which puts rank 10 before rank 2.

    Args:
        rows: [replicas, 1 + n] in any order, the first column the rank.
        workers: number of workers; each has one row or, with several devices, equal ones.

    Returns:
        [workers, n].
    """
    ranks, first = np.unique(rows[:, 0], return_index=True)
    assert np.array_equal(ranks, np.arange(workers)), f"gathered the ranks {ranks.tolist()}"
    result: Rows = rows[first, 1:]
    return result


def as_graph(function: Callable[..., Any], *, jit_compile: bool = False) -> Any:
    """Return a function as a graph function, compiled by XLA if asked."""
    # The loops here are the graph's own; AutoGraph takes 0.6 s to look for others.
    return tf.function(function, autograph=False, jit_compile=jit_compile)
