"""The supervisor of one rank's worker: process 1 of its container.

It never imports TensorFlow, so it always answers at once. When the gang breaks, it starts its
worker again in place, together with the other ranks (see coordinator.py). It waits for one queue,
of what the worker and the other supervisors report, and looks at the clock in between.

    Loading --prepared--> Ready --start--> Running --leave, stop, kill--> Leaving --ended--> Ready
                                              |
                                              +--ended with 0--> Finished

When the fork server is lost, another one is Loading.
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import failure, progress
from trainer.cluster_spec import Cluster
from trainer.common import cpu, sockets
from trainer.config import TrainConfig
from trainer.errors import StoppedError, UserError
from trainer.failure import FINAL, FailedError, Failure
from trainer.gang import found_failures, gang_key, process, report_process
from trainer.gang.cgroup import Memory
from trainer.gang.process import TICK, Child
from trainer.gang.rendezvous_host import RendezvousHost
from trainer.gang.supervisor_states import (
    Finished,
    Leaving,
    Loading,
    Ready,
    Running,
    State,
    WorkerAttempt,
)
from trainer.gang.time_limits import (
    FROZEN,
    GRACE,
    JOINING,
    LEAVING,
    LINGER,
    LOADING,
    PORT_PATIENCE,
    Stall,
)
from trainer.gang.wire import Link
from trainer.runs import logs, run_folder, user_code
from trainer.storage.base import open_storage
from trainer.worker_events import Event, Pulse, tell_parent

if TYPE_CHECKING:
    from trainer.gang.prometheus import Exporter

WORKER = "TRAINYARD_WORKER"  # marks a fork server: it gets the same arguments as its supervisor


def supervise(
    arguments: list[str], config: TrainConfig, cluster: Cluster, stop: threading.Event
) -> None:
    """Run the worker of one rank, with these arguments of the trainer, until it is done.

    Raises:
        ConfigError: the processor is none that TensorFlow runs on.
        FailedError: the gang failed, by its root cause; peers were not there before the deadline;
            the port is taken; or it was asked to stop.
    """
    cpu.check()
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
            if config.code:
                _unpack_code(config, config.code, Path(folder) / "code")
            supervisor.run()
        finally:
            supervisor.close()
    if config.report and cluster.rank == 0:
        report_process.write_report(
            run_folder.uri(config), progress.create(config.log_format), stop
        )


def _unpack_code(config: TrainConfig, reference: str, folder: Path) -> None:
    """Make the user's code importable by the worker: what came with the job, or the run keeps."""
    archive = user_code.given(config)
    data = (
        archive.data
        if archive
        else user_code.fetch(open_storage(run_folder.uri(config)), reference)
    )
    user_code.unpack(data, folder)
    os.environ[user_code.UNPACKED] = str(folder)


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
        self._memory = Memory()
        self._stall = Stall(time.monotonic())
        self._reporter = progress.create(config.log_format)
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._keyring = gang_key.Keyring(
            lambda: open_storage(run_folder.uri(config)),
            run_folder.gang_key(cluster.service),
            os.environ,
        )
        self._rendezvous: RendezvousHost | None = None
        if cluster.rank == 0:
            self._rendezvous = RendezvousHost(
                config, cluster, self._keyring, self._reporter, self._later, self._obey
            )
        self._exporter: Exporter | None = None  # of rank 0, if it is wanted
        self._link: Link | None = None  # of any other rank
        self._missing = list(range(1, cluster.workers)) if cluster.rank == 0 else [0]
        self._child: Child | None = None
        self._state: State = Loading()

    def run(self) -> None:
        """Work until the worker is done; see ``supervise`` for what it raises."""
        process.pass_signals(lambda number: self._child.signal(number) if self._child else None)
        self._exporter = _exporter(self._config, self._cluster)
        self._child = self._spawn()
        while not self._is_over():
            with contextlib.suppress(queue.Empty):
                self._events.get(timeout=TICK)()
                while True:
                    self._events.get_nowait()()
            self._look(time.monotonic())

    def close(self) -> None:
        """End the worker and all connections."""
        if self._child:
            self._child.kill()
            self._child.close()
        if self._exporter:
            self._exporter.close()
        if self._link:
            self._link.close()
        if self._rendezvous:
            self._rendezvous.close(finished=isinstance(self._state, Finished))

    def _is_over(self) -> bool:
        if not isinstance(self._state, Finished):
            return False
        others_done = self._rendezvous is None or self._rendezvous.all_finished
        late = time.monotonic() - self._state.since > LINGER
        return others_done or late or self._stop.is_set()

    def _look(self, now: float) -> None:
        """Do what the clock demands in this state."""
        process.reap_orphans({self._child.process.pid} if self._child else ())
        state = self._state
        stopping = isinstance(state, Leaving) and state.stopping
        if self._stop.is_set() and not stopping and not isinstance(state, Finished):
            self._begin_to_stop(now)
            state = self._state
        match state:
            case Loading() if now - state.since > LOADING:
                raise self._failed(found_failures.not_loaded(self._cluster.rank, LOADING))
            case Ready():
                self._connect(state, now)
                self._look_for_peers(state, now)
                self._report_ready(state, now)
            case Running() | Leaving():
                self._look_at_worker(state, now)
        if self._rendezvous:
            self._rendezvous.look()

    def _connect(self, state: Ready, now: float) -> None:
        """Join the rendezvous, or hold it; the data are loaded, so this rank can take part."""
        if self._rendezvous and not self._rendezvous.is_open:
            try:
                self._rendezvous.open()
            except OSError as error:
                _, port = sockets.split_endpoint(self._cluster.rendezvous)
                self._check_patience(state, now, port, os.strerror(error.errno or 0))
        elif self._rendezvous is None and self._link is None:
            address = sockets.split_endpoint(self._cluster.rendezvous)
            rank, workers = self._cluster.rank, self._cluster.workers
            obey = self._later(self._obey)
            self._link = Link(address, rank, workers, self._keyring.read, obey)

    def _look_for_peers(self, state: Ready, now: float) -> None:
        if not self._missing:
            state.incomplete_since = None
            return
        if state.incomplete_since is None:
            state.incomplete_since = now
            threading.Thread(target=self._await_result, args=(state, now), daemon=True).start()
        seconds = self._config.peer_deadline
        if now - state.incomplete_since > seconds:
            where = self._cluster.rendezvous
            tried = f"rank 0 at {where} waited for its call"
            if self._link and self._missing == [0]:
                tried = f"{where}: {self._link.trouble}"
            raise self._failed(
                found_failures.peers_missing(self._cluster, self._missing, seconds, tried)
            )

    def _await_result(self, state: Ready, since: float) -> None:
        """See, while peers are missing, whether that is because the run is finished."""
        with contextlib.suppress(UserError):  # then the deadline ends the wait
            storage = open_storage(run_folder.uri(self._config))
            while self._state is state and state.incomplete_since == since:
                if run_folder.read_result(storage) is not None:
                    self._events.put(self._finish)
                    return
                time.sleep(1)

    def _report_ready(self, state: Ready, now: float) -> None:
        connected = self._rendezvous.is_open if self._rendezvous else self._missing != [0]
        if state.reported or not connected:
            return
        if trouble := _port_trouble(self._cluster, self._config):
            self._check_patience(state, now, *trouble)
            return
        state.port_taken_since = None
        state.reported = True
        self._tell(event="ready")

    def _check_patience(self, state: Ready, now: float, port: int, why: str) -> None:
        """Give whoever holds our port some time.

        Raises:
            FailedError: it was enough.
        """
        if state.port_taken_since is None:
            state.port_taken_since = now
        if now - state.port_taken_since > PORT_PATIENCE:
            raise self._failed(found_failures.port_taken(self._cluster.rank, port, why))

    def _look_at_worker(self, state: Running | Leaving, now: float) -> None:
        attempt, leaving = state.attempt, state if isinstance(state, Leaving) else None
        if leaving and leaving.killed:
            return
        if leaving and now > leaving.kill_at:
            self._kill("did not leave when it was asked to")
        elif not attempt.loading and now - attempt.heard > FROZEN:
            self._kill(f"gave no sign of life for {FROZEN:g} s")
        elif not attempt.joined and now - attempt.start > JOINING:
            self._kill(f"did not meet the others within {JOINING:g} s")
        elif not leaving and (what := self._stall.overdue(now)):
            attempt.trouble = found_failures.stalled(self._cluster.rank, what)
            self._leave()  # its other threads are alive, and may commit what it finished
            tell_parent(event="killed", why=attempt.trouble.message)

    def _kill(self, what: str) -> None:
        state = self._state
        assert isinstance(state, Running | Leaving)
        found = found_failures.stalled(self._cluster.rank, what)
        state.attempt.trouble = state.attempt.trouble or found
        if isinstance(state, Running):
            state = self._state = Leaving(state.attempt, time.monotonic())
        state.killed = True
        if self._child:
            self._child.kill()
        tell_parent(event="killed", why=found.message)

    def _leave(self) -> None:
        """Have the worker commit its last chunk and go."""
        if isinstance(self._state, Running) and self._child:
            self._child.say("leave")
            self._state = Leaving(self._state.attempt, time.monotonic() + LEAVING)

    def _begin_to_stop(self, now: float) -> None:
        tell_parent(event="stopping")
        self._tell(event="stopping")
        state = self._state
        if not isinstance(state, Running | Leaving) or self._child is None:
            raise self._failed(found_failures.stopped_early(self._cluster.rank))
        self._child.say("stop")
        if isinstance(state, Running):
            state = self._state = Leaving(state.attempt, now + GRACE)
        state.stopping = True
        state.kill_at = min(state.kill_at, now + GRACE)

    def _tell(self, **event: Any) -> None:
        """Report an event of this rank to the rendezvous."""
        if self._rendezvous:
            self._rendezvous.tell(**event)
        elif self._link:
            self._link.send(event)

    def _obey(self, order: Event) -> None:
        """Carry out an order of the rendezvous."""
        state = self._state
        match order["order"]:
            case "connected" | "lost":
                self._missing = [0] if order["order"] == "lost" else []
                if isinstance(state, Ready):
                    state.reported = False
                if order["order"] == "lost":
                    self._leave()
            case "waiting":
                self._missing = order["missing"]
            case "start" if isinstance(state, Loading | Ready) and self._child:
                self._start(self._child, state, order)
            case "leave" if isinstance(state, Running) and (
                state.attempt.number == order["attempt"]
            ):
                self._leave()
            case "resize" if isinstance(state, Running) and self._child:
                self._child.say("resize")
            case "give_up":
                self._give_up(order)

    def _start(self, child: Child, state: Loading | Ready, order: Event) -> None:
        now, number, members = time.monotonic(), order["attempt"], order["members"]
        log_start = self._log.stat().st_size
        cause = failure.parse(order["after"])
        if cause and self._cluster.rank == 0:
            self._tell_of_restart(cause, len(members))
        loading = state if isinstance(state, Loading) else None
        self._state = Running(WorkerAttempt(number, log_start, now, now, loading))
        self._stall.begin(now)
        task = {"attempt": number, "members": members, "addresses": order["addresses"]}
        child.say(f"start {json.dumps(task)}")

    def _tell_of_restart(self, cause: Failure, workers: int) -> None:
        if cause.kind == "resized":
            self._reporter.say(cause.message, event="resized", workers=workers)
            return
        fewer = f" with {workers} workers" if workers < self._cluster.workers else ""
        self._reporter.warn(
            f"{cause.sentence(self._cluster.workers)}; starting again{fewer}",
            event="restarting",
            failure=cause.record(),
        )
        if self._exporter:
            self._exporter.restarted(cause.kind)

    def _give_up(self, order: Event) -> None:
        cause = failure.parse(order["cause"])
        assert cause
        restarts = order["restarts"]
        if cause.code not in FINAL and restarts > 1:
            again = f" ({restarts} starts in a row brought no new step)"
            cause = cause.but(message=cause.message + again)
        outcome = self._failed(cause)
        if (cause.rank or 0) != self._cluster.rank:
            outcome = self._failed(cause.but(consequence=True), StoppedError.exit_code)
        self._leave()
        if not isinstance(self._state, Leaving):
            raise outcome
        self._state.outcome = outcome

    def _spawn(self) -> Child:
        """Start a fork server."""
        flags = f"--tf_xla_persistent_cache_directory={self._folder}/xla"
        env = {
            **process.huge_pages(os.environ),
            WORKER: "1",
            "TF_XLA_FLAGS": f"{os.environ.get('TF_XLA_FLAGS', '')} {flags}".strip(),
        }
        return Child(self._arguments, env, self._later(self._worker_says), stderr=self._log)

    def _worker_says(self, child: Child, event: Event) -> None:
        """Take an event of the fork server or the worker."""
        if child is not self._child:
            return  # the last words of one that was replaced
        match event:
            case {"event": "prepared"}:
                self._prepared()
            case {"event": "resumed" | "committed"}:
                self._tell(**event)
            case {"event": "exit", "code": code}:
                self._child_gone(code)
            case {"failure": record} if isinstance(self._state, Loading):
                self._state.failure = failure.parse(record)
            case {"result": dict(result)} if self._cluster.rank == 0:
                tell_parent(result=result)
                again = (
                    self._state.attempt.number - 1
                    if isinstance(self._state, Running | Leaving)
                    else 0
                )
                found_failures.leave_message({"event": "finished", "restarts": again, **result})
        if self._exporter:
            self._exporter.take(event)
        if isinstance(self._state, Running | Leaving):
            self._attempt_says(self._state, event)
        if event.get("event") in ("started", "joined", "resumed", "step", "committed", "ended"):
            tell_parent(**event, rank=self._cluster.rank)

    def _prepared(self) -> None:
        match self._state:
            case Loading():
                self._state = Ready()
            case Running(attempt=attempt) | Leaving(attempt=attempt):
                attempt.loading = None

    def _attempt_says(self, state: Running | Leaving, event: Event) -> None:
        attempt = state.attempt
        attempt.heard = time.monotonic()
        match event:
            case {"failure": record}:
                attempt.failure = failure.parse(record)
            case {"event": "beat", "work": _, **pulse}:
                self._stall.take(Pulse(event["work"], **pulse), attempt.heard)
            case {"event": "joined"}:
                attempt.joined = True
            case {"event": "storing", "seconds": seconds}:
                if isinstance(state, Leaving) and not state.stopping:
                    state.kill_at = time.monotonic() + seconds
            case {"event": "ended", "code": code}:
                self._ended(state, code)

    def _ended(self, state: Running | Leaving, code: int) -> None:
        """Take the end of the worker."""
        attempt = state.attempt
        leaving = state if isinstance(state, Leaving) else None
        self._state = attempt.loading or Ready()
        if code == 0:
            self._finish()
        else:
            self._report_failure(attempt, code, stopping=leaving is not None and leaving.stopping)
        if leaving and leaving.outcome:
            raise leaving.outcome

    def _report_failure(self, attempt: WorkerAttempt, code: int, *, stopping: bool) -> None:
        log = self._log.read_bytes()[attempt.log_start :].decode(errors="replace")
        found = self._explain(attempt, code, log)
        if stopping:
            found = found.but(consequence=False)
            raise self._failed(found, found.code if found.code in FINAL else StoppedError.exit_code)
        if found.code == 1 and attempt.failure is None and code > 0:
            self._show(log)
        self._tell(event="ended", failure=found.record())
        if found.code in FINAL:
            raise self._failed(found)

    def _explain(self, attempt: WorkerAttempt, code: int, log: str) -> Failure:
        """Return why the worker ended with this code."""
        found = attempt.failure if code in FINAL else None
        found = found or attempt.trouble or attempt.failure
        own = 1
        if found is None:
            memory = self._out_of_memory(code)
            found = found_failures.of_exit(self._cluster.rank, code, log, memory)
            own = found.code
        left = code == StoppedError.exit_code and not attempt.trouble
        if code in FINAL or left:
            own = code
        nobody = found.kind == "corrupt" and found.rank is None
        rank = None if nobody else self._cluster.rank
        return found.but(rank=rank, code=own, consequence=left)

    def _out_of_memory(self, code: int) -> str | None:
        """Return limit and peak of the memory if the kernel has killed our process for it."""
        killed = self._memory.has_killed()
        return self._memory.summary() if killed and code == -signal.SIGKILL else None

    def _show(self, log: str) -> None:
        """Show a traceback: it is a defect, perhaps of the user's own model."""
        for line in log.rstrip().splitlines():
            self._reporter.warn(f"rank {self._cluster.rank} | {line}")

    def _child_gone(self, code: int) -> None:
        """Take the end of the fork server, and start another where there is need for one."""
        assert self._child
        self._child.close()
        self._child = None
        state = self._state
        if isinstance(state, Running | Leaving):
            loading = state.attempt.loading
            state.attempt.failure = None  # if the worker reported that it leaves, this is why
            self._ended(state, code or 1)
        else:
            loading = state if isinstance(state, Loading) else None
            if isinstance(state, Finished) or (loading and code == 0):
                self._finish()  # the run was finished before this rank came
                return
            if loading and loading.failure:
                raise self._failed(loading.failure.but(rank=self._cluster.rank), code)
        lost = (loading.lost if loading else 0) + 1
        log, memory = self._log.read_text(errors="replace"), self._out_of_memory(code)
        found = found_failures.of_exit(self._cluster.rank, code, log, memory)
        in_vain = found.code in FINAL or (code > 0 and loading is not None)
        if lost > self._config.max_restarts or in_vain:
            self._show(log)
            raise self._failed(found)
        if not isinstance(state, Running | Leaving):  # else the attempt's end says so
            self._reporter.warn(f"{found.sentence(self._cluster.workers)}; starting again")
        self._state = Loading(lost)
        self._child = self._spawn()

    def _finish(self) -> None:
        if isinstance(self._state, Loading | Ready):
            self._state = Finished()
            self._tell(event="finished")

    @property
    def _log(self) -> Path:
        return self._folder / "stderr"

    def _failed(self, found: Failure, exit_code: int | None = None) -> FailedError:
        return FailedError(found, self._cluster.workers, exit_code)

    def _later(self, call: Callable[..., None]) -> Callable[..., None]:
        """Return what puts a call into our queue, from any thread."""
        return lambda *values: self._events.put(partial(call, *values))


def _exporter(config: TrainConfig, cluster: Cluster) -> "Exporter | None":
    """Return what serves the run's metrics, on rank 0 and where it is asked for."""
    if not config.metrics_port or cluster.rank > 0:
        return None
    from trainer.gang.prometheus import Exporter

    return Exporter(config, cluster)


def _port_trouble(cluster: Cluster, config: TrainConfig) -> tuple[int, str] | None:
    """Return a port on which this rank's worker cannot listen, and why, if there is one.

    Its peers would wait for it. Its ports are TensorFlow's and, unless TensorFlow does the
    all-reduce, and our own.
    """
    if cluster.workers == 1:
        return None
    host, port = sockets.split_endpoint(cluster.addresses[cluster.rank])
    listening = [(host if cluster.local else "", port), cluster.all_reduce_address]
    for address in listening[: 1 if config.all_reduce == "tensorflow" else None]:
        try:
            sockets.listen(*address).close()
        except OSError as error:
            return address[1], error.strerror or str(error)
    return None
