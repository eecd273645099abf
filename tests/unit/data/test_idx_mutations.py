"""Mutated IDX and gzip files: the array that is in them or DataError, within bounded memory.

TRAINYARD_MUTATION_SEED sets the seed of the series. A failure names the seed and index that make
its input again.
"""

import gzip
import random
import re
import signal
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import numpy as np
import pytest

from tests.support import series
from trainer.data import idx
from trainer.errors import DataError

COUNT = series.length(3000, 100_000)
SEED = series.seed("TRAINYARD_MUTATION_SEED")

CAP = 100_000  # bytes
OVERHEAD = 512 * 1024  # bytes that decode() promises to stay within beside data and array
HANG_SECONDS = 60

REFUSALS = {
    "header ends": "the file ends inside its IDX header",
    "magic": "an IDX file starts with 0x0000",
    "type": "names no IDX type",
    "dimensions": "the number of dimensions, must lie",
    "limit": "above the limit",
    "impossible": "but the file can hold",
    "too short": "but the file holds only",
    "too long": "but the file holds more",
    "torn": "the gzip stream is torn",
    "bad checksum": r"damaged \(incorrect data check\)",
    "bad length": r"damaged \(incorrect length check\)",
    "bad deflate": r"damaged \((invalid |too many length)",
    "bad gzip header": r"damaged \((incorrect header check|unknown .*|header crc mismatch)\)",
    "trailing": "follow the end of the gzip stream",
}
ONLY_GZIP = {name for name, text in REFUSALS.items() if "damaged" in text} | {"torn", "trailing"}

Random = random.Random
Mutation = Callable[[bytes, Random], bytes]


def valid(rng: Random) -> bytes:
    """An IDX file of any type, of 0 to 4,096 elements."""
    dtype = rng.choice(["uint8", "int8", "int16", "int32", "float32", "float64"])
    shape = [rng.choice([0, 1, 2, 3, 5, 8]) for _ in range(rng.randint(1, 4))]
    elements = np.random.default_rng(rng.getrandbits(32)).integers(0, 100, shape)
    return idx.encode(elements.astype(dtype))


def flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def edit_magic(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    if len(changed) >= 4:
        edges = [0, 1, 2, 7, 8, 9, 0x0A, 0x0B, 0x0E, 0x0F, 31, 32, 33, 255]
        changed[rng.randrange(4)] = rng.choice(edges)
    return bytes(changed)


def edit_dimensions(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    edges = [0, 0, 1, 2, 257, CAP - 1, CAP, CAP + 1, 1 << 31, (1 << 31) - 1, (1 << 32) - 1]
    for at in rng.sample([4, 8, 12, 16], rng.choice([1, 1, 2, 4])):
        if len(changed) >= at + 4:
            struct.pack_into(">I", changed, at, rng.choice(edges))
    return bytes(changed)


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def cut_out(data: bytes, rng: Random) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def append(data: bytes, rng: Random) -> bytes:
    member = gzip.compress(rng.choice([b"", data]), mtime=0)
    return data + rng.choice([b"\0", bytes(100), rng.randbytes(9), data, member])


def make_bomb(data: bytes, rng: Random) -> bytes:
    return data + bytes(rng.choice([CAP, 10 * CAP]))


def promise_what_is_there(data: bytes, rng: Random) -> bytes:
    """A single honest dimension, sometimes as large as a bomb."""
    size = rng.choice([len(data), len(data), CAP, CAP + 1, 5 * CAP])
    return struct.pack(">HBBI", 0, 8, 1, size) + data + bytes(max(0, size - len(data)))


INNER = [flip_bits, edit_magic, edit_dimensions, truncate, cut_out, append]
WEIGHTS = [6, 6, 6, 6, 6, 6, 1, 2]


def pack(data: bytes, rng: Random) -> bytes:
    """A gzip file with, or without, the optional fields of its header."""
    packer = zlib.compressobj(rng.choice([0, 1, 6, 9]), zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    flags, fields = rng.choice([(0, b""), (8, b"name\0"), (4, b"\5\0extra"), (16, b"comment\0")])
    head = struct.pack("<HBBIBB", 0x8B1F, 8, flags, rng.getrandbits(32), 0, 255) + fields
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


def make_input(index: int) -> tuple[bytes, bool]:
    """One input, and whether nothing was mutated."""
    rng = Random(f"{SEED}:{index}")
    data = original = valid(rng)
    for _ in range(rng.choice([0, 1, 1, 2])):
        [mutate] = rng.choices([*INNER, make_bomb, promise_what_is_there], WEIGHTS)
        data = mutate(data, rng)
    intact = data == original
    if rng.random() < 0.65:
        data = packed = pack(data, rng)
        for _ in range(rng.choice([0, 0, 1, 2])):
            data = rng.choice([flip_bits, truncate, cut_out, append])(data, rng)
        intact = intact and data == packed
    return data, intact


def content(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(idx.GZIP_MAGIC) else data


@contextmanager
def alarm() -> Iterator[Callable[[], object]]:
    """Gives a function that winds up an alarm clock; a hang becomes a failure when it rings."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"one input takes more than {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(data: bytes, limit: int) -> str:
    """The kind of refusal, or "read" for an array that holds exactly what is in the file."""
    try:
        array = idx.decode(data, "f", limit)
    except DataError as error:
        message = str(error)
        assert "\n" not in message
        kinds = [kind for kind, text in REFUSALS.items() if re.search(text, message)]
        assert len(kinds) == 1, message
        return kinds[0]
    assert idx.encode(array) == content(data)
    return "read"


def test_mutated_files_are_read_or_refused() -> None:
    seen = set()
    with alarm() as wind_up:
        for index in range(COUNT):
            data, intact = make_input(index)
            limit = CAP if index % 2 else idx.MAX_BYTES
            wind_up()
            try:
                kind = outcome(data, limit)
            except Exception as error:
                pytest.fail(f"seed {SEED}, index {index}: {error!r}")
            assert kind == "read" or not intact, f"seed {SEED}, index {index}: refused for {kind}"
            seen.add((kind, data.startswith(idx.GZIP_MAGIC)))
    everything = {(kind, True) for kind in [*REFUSALS, "read"]}
    everything |= {(kind, False) for kind in [*REFUSALS, "read"] if kind not in ONLY_GZIP}
    assert seen >= everything, "the mutations must reach every refusal, in gzip files or not"


@pytest.mark.long
def test_memory_stays_within_the_promise() -> None:
    for index in range(COUNT):
        data, _ = make_input(index)
        limit = CAP if index % 2 else idx.MAX_BYTES
        tracemalloc.start()
        try:
            with suppress(DataError):
                idx.decode(data, "f", limit)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        allowed = 2 * min(limit, 1032 * len(data)) + OVERHEAD
        assert peak <= allowed, f"seed {SEED}, index {index}: {peak} bytes"


@pytest.mark.parametrize("compress", [False, True])
def test_every_truncation_is_refused(compress: bool) -> None:
    data = idx.encode(np.arange(300, dtype=np.int16).reshape(3, 100), compress=compress)
    for size in range(len(data)):
        assert outcome(data[:size], idx.MAX_BYTES) != "read"
