"""A run's folder on a claim, as a Storage that reads."""

import time
from collections.abc import Callable

from trainer.errors import ConfigError, DataError, UnavailableError
from trainer.storage import pack
from trainer.storage.base import Entries, ObjectNotFoundError

LARGEST = 256 << 20  # bytes of an object, of which one answer brings pack.MOST
BATCH = 500  # objects asked for at once; their names are part of a pod
PATIENCE = 600.0  # seconds for an object that is replaced while it comes in several answers


class ClaimFolder:
    """The folder as it was when it was first asked; what has come once is held.

    Args:
        uri: the folder's path in pods.
        ask: returns the folder's listing and the objects wanted, as many as fit.
    """

    def __init__(self, uri: str, ask: Callable[[pack.Wanted], pack.Pack]) -> None:
        self.uri = uri
        self._ask = ask
        self._entries: Entries | None = None
        self._held: dict[str, bytes] = {}
        self._faults: dict[str, str] = {}

    def read(self, name: str) -> bytes:
        """See Storage.read."""
        size = dict(self.list(name)).get(name)
        if size is None:
            raise ObjectNotFoundError(f"no object {self.uri}/{name}; check the name")
        if size > LARGEST:
            raise ConfigError(
                f"{self.uri}/{name}: {size:,} bytes are too many for a pod's log; mount the claim "
                "in a pod of your own to read it"
            )
        if name not in self._held and name not in self._faults:
            self._bring(name)
        if name in self._faults:
            raise DataError(self._faults[name])
        return self._held[name]

    def read_part(self, name: str, start: int, size: int) -> bytes:
        """See Storage.read_part."""
        return self.read(name)[start : start + size]

    def list(self, prefix: str = "") -> Entries:
        """See Storage.list."""
        if self._entries is None:
            found = self._ask([])  # and the small objects, which most readers want
            self._entries = found.entries
            self._keep(found)
        return [entry for entry in self._entries if entry.name.startswith(prefix)]

    def create(self, name: str, data: bytes) -> bool:
        """Refuse: no pod writes for this process."""
        raise ConfigError(
            f"{self.uri}/{name}: {len(data):,} bytes cannot be written: the claim is only read here"
        )

    def replace(self, name: str, data: bytes) -> None:
        """Refuse."""
        self.create(name, data)

    def delete(self, name: str) -> None:
        """Refuse."""
        self.create(name, b"")

    def _bring(self, name: str) -> None:
        """Hold an object, and those that follow it by name as far as they come with it."""
        known = self._held.keys() | self._faults.keys()
        after = [(e.name, 0) for e in self.list() if e.name > name and e.name not in known]
        so_far, digest = b"", ""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = self._ask([(name, len(so_far)), *after[:BATCH]])
            self._keep(found)
            if name in self._faults:
                return
            piece = next((each for each in found.pieces if each.name == name), None)
            if piece is None:
                raise ObjectNotFoundError(f"no object {self.uri}/{name}; it was deleted meanwhile")
            if digest not in ("", piece.sha256):  # replaced between two answers
                so_far, digest = b"", ""
                continue
            so_far, digest = so_far + piece.data, piece.sha256
            if pack.digest(so_far) == digest:
                self._held[name] = so_far
                return
        raise UnavailableError(f"{self.uri}/{name}: changes faster than it is read; try again")

    def _keep(self, found: pack.Pack) -> None:
        self._faults |= found.faults
        for piece in found.pieces:
            if piece.start == 0 and pack.digest(piece.data) == piece.sha256:
                self._held[piece.name] = piece.data
