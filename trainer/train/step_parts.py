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

from trainer.train.all_reduce import AllReduce
from trainer.train.mesh import PeerGoneError

SHOWN_STEPS = 4  # single steps that a record holds, for a picture of them
SHOWN_RANKS = 8  # in gangs of at most so many

Seconds = npt.NDArray[np.float32]


class Clock:
    """Times the steps of the chunk that begins as this is made, if our own all-reduce sums."""

    def __init__(self, sums: AllReduce | None) -> None:
        self._all_reduce = sums
        if sums:
            sums.sums.clear()
        self._began = time.perf_counter()

    def read(self, *, single_steps: bool) -> dict[str, Any]:
        """Return ``record`` of all ranks' steps since then, empty where they are not known."""
        if self._all_reduce is None:
            return {}
        try:
            seconds = self._all_reduce.share(of_rank(self._began, self._all_reduce.sums))
        except PeerGoneError:  # the chunk is whole all the same; the next one meets the error
            return {}
        return record(seconds, single_steps=single_steps)


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
