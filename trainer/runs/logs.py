"""Copies what every rank prints into the run's folder, where it outlives the container.

    logs/rank-0/20261120T140211Z-3fa9.00000.log    rank, UTC time of the start, chunk
    logs/rank-0/20261120T140211Z-3fa9.00001.log

A chunk is at most 256 KiB of whole lines, of standard output and standard error together, each line
at the moment it ended.
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

CHUNK = 256 << 10  # bytes of an object
ROOM = 128  # bytes of it for the line that says what is missing
UNSENT = 1 << 20  # bytes kept while the store does not take them
EVERY = 5.0  # seconds after which an unfinished chunk is stored
PATIENCE = 3.0  # seconds that the end of the process may wait for the store
READ = 1 << 20  # bytes; as much as a pipe holds, so that one read empties it

_NAME = re.compile(r"logs/rank-(\d+)/(\d{8}T\d{6}Z-[0-9a-f]{4})\.(\d+)\.log")


def read(storage: Storage, rank: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield (rank, line) of all that is stored, or of one rank's, by rank, start and chunk.

    Raises:
        UserError: the store cannot be read.
    """
    below = "logs/" if rank is None else f"logs/rank-{rank}/"
    found = [name for entry in storage.list(below) if (name := _NAME.fullmatch(entry.name))]
    for name in sorted(found, key=lambda name: (int(name[1]), name[2], int(name[3]))):
        for line in io.BytesIO(storage.read(name[0])):
            yield int(name[1]), line.removesuffix(b"\n").decode(errors="replace")


@dataclass
class LogChunk:
    """Some lines, and how much of them is stored.

    Attributes:
        number: its place in the log.
        data: whole lines.
        stored: how many bytes of ``data`` are in the store.
        missing: bytes before them that never will be; a line in front of them says so.
    """

    number: int
    data: bytearray = field(default_factory=bytearray)
    stored: int = 0
    missing: int = 0

    @property
    def owed(self) -> int:
        """Return the bytes that would be missing without this chunk."""
        return len(self.data) - self.stored + (0 if self.stored else self.missing)


class LogBuffer:
    """Holds the lines that are not stored yet, in chunks; every method is safe in any thread.

    Args:
        chunk: most bytes of a chunk; a longer line is broken.
        unsent: most bytes kept; beyond them the oldest chunk goes.
    """

    def __init__(self, chunk: int = CHUNK, unsent: int = UNSENT) -> None:
        self._full, self._unsent = chunk - ROOM, unsent
        self._lock = threading.Lock()
        self._begun: dict[int, bytes] = {}  # by stream: a line whose end is still to come
        self._chunks = deque([LogChunk(0)])

    def add(self, stream: int, data: bytes) -> bool:
        """Take what came from one of the streams, and return whether it finished a chunk."""
        with self._lock:
            number = self._chunks[-1].number
            *lines, begun = (self._begun.get(stream, b"") + data).split(b"\n")
            *broken, self._begun[stream] = self._pieces(begun)
            for line in lines:
                for piece in self._pieces(line):
                    self._append(piece + b"\n")
            for piece in broken:
                self._append(piece + b"\n")
            return self._chunks[-1].number > number

    def end(self) -> None:
        """End the unfinished lines."""
        with self._lock:
            for line in self._begun.values():
                if line:
                    self._append(line + b"\n")
            self._begun.clear()

    def changed(self) -> list[LogChunk]:
        """Return the chunks that are not wholly stored, oldest first."""
        with self._lock:
            while len(self._chunks) > 1 and not self._chunks[0].owed:
                self._chunks.popleft()
            return [chunk for chunk in self._chunks if chunk.owed]

    def content(self, chunk: LogChunk) -> tuple[int, bytes] | None:
        """Return how much of a chunk there is, and the object's bytes; None if it was dropped."""
        with self._lock:
            if chunk.number < self._chunks[0].number:
                return None
            notice = b""
            if chunk.missing:
                notice = b"trainer: %d bytes of output are missing here: " % chunk.missing
                notice += b"the store did not take them in time\n"
            return len(chunk.data), notice + chunk.data

    def sent(self, chunk: LogChunk, size: int) -> None:
        """Record that this much of a chunk is stored."""
        with self._lock:
            before, chunk.stored = chunk.owed, size
            if chunk.number < self._chunks[0].number:  # dropped during the upload
                self._chunks[0].missing -= before - chunk.owed

    def _pieces(self, line: bytes) -> list[bytes]:
        step = self._full - 1
        return [line[start : start + step] for start in range(0, len(line) or 1, step)]

    def _append(self, line: bytes) -> None:
        if len(self._chunks[-1].data) + len(line) > self._full:
            self._chunks.append(LogChunk(self._chunks[-1].number + 1))
        self._chunks[-1].data += line
        while (
            len(self._chunks) > 1 and sum(len(chunk.data) for chunk in self._chunks) > self._unsent
        ):
            lost = self._chunks.popleft()
            self._chunks[0].missing += lost.owed


class LogShipper:
    """Copies what this process and those it starts write to descriptors 1 and 2, until ``close``.

    Each goes through a pipe, and from there to its original target and into the buffer.

    Args:
        open_store: returns the run's folder; called on a thread of its own.
        rank: whose output it is.
        warn: called once if the lines cannot be stored.
        every: seconds after which an unfinished chunk is stored; a finished one is at once.
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
        self._buffer = LogBuffer()
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
        self._buffer.end()
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
                # The buffer first: who reads the output may make this process write on the other
                # stream.
                if self._buffer.add(stream, data):
                    self._wake.set()
                _write(self._real[stream], data)
        os.close(reading)  # who still writes there gets EPIPE

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
        for chunk in self._buffer.changed():
            if found := self._buffer.content(chunk):
                size, content = found
                self._storage.replace(f"{self._name}.{chunk.number:05d}.log", content)
                self._buffer.sent(chunk, size)


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, unless its reader is gone."""
    with contextlib.suppress(OSError):
        # Each line by itself: a gang on one machine shares its output, and a short write is whole.
        for line in io.BytesIO(data):
            rest = memoryview(line)
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:
                    select.select([], [descriptor], [])
