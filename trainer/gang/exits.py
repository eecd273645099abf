"""How a worker's process ended, and what this process leaves behind for Kubernetes."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.failure import MOST_BYTES, Failure

TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes mounts it, and shows its content


def describe(rank: int, code: int, log: str, out_of_memory: str | None) -> Failure:
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
    if code < 0:
        names = {each.value: each.name for each in signal.Signals}
        message = f"its worker was killed by {names.get(-code, f'signal {-code}')}"
        return Failure(kind="killed", rank=rank, code=1, message=message)
    lines = [line for line in log.splitlines() if line.strip()]
    # What follows the exception's name may continue for lines.
    named = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit)\b", line)]
    last = (named or lines or ["it wrote nothing"])[-1]
    message = f"its worker ended with code {code}: {last}"
    return Failure(kind="crashed", rank=rank, code=1, message=message)


def leave_message(record: Mapping[str, Any], path: Path | None = None) -> None:
    """Write a record as JSON where Kubernetes reads how a container ended."""
    path = path or Path(os.environ.get("TRAINYARD_TERMINATION_LOG", TERMINATION_LOG))
    with contextlib.suppress(OSError):
        if path.exists():
            path.write_bytes(json.dumps(record).encode()[:MOST_BYTES])
