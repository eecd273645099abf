"""The key that the members of a gang share: whoever knows it may take part in the rendezvous.

The workers of a local gang inherit it in their environment. In a cluster rank 0's supervisor
stores one in the run's folder, finds it there when it is replaced, and removes it when the run is
finished. No other right and no Secret is needed: the members read that folder anyway.
Whoever else can read it there and reach the gang's ports can take part.
"""

import re
import secrets
from collections.abc import Callable, MutableMapping

from trainer.errors import DataError
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most

VARIABLE = "TRAINYARD_GANG_KEY"
_KEY = re.compile(rb"[0-9a-f]{64}")


def new() -> str:
    """Return a new key, 256 bits in hexadecimal."""
    return secrets.token_hex(32)


class Keyring:
    """A gang's key, as one of its supervisors gets it.

    Args:
        open_store: returns the run's folder.
        name: of the key there.
        env: takes precedence with VARIABLE, which is taken out of it: no child needs it.
    """

    def __init__(
        self, open_store: Callable[[], Storage], name: str, env: MutableMapping[str, str]
    ) -> None:
        self._open, self._name = open_store, name
        inherited = env.pop(VARIABLE, None)
        self._inherited = self._known = inherited.encode() if inherited else None

    def make(self) -> bytes:
        """Return the key that rank 0 is to use; unless it is inherited, the folder has it now.

        Raises:
            UserError: it could not be stored.
        """
        if self._known is None:
            storage, key = self._open(), new().encode()
            if storage.create(self._name, key):
                self._known = key
                return key
            try:  # a predecessor's, which the others have
                return self.read(again=False)
            except DataError:
                storage.replace(self._name, key)
                self._known = key
        return self._known

    def read(self, again: bool) -> bytes:
        """Return the key of the gang; with ``again`` look again where it is known.

        Raises:
            UserError: it is not there yet, damaged, or the store does not answer.
        """
        if self._known is None or (again and not self._inherited):
            storage = self._open()
            try:
                found = read_at_most(storage, self._name, 1024)
            except ObjectNotFoundError:
                raise DataError(
                    f"{storage.uri}/{self._name}: not there; rank 0 writes it as it starts"
                ) from None
            if not _KEY.fullmatch(found):
                raise DataError(f"{storage.uri}/{self._name}: damaged; rank 0 writes it again")
            self._known = found
        return self._known

    def remove(self) -> None:
        """Remove the key from the folder.

        Raises:
            UserError: the store does not do it.
        """
        if not self._inherited:
            self._open().delete(self._name)
