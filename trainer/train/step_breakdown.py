"""How the steps of a chunk passed on each rank: computing, waiting for the others, adding up.

Each rank measures two times a step with a clock of its own: until it entered the sum, and inside
it. The rank that enters last waits for nobody, so the shortest time inside the sum is what adding
up takes, and the rest of the others' is waiting. No clocks are compared, and the split does not
depend on how the workers are connected.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.train.all_reduce import AllReduce, Vector
from trainer.train.peer_connections import PeerGoneError

SHOWN_STEPS = 4  # single steps that a record holds, for a picture of them
SHOWN_RANKS = 8  # in gangs of at most so many

Seconds = npt.NDArray[np.float32]


class Clock:
    """Times the steps of the chunk that begins as this is made, if our own all-reduce sums."""

    def __init__(self, sums: AllReduce | None) -> None:
        self._all_reduce = sums
        if sums:
            sums.sums.clear()
        self._began, self._processor = time.perf_counter(), time.process_time()

    def read(self, beside: Vector, *, single_steps: bool) -> tuple[dict[str, Any], Vector | None]:
        """Return ``record`` of all ranks' steps since then, and what all ranks gave ``beside``.

        The record is empty, and the rest None, where they are not known. ``cpu_ms`` in it has the
        processor time of each rank, all threads, milliseconds a step.
        """
        if self._all_reduce is None:
            return {}, None
        mine = of_rank(self._began, self._all_reduce.sums)
        used = time.process_time() - self._processor
        try:
            rows = self._all_reduce.share(np.concatenate([mine.ravel(), [used], beside]))
        except PeerGoneError:  # the chunk is whole all the same; the next one meets the error
            return {}, None
        times, processor, others = np.split(rows, [mine.size, mine.size + 1], axis=1)
        found = record(times.reshape(-1, *mine.shape), single_steps=single_steps)
        cpu_ms = 1e3 * processor[:, 0].astype(np.float64) / mine.shape[1]
        return found | {"cpu_ms": cpu_ms.round(3).tolist()}, others


def of_rank(began: float, sums: Sequence[tuple[float, float]]) -> Seconds:
    """Return seconds before and inside each sum, float32 [2, steps].

    Args:
        began: when the chunk began, on the clock of ``sums``.
        sums: when each step's sum was entered and left.
    """
    entered, left = np.array(sums).T
    before = np.concatenate([[began], left[:-1]])
    return np.stack([entered - before, left - entered]).astype(np.float32)


def record(seconds: Seconds, *, single_steps: bool) -> dict[str, Any]:
    """Return what a line of metrics.jsonl says of a chunk: milliseconds a step.

    The first step is left out, if there are others: it includes the beginning of the graph call.

    Args:
        seconds: before and inside each sum, [ranks, 2, steps].
        single_steps: whether to add ``steps_ms``: computing and summing of the last steps,
            [ranks, steps, 2].

    Returns:
        ``compute_ms`` and ``wait_ms`` of each rank, and ``sum_ms``, which is the same for all.
    """
    computing, summing = np.moveaxis(1e3 * seconds.astype(np.float64), 1, 0)
    if summing.shape[1] > 1:
        computing, summing = computing[:, 1:], summing[:, 1:]
    adding = summing.min(axis=0)
    found = {
        "compute_ms": computing.mean(axis=1).round(3).tolist(),
        "wait_ms": (summing - adding).mean(axis=1).round(3).tolist(),
        "sum_ms": round(float(adding.mean()), 3),
    }
    if single_steps and len(seconds) <= SHOWN_RANKS:
        both = np.stack([computing, summing], axis=2)[:, -SHOWN_STEPS:]
        found["steps_ms"] = both.round(3).tolist()
    return found
