"""What every rank prints, copied into the run's folder, where it outlives the container.

    logs/rank-0/20261120T140211Z-3fa9.00000.log    rank, UTC time of the start, part
    logs/rank-0/20261120T140211Z-3fa9.00001.log

A part is at most 256 KiB of whole lines, of standard output and standard error together, each line
in the moment it was ended.
"""

import contextlib
import io
import os
import re
import secrets
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from trainer.errors import UserError
from trainer.storage.base import Storage

PART = 256 << 10  # bytes of an object
ROOM = 128  # bytes of it for the line that tells what is missing
UNSENT = 1 << 20  # bytes kept while the store does not take them
EVERY = 5.0  # seconds after which what there is of a part is stored
PATIENCE = 3.0  # seconds that the end of the process may wait for the store
READ = 1 << 20  # bytes; as much as a pipe holds, so that one read empties it

_NAME = re.compile(r"logs/rank-(\d+)/(\d{8}T\d{6}Z-[0-9a-f]{4})\.(\d+)\.log")


def read(storage: Storage, rank: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield (rank, line) of all that was stored, by rank, start and part.

    Args:
        storage: the run's folder.
        rank: the only one to read; None for all.

    Raises:
        UserError: the store does not give them.
    """
    below = "logs/" if rank is None else f"logs/rank-{rank}/"
    found = [name for entry in storage.list(below) if (name := _NAME.fullmatch(entry.name))]
    for name in sorted(found, key=lambda name: (int(name[1]), name[2], int(name[3]))):
        for line in io.BytesIO(storage.read(name[0])):
            yield int(name[1]), line.removesuffix(b"\n").decode(errors="replace")


@dataclass
class Part:
    """Some lines, and what became of them.

    Attributes:
        number: its place in the copy.
        data: whole lines.
        stored: how many bytes of ``data`` are in the store.
        missing: bytes before them that never will be; told in front of them.
    """

    number: int
    data: bytearray = field(default_factory=bytearray)
    stored: int = 0
    missing: int = 0

    @property
    def owed(self) -> int:
        """What would be missing without this part, bytes."""
        return len(self.data) - self.stored + (0 if self.stored else self.missing)


class Copy:
    """The lines that are not stored yet, in parts; every method is safe in any thread.

    Args:
        part: most bytes of a part; a longer line is broken.
        unsent: most bytes kept; beyond them the oldest part goes.
    """

    def __init__(self, part: int = PART, unsent: int = UNSENT) -> None:
        self._full, self._unsent = part - ROOM, unsent
        self._lock = threading.Lock()
        self._begun: dict[int, bytes] = {}  # by stream: a line whose end is still to come
        self._parts = deque([Part(0)])

    def add(self, stream: int, data: bytes) -> bool:
        """Take what came from one of the streams, and return whether it finished a part."""
        with self._lock:
            number = self._parts[-1].number
            *lines, begun = (self._begun.get(stream, b"") + data).split(b"\n")
            *broken, self._begun[stream] = self._pieces(begun)
            for line in lines:
                for piece in self._pieces(line):
                    self._append(piece + b"\n")
            for piece in broken:
                self._append(piece + b"\n")
            return self._parts[-1].number > number

    def end(self) -> None:
        """End the lines that were begun."""
        with self._lock:
            for line in self._begun.values():
                if line:
                    self._append(line + b"\n")
            self._begun.clear()

    def changed(self) -> list[Part]:
        """Return the parts of which something is not stored, oldest first."""
        with self._lock:
            while len(self._parts) > 1 and not self._parts[0].owed:
                self._parts.popleft()
            return [part for part in self._parts if part.owed]

    def content(self, part: Part) -> tuple[int, bytes] | None:
        """Return how much of a part there is, and the object's bytes; None if it was given up."""
        with self._lock:
            if part.number < self._parts[0].number:
                return None
            told = b""
            if part.missing:
                told = b"trainer: %d bytes of output are missing here: " % part.missing
                told += b"the store did not take them in time\n"
            return len(part.data), told + part.data

    def sent(self, part: Part, size: int) -> None:
        """Note that this much of a part is stored."""
        with self._lock:
            before, part.stored = part.owed, size
            if part.number < self._parts[0].number:  # given up while it was under way
                self._parts[0].missing -= before - part.owed

    def _pieces(self, line: bytes) -> list[bytes]:
        step = self._full - 1
        return [line[start : start + step] for start in range(0, len(line) or 1, step)]

    def _append(self, line: bytes) -> None:
        if len(self._parts[-1].data) + len(line) > self._full:
            self._parts.append(Part(self._parts[-1].number + 1))
        self._parts[-1].data += line
        while len(self._parts) > 1 and sum(len(part.data) for part in self._parts) > self._unsent:
            lost = self._parts.popleft()
            self._parts[0].missing += lost.owed


class Shipper:
    """Copies what this process and those it starts write to descriptors 1 and 2, until ``close``.

    Each goes through a pipe, and from there to where it went before and into the copy.

    Args:
        open_store: returns the run's folder; called on a thread of its own.
        rank: whose output it is.
        warn: told once if the copy cannot be stored.
        every: seconds after which what there is of a part is stored; a finished one is at once.
    """

    def __init__(
        self,
        open_store: Callable[[], Storage],
        rank: int,
        warn: Callable[[str], object],
        every: float = EVERY,
    ) -> None:
        self._open, self._warn, self._every = open_store, warn, every
        self._storage: Storage | None = None
        self._warned = False
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._name = f"logs/rank-{rank}/{now}-{secrets.token_hex(2)}"
        self._copy = Copy()
        self._closed = False
        self._wake = threading.Event()
        self._ended, self._end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._real = {stream: os.dup(stream) for stream in (1, 2)}
        self._pumps = [self._divert(stream) for stream in (1, 2)]
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def close(self, seconds: float = PATIENCE) -> None:
        """Restore the descriptors and store what is left, but wait no longer than this for it."""
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, real in self._real.items():
            os.dup2(real, stream)
        os.close(self._end)
        for pump in self._pumps:
            pump.join()  # as long as a write to the real output would have taken
        self._copy.end()
        self._closed = True
        self._wake.set()
        self._sender.join(seconds)

    def _divert(self, stream: int) -> threading.Thread:
        reading, writing = os.pipe()
        os.dup2(writing, stream)
        os.close(writing)
        # One for each stream: nobody may be there to read one of them.
        pump = threading.Thread(target=self._pump, args=(stream, reading), daemon=True)
        pump.start()
        return pump

    def _pump(self, stream: int, reading: int) -> None:
        ended = False
        while not ended:
            ready, _, _ = select.select([reading, self._ended], [], [])
            ended = self._ended in ready
            if reading in ready:
                data = os.read(reading, READ)
                # The copy first: who has read it may make this process write on the other stream.
                if self._copy.add(stream, data):
                    self._wake.set()
                _write(self._real[stream], data)
        os.close(reading)  # what still writes there knows that nobody listens

    def _send(self) -> None:
        ended = False
        while not ended:
            self._wake.wait(self._every)
            self._wake.clear()
            ended = self._closed
            try:
                self._store()
            except UserError as error:
                if not self._warned:
                    self._warned = True
                    self._warn(f"what is printed is not stored now: {error}")

    def _store(self) -> None:
        self._storage = self._storage or self._open()
        for part in self._copy.changed():
            if found := self._copy.content(part):
                size, content = found
                self._storage.replace(f"{self._name}.{part.number:05d}.log", content)
                self._copy.sent(part, size)


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, unless nobody reads it any more."""
    with contextlib.suppress(OSError):
        # Each line by itself: a gang on one machine shares its output, and a short write is whole.
        for line in io.BytesIO(data):
            rest = memoryview(line)
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:
                    select.select([], [descriptor], [])
