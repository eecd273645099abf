"""The key that the members of a gang share: who knows it may take part in the roll call.

The workers of a local gang inherit it in their environment. In a cluster rank 0's supervisor
makes a new one each time that it starts, and stores it in the run's folder: whoever may read and
write there decides the run's weights anyhow, so that no other right and no Secret is needed. It
is removed at the end.
"""

import re
import secrets
from collections.abc import Callable

from trainer.errors import DataError
from trainer.storage import Storage

VARIABLE = "TRAINYARD_GANG_KEY"
NAME = "gang.key"
_KEY = re.compile(rb"[0-9a-f]{64}")


def new() -> str:
    """Return a new key, 256 bits in hexadecimal."""
    return secrets.token_hex(32)


class Keyring:
    """A gang's key, as one of its supervisors gets it.

    Args:
        open_store: returns the run's folder.
        inherited: the key that the environment gives, if it does.
    """

    def __init__(self, open_store: Callable[[], Storage], inherited: str | None) -> None:
        self._open = open_store
        self._inherited = self._known = inherited.encode() if inherited else None
        self._stored = False

    def make(self) -> bytes:
        """Return the key that rank 0 is to use, in the run's folder from now on.

        Raises:
            UserError: it could not be stored.
        """
        if self._inherited:
            return self._inherited
        key = new().encode()
        self._open().replace(NAME, key)
        self._stored = True
        return key

    def read(self, again: bool) -> bytes:
        """Return the key of rank 0.

        Args:
            again: whether to look again where it is known: rank 0 may have been replaced.

        Raises:
            UserError: it is not there yet, damaged, or the store does not answer.
        """
        if self._known is None or (again and not self._inherited):
            storage = self._open()
            found = storage.read(NAME)
            if not _KEY.fullmatch(found):
                raise DataError(f"{storage.uri}/{NAME}: damaged: rank 0 writes it as it starts")
            self._known = found
        return self._known

    def remove(self) -> None:
        """Remove what ``make`` stored.

        Raises:
            UserError: the store does not do it.
        """
        if self._stored:
            self._open().delete(NAME)
