"""Serves runs from their store with TensorBoard, which is a program of its own and reads files.

    store: RUN/events/train/events.out.tfevents.00000500, ...00001000    parts
    here:  FOLDER/RUN/train/events.out.tfevents.00000000                 the parts, joined

One growing file a folder is what TensorBoard follows best: it holds every file open for good.
"""

import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainer.common import sockets
from trainer.common.text import one_line
from trainer.errors import ConfigError, DataError, UnavailableError, UserError
from trainer.runs import run_folder, tensorboard_writer
from trainer.storage.base import Entry, ObjectNotFoundError, Storage, read_at_most

EVERY = 2.0  # seconds between two looks at the store, and of TensorBoard at its files
MOST_BYTES = 1 << 26  # of a part: of a few steps, or a model's graph
_STARTING = 120.0  # seconds that TensorBoard may take until it answers
# TensorBoard imports TensorFlow if it finds it, to read files that lie elsewhere: ten times the
# time and memory of a start, for nothing. A module of this name is its own sign to do without.
# It ends with its standard input, and so with us, however we end.
_PROGRAM = """
import os, sys, threading, types
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
from tensorboard.main import run_main
run_main()
"""
_SHOWN = 5  # names of runs in the line that says what is served


class Key(NamedTuple):
    """One folder of TensorBoard: a run as it is named there, and train, validation, test or ""."""

    run: str
    kind: str


@dataclass
class Joined:
    """Which of a key's parts have been joined, and the number of the file they are in."""

    parts: list[Entry]
    file: int = 0


class Mirror:
    """A folder of event files that follows what the runs below a URI write.

    Args:
        storage: a run's folder, or one that holds runs at any depth.
        folder: to keep the files in, empty.
        warn: called for parts that are left out because they are damaged.
    """

    def __init__(self, storage: Storage, folder: Path, warn: Callable[[str], object]) -> None:
        self._storage = storage
        self._warn = warn
        self._folder = folder
        last = storage.uri.rstrip("/").rpartition("/")[2]
        self._name = last if last not in ("", ".", "..") else "run"
        self._joined: dict[Key, Joined] = {}

    def refresh(self) -> list[str]:
        """Bring the files up to date, and return the names of all runs.

        Raises:
            UserError: the store cannot be read.
        """
        found: dict[Key, list[Entry]] = {}
        for entry in self._storage.list():
            if part := tensorboard_writer.parse(entry.name):
                found.setdefault(Key(part.run or self._name, part.kind), []).append(entry)
        for key in self._joined.keys() - found.keys():
            self._forget(key)
        for key, parts in found.items():
            with contextlib.suppress(ObjectNotFoundError):  # gone since: looked at again soon
                self._follow(key, parts)
        return sorted({key.run for key in found})

    def _forget(self, key: Key) -> None:
        """Remove a folder's files, and the folder unless others lie in it."""
        del self._joined[key]
        folder = self._folder / key.run / key.kind
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        with contextlib.suppress(OSError):
            os.removedirs(folder)

    def _follow(self, key: Key, parts: list[Entry]) -> None:
        """Append new parts; start another file where one that was joined is no longer there.

        TensorBoard reads it after the file before, which must stay, and lets its points take the
        place of those of the same and later steps.
        """
        before = self._joined.get(key, Joined([]))
        fresh = [part for part in parts if part not in before.parts]
        if not fresh and len(parts) == len(before.parts):
            return
        if set(before.parts) <= set(parts):
            after = Joined(before.parts + fresh, before.file)
        else:
            fresh, after = parts, Joined(parts, before.file + 1)
        folder = self._folder / key.run / key.kind
        path = folder / f"events.out.tfevents.{after.file:08d}"
        length = path.stat().st_size if path.exists() else 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                for part in fresh:
                    file.write(self._read(part))
        except (OSError, UserError) as error:
            with contextlib.suppress(OSError):
                os.truncate(path, length)  # or the next try would double what fitted
            if isinstance(error, UserError):
                raise
            raise UnavailableError(
                f"cannot write {folder}: {error.strerror}; free some space, or set TMPDIR"
            ) from None
        self._joined[key] = after

    def _read(self, part: Entry) -> bytes:
        """Return a part's bytes; none of one that is too large, or lies elsewhere."""
        try:
            return read_at_most(self._storage, part.name, MOST_BYTES)
        except ObjectNotFoundError:
            raise
        except DataError as error:
            self._warn(f"left out: {error}")
            return b""


def serve(
    uri: str,
    host: str,
    port: int,
    stop: threading.Event,
    say: Callable[[str], object],
    warn: Callable[[str], object],
) -> None:
    """Serve the runs at or below a URI until ``stop`` is set.

    Raises:
        ConfigError: there is no TensorBoard here, no run there, or the port cannot be had.
        UnavailableError: the store cannot be read, or TensorBoard does not start.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("tensorboard: the package is not installed; pip install tensorboard")
    _check_free(host, port)
    storage = run_folder.open_folder(uri)
    with tempfile.TemporaryDirectory(prefix="trainyard-tensorboard-") as name:
        folder = Path(name)
        mirror = Mirror(storage, folder / "runs", warn)
        runs = mirror.refresh()
        if not runs:
            raise ConfigError(
                f"run: {storage.uri}: no run with event files at or below it; give the folder of a "
                "run (it has some from its first checkpoint on, unless tensorboard is off)"
            )
        with _program(folder, host, port) as (child, log):
            _wait_until_it_answers(child, log, host, port, stop)
            names = ", ".join(runs[:_SHOWN]) + (", ..." if len(runs) > _SHOWN else "")
            say(f"{len(runs)} run{'s' * (len(runs) > 1)} of {storage.uri}: {names}")
            say(f"TensorBoard is at http://{sockets.endpoint(host, port)}/ (Ctrl-C ends it)")
            _keep_up(mirror, child, log, stop, warn)


def _keep_up(
    mirror: Mirror,
    child: "subprocess.Popen[bytes]",
    log: Path,
    stop: threading.Event,
    warn: Callable[[str], object],
) -> None:
    reported = ""
    while not stop.wait(EVERY):
        if child.poll() is not None:
            raise _ended(child, log)
        try:
            mirror.refresh()
            reported = ""
        except UserError as error:
            if one_line(error) != reported:
                reported = one_line(error)
                warn(reported)


def _check_free(host: str, port: int) -> None:
    remedy = "give another --port or --host"
    if not 0 < port < 65536:
        raise ConfigError(f"port: {port}: must be from 1 to 65535; {remedy}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do it: one that has just ended leaves the port in use for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise ConfigError(f"port: {port}: cannot be had on {host!r}: {reason}; {remedy}") from None


@contextlib.contextmanager
def _program(
    folder: Path, host: str, port: int
) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Run TensorBoard on ``folder``/runs; yield it, and what takes its output."""
    log = folder / "log"
    arguments = [
        *("--logdir", str(folder / "runs"), "--host", host, "--port", str(port)),
        *("--reload_interval", str(round(EVERY)), "--window_title", "Trainyard"),
    ]
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env={**os.environ, "TMPDIR": str(folder)},  # where it would leave things
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
    try:
        yield child, log
    finally:
        child.kill()  # it keeps nothing; what it started ends with it
        child.communicate()


def _wait_until_it_answers(
    child: "subprocess.Popen[bytes]", log: Path, host: str, port: int, stop: threading.Event
) -> None:
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
    waited = 0.0
    while waited < _STARTING and not stop.is_set():
        if child.poll() is not None:
            raise _ended(child, log)
        try:
            socket.create_connection((everywhere.get(host, host), port), 1).close()
        except OSError:
            stop.wait(0.1)
            waited += 0.1
        else:
            return
    if not stop.is_set():
        raise UnavailableError(f"TensorBoard does not answer on {host}:{port}; try again")


def _ended(child: "subprocess.Popen[bytes]", log: Path) -> UserError:
    lines = re.sub(r"\x1b\[[\d;]*m", "", log.read_text(errors="replace")).strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    return UnavailableError(f"TensorBoard ended with code {child.returncode}: {last}")
