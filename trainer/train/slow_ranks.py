"""Ranks that compute slower than the others, so that all wait for them.

What counts is the time from one sum to the next, without the wait inside it: time on a processor,
and all that keeps a rank from one, such as a CPU limit, a busy neighbour, or a machine that swaps.
Where several ranks share one core, that time is the scheduler's; then their processor time counts.
"""

import os
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.cluster_spec import Cluster
from trainer.common import cpu
from trainer.common.text import ranks as named_ranks
from trainer.progress import MOST_SLOW, Reporter
from trainer.train.all_reduce import AllReduce
from trainer.train.host import LONGEST, Host
from trainer.train.peer_connections import PeerGoneError

SLOW = 1.3  # times the median
RECOVERED = 1.15
CHUNKS = 4  # one after the other; a busy machine holds up any rank for a while


def slow(history: Sequence[Sequence[float]], named: frozenset[int]) -> frozenset[int]:
    """Return the ranks that are slow.

    A rank is slow once it took more than SLOW times the median of the gang in each of the last
    CHUNKS, and until it took less than RECOVERED times in each. The median is the lower one, so
    that of two ranks one can be slow.

    Args:
        history: each rank's time, by chunk, of at least so many chunks for there to be a change.
        named: those that were slow before.
    """
    if len(history) < CHUNKS:
        return named
    ratios = times_of_median(history)[-CHUNKS:]
    lowest, highest = ratios.min(axis=0), ratios.max(axis=0)
    return frozenset(
        rank
        for rank in range(len(lowest))
        if lowest[rank] > SLOW or (rank in named and highest[rank] >= RECOVERED)
    )


def times_of_median(history: Sequence[Sequence[float]]) -> Any:
    """Return times [chunks, ranks] as multiples of the lower median of their chunk."""
    times = np.asarray(history, np.float64)
    median = np.sort(times, axis=1)[:, (times.shape[1] - 1) // 2]
    return times / np.maximum(median, 1e-9)[:, None]


class SlowRanks:
    """Names slow ranks of a gang in rank 0's log; all ranks find the same ones."""

    def __init__(self, cluster: Cluster, all_reduce: AllReduce | None, reporter: Reporter) -> None:
        self._cluster, self._all_reduce, self._reporter = cluster, all_reduce, reporter
        # The parent's cores: this process keeps to its part of them.
        share_cores = cluster.local and cluster.workers > cpu.cores(os.getppid())
        self._counts = "cpu_ms" if share_cores else "compute_ms"
        self._history: deque[list[float]] = deque(maxlen=CHUNKS)
        self._begun = False
        self._hosts: dict[int, str] = {}  # of the slow ranks
        self._host = Host()

    def look(self, parts: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take how the steps of a chunk passed, see ``step_breakdown``; return the slow ranks.

        That is, for a line of metrics.jsonl, rank, times the median, and host, slowest first.
        """
        times: list[float] = parts.get(self._counts, [])
        if not times or not self._begun:  # the first chunk of an attempt compiles
            self._begun = bool(times)
            return []
        self._history.append(times)
        before = frozenset(self._hosts)
        now = slow(self._history, before)
        if back := before - now:
            self._hosts = {rank: self._hosts[rank] for rank in before & now}
            names = self._names(sorted(back))
            self._reporter.say(
                f"{named_ranks(names)}: as fast as the others again",
                event="recovered",
                ranks=names,
            )
        ratios = times_of_median([times])[0]
        if new := sorted(now - before, key=lambda rank: -ratios[rank]):
            self._name(new, ratios, times)
        worst = sorted(self._hosts, key=lambda rank: -ratios[rank])[:MOST_SLOW]
        return [
            {"rank": name, "times": round(float(ratios[rank]), 2), "host": self._hosts[rank]}
            for name, rank in zip(self._names(worst), worst, strict=True)
        ]

    def _name(self, new: list[int], ratios: Any, times: list[float]) -> None:
        hosts = self._described()
        self._hosts |= {rank: hosts[rank] for rank in new}
        first, (name, *more) = new[0], self._names(new)
        others = f"; slow as well: {named_ranks(sorted(more))}" if more else ""
        if self._cluster.rank == 0:
            self._reporter.warn(
                f"rank {name} is slow: {times[first]:.3g} ms a step, {ratios[first]:.1f} times "
                f"the median of the gang, which waits for it; {hosts[first]}{others}",
                event="slow",
                ranks=[name, *more],
            )

    def _names(self, ranks: Collection[int]) -> list[int]:
        return [self._cluster.name(rank) for rank in ranks]

    def _described(self) -> Sequence[str]:
        """Return what each rank says of its host; all ask at the same time."""
        assert self._all_reduce
        text = self._host.describe().encode("ascii", "replace")
        mine = np.frombuffer(text.ljust(LONGEST), np.uint8).astype(np.float32)
        try:
            rows = self._all_reduce.share(mine)
        except PeerGoneError:  # the next chunk meets the error
            return ["its host is not known"] * len(self._history[-1])
        return [bytes(row.astype(np.uint8)).decode("ascii", "replace").strip() for row in rows]
