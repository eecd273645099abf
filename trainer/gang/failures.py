"""Why a worker ended: its own words, a signal, or the kernel's memory limit."""

import contextlib
import json
import os
import queue
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.runs import run_folder
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most
from trainer.text import size

TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes mounts it, and shows what is in it
CGROUPS = Path("/sys/fs/cgroup")
LONGEST = 4000  # bytes of a cause: Kubernetes keeps 4,096, and a message of the roll call bounds it


class Memory:
    """The memory of this container, as its control group tells.

    Args:
        folder: where control groups are mounted.
        membership: the file that names this process's group.
    """

    def __init__(
        self, folder: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")
    ) -> None:
        self._folder = _group(folder, membership)

    def kills(self) -> int:
        """Return how many processes the kernel has killed here for lack of memory."""
        for name in ("memory.events", "memory.oom_control"):
            for line in self._read(name).splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0

    def limit(self) -> int | None:
        """Return the limit, bytes, or None where there is none."""
        text = self._read("memory.max") or self._read("memory.limit_in_bytes")
        # Version 1 writes a number near 2**63 for no limit.
        return int(text) if text.isdecimal() and int(text) < 1 << 60 else None

    def peak(self) -> int | None:
        """Return the most that was ever used here, bytes, or None where the kernel does not tell.

        Version 2 counts it since Linux 5.19: https://docs.kernel.org/admin-guide/cgroup-v2.html
        """
        text = self._read("memory.peak") or self._read("memory.max_usage_in_bytes")
        return int(text) if text.isdecimal() else None

    def figures(self) -> str:
        """Return limit and peak for people."""
        limit, peak = self.limit(), self.peak()
        told = "limit of its machine" if limit is None else f"limit {size(limit)}"
        return told if peak is None else f"{told}, peak {size(peak)}"

    def _read(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / name).read_text().strip()
        return ""


def _group(folder: Path, membership: Path) -> Path:
    """Return the folder of the group that counts this process's memory."""
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            version_1 = folder / "memory" / path.strip("/")
            if controllers == "memory" and version_1.is_dir():
                return version_1
            version_2 = folder / path.strip("/")
            if not controllers and (version_2 / "memory.events").exists():
                return version_2
    # A container sees its own group as the root, whatever it is called outside.
    return folder / "memory" if (folder / "memory").is_dir() else folder


def describe(code: int, error: str | None, log: str, out_of_memory: str | None) -> str:
    """Return in one line how a worker ended.

    Args:
        code: its exit code, negative for a signal.
        error: what it said itself.
        log: what it wrote to standard error.
        out_of_memory: the figures of the memory that the kernel killed it for, if it did.
    """
    if error is not None:
        return _cut(error)
    if out_of_memory is not None:
        return (
            f"its worker was killed for lack of memory ({out_of_memory}); "
            "give it more memory or lower batch_size"
        )
    if code < 0:
        names = {each.value: each.name for each in signal.Signals}
        return f"its worker was killed by {names.get(-code, f'signal {-code}')}"
    lines = [line for line in log.splitlines() if line.strip()]
    # What follows the exception's name may go on for lines.
    named = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit)\b", line)]
    last = (named or lines or ["it wrote nothing"])[-1]
    return _cut(f"its worker ended with code {code}: {last}")


def _cut(text: str) -> str:
    """Return the beginning, without what cannot be encoded, such as parts of odd file names."""
    return text.encode(errors="replace")[:LONGEST].decode(errors="ignore")


def leave_message(message: str, path: Path | None = None) -> None:
    """Write how it ended where Kubernetes reads it from."""
    path = path or Path(os.environ.get("TRAINYARD_TERMINATION_LOG", TERMINATION_LOG))
    with contextlib.suppress(OSError):
        if path.exists():
            path.write_bytes(_cut(message).encode())


class Journal:
    """Appends to attempts.jsonl on a thread of its own: a store may take its time.

    Args:
        open_store: returns the run's folder; called on that thread.
        warn: told what could not be written.
    """

    def __init__(self, open_store: Callable[[], Storage], warn: Callable[[str], None]) -> None:
        self._open, self._warn = open_store, warn
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def add(self, attempt: dict[str, Any]) -> None:
        """Append one attempt; its number counts on from those that are there."""
        self._lines.put(attempt)

    def close(self, seconds: float) -> None:
        """Wait until all is written, but not longer than this."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _write(self) -> None:
        storage: Storage | None = None
        while (attempt := self._lines.get()) is not None:
            try:
                if storage is None:
                    opened = self._open()
                    storage, written = opened, _read(opened)
                line = json.dumps({**attempt, "attempt": len(written) + 1})
                storage.replace(
                    run_folder.ATTEMPTS, "".join(f"{each}\n" for each in [*written, line]).encode()
                )
                written.append(line)
            except UserError as error:
                self._warn(f"{run_folder.ATTEMPTS} not written: {error}")


def _read(storage: Storage) -> list[str]:
    try:
        data = read_at_most(storage, run_folder.ATTEMPTS, run_folder.MOST_ATTEMPTS)
        return data.decode(errors="replace").splitlines()
    except ObjectNotFoundError:
        return []
