"""What a worker is doing and how far it has come, for its heartbeats."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer.worker_events import AT_THE_STORE, GATHERING, TRAINING, Pulse


class Heartbeat:
    """A worker's work and progress; heartbeats read it from a thread of their own."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._work, self._done = AT_THE_STORE, set[str]()
        self._gathering: int | None = None  # the progress when the current gather began
        self._calls = 0  # of the graph, that have returned to Python
        with tf.device("CPU"):
            self._steps = tf.Variable(0, dtype=tf.int64, trainable=False)

    @contextlib.contextmanager
    def doing(self, work: str) -> Iterator[None]:
        """Report this work during the block."""
        before, self._work = self._work, work
        try:
            yield
            self._done.add(work)
        finally:
            self._work = before

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Report during the block that this worker gathers, and waits until a step counts."""
        self._gathering = self.progress()
        try:
            yield
        finally:
            self._gathering = None

    def count(self, done: Any) -> None:
        """Count a step, inside the graph, once it has computed these tensors."""
        with tf.control_dependencies(list(done)), tf.device("CPU"):
            self._steps.assign_add(1)

    def count_call(self) -> None:
        """Count a graph call."""
        self._calls += 1

    def progress(self) -> int:
        """Return a number that grows with each step, gather and graph call.

        It does not count the steps inside a loop that XLA compiles whole; such calls take about
        ``loop.CALL`` seconds.
        """
        return int(self._steps.numpy()) + self._calls

    def pulse(self, summing: bool | None) -> Pulse:
        """Return work and progress; ``summing``: whether an all-reduce is under way, if known."""
        count, gathering = self.progress(), self._gathering
        if gathering is not None:
            return Pulse(GATHERING, count, waits=count == gathering)
        waits = self._work == TRAINING and self._workers > 1 if summing is None else summing
        return Pulse(self._work, count, waits, first=self._work not in self._done)
