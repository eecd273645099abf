"""Running the trainer as a user does: real processes, each with a hard limit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 150.0  # seconds after which a test process is killed


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what would make a trainer part of a gang."""
    ours = ("JOB_COMPLETION_INDEX", "TRAINYARD_", "TF_CONFIG")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {**env, "PYTHONPATH": str(ROOT), **(extra or {})}


def start(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start ``python -m trainer``."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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


def run(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run ``python -m trainer`` to its end."""
    return finish(start(*arguments, env=env))


def descendants(pid: int) -> list[int]:
    """Return all processes that this one started, and theirs, eldest first."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def workers(pid: int) -> list[int]:
    """Return the processes below that run TensorFlow, or will, by rank."""
    ranks: dict[int, int] = {}
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            env = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            if b"TRAINYARD_WORKER=1" in env:
                rank = next(v for v in env if v.startswith(b"JOB_COMPLETION_INDEX="))
                ranks[int(rank.partition(b"=")[2])] = child
    return [ranks[rank] for rank in sorted(ranks)]


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
    """Wait until the condition holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


@contextlib.contextmanager
def running(
    *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start the trainer and see that nothing of it is left at the end."""
    process = start(*arguments, env=env)
    try:
        yield process
    finally:
        kill_all(process.pid)
        process.communicate()
