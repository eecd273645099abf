"""What a gang does under faults: its steps and workers as events report them, and its growth."""

import contextlib
import os
import threading
import time
from collections import Counter
from pathlib import Path

from trainer.errors import UserError
from trainer.gang.local_gang import Gang
from trainer.worker_events import Event

HANG = 240.0  # seconds without a step after which a gang hangs; a held worker takes 60 to find
WARM = 5  # faults that a supervisor has seen before its growth counts


class Watch:
    """What the gang's processes report, as it happens."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.over = False
        self.error: UserError | None = None  # what the gang ended with
        self.workers: dict[int, tuple[int, int]] = {}  # rank -> pids of worker and forkserver
        self._started: dict[int, float] = {}  # rank -> when its worker was started
        self.step = 0  # the last one finished
        self._steps: dict[int, int] = {}  # and by rank
        self.lost: list[tuple[int, int]] = []  # steps done again, and after how many faults
        self.flipped: set[int] = set()  # ranks that have computed a wrong bit
        self.struck = 0  # faults since the gang resumed
        self.killed: dict[int, float] = {}  # rank -> when its supervisor gave its worker up
        self.stepped_at = time.monotonic()
        self._step_of_start = float("-inf")  # when the worker of the last step started

    def tell(self, rank: int, event: Event) -> None:
        """Take an event of a rank's processes."""
        now = time.monotonic()
        with self._changed:
            match event:
                case {"event": "started", "pid": pid, "parent": parent}:
                    self.workers[rank] = (pid, parent)
                    self._started[rank] = now
                case {"event": "killed"}:
                    self.killed[rank] = now
                case {"event": "ended"}:
                    self.workers.pop(rank, None)
                case {"event": "resumed", "step": step} if rank == 0:
                    if self.step:
                        self.lost.append((max(0, self.step - step), self.struck))
                    self.step, self.struck = step, 0
                case {"event": "step", "step": step}:
                    self._steps[rank] = step
                    self.step = max(self.step, step)
                    self.stepped_at = now
                    self._step_of_start = self._started.get(rank, self._step_of_start)
            self._changed.notify_all()

    def finish(self) -> None:
        """Note that the gang's processes have ended."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def hangs(self) -> bool:
        """Return whether no step was finished for too long."""
        return time.monotonic() - self.stepped_at > HANG

    def wait_for_step(self, since: float) -> bool | None:
        """Wait for a step of a worker started after ``since``.

        Returns:
            True when it came, None if the run ended first, False if the gang hangs.
        """
        deadline = time.monotonic() + HANG
        with self._changed:
            while not self.over and self._step_of_start < since:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return False
            return None if self.over else True

    def await_step_of(self, rank: int) -> bool:
        """Wait for the end of a rank's chunk, some seconds at most; return whether it came."""
        deadline = time.monotonic() + 5
        with self._changed:
            before = self._steps.get(rank)
            while not self.over and self._steps.get(rank) == before:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return False
            return not self.over

    def wait(self, seconds: float) -> bool:
        """Wait; return False as soon as the run has ended."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self.over and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self.over


class Usage:
    """Files and memory that supervisors hold, once they have loaded all that they use."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, float]] = {}
        self._last: dict[int, tuple[int, float]] = {}
        self._looks: Counter[int] = Counter()

    def look(self, gang: Gang) -> None:
        """Measure all supervisors that have seen some faults."""
        for rank in list(gang.ranks.values()):
            pid = rank.child.process.pid
            with contextlib.suppress(OSError):
                files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                now = (files, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
                self._looks[pid] += 1
                if self._looks[pid] >= WARM:
                    self._first.setdefault(pid, now)
                    self._last[pid] = now

    def growth(self) -> tuple[int, float]:
        """Return the most that any supervisor has grown, in files and MiB."""
        grown = [
            (self._last[pid][0] - files, self._last[pid][1] - mib)
            for pid, (files, mib) in self._first.items()
        ]
        return max((g[0] for g in grown), default=0), max((g[1] for g in grown), default=0.0)
