"""Processes of the trainer that are forks of one that has loaded TensorFlow, for tests of what they
do: most of a process's time is loading it, and what predicts and reports.

What a fork does is what ``python -m trainer`` does, with its own working directory, environment,
files, session and exit code. Processes that it starts in turn are forks, too:

    pytest
      broker              has loaded TensorFlow, does nothing but fork
        trainer train     as pytest asked for, for example a gang's first process
          broker          forked before anything was done
            trainer train   as the gang asked for: a supervisor, and so on

A command that begins with ``ip netns exec NAME`` is a fork in that network namespace.

Tests that kill single processes, or are about how processes start, start them by ``processes``.
"""

import atexit
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.support import hosts, processes
from trainer.gang import process
from trainer.train.quick_import import quick_imports

HIGH = 500  # file descriptors from here on are free in a process that has just started
ROOM = 1 << 15  # bytes for the environment of a fork

COMMAND = Path("/proc/self/comm")
PATH = sys.path[1:]  # without the folder that this process was started in
STOPS = {*process.STOP_SIGNALS, *process.PASSED_SIGNALS}

Job = dict[str, Any]

_requests: socket.socket | None = None


class Fork(subprocess.Popen[Any]):
    """What subprocess.Popen is, of a process that the broker forks.

    Attributes:
        peak: the most memory that it or a process below it had, in KiB; once it has ended.
    """

    peak = 0

    def _execute_child(  # as Popen's constructor calls it, with the files that it has opened
        self,
        args: Sequence[str],
        _executable: object,
        _preexec: object,
        _close: object,
        pass_fds: Sequence[int],
        cwd: str | Path | None,
        env: Mapping[str, str] | None,
        _info: object,
        _flags: object,
        _shell: object,
        *files: Any,
    ) -> None:
        stdin, _, _, stdout, _, stderr = files[:6]
        *_, start_new_session, _ = files
        space, *command = args[3:] if [*args[:3]] == hosts.ENTER else ["", *args]
        program = command[1:]
        safe = program[0] == "-P"
        assert (command[0], program[safe : safe + 2]) == (sys.executable, ["-m", "trainer"])
        sys.audit("subprocess.Popen", args[0], args, cwd, env)  # as the guard of ``needs`` expects
        self._answers, answers = os.pipe()
        given = {0: stdin, 1: stdout, 2: stderr, **{each: each for each in pass_fds}}
        job = {
            "arguments": program[safe + 2 :],
            "safe": safe,
            "space": space,
            "folder": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "leads": start_new_session,
            "numbers": list(given),
        }
        descriptors = [number if each < 0 else each for number, each in given.items()]
        socket.send_fds(_broker(), [json.dumps(job).encode()], [*descriptors, answers])
        os.close(answers)
        self._close_pipe_fds(*files[:6])  # type: ignore[attr-defined]
        self.pid = self._answer()
        self._child_created = True

    def _answer(self) -> int:
        """Return the next number that the broker says: its identity, how it ended, its memory."""
        data = os.read(self._answers, 4)
        return int.from_bytes(data, sys.byteorder) if data else signal.SIGKILL

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if flags & os.WNOHANG and not select.select([self._answers], [], [], 0)[0]:
            return 0, 0
        status = self._answer()
        self.peak = self._answer()
        os.close(self._answers)
        return self.pid, status

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        lock: threading.Lock = self._waitpid_lock  # type: ignore[attr-defined]
        if lock.acquire(blocking=False):  # else another thread waits, and will say
            try:
                ended = self.returncode is None and self._try_wait(os.WNOHANG)
                if ended and ended[0]:
                    self._handle_exitstatus(ended[1])  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode


def start(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start ``python -m trainer``, with the flags that ``processes.start`` adds."""
    return processes.start(*arguments, env=env, cwd=cwd, kind=Fork)


def run(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    limit: float = processes.LIMIT,
) -> tuple[int, str, str]:
    """Run ``python -m trainer`` to its end; return exit code, standard output and error."""
    return processes.finish(start(*arguments, env=env, cwd=cwd), limit)


def running(
    *arguments: str, env: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Start the trainer and see that nothing of it is left at the end."""
    return processes.ending(start(*arguments, env=env))


def lend(program: Path) -> int:
    """Write a program that is this Python, except that its ``-m trainer`` is a fork.

    Returns:
        The file that who starts it must leave open, also for what that starts.
    """
    requests = _broker().fileno()
    ask = f"from tests.support import warm; warm.ask({requests})"
    program.write_text(
        f"""#!/bin/sh
case "$*" in
"-m trainer "* | "-P -m trainer "*) exec {sys.executable} -P -c "{ask}" "$@" ;;
esac
exec {sys.executable} "$@"
"""
    )
    program.chmod(0o755)
    return requests


def ask(requests: int) -> NoReturn:
    """Be the process of a program that ``lend`` has written."""
    borrow(requests)
    code = Fork([sys.executable, *sys.argv[1:]]).wait()
    sys.exit(128 - code if code < 0 else code)


def borrow(requests: int) -> None:
    """Have the trainer start its processes in this one by the broker of another."""
    global _requests
    _requests = socket.socket(fileno=requests)
    vars(process)["subprocess"] = types.SimpleNamespace(Popen=Fork, PIPE=subprocess.PIPE)


def _broker() -> socket.socket:
    """Return where the broker of this process takes requests; of pytest's, start it first."""
    global _requests
    if _requests is None:
        _requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # buffers made for a pipe suit files, too
                stderr=subprocess.PIPE,
                env=processes.environment({"TF_CPP_MIN_LOG_LEVEL": "2", "ROOM": " " * ROOM}),
                pass_fds=[theirs.fileno()],
            )
        atexit.register(_end, server, _requests)
    return _requests


def _end(server: "subprocess.Popen[bytes]", requests: socket.socket) -> None:
    requests.close()
    processes.kill_all(server.pid)
    server.communicate()


def _serve(requests: socket.socket) -> None:
    """Fork for every request until nobody can ask any more; the forks do what was asked for."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # which a whole group may get
    COMMAND.write_text(processes.BROKER)
    running: dict[int, tuple[int, int]] = {}  # process and where to say how it ended, by pidfd
    while True:
        ready, _, _ = select.select([requests.fileno(), *running], [], [])
        for each in running.keys() & set(ready):
            pid, answers = running.pop(each)
            _, status, usage = os.wait4(pid, 0)
            _say(answers, status)
            _say(answers, usage.ru_maxrss)
            os.close(answers)
            os.close(each)
        if requests.fileno() not in ready:
            continue
        data, files, *_ = socket.recv_fds(requests, 1 << 20, 64)
        if not data:
            os._exit(0)
        answers = files.pop()
        pid = os.fork()
        if pid == 0:
            requests.close()
            for descriptor in (answers, *running, *(each for _, each in running.values())):
                os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            COMMAND.write_text("python")
            _do(json.loads(data), files)
        for descriptor in files:
            os.close(descriptor)
        _say(answers, pid)
        running[os.pidfd_open(pid)] = pid, answers


def _say(answers: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(answers, number.to_bytes(4, sys.byteorder))


def _do(job: Job, files: list[int]) -> NoReturn:
    """Do in this process, which has just been forked, what a new one would."""
    _place(files, job["numbers"])
    if job["leads"]:
        os.setsid()
    if job["space"]:
        hosts.enter(job["space"])
    os.chdir(job["folder"])
    _enter(job["environment"], [] if job["safe"] else [job["folder"]])
    # A new process would find them where its path leads, such as in the code of a run.
    for name in [each for each in sys.modules if each.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.argv = ["trainer", *job["arguments"]]
    _have_broker(job["numbers"])
    code: Any = 1
    try:
        from trainer.__main__ import run as main

        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:  # as the interpreter ends, but it would also take apart what others still use
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _place(files: list[int], numbers: list[int]) -> None:
    """Have these files at the numbers where they are looked for."""
    copies = [fcntl.fcntl(each, fcntl.F_DUPFD, HIGH) for each in files]
    for each in files:
        os.close(each)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)


def _enter(environment: Mapping[str, str], first: list[str]) -> None:
    inherited = os.environ["PYTHONPATH"].split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*first, *filter(None, given), *(p for p in PATH if p not in inherited)]
    # For those who read it in /proc, write it where the kernel put that of the first broker.
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[47:49])
    shown = "\0".join(f"{name}={value}" for name, value in environment.items()).encode()
    assert len(shown) < end - start
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def _have_broker(files: list[int]) -> None:
    """Fork the broker of this process, which shall not hold its files open."""
    global _requests
    _requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        _requests.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in files:
            os.dup2(nothing, number)
        _serve(theirs)
    theirs.close()
    borrow(_requests.detach())


if __name__ == "__main__":
    with quick_imports():
        import trainer.cli.train
        import trainer.inference.predict
        import trainer.report.compare_page
        import trainer.report.run_page
        import trainer.train.trainer  # noqa: F401
    _serve(socket.socket(fileno=int(sys.argv[1])))
