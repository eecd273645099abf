"""Running the trainer as a user does: real processes, each with a hard limit."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests/support/models"  # apart, as the whole package of a model goes with its run
PATH = f"{ROOT}{os.pathsep}{MODELS}"  # where the trainer that a test starts looks for modules
BROKER = "broker"  # what a process calls itself that starts others for another one
WORKERS, PORTS = 8, 1100  # of pytest that have ports of their own, and how many each
FIRST_PORT = 11_000  # gangs look for theirs from 20000 on, and a kubelet has 10250
LIMIT = 300.0  # seconds after which a test process is killed

_under_watch: list[subprocess.Popen[str]] = []


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what would make a trainer part of a gang."""
    # MAKE and ARGS are of the `make test` that we may be below.
    ours = ("JOB_COMPLETION_INDEX", "TRAINYARD_", "TF_CONFIG", "MAKE", "MFLAGS", "ARGS")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {**env, "PYTHONPATH": PATH, **(extra or {})}


def start(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    kind: type[subprocess.Popen[Any]] = subprocess.Popen,
) -> subprocess.Popen[str]:
    """Start ``python -m trainer``; as a rule without what takes longer than most tests' steps.

    That is a report, TensorBoard's files, and XLA, whose compiler costs each worker two seconds:
    ``--report``, ``--tensorboard on`` and ``--xla auto`` are for the tests that are about them.
    """
    if arguments[:1] == ("train",):
        arguments += () if "--report" in arguments else ("--no-report",)
        arguments += () if "--xla" in arguments else ("--xla", "off")
        arguments += () if "--tensorboard" in arguments else ("--tensorboard", "off")
    return kind(
        [sys.executable, "-m", "trainer", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(env),
    )


def finish(process: subprocess.Popen[str], limit: float = LIMIT) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error; kill the process at the limit."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        kill_all(process.pid)
        out, err = process.communicate()
        raise AssertionError(f"still running after {limit} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def run(
    *arguments: str, env: Mapping[str, str] | None = None, limit: float = LIMIT
) -> tuple[int, str, str]:
    """Run ``python -m trainer`` to its end."""
    return finish(start(*arguments, env=env), limit)


def children(pid: int) -> list[int]:
    """Return the processes that this one started, also by way of a broker, see ``warm``."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found += children(child) if _is_broker(child) else [child]
    return found


def _is_broker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text() == f"{BROKER}\n"
    return False


def descendants(pid: int) -> list[int]:
    """Return all processes that this one started, and theirs, eldest first."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def supervisors(pid: int) -> dict[int, int]:
    """Return the supervisors below a local gang, by rank."""
    return {_rank(child): child for child in children(pid)}


def forkservers(pid: int) -> dict[int, int]:
    """Return the processes below that fork workers, by rank."""
    return {
        _rank(child): child
        for child in descendants(pid)
        if b"TRAINYARD_WORKER=1" in _environment(child)
        and b"TRAINYARD_WORKER=1" not in _environment(_parent(child))
    }


def workers(pid: int) -> dict[int, int]:
    """Return the processes below that train, by rank."""
    servers = forkservers(pid)
    return {rank: child for rank in servers for child in children(servers[rank])}


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with."""
    pairs = (value.decode().partition("=") for value in _environment(pid) if value)
    return {name: value for name, _, value in pairs}


def _rank(pid: int) -> int:
    found = [v for v in _environment(pid) if v.startswith(b"JOB_COMPLETION_INDEX=")]
    return int(found[0].partition(b"=")[2]) if found else 0


def _environment(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def kill_all(pid: int) -> None:
    """SIGKILL a process and all below it, so fast that none can act on another's end."""
    everyone = [pid, *descendants(pid)]
    for process in everyone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
    for process in {*everyone, *descendants(pid)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def wait_until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Wait until the condition holds, for as long as every process under ``ending`` runs."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        for process in _under_watch:
            if process.poll() is not None and not condition():
                raise AssertionError(f"ended while it was waited for: {finish(process)}")
        time.sleep(0.02)


def running(
    *arguments: str, env: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Start the trainer and see that nothing of it is left at the end."""
    return ending(start(*arguments, env=env))


@contextlib.contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """See that nothing of a process is left at the end."""
    _under_watch.append(process)
    try:
        yield process
    finally:
        _under_watch.remove(process)
        kill_all(process.pid)
        process.communicate()


def free_ports(count: int) -> int:
    """Return the first of some free ports, where neither outgoing calls nor gangs take any."""
    # Others look for some at the same time, and what starts slowly takes its port late: each of
    # pytest's workers has a part of its own, and a second series beside this one begins elsewhere.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    part = range(FIRST_PORT + worker * PORTS, FIRST_PORT + (worker + 1) * PORTS - count)
    for port in part[random.randrange(len(part) // 2) :]:
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
        return port
    raise AssertionError("no free ports")
