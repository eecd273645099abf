"""Supervisors: one for the worker of one rank, and one for a gang on this machine.

    trainer train --workers 2          runs a gang: a supervisor for each rank
      trainer train  (rank 0)          supervisor, as in a pod: waits for its peers' names,
        trainer train  (worker)        runs the worker and says what became of it
      trainer train  (rank 1)
        ...

None of the supervisors imports TensorFlow, so they answer at once whatever it does.
"""

import contextlib
import secrets
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

from trainer import cluster as clusters
from trainer.cluster import Cluster
from trainer.config import TrainConfig
from trainer.errors import StoppedError, UnavailableError, UserError
from trainer.process import Child

WORKER = "TRAINYARD_WORKER"  # tells a worker from its supervisor: both run the same arguments
TICK = 0.05  # seconds between two looks at a child
GRACE = 25.0  # seconds from the request to stop until a worker is killed
LOST_GRACE = 10.0  # seconds for the others to notice that a worker is gone


class WorkerFailedError(UserError):
    """A worker ended with this exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def run_gang(arguments: list[str], config: TrainConfig, stop: threading.Event) -> None:
    """Run all workers on this machine until they are done.

    Args:
        arguments: of ``python -m trainer``, given to every worker.
        config: of the run.
        stop: set when the run shall stop.

    Raises:
        WorkerFailedError: with the first cause, when one of them failed.
        StoppedError: asked to stop.
    """
    port = config.port or _free_ports(config.workers)
    running = {
        rank: Child(arguments, clusters.environment(rank, config.workers, port))
        for rank in range(config.workers)
    }
    failures: list[tuple[int, str]] = []
    kill_at = float("inf")
    while running:
        for rank, child in list(running.items()):
            code = child.poll()
            if code is not None:
                del running[rank]
                if code != 0:
                    failures.append((code, child.error or f"rank {rank}: ended with code {code}"))
        if (failures or stop.is_set()) and kill_at == float("inf"):
            kill_at = time.monotonic() + (LOST_GRACE if failures else GRACE + 1)
            for child in running.values():
                child.stop()
        if time.monotonic() > kill_at:
            for child in running.values():
                child.kill()
        time.sleep(TICK)
    if failures:
        # Those who lost a peer tell of a consequence; the cause is what another one tells.
        code, message = min(failures, key=lambda f: f[0] == StoppedError.exit_code)
        raise WorkerFailedError(message, code if code > 0 else 1)


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
        UnavailableError: peers were not there before the deadline, or the port is taken.
        WorkerFailedError: the worker failed, with its own words.
        StoppedError: asked to stop.
    """
    deadline = time.monotonic() + config.peer_deadline
    _check_port(cluster)
    _wait_for_names(cluster, config.peer_deadline, stop)
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        log = Path(folder) / "stderr"
        worker = Child(arguments, {WORKER: "1"}, stderr=log)
        try:
            code = _watch(worker, cluster, config.peer_deadline, deadline, stop)
        finally:
            if worker.poll() is None:
                worker.kill()
        if code == 0:
            return
        if worker.error is not None:
            raise WorkerFailedError(_with_rank(worker.error, cluster), code)
        raise WorkerFailedError(_epitaph(cluster, code, log), 1)


def _watch(
    worker: Child, cluster: Cluster, seconds: float, deadline: float, stop: threading.Event
) -> int:
    """Wait for the worker's end and return its exit code."""
    kill_at = float("inf")
    while (code := worker.poll()) is None:
        now = time.monotonic()
        if stop.is_set() and kill_at == float("inf"):
            worker.stop()
            kill_at = now + GRACE if worker.joined else now
        if now > kill_at:
            raise StoppedError(f"rank {cluster.rank}: stopped")
        if not worker.joined and now > deadline:
            raise UnavailableError(_missing(cluster, seconds))
        time.sleep(TICK)
    return code


def _missing(cluster: Cluster, seconds: float) -> str:
    missing = [
        f"rank {rank} ({address})"
        for rank, address in enumerate(cluster.addresses)
        if rank != cluster.rank and not _answers(address)
    ]
    who = ", ".join(missing) or "some rank that answers but did not join"
    return (
        f"rank {cluster.rank}: the gang of {cluster.workers} did not meet within {seconds:g} s: "
        f"missing {who}; see what became of it, or raise --peer-deadline"
    )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def _check_port(cluster: Cluster) -> None:
    """Check that this rank's port is free: a worker that cannot listen leaves its peers waiting.

    Raises:
        UnavailableError: it is not.
    """
    if cluster.workers == 1:
        return
    host, _, port = cluster.addresses[cluster.rank].rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host if cluster.local else "", int(port)))
        except OSError as error:
            raise UnavailableError(
                f"rank {cluster.rank}: port {port} cannot be listened on ({error.strerror}); "
                "free it or give another --port"
            ) from None


def _wait_for_names(cluster: Cluster, seconds: float, stop: threading.Event) -> None:
    """Wait until every peer's name resolves: a headless Service's names lag its pods.

    Raises:
        UnavailableError: some do not before the deadline.
        StoppedError: asked to stop.
    """
    deadline = time.monotonic() + seconds
    waiting = dict(enumerate(cluster.addresses)) if cluster.workers > 1 else {}
    while True:
        for rank, address in list(waiting.items()):
            with contextlib.suppress(OSError):
                socket.getaddrinfo(address.rpartition(":")[0], None)
                del waiting[rank]
        if not waiting:
            return
        if stop.is_set():
            raise StoppedError(f"rank {cluster.rank}: stopped while waiting for its peers")
        if time.monotonic() > deadline:
            names = ", ".join(f"rank {rank} ({address})" for rank, address in waiting.items())
            raise UnavailableError(
                f"rank {cluster.rank}: no address within {seconds:g} s for {names}; "
                "see whether those pods run and the headless Service exists"
            )
        time.sleep(0.5)


def _epitaph(cluster: Cluster, code: int, log: Path) -> str:
    """Say how a worker ended that said nothing itself."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
        return f"rank {cluster.rank}: its worker was killed by {name}{hint}; run again to resume"
    lines = log.read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it wrote nothing"
    return f"rank {cluster.rank}: its worker ended with code {code}: {last}"


def _with_rank(message: str, cluster: Cluster) -> str:
    tagged = message.startswith("rank ") or cluster.workers == 1
    return message if tagged else f"rank {cluster.rank}: {message}"


def _free_ports(count: int) -> int:
    """Return the first of ``count`` adjacent free ports below the range for outgoing calls."""
    # From a random one on, so that gangs started together do not pick the same.
    for first in range(20000 + secrets.randbelow(10000), 32768 - count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise UnavailableError(f"no {count} adjacent free ports from 20000 to 32767; give --port")
