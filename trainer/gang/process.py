"""Child processes that take orders from their parent, and report events to it.

Both go through pipes: TensorFlow takes SIGTERM for itself, but no pipe. A child reads words from
its standard input, one a line; when that input ends, the parent is gone. It writes JSON lines to
the pipe named in TRAINYARD_STATUS_FD.
"""

import contextlib
import json
import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar, cast

import trainer
from trainer.errors import StoppedError, UserError
from trainer.worker_events import STATUS_FD, Event

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PASSED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
TUNABLES = "GLIBC_TUNABLES"
TICK = 0.05  # seconds between two looks at a child, or at a request to stop
LAST_LINES = 5  # of what a child wrote


def trainer_command(*arguments: str) -> list[str]:
    """Return the command line of another process of this program, see ``trainer_environment``.

    Modules in the folder where the user stands, which may be a stranger's, are not imported by it.
    """
    return [sys.executable, "-P", "-m", "trainer", *arguments]


def trainer_environment() -> dict[str, str]:
    """Return the variables by which another process finds the trainer that this one is."""
    paths = [str(Path(trainer.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Child:
    """One ``python -m trainer`` of our own.

    Args:
        arguments: what follows ``python -m trainer``.
        env: variables besides those of this process.
        tell: called with this object and every event of the child, from a thread of its own; the
            last one is ``{"event": "exit", "code": its exit code, negative for a signal}``.
        out: file that takes what it writes; None to share our output.
        stderr: file that takes its standard error alone.
    """

    def __init__(
        self,
        arguments: list[str],
        env: Mapping[str, str],
        tell: Callable[["Child", Event], object],
        out: Path | None = None,
        stderr: Path | None = None,
    ) -> None:
        reading, writing = os.pipe()
        path = stderr or out
        log: BinaryIO | None = path.open("ab") if path else None
        try:
            self.process = subprocess.Popen(
                trainer_command(*arguments),
                stdin=subprocess.PIPE,
                stdout=log if out else None,
                stderr=log,
                env={**os.environ, **trainer_environment(), **env, STATUS_FD: str(writing)},
                pass_fds=[writing],
                start_new_session=True,  # Ctrl-C is for the parent, which passes it on
            )
        finally:
            os.close(writing)
            if log:
                log.close()
        self._tell = tell
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()

    def say(self, word: str) -> None:
        """Write one line to its standard input."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone
            os.write(self.process.stdin.fileno(), f"{word}\n".encode())

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it and all that it started, now."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Close our end of its standard input; readers there see that this process is gone."""
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                # A process killed while it writes leaves part of a line.
                with contextlib.suppress(ValueError):
                    self._tell(self, json.loads(line))
        self._tell(self, {"event": "exit", "code": self.process.wait()})


def apart(work: Callable[[], T]) -> T:
    """Return what ``work`` returns in a forked process of its own.

    Clients of stores start threads, which a fork breaks: a process that forks later has its
    requests made apart. If the other process ends without an answer, this one ends in the same
    way.

    Raises:
        UserError: of ``work``.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _answer(work, writing)
    os.close(writing)
    answer: tuple[Any, UserError | None] = (None, None)
    with os.fdopen(reading, "rb") as pipe, contextlib.suppress(EOFError, pickle.UnpicklingError):
        answer = pickle.load(pipe)  # noqa: S301 - of our own process
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        os.kill(os.getpid(), -code)
    if code:
        sys.exit(code)
    value, error = answer
    if error:
        raise error
    return cast(T, value)


def _answer(work: Callable[[], T], writing: int) -> NoReturn:
    """Write to a pipe what ``work`` returns, or its UserError, and end this process."""
    code = 1
    try:
        value, failed = None, None
        try:
            value = work()
        except UserError as error:
            failed = error
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump((value, failed), pipe, protocol=5)  # arrays as they lie in memory
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_child(
    arguments: list[str], stop: threading.Event, grace: float, limit: float = math.inf
) -> tuple[int, Any, list[str]]:
    """Run a ``Child`` to its end.

    Args:
        arguments: what follows ``python -m trainer``.
        stop: set when it shall stop.
        grace: seconds from then on until it is killed.
        limit: seconds until it is killed in any case.

    Returns:
        Its exit code, negative for a signal, the record of its failure, and its last lines.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    event: Event = {}
    failure, asked, kill_at = None, False, time.monotonic() + limit
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        log = Path(folder) / "log"
        child = Child(arguments, {}, lambda _, event: events.put(event), out=log)
        try:
            while event.get("event") != "exit":
                if stop.is_set() and not asked:
                    asked, kill_at = True, min(kill_at, time.monotonic() + grace)
                    child.say("stop")
                if time.monotonic() > kill_at:
                    child.kill()
                with contextlib.suppress(queue.Empty):
                    event = events.get(timeout=TICK)
                    failure = event.get("failure", failure)
        finally:
            child.kill()
            child.close()
        last = log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
    return int(event["code"]), failure, last


def huge_pages(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variable by which glibc, 2.35 or newer, has memory in huge pages.

    Every step allocates its tensors again, and they are as large as the caches: in pages of 2 MiB
    ``cnn`` took steps 1.09 to 1.23 times as fast, ``mlp-100`` at batch 256 1.2 times (three runs
    in turns on two cores of an AMD EPYC), and reading a shard a third of the time. A setting of
    huge pages in ``env``, which the process is started with otherwise, stays.
    """
    given = env.get(TUNABLES, "")
    if "glibc.malloc.hugetlb" in given:
        return {TUNABLES: given}
    return {TUNABLES: f"{given}:glibc.malloc.hugetlb=1".removeprefix(":")}


def words() -> Iterator[str]:
    """Yield the words of the parent until it is gone."""
    # Not through sys.stdin, whose lock this thread would hold when the interpreter ends.
    rest = b""
    while data := os.read(0, 4096):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in lines)


def hold_signals() -> None:
    """Keep requests to stop waiting until ``stop_event`` or ``default_signals`` takes them.

    Called before anything is imported (the first process of a container ignores every signal
    that it has no handler for, and imports take a while), and when all is done.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def default_signals() -> None:
    """Let requests to stop end the process, as is usual."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def stop_event() -> threading.Event:
    """Return an event that is set when this process is asked to stop.

    SIGTERM, Ctrl-C and the end of the terminal ask, and so does the end of a parent that started
    this process as its ``Child``. A second request ends the process at once.
    """
    event, asked = threading.Event(), list[int]()
    if STATUS_FD in os.environ:

        def listen() -> None:
            next(words(), None)
            event.set()

        threading.Thread(target=listen, daemon=True).start()

    def handler(number: int, _: object) -> None:
        # Not the event itself: a signal may come while the first one sets it.
        if asked or event.is_set():
            os._exit(StoppedError.exit_code)
        asked.append(number)
        event.set()

    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)
    default_signals()
    return event


def pass_signals(to: Callable[[int], object]) -> None:
    """Pass on the signals that this process gets as an init and does not use itself."""
    for number in PASSED_SIGNALS:
        signal.signal(number, lambda number, _: to(number))


def reap_orphans(known: Collection[int]) -> None:
    """Take the exit codes of adopted processes, as an init must, but not those of ``known``."""
    with contextlib.suppress(ChildProcessError):
        while info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if info.si_pid in known:
                return
            os.waitpid(info.si_pid, os.WNOHANG)
