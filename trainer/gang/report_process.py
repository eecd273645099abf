"""Writes the report of a finished run in a process of its own, which cannot fail the run."""

import shlex
import threading
import time

from trainer.common.text import called
from trainer.errors import UserError
from trainer.failure import parse
from trainer.gang import process
from trainer.progress import Reporter
from trainer.runs import run_folder
from trainer.storage.base import open_storage

LIMIT = 60.0  # seconds for the report: it takes about two where the store is near


def write_report(run_uri: str, reporter: Reporter, stop: threading.Event) -> None:
    """Write the report of a finished run unless it is there, and log where it is or why not.

    With ``stop`` set, neither is done.
    """
    remedy = f"{called('trainer')} report --run {shlex.quote(run_uri)} makes it"
    try:
        there = run_folder.has(open_storage(run_uri), run_folder.REPORT)
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
    began = time.monotonic()
    code, record, said = process.run_child(["report", "--run", run_uri], stop, 0.0, LIMIT)
    if code == 0:
        return None
    if found := parse(record):
        return found.sentence(1)
    if time.monotonic() - began > LIMIT:
        return f"it was not done within {LIMIT:g} s"
    return said[-1] if said else (f"killed by signal {-code}" if code < 0 else "failed")
