"""A folder's listing and some of its objects as lines of text, for a reader that has only a log.

    python -m trainer.storage.pack FOLDER '[["result.json", 0]]'

A line is ``MARK`` and base64, the last one ``MARK`` alone; other lines are somebody else's. What
they hold together is compressed: a JSON index on one line, and the objects' bytes in its order.
"""

import base64
import binascii
import hashlib
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trainer.common.command_line import exit_code
from trainer.errors import UnavailableError, UserError
from trainer.storage.base import (
    Entries,
    Entry,
    ObjectNotFoundError,
    Storage,
    name_fault,
    open_storage,
)

MARK = "pack:"
WIDTH = 4096  # characters of base64 a line; container runtimes cut lines of 16 KiB
# Bytes of objects in a pack: as base64 less than the 10 MiB at which a kubelet rotates a log, after
# which only the rest of it is read
# (https://kubernetes.io/docs/concepts/cluster-administration/logging/#log-rotation).
MOST = 6 << 20
MOST_UNPACKED = 64 << 20  # bytes of a pack with its index, which has one entry for each object

Wanted = Sequence[tuple[str, int]]  # names, and the first byte wanted of each


class Piece(NamedTuple):
    """Bytes of an object from ``start`` on, and the digest of all of it."""

    name: str
    start: int
    sha256: str
    data: bytes


@dataclass
class Pack:
    """What a folder held.

    Attributes:
        entries: of all objects.
        pieces: of the objects that were wanted, as many as had room.
        faults: by name, why an object that was wanted cannot be read.
    """

    entries: Entries = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def digest(data: bytes) -> str:
    """Return the digest that a piece has of its whole object."""
    return hashlib.sha256(data).hexdigest()


def pack(storage: Storage, wanted: Wanted, most: int = MOST) -> bytes:
    """Return the folder's listing and up to ``most`` bytes of objects.

    Args:
        storage: the folder.
        wanted: in this order; nothing for all objects, the smallest first.
        most: bytes of objects altogether.
    """
    entries = storage.list()
    by_size = [(entry.name, 0) for entry in sorted(entries, key=lambda entry: entry.size)]
    pieces, faults = [], {}
    for name, start in wanted or by_size:
        if most <= 0:
            break
        try:
            whole = storage.read(name)
        except ObjectNotFoundError:
            continue
        except UserError as error:
            faults[name] = str(error)
            continue
        data = whole[start : start + most]
        most -= len(data)
        pieces.append(Piece(name, start, digest(whole), data))
    index = {
        "entries": entries,
        "pieces": [(*piece[:3], len(piece.data)) for piece in pieces],
        "faults": faults,
    }
    body = b"".join(piece.data for piece in pieces)
    return zlib.compress(json.dumps(index).encode() + b"\n" + body)


def unpack(packed: bytes) -> Pack:
    """Return what a pack holds, whoever made it.

    Raises:
        UnavailableError: it is damaged or too large.
    """
    unzip = zlib.decompressobj()
    try:
        content = unzip.decompress(packed, MOST_UNPACKED)
        if not unzip.eof:
            raise ValueError("cut off, or too large")
        line, _, body = content.partition(b"\n")
        index = json.loads(line)
        found = Pack(faults={str(name): str(why) for name, why in index["faults"].items()})
        for name, size in index["entries"]:
            if isinstance(name, str) and not name_fault(name):
                found.entries.append(Entry(name, int(size)))
        for name, start, sha256, length in index["pieces"]:
            found.pieces.append(Piece(name, start, sha256, body[:length]))
            body = body[length:]
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnavailableError(f"the folder's content came damaged: {error}; ask again") from None
    return found


def as_lines(packed: bytes) -> Iterator[str]:
    """Yield a pack's lines."""
    text = base64.b64encode(packed).decode()
    for start in range(0, len(text), WIDTH):
        yield MARK + text[start : start + WIDTH]
    yield MARK


def from_lines(lines: Iterable[str]) -> Pack:
    """Return the pack whose lines are among these.

    Raises:
        UnavailableError: it is damaged, or not all of it is there.
    """
    ours = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    if not ours or ours[-1]:
        raise UnavailableError("the folder's content came cut off; ask again")
    try:
        return unpack(base64.b64decode("".join(ours), validate=True))
    except binascii.Error as error:
        raise UnavailableError(f"the folder's content came damaged: {error}; ask again") from None


def main() -> None:
    """Print the pack of a folder."""
    _, folder, wanted = sys.argv
    for line in as_lines(pack(open_storage(folder, links=False), json.loads(wanted))):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(exit_code("reader", main))
