"""Writes the report of a finished run in a process of its own, which cannot fail the run."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from trainer import worker_events
from trainer.errors import UserError
from trainer.gang import process
from trainer.progress import Reporter
from trainer.runs import run_folder
from trainer.storage.base import open_storage

LIMIT = 60.0  # seconds for the report: it takes about two where the store is near
TICK = 0.05  # seconds between two checks


def write_report(run_uri: str, reporter: Reporter, stop: threading.Event) -> None:
    """Write the report of a finished run unless it is there, and log where it is or why not.

    Args:
        run_uri: of the run's folder.
        reporter: prints the outcome.
        stop: set when this process shall end; then there is no report.
    """
    remedy = f"python -m trainer report --run {run_uri} makes it"
    try:
        storage = open_storage(run_uri)
        there = any(entry.name == run_folder.REPORT for entry in storage.list(run_folder.REPORT))
        trouble = None if there else _make(run_uri, stop)
    except (UserError, OSError) as error:
        trouble = str(error)
    if stop.is_set():
        return
    if trouble is None:
        reporter.say(
            f"report in {run_uri}/{run_folder.REPORT}", report=f"{run_uri}/{run_folder.REPORT}"
        )
    else:
        reporter.warn(f"no report: {trouble}; {remedy}")


def _make(run_uri: str, stop: threading.Event) -> str | None:
    """Run ``trainer report`` and return why there is none, if so."""
    env = {**os.environ, **process.trainer_environment()}
    env.pop(worker_events.STATUS_FD, None)
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                process.trainer_command("report", "--run", run_uri),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                start_new_session=True,  # Ctrl-C is for us
            )
        until = time.monotonic() + LIMIT
        try:
            while child.poll() is None and time.monotonic() < until and not stop.wait(TICK):
                pass
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if child.returncode == 0:
            return None
        said = log.read_text(errors="replace").strip().splitlines()
    if time.monotonic() >= until:
        return f"it was not done within {LIMIT:g} s"
    how = f"killed by signal {-child.returncode}" if child.returncode < 0 else "failed"
    return (said[-1] if said else how).removeprefix("trainer: ")
