"""Injects one fault: into a rank's processes, its port, or the store."""

import contextlib
import ctypes
import errno
import os
import queue
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from trainer.common import sockets
from trainer.errors import UserError
from trainer.gang.local_gang import Gang
from trainer.testing.faults import Planned
from trainer.testing.gang_history import Watch
from trainer.testing.proxy import Fault, Proxy, Verb

_SIGNALS = {"kill": signal.SIGKILL, "port": signal.SIGKILL, "freeze": signal.SIGSTOP}
PTRACE_SEIZE, PTRACE_INTERRUPT, WAIT_ALL = 0x4206, 0x4207, 0x40000000  # Linux's, see ptrace(2)


class ChaosError(UserError):
    """A run hung, or ended with other weights: a defect of this program."""


def strike(fault: Planned, gang: Gang, watch: Watch, proxy: Proxy | None) -> float | None:
    """Inject a fault; return when it struck, monotonic seconds, or None if there was no target.

    Raises:
        ChaosError: this machine does not let processes be traced.
    """
    now = time.monotonic()
    if fault.kind == "store":
        assert proxy, "a folder of this machine does not fail"
        _break(proxy, fault)
        return now
    rank = gang.ranks.get(fault.rank)
    if rank is None:
        return None
    supervisor, below = rank.child.process.pid, watch.workers.get(fault.rank, ())
    if fault.kind == "stop":
        return now if _signal(supervisor, signal.SIGTERM) else None
    if fault.kind == "pod":
        return now if _wipe_out((supervisor, *reversed(below))) else None
    if not below:
        return None
    return _strike_worker(fault, below[0], gang, watch)


def _strike_worker(fault: Planned, worker: int, gang: Gang, watch: Watch) -> float | None:
    """See ``strike``, of the kinds whose target is a worker."""
    now = time.monotonic()
    if fault.kind == "flip":
        return now if _flip(worker, fault.rank, watch) else None
    if fault.kind == "hold":
        if not watch.await_step_of(fault.rank):
            return None
        time.sleep(0.01)  # into the next chunk: a worker at the store has half an hour
        return _hold_thread(worker)
    if not _signal(worker, _SIGNALS[fault.kind]):
        return None
    if fault.kind == "port":
        _hold_port(gang.port + fault.rank, fault.length)
    return now


def _break(proxy: Proxy, fault: Planned) -> None:
    dice = random.Random(repr(fault))  # noqa: S311
    how: Any = dice.choice(["down", "error", "reset", "lose", "cut", "slow"])
    if how == "down":
        proxy.stop()
        time.sleep(fault.length)
        proxy.start()
        return
    verbs: tuple[Verb, ...] = ("write", "read", "list", "delete")
    some: dict[str, tuple[Verb, ...]] = {"cut": ("read", "list"), "lose": ("write", "delete")}
    verb, times = dice.choice(some.get(how, verbs)), dice.randint(1, 3)
    status = dice.choice([429, 500, 503])
    proxy.faults.append(Fault(how, verb, times=times, status=status, seconds=fault.length))


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _flip(worker: int, rank: int, watch: Watch) -> bool:
    """Have a worker get a wrong bit, by the pipe on which its supervisor speaks to it."""
    if rank in watch.flipped:  # a rank that computes wrong twice ends the run, as it should
        return False
    try:
        Path(f"/proc/{worker}/fd/0").write_bytes(b"flip\n")
    except OSError:  # it is gone
        return False
    watch.flipped.add(rank)
    return True


def _hold_thread(pid: int) -> float | None:
    """Stop the main thread of a process and no other; return when, or None if it was gone.

    Raises:
        ChaosError: this machine does not let processes be traced.
    """
    held: queue.SimpleQueue[int] = queue.SimpleQueue()

    def trace() -> None:  # whoever traces a thread has to stay, and to take its end
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2
        failed = libc.ptrace(PTRACE_SEIZE, pid, None, None)
        failed = failed or libc.ptrace(PTRACE_INTERRUPT, pid, None, None)
        held.put(ctypes.get_errno() if failed else 0)
        with contextlib.suppress(ChildProcessError):
            while not failed and os.WIFSTOPPED(os.waitpid(pid, WAIT_ALL)[1]):
                pass

    threading.Thread(target=trace, daemon=True).start()
    error = held.get()
    if error == errno.ESRCH:
        return None
    if error:
        raise ChaosError(
            f"hold: threads cannot be traced here ({os.strerror(error)}); leave it out of --kinds"
        )
    return time.monotonic()


def _wipe_out(pids: tuple[int, ...]) -> bool:
    """SIGKILL them so fast that none can act on another's end."""
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    return [_signal(pid, signal.SIGKILL) for pid in pids].count(True) > 0


def _hold_port(port: int, seconds: float) -> None:
    """Take a port as soon as it is free, for some time."""
    deadline, host = time.monotonic() + 2, sockets.loopback()
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), sockets.listen(host, port):
            time.sleep(seconds)
            return
        time.sleep(0.001)
