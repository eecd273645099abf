"""The supervisor of one rank's worker: process 1 of its container.

It never imports TensorFlow, so it answers at once whatever that does. When the gang breaks it
starts its worker again in place, together with the others (see rendezvous.py). Everything that
happens comes to one queue: from the worker, from the other supervisors, and from the clock.
"""

import atexit
import contextlib
import json
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainer import failure as failures
from trainer import progress, sockets
from trainer.cluster import Cluster
from trainer.config import TrainConfig
from trainer.errors import StoppedError, UnavailableError, UserError
from trainer.failure import FailedError, Failure, Kind
from trainer.gang import exits, final_report, membership, process
from trainer.gang.attempt_log import AttemptLog
from trainer.gang.memory import Memory
from trainer.gang.process import Child
from trainer.gang.rendezvous import FEW, FINAL, Rendezvous
from trainer.gang.stall import Stall
from trainer.gang.wire import Host, Link
from trainer.runs import logs, run_folder
from trainer.status import Event, Pulse, tell_parent
from trainer.storage.base import open_storage

WORKER = "TRAINYARD_WORKER"  # marks a fork server: it gets the same arguments as its supervisor
TICK = 0.05  # seconds between two looks at the clock
FROZEN = 10.0  # seconds without a sign of life after which a worker counts as frozen
LOADING = 900.0  # seconds to import TensorFlow and load the data
JOINING = 60.0  # seconds for workers that were started together to meet
GRACE = 25.0  # seconds from the request to stop until a worker is killed
LEAVING = 10.0  # seconds from a peer's loss until a worker is killed that does not commit
PORT_PATIENCE = 10.0  # seconds for another process to free our port
LINGER = 15.0  # seconds that rank 0's supervisor waits for others to finish


@dataclass
class Attempt:
    """One try of this rank's worker.

    Attributes:
        number: counted by the rendezvous.
        log_start: where its part of the standard error begins, bytes.
        heard: when it last gave a sign of life, monotonic seconds.
        start: when it was started.
        joined: whether the workers have met.
        kill_at: when it is killed, and ``killed`` whether it was.
        failure: reported by the worker itself.
    """

    number: int
    log_start: int
    heard: float
    start: float
    joined: bool = False
    kill_at: float = float("inf")
    killed: bool = False
    failure: Failure | None = None


def supervise(
    arguments: list[str], config: TrainConfig, cluster: Cluster, stop: threading.Event
) -> None:
    """Run the worker of one rank until it is done.

    Args:
        arguments: of ``python -m trainer``, given to the worker.
        config: of the run.
        cluster: the gang, as this rank sees it.
        stop: set when the worker shall stop.

    Raises:
        FailedError: the gang failed, by its root cause; peers were not there before the deadline;
            the port is taken; or it was asked to stop.
    """
    sockets.allow_many_files()
    if config.ship_logs:
        shipper = logs.LogShipper(
            lambda: open_storage(run_folder.uri(config)),
            cluster.rank,
            lambda message: progress.create(config.log_format).warn(message),
        )
        atexit.register(shipper.close)  # after the error's line, or a traceback, is written
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        supervisor = Supervisor(arguments, config, cluster, stop, Path(folder))
        try:
            supervisor.run()
        except UserError as error:
            exits.leave_message(failures.of(error, cluster.rank).record())
            raise
        finally:
            supervisor.close()
    if config.report and cluster.rank == 0:
        final_report.write_report(run_folder.uri(config), progress.create(config.log_format), stop)


class Supervisor:
    """See ``supervise``; ``folder`` takes the worker's standard error and compiled code."""

    def __init__(
        self,
        arguments: list[str],
        config: TrainConfig,
        cluster: Cluster,
        stop: threading.Event,
        folder: Path,
    ) -> None:
        self._arguments, self._config, self._cluster = arguments, config, cluster
        self._stop, self._folder = stop, folder
        self._rank = cluster.rank
        self._memory = Memory()
        self._memory_kills = self._memory.kills()
        self._reporter = progress.create(config.log_format)
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._child: Child | None = None
        self._prepared = False
        self._spawned_at = 0.0
        self._child_failure: Failure | None = None
        self._lost_children = 0
        self._trouble: Failure | None = None  # why we ended the worker
        self._attempt: Attempt | None = None
        self._stall = Stall(time.monotonic())
        self._failure: FailedError | None = None  # raised once the worker has left
        self._told_ready = False
        self._stopping = False
        self._finished_at: float | None = None
        self._missing = list(range(1, cluster.workers)) if self._rank == 0 else [0]
        self._incomplete_since: float | None = None
        self._port_taken_since: float | None = None
        self._rendezvous: Rendezvous | None = None
        self._attempt_log: AttemptLog | None = None
        self._keyring = membership.Keyring(
            lambda: open_storage(run_folder.uri(config)),
            membership.object_name(cluster.service),
            os.environ,
        )
        self._key: bytes | None = None  # of the rendezvous that this rank holds
        self._key_asked = False
        self._host: Host | None = None
        self._link: Link | None = None

    def run(self) -> None:
        """Work until the worker is done; see ``supervise`` for what it raises."""
        process.pass_signals(lambda number: self._child.signal(number) if self._child else None)
        self._spawn()
        while not self._is_over():
            with contextlib.suppress(queue.Empty):
                self._events.get(timeout=TICK)()
                while True:
                    self._events.get_nowait()()
            self._look()
            if self._failure and self._attempt is None:
                raise self._failure

    def close(self) -> None:
        """End the worker and all connections."""
        if self._child:
            self._child.kill()
        if self._link:
            self._link.close()
        if self._host:
            self._host.close()
        if self._finished_at is not None and self._rank == 0 and self._cluster.workers > 1:
            removing = threading.Thread(target=self._remove_key, daemon=True)
            removing.start()
            removing.join(3)  # a store may take its time
        if self._rendezvous and self._attempt_log:
            self._rendezvous.close(time.time())
            self._write_attempts()
            self._attempt_log.close(seconds=3)

    # The rendezvous.

    def _connect(self, now: float) -> None:
        """Join the rendezvous, or hold it; the data are loaded, so this rank can take part."""
        workers = self._cluster.workers
        if self._rank != 0:
            address = sockets.split_endpoint(self._cluster.rendezvous)
            tell = self._later(self._obey)
            self._link = Link(address, self._rank, workers, self._keyring.read, tell)
            return
        if workers > 1 and not self._listen(now):
            return
        self._attempt_log = AttemptLog(
            lambda: open_storage(run_folder.uri(self._config)), self._reporter.warn
        )
        self._rendezvous = Rendezvous(self._cluster.workers, self._config.max_restarts)
        self._hear(0, {"event": "here"})

    def _listen(self, now: float) -> bool:
        """Return whether the other ranks can call; else try again later."""
        if not self._key_asked:
            self._key_asked = True
            threading.Thread(target=self._make_key, daemon=True).start()
        if self._key is None:
            return False
        host, port = sockets.split_endpoint(self._cluster.rendezvous)
        address = (host if self._cluster.local else "", port)
        # On our own thread: a terminal that takes no more must not stop the rendezvous.
        hear, warn = self._later(self._hear), self._later(self._reporter.warn)
        fail = self._later(self._fail)
        try:
            self._host = Host(address, self._cluster.workers, self._key, hear, warn, fail)
        except OSError as error:
            self._check_patience(now, port, os.strerror(error.errno or 0))
            return False
        return True

    def _make_key(self) -> None:
        """Make the gang's key, on a thread of its own: a store may take its time."""
        try:
            key = self._keyring.make()
        except Exception as error:
            self._events.put(partial(self._fail, error))
        else:
            self._events.put(partial(setattr, self, "_key", key))

    def _fail(self, error: Exception) -> None:
        raise error

    def _remove_key(self) -> None:
        with contextlib.suppress(UserError):  # what stays there opens nothing any more
            self._keyring.remove()

    def _later(self, call: Callable[..., None]) -> Callable[..., None]:
        """Return what puts a call into our queue, from any thread."""
        return lambda *values: self._events.put(partial(call, *values))

    def _tell(self, **event: Any) -> None:
        """Tell the rendezvous of this rank."""
        if self._rendezvous:
            self._hear(0, event)
        elif self._link:
            self._link.send(event)

    def _hear(self, rank: int, event: Event) -> None:
        """Take an event of any rank, and send the orders that follow from it."""
        assert self._rendezvous
        orders = self._rendezvous.handle(rank, event, time.time())
        self._write_attempts()
        for to, order in sorted(orders, key=lambda each: -each[0]):  # our own last: it may raise
            if order["order"] == "start":
                order = {**order, "addresses": self._addresses()}
            if to == 0:
                self._obey(order)
            elif self._host:
                self._host.send(to, order)

    def _addresses(self) -> list[str]:
        hosts = self._host.hosts if self._host else {}
        named = map(sockets.split_endpoint, self._cluster.addresses)
        return [sockets.endpoint(hosts.get(r, host), port) for r, (host, port) in enumerate(named)]

    def _write_attempts(self) -> None:
        assert self._rendezvous
        for attempt in self._rendezvous.closed:
            if self._attempt_log:
                self._attempt_log.add(attempt)
            tell_parent(event="attempt", **attempt)
        self._rendezvous.closed.clear()

    def _obey(self, order: Event) -> None:
        match order["order"]:
            case "connected":
                self._told_ready = False
                self._missing = []
            case "lost":
                self._told_ready = False
                self._missing = [0]
                self._leave()
            case "waiting":
                self._missing = order["missing"]
            case "start" if self._attempt is None and self._child:
                self._start(order)
            case "leave" if self._attempt and self._attempt.number == order["attempt"]:
                self._leave()
            case "give_up":
                cause = failures.parse(order["cause"])
                assert cause
                self._give_up(cause, order["restarts"])

    def _give_up(self, cause: Failure, restarts: int) -> None:
        in_vain = cause.code not in FINAL and restarts > 1
        again = f" ({restarts} starts in a row brought no new step)" if in_vain else ""
        elsewhere = cause.rank != self._rank
        found = cause.but(message=cause.message + again, consequence=elsewhere or cause.consequence)
        self._failure = self._failed(found, StoppedError.exit_code if elsewhere else None)
        self._leave()

    # The worker.

    def _spawn(self) -> None:
        flags = f"--tf_xla_persistent_cache_directory={self._folder}/xla"
        env = {
            **process.huge_pages(os.environ),
            WORKER: "1",
            "TF_XLA_FLAGS": f"{os.environ.get('TF_XLA_FLAGS', '')} {flags}".strip(),
        }
        self._prepared, self._child_failure = False, None
        self._spawned_at = time.monotonic()
        tell = self._later(self._worker_says)
        child: list[Child] = []
        child.append(Child(self._arguments, env, lambda e: tell(child, e), stderr=self._log))
        self._child = child[0]

    @property
    def _log(self) -> Path:
        return self._folder / "stderr"

    def _start(self, order: Event) -> None:
        assert self._child
        now = time.monotonic()
        log_start = self._log.stat().st_size
        if order["after"] and self._rank == 0:
            cause = failures.parse(order["after"])
            assert cause
            self._reporter.warn(
                f"{cause.sentence(self._cluster.workers)}; starting again",
                event="restarting",
                failure=cause.record(),
            )
        self._attempt = Attempt(order["attempt"], log_start, now, now)
        self._stall.begin(now)
        self._told_ready = False
        self._trouble = None
        self._incomplete_since = None
        task = {"attempt": order["attempt"], "addresses": order["addresses"]}
        self._child.say(f"start {json.dumps(task)}")

    def _leave(self) -> None:
        """Have the worker commit its last chunk and go: a peer is lost."""
        if self._attempt and self._child and self._attempt.kill_at == float("inf"):
            self._child.say("leave")
            self._attempt.kill_at = time.monotonic() + LEAVING

    def _worker_says(self, child: list[Child], event: Event) -> None:
        if child[0] is not self._child:
            return  # the last words of one that we replaced
        match event:
            case {"event": "prepared"}:
                self._prepared, self._lost_children = True, 0
            case {"event": "committed"}:
                self._tell(**event)
            case {"event": "exit", "code": code}:
                self._child_gone(code)
            case {"failure": record} if self._attempt is None:
                self._child_failure = failures.parse(record)
            case {"result": dict(result)} if self._rank == 0:
                exits.leave_message({"event": "finished", **result})
        if self._attempt:
            self._attempt_says(self._attempt, event)
        if event.get("event") in ("started", "joined", "resumed", "step", "committed", "ended"):
            tell_parent(**event, rank=self._rank)

    def _attempt_says(self, attempt: Attempt, event: Event) -> None:
        attempt.heard = time.monotonic()
        match event:
            case {"failure": record}:
                attempt.failure = failures.parse(record)
            case {"event": "beat", "work": _, **pulse}:
                self._stall.take(Pulse(event["work"], **pulse), attempt.heard)
            case {"event": "joined"}:
                attempt.joined = True
            case {"event": "storing", "seconds": seconds} if not self._stopping:
                if attempt.kill_at != float("inf"):
                    attempt.kill_at = time.monotonic() + seconds
            case {"event": "ended", "code": code}:
                self._ended(code)

    def _ended(self, code: int) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt
        if code == 0:
            self._finish()
            return
        log = self._log.read_bytes()[attempt.log_start :].decode(errors="replace")
        found = self._explain(attempt, code, log)
        if self._stopping:
            raise self._failed(found, found.code if found.code in FINAL else StoppedError.exit_code)
        if found.code == 1 and attempt.failure is None and code > 0:
            self._show(log)
        self._tell(event="ended", failure=found.record())
        if found.code in FINAL:
            raise self._failed(found)

    def _explain(self, attempt: Attempt, code: int, log: str) -> Failure:
        """Return why the worker ended with this code."""
        found = attempt.failure if code in FINAL else None
        found = found or self._trouble or attempt.failure
        found = found or exits.describe(self._rank, code, log, self._out_of_memory(code))
        left = code == StoppedError.exit_code and not self._trouble
        own = code if code in FINAL or left else 1
        return found.but(rank=self._rank, code=own, consequence=left)

    def _failed(self, failure: Failure, exit_code: int | None = None) -> FailedError:
        return FailedError(failure, self._cluster.workers, exit_code)

    def _unavailable(self, message: str, remedy: str, kind: Kind = "unavailable") -> FailedError:
        code = UnavailableError.exit_code
        failure = Failure(kind=kind, rank=self._rank, code=code, message=message, remedy=remedy)
        return self._failed(failure)

    def _out_of_memory(self, code: int) -> str | None:
        """Return the figures of the memory that the kernel has killed our process for, if so."""
        before, self._memory_kills = self._memory_kills, self._memory.kills()
        if code == -signal.SIGKILL and self._memory_kills > before:
            return self._memory.summary()
        return None

    def _show(self, log: str) -> None:
        """Show a traceback: it is a defect, perhaps of the user's own model."""
        for line in log.rstrip().splitlines():
            self._reporter.warn(f"rank {self._rank} | {line}")

    def _child_gone(self, code: int) -> None:
        """Take the end of the forkserver, and start another where there is need for one."""
        assert self._child
        self._child.close()
        self._child = None
        if self._attempt:
            self._attempt.failure = None  # if the worker reported that it leaves, this is why
            self._ended(code or 1)
        elif code == 0 and not self._prepared:
            self._finish()  # the run was finished before we came
            return
        elif self._child_failure is not None:
            raise self._failed(self._child_failure.but(rank=self._rank), code)
        self._lost_children += 1
        if self._lost_children > self._config.max_restarts or (code > 0 and not self._prepared):
            log = self._log.read_text(errors="replace")
            self._show(log)
            raise self._failed(exits.describe(self._rank, code, log, self._out_of_memory(code)))
        self._told_ready = False
        self._spawn()

    # The clock.

    def _is_over(self) -> bool:
        if self._finished_at is None:
            return False
        others_done = self._rendezvous is None or self._rendezvous.all_finished
        return others_done or self._stop.is_set() or time.monotonic() - self._finished_at > LINGER

    def _look(self) -> None:
        now = time.monotonic()
        process.reap_orphans({self._child.process.pid} if self._child else ())
        if self._stop.is_set() and not self._stopping and self._finished_at is None:
            self._begin_to_stop(now)
        if self._attempt:
            self._look_at_worker(self._attempt, now)
        elif self._finished_at is None and self._prepared:
            if not (self._rendezvous or self._link):
                self._connect(now)
            self._look_for_peers(now)
            self._say_ready(now)
        elif self._finished_at is None and now - self._spawned_at > LOADING:
            raise self._unavailable(
                f"the data were not loaded within {LOADING:g} s", "see whether the store answers"
            )

    def _begin_to_stop(self, now: float) -> None:
        self._stopping = True
        tell_parent(event="stopping")
        self._tell(event="stopping")
        if self._attempt is None or self._child is None:
            error = StoppedError("stopped before it trained; the same command resumes the run")
            raise self._failed(failures.of(error, self._rank))
        self._child.say("stop")
        self._attempt.kill_at = min(self._attempt.kill_at, now + GRACE)

    def _look_at_worker(self, attempt: Attempt, now: float) -> None:
        if attempt.killed:
            return
        if now > attempt.kill_at:
            self._kill(attempt, "its worker did not leave when it was asked to")
        elif self._prepared and now - attempt.heard > FROZEN:
            self._kill(attempt, f"its worker gave no sign of life for {FROZEN:g} s")
        elif not attempt.joined and now - attempt.start > JOINING:
            self._kill(attempt, f"its worker did not meet the others within {JOINING:g} s")
        elif attempt.kill_at == float("inf") and (reason := self._stall.overdue(now)):
            self._trouble = self._stalled(reason)
            self._leave()  # its other threads are alive, and may commit what it finished
            tell_parent(event="killed", why=reason)

    def _kill(self, attempt: Attempt, reason: str) -> None:
        self._trouble = self._trouble or self._stalled(reason)
        attempt.killed = True
        if self._child:
            self._child.kill()
        tell_parent(event="killed", why=reason)

    def _stalled(self, reason: str) -> Failure:
        return Failure(kind="stalled", rank=self._rank, code=1, message=reason)

    def _look_for_peers(self, now: float) -> None:
        if not self._missing:
            self._incomplete_since = None
            return
        if self._incomplete_since is None:
            self._incomplete_since = now
            threading.Thread(target=self._await_result, args=(now,), daemon=True).start()
        seconds = self._config.peer_deadline
        if now - self._incomplete_since > seconds:
            named = [f"rank {rank} ({self._cluster.addresses[rank]})" for rank in self._missing]
            more = [f"and {len(named) - FEW} more"] if len(named) > FEW else []
            names = ", ".join(named[:FEW] + more)
            tried = (
                f"{self._cluster.rendezvous}: {self._link.trouble}"
                if self._link and self._missing == [0]
                else f"rank 0 at {self._cluster.rendezvous} waited for its call"
            )
            error = self._unavailable(
                f"the gang of {self._cluster.workers} did not meet within {seconds:g} s: "
                f"missing {names}; {tried}",
                "see why it did not come, or raise --peer-deadline",
                "peers_missing",
            )
            raise self._failed(error.failure.but(missing=tuple(self._missing)))

    def _await_result(self, since: float) -> None:
        """See, while peers are missing, whether they are because the run is finished."""
        with contextlib.suppress(UserError):  # then the deadline ends the wait
            storage = open_storage(run_folder.uri(self._config))
            while self._incomplete_since == since:
                if run_folder.read_result(storage) is not None:
                    self._events.put(self._finish)
                    return
                time.sleep(1)

    def _finish(self) -> None:
        if self._attempt is None:
            self._finished_at = self._finished_at or time.monotonic()
            self._tell(event="finished")

    def _say_ready(self, now: float) -> None:
        connected = self._rendezvous is not None or (self._link and self._missing != [0])
        if self._told_ready or not connected:
            return
        if trouble := _port_trouble(self._cluster, self._config):
            self._check_patience(now, *trouble)
            return
        self._port_taken_since = None
        self._told_ready = True
        self._tell(event="ready")

    def _check_patience(self, now: float, port: int, trouble: str) -> None:
        """Give whoever holds our port some time.

        Raises:
            UnavailableError: it was enough.
        """
        self._port_taken_since = self._port_taken_since or now
        if now - self._port_taken_since > PORT_PATIENCE:
            raise self._unavailable(
                f"port {port} cannot be listened on ({trouble})", "free it or give another --port"
            )


def _port_trouble(cluster: Cluster, config: TrainConfig) -> tuple[int, str] | None:
    """Return where this rank's worker could not listen, and why: it would leave its peers waiting.

    Both of its ports count, TensorFlow's and, unless it has none, the ring's.
    """
    if cluster.workers == 1:
        return None
    host, port = sockets.split_endpoint(cluster.addresses[cluster.rank])
    listening = [(host if cluster.local else "", port), cluster.ring_address]
    for address in listening[: 1 if config.all_reduce == "tensorflow" else None]:
        try:
            sockets.listen(*address).close()
        except OSError as error:
            return address[1], error.strerror or str(error)
    return None
