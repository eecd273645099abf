"""A child process with a way to tell it to stop, and for it to tell what happened.

Both ways are pipes: TensorFlow takes SIGTERM for itself, but no pipe. The child's standard
input says "stop" when it closes, which it also does when the parent dies, so that no worker
outlives its supervisor. The child writes JSON lines to the pipe named in TRAINYARD_STATUS_FD.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import StoppedError

STATUS_FD = "TRAINYARD_STATUS_FD"


class Child:
    """One ``python -m trainer`` of our own.

    Args:
        arguments: what follows ``python -m trainer``.
        env: variables besides those of this process.
        stderr: file that takes its standard error; None to share ours.
    """

    def __init__(
        self, arguments: list[str], env: Mapping[str, str], stderr: Path | None = None
    ) -> None:
        reading, writing = os.pipe()
        log: BinaryIO | None = stderr.open("wb") if stderr else None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainer", *arguments],
                stdin=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **env, STATUS_FD: str(writing)},
                pass_fds=[writing],
                start_new_session=True,  # Ctrl-C is for the parent, which passes it on
            )
        finally:
            os.close(writing)
            if log:
                log.close()
        self.joined = False
        self.error: str | None = None
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        code = self.process.poll()
        if code is not None:
            self._reader.join(timeout=5)  # its last words are in the pipe
        return code

    def stop(self) -> None:
        """Ask it to stop at the end of its chunk of steps."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                event = json.loads(line)
                self.joined = self.joined or event.get("event") == "joined"
                self.error = event.get("error", self.error)


def tell_parent(**event: Any) -> bool:
    """Write one event to the parent's pipe; return False where nobody listens."""
    if STATUS_FD not in os.environ:
        return False
    try:
        os.write(int(os.environ[STATUS_FD]), (json.dumps(event) + "\n").encode())
    except OSError:  # the parent is gone; then standard error is all there is
        return False
    return True


def stop_event(last_resort: float | None = None) -> threading.Event:
    """Return an event that is set when this process is asked to stop.

    A child listens to its standard input, which TensorFlow leaves alone; others to SIGTERM and
    Ctrl-C. A second signal ends the process at once.

    Args:
        last_resort: end the process, whatever it does, this many seconds after its standard
            input closed: when its parent died there is nobody else to do so.
    """
    event = threading.Event()
    if STATUS_FD in os.environ:
        threading.Thread(target=_wait_for_eof, args=(event, last_resort), daemon=True).start()

    def handler(number: int, frame: object) -> None:
        del frame
        if event.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        event.set()

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    return event


def _wait_for_eof(event: threading.Event, last_resort: float | None) -> None:
    # Not through sys.stdin, whose lock this thread would hold when the interpreter ends.
    while os.read(0, 1):
        pass
    event.set()
    if last_resort is not None:
        time.sleep(last_resort)
        os._exit(StoppedError.exit_code)
