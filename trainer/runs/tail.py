"""Follows an object that grows by lines, such as a run's metrics, and reads only what is new."""

from trainer.storage.base import Storage

PIECE = 4 << 20  # bytes read at once, whatever the object's size
_SEEN = 256  # bytes before the place, which say whether the object is still the same


class GrowingLines:
    """A place in an object of lines, that moves to its end.

    Args:
        storage: where it is.
        name: of the object.
        piece: bytes to read at once; a longer line is passed over.
    """

    def __init__(self, storage: Storage, name: str, piece: int = PIECE) -> None:
        self._storage, self._name, self._piece = storage, name, piece
        self._at, self._before, self._size = 0, b"", -1

    def read(self, size: int) -> tuple[bool, list[bytes]]:
        """Return whether the lines so far are void, and the next ones, none at the end.

        They are void where the object no longer continues them: it was replaced by one that begins
        otherwise, as when steps are done again. The next lines are then its first. It has ``size``
        bytes at present.

        Raises:
            UserError: it cannot be read.
        """
        if size == self._size:
            return False, []
        start = self._at - len(self._before)
        data = b""
        if start < size:
            data = self._storage.read_part(self._name, start, len(self._before) + self._piece)
        if not data.startswith(self._before):
            self._at, self._before = 0, b""
            return True, self.read(size)[1]
        data = data[len(self._before) :]
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) == self._piece:
            whole = len(data)  # of a line that nobody writes
        self._at += whole
        self._before = (self._before + data[:whole])[-_SEEN:]
        if self._at >= size or not whole:
            self._size = size
        return False, data[:whole].splitlines()
