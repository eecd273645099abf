"""Whether a store keeps what ``create`` promises, and what this identity may do in it.

Some servers take no notice of the condition under which a write must fail, or only for uploads that
a client sends in parts. Two workers could then each believe that their checkpoint is the one.
"""

import contextlib
import re
import uuid

from trainer.errors import ConfigError, UserError
from trainer.storage.base import Storage

PREFIX = "probe-"  # of the names that are tried

_SMALL = 100  # bytes
_LARGE = (8 << 20) + 1  # bytes; Cloud Storage's client sends more than 8 MiB in parts
# The services themselves document their conditional writes; other servers are asked.
_KNOWN = re.compile(r"https://[^/]*\.(googleapis\.com|amazonaws\.com(\.cn)?|windows\.net)")


def check_at_start(storage: Storage) -> None:
    """Refuse a store that must not have a run, before its first step.

    Amazon's, Google's and Microsoft's own services are not asked: a run would start later.

    Raises:
        UserError: see ``check``.
    """
    endpoint = getattr(storage, "endpoint", None)
    if endpoint is None:
        check(storage, large=False)
    elif not _KNOWN.match(endpoint):
        check(storage)


def check(storage: Storage, *, large: bool = True) -> None:
    """Write as a run does, and leave nothing.

    Args:
        storage: the folder of a run.
        large: whether to write twice 8 MiB, too.

    Raises:
        ConfigError: a second ``create`` replaced the first, other bytes come back, a list leaves
            out what is there, or this identity may not create, list, read, replace or delete.
        UnavailableError: the store was not reached.
    """
    _check_create(storage, _SMALL)
    if large:
        _check_create(storage, _LARGE)


def _check_create(storage: Storage, size: int) -> None:
    name = f"{PREFIX}{uuid.uuid4().hex[:8]}"
    try:
        storage.create(name, bytes(size))
        if size == _SMALL:
            _check_rest(storage, name)
        if storage.create(name, b"2" * size):
            raise ConfigError(f"{_where(storage)}: {_fault(size)}; {_REMEDY}")
    except UserError:
        with contextlib.suppress(UserError):
            storage.delete(name)
        raise
    storage.delete(name)


def _check_rest(storage: Storage, name: str) -> None:
    if storage.read(name) != bytes(_SMALL):
        raise ConfigError(
            f"{_where(storage)}: gives other bytes than were written; check the endpoint, and what "
            "stands before the store"
        )
    if name not in (entry.name for entry in storage.list(name)):
        raise ConfigError(
            f"{_where(storage)}: does not list what was just written; choose a store whose lists "
            "are up to date"
        )
    storage.replace(name, b"1")


_REMEDY = (
    "workers that race would lose checkpoints; choose a store with conditional writes "
    "(docs/storage.md)"
)


def _fault(size: int) -> str:
    of = "" if size == _SMALL else " of more than 8 MiB"
    return f"takes a second write{of} for a name that must be written only once"


def _where(storage: Storage) -> str:
    endpoint = getattr(storage, "endpoint", None)
    return f"{storage.uri} at {endpoint}" if endpoint else storage.uri
