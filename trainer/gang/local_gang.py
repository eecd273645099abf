"""A gang on this machine: does what an Indexed Job does for one in a cluster.

trainer train --workers 2          starts a supervisor for each rank, and replaces a lost one
  trainer train  (rank 0)          supervisor, as in a pod
    trainer train                  forkserver
      worker
  trainer train  (rank 1)
    ...
"""

import contextlib
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import cluster_spec as clusters
from trainer import progress
from trainer.common import sockets
from trainer.config import TrainConfig
from trainer.errors import StoppedError, UnavailableError
from trainer.failure import FailedError, Failure, parse
from trainer.gang import found_failures, gang_key, process
from trainer.gang.process import TICK, Child
from trainer.gang.time_limits import ENDING, GRACE, LINGER, LOST_GRACE
from trainer.worker_events import Event, tell_parent

PORT_CHOICES = 3  # times that ports are chosen before one that stays taken ends the run


@dataclass
class Rank:
    """One rank's supervisor.

    Attributes:
        child: the process.
        asked: whether somebody asked it to stop.
        failure: that it reported last.
        lost: times in a row that it was lost before a new step was committed.
    """

    child: Child
    asked: bool = False
    failure: Failure | None = None
    lost: int = 0


class Gang:
    """All supervisors of a gang on this machine.

    Args:
        arguments: of ``python -m trainer``, given to every worker.
        config: of the run.
        log: file that takes what all of them write; None to share our output.
        listen: called with a rank and each event of its processes.

    Attributes:
        result: of the run in short, once it is stored.
    """

    def __init__(
        self,
        arguments: list[str],
        config: TrainConfig,
        *,
        log: Path | None = None,
        listen: Callable[[int, Event], object] = lambda *_: None,
    ) -> None:
        self._arguments, self._config, self._log, self._listen = arguments, config, log, listen
        sockets.allow_many_files()
        self.port = config.port or _free_ports(config.workers + 1)
        self._key = gang_key.new()
        self._events: queue.SimpleQueue[tuple[int, Child, Event]] = queue.SimpleQueue()
        self._failures: list[tuple[int, Failure]] = []
        self.result: dict[str, Any] = {}
        self._kill_at = float("inf")
        self.ranks = {rank: Rank(self._start(rank)) for rank in range(config.workers)}

    def run(self, stop: threading.Event) -> None:
        """Wait until all are done, or have stopped because ``stop`` is set.

        Raises:
            FailedError: one of them failed; with the root cause.
        """
        try:
            while self.ranks:
                self._look(stop)
                with contextlib.suppress(queue.Empty):
                    self._take(*self._events.get(timeout=TICK), stopping=stop.is_set())
        finally:
            for rank in self.ranks.values():
                rank.child.kill()
                rank.child.close()
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h")  # a killed worker's progress bar hid the cursor
        if self._failures:
            # Prefer a root cause over ranks that only lost a peer.
            asked = stop.is_set()
            code, failure = min(self._failures, key=lambda each: _distance(each[1], asked=asked))
            # Here all ranks have the same settings, and are asked to stop at the same time,
            # whichever was the first to say so.
            if failure.kind in ("config", "stopped"):
                failure = failure.but(rank=None)
            raise FailedError(failure, self._config.workers, code if code > 0 else 1)

    def kill(self) -> None:
        """End everything now; ``run`` then returns or raises."""
        self._kill_at = 0.0
        for rank in list(self.ranks.values()):
            rank.child.signal(signal.SIGKILL)

    def _start(self, rank: int) -> Child:
        env = clusters.environment(rank, self._config.workers, self.port)
        env[gang_key.VARIABLE] = self._key
        put = self._events.put
        return Child(self._arguments, env, lambda *told: put((rank, *told)), out=self._log)

    def _look(self, stop: threading.Event) -> None:
        process.reap_orphans({rank.child.process.pid for rank in self.ranks.values()})
        if (self._failures or stop.is_set()) and self._kill_at == float("inf"):
            self._kill_at = time.monotonic() + (LOST_GRACE if self._failures else GRACE + ENDING)
            for rank in self.ranks.values():
                rank.child.say("stop")
        if time.monotonic() > self._kill_at:
            for rank in self.ranks.values():
                rank.child.signal(signal.SIGKILL)

    def _take(self, number: int, child: Child, event: Event, *, stopping: bool) -> None:
        rank = self.ranks.get(number)
        if rank is None or rank.child is not child:
            return
        self._listen(number, event)
        rank.failure = parse(event.get("failure")) or rank.failure
        self.result = event.get("result", self.result)
        rank.asked = rank.asked or event.get("event") == "stopping"
        if event.get("event") == "committed":
            for each in self.ranks.values():
                each.lost = 0
        if event.get("event") != "exit":
            return
        code = event["code"]
        rank.child.close()
        rank.lost += 1
        lost = code < 0 or (code == StoppedError.exit_code and rank.asked)
        ending = stopping or self._failures or self._kill_at != float("inf")
        if lost and not ending and rank.lost <= self._config.max_restarts:
            # As a Job replaces a lost pod.
            self.ranks[number] = Rank(self._start(number), lost=rank.lost)
            return
        del self.ranks[number]
        if number == 0 and code == 0 and self._config.min_workers:
            self._kill_at = time.monotonic() + LINGER  # a rank that is frozen does not end itself
        elif code != 0 and not (lost and self._does_without(number)):
            self._failures.append((code, rank.failure or _lost_supervisor(number, code)))

    def _does_without(self, number: int) -> bool:
        """Return whether the gang needs no rank of this number any more."""
        least = self._config.min_workers
        return least > 0 and number > 0 and (0 not in self.ranks or len(self.ranks) >= least)


def run_gang(arguments: list[str], config: TrainConfig, stop: threading.Event) -> None:
    """Run all workers on this machine until they are done; see ``Gang``."""
    gang, reporter = Gang(arguments, config, listen=_pass_on), progress.create(config.log_format)
    for again in reversed(range(PORT_CHOICES)):
        try:
            gang.run(stop)
            break
        except FailedError as error:
            # While no worker listens on a port that we chose, another program can take it.
            problem = error.failure.but(remedy="")
            if problem.kind != "port_taken" or config.port or not again or stop.is_set():
                raise
        gang = Gang(arguments, config, listen=_pass_on)
        reporter.warn(
            f"{problem.sentence(config.workers)}; starting again with other ports",
            event="restarting",
            failure=problem.record(),
        )
    found_failures.leave_message({"event": "finished", **gang.result})


def _pass_on(_: int, event: Event) -> None:
    """Report to the parent what workers do; a supervisor's exit is not this process's."""
    if event.get("event") != "exit":
        tell_parent(**event)


def _distance(failure: Failure, *, asked: bool) -> tuple[bool, ...]:
    """Return how far from the root cause a failure is, for comparison.

    ``asked``: whether somebody asked the gang to stop; else a rank stops because of another one.
    """
    stopped = failure.kind == "stopped"
    return failure.consequence, not failure.names_a_cause, stopped is not asked


def _lost_supervisor(rank: int, code: int) -> Failure:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return Failure(
        kind="supervisor_lost",
        rank=rank,
        code=max(code, 1),
        message=f"its supervisor {how}",
        remedy="run again to resume",
    )


def _free_ports(count: int) -> int:
    """Return the first of ``count`` adjacent free ports below the range for outgoing calls."""
    host = sockets.loopback()
    # From a random one on, so that gangs started together do not pick the same.
    for first in range(20000 + secrets.randbelow(10000), 32768 - count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(sockets.listen(host, port))
            except OSError:
                continue
            return first
    raise UnavailableError(f"no {count} adjacent free ports from 20000 to 32767; give --port")
