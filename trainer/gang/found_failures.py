"""The failures that a supervisor finds itself, and what it leaves behind for Kubernetes."""

import contextlib
import errno
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.cluster_spec import Cluster
from trainer.common import cpu
from trainer.errors import StoppedError, UnavailableError
from trainer.failure import MOST_BYTES, Failure
from trainer.gang import cgroup
from trainer.gang.coordinator import FEW
from trainer.worker_events import STATUS_FD

# What TensorFlow, Python and the C library say where a thread or process cannot be made (EAGAIN).
NO_PROCESS = re.compile(
    r"pthread_create\(\) failed|pthread_create failed|can't start new thread|"
    r"fork.*Resource temporarily unavailable|BlockingIOError: \[Errno 11\]"
)
UNKNOWN_FLAG = re.compile(r"Unknown flags? in (\w+): (.*)")  # how XLA refuses such a variable
TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes mounts it, and shows its content


def of_exit(rank: int, code: int, log: str, out_of_memory: str | None) -> Failure:
    """Return the failure of a worker that reported none itself.

    Args:
        rank: of the worker.
        code: its exit code, negative for a signal.
        log: what it wrote to standard error.
        out_of_memory: limit and peak of the memory if the kernel killed it for that.
    """
    if out_of_memory is not None:
        return Failure(
            kind="out_of_memory",
            rank=rank,
            code=1,
            message=f"its worker was killed for lack of memory ({out_of_memory})",
            remedy="give it more memory or lower batch_size",
        )
    # An emulator of another architecture may not say what it lacks, so nobody refused it before.
    if code == -signal.SIGILL or "compiled to use AVX" in log:
        what = "its worker met an instruction that this processor lacks, such as AVX"
        return Failure(kind="config", rank=rank, code=2, message=what, remedy=cpu.REMEDY)
    if flag := UNKNOWN_FLAG.search(log):
        what = f"{flag[1]}: {flag[2]}: XLA knows no such flag"
        remedy = f"correct the variable {flag[1]}, or unset it"
        return Failure(kind="config", rank=rank, code=2, message=what, remedy=remedy)
    if NO_PROCESS.search(log):
        limit = cgroup.process_limit()
        what = f"the limit of {limit} (pids.max)" if limit else "a limit, such as the kubelet's,"
        message = f"its worker could start no further thread or process: {what} is reached"
        remedy = "raise it: --pids-limit of docker, podPidsLimit of the kubelet"
        return Failure(kind="crashed", rank=rank, code=1, message=message, remedy=remedy)
    if code < 0:
        names = {each.value: each.name for each in signal.Signals}
        message = f"its worker was killed by {names.get(-code, f'signal {-code}')}"
        return Failure(kind="killed", rank=rank, code=1, message=message)
    lines = [line for line in log.splitlines() if line.strip()]
    # What follows the exception's name may continue for lines.
    named = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit)\b", line)]
    last = (named or lines or ["it wrote nothing"])[-1]
    message = f"its worker ended with code {code}: {last}"
    if os.strerror(errno.EFBIG) in last:
        remedy = "raise the limit of a file's size (ulimit -f)"
        return Failure(kind="config", rank=rank, code=2, message=message, remedy=remedy)
    return Failure(kind="crashed", rank=rank, code=1, message=message)


def stalled(rank: int, what: str) -> Failure:
    """Return the failure of a worker that is alive or frozen and makes no progress."""
    return Failure(kind="stalled", rank=rank, code=1, message=f"its worker {what}")


def stopped_early(rank: int) -> Failure:
    """Return the failure of a rank that was asked to stop while it had no worker."""
    message = "stopped while no worker was training; the same command continues the run"
    return Failure(kind="stopped", rank=rank, code=StoppedError.exit_code, message=message)


def not_loaded(rank: int, seconds: float) -> Failure:
    """Return the failure of a rank whose data were not loaded in time."""
    message = f"the data were not loaded within {seconds:g} s"
    return _unavailable(rank, message, "see whether the store answers")


def port_taken(rank: int, port: int, why: str) -> Failure:
    """Return the failure of a rank that cannot listen on a port of its own."""
    message = f"port {port} cannot be listened on ({why})"
    found = _unavailable(rank, message, "free it or give another --port")
    return found.but(kind="port_taken")


def peers_missing(cluster: Cluster, missing: list[int], seconds: float, tried: str) -> Failure:
    """Return the failure of a rank whose gang did not meet, and what it ``tried`` to meet it."""
    named = [f"rank {rank} ({cluster.address(rank)})" for rank in missing[:FEW]]
    if len(missing) > FEW:
        named.append(f"and {len(missing) - FEW} more")
    message = (
        f"the gang of {cluster.workers} did not meet within {seconds:g} s: "
        f"missing {', '.join(named)}; {tried}"
    )
    found = _unavailable(cluster.rank, message, "see why it did not come, or raise peer_deadline")
    return found.but(kind="peers_missing", missing=tuple(missing))


def _unavailable(rank: int, message: str, remedy: str) -> Failure:
    code = UnavailableError.exit_code
    return Failure(kind="unavailable", rank=rank, code=code, message=message, remedy=remedy)


def leave_message(record: Mapping[str, Any]) -> None:
    """Write a record as JSON where Kubernetes reads how a container ended.

    A process below another one leaves it to that: ranks on one machine share the file.
    """
    if STATUS_FD in os.environ:
        return
    path = Path(os.environ.get("TRAINYARD_TERMINATION_LOG", TERMINATION_LOG))
    with contextlib.suppress(OSError):
        if path.exists():
            path.write_bytes(json.dumps(record).encode()[:MOST_BYTES])
