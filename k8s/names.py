"""Names that Kubernetes takes, as types of settings. Pure.

https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
"""

import re
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 63  # characters of a label of a host name, RFC 1123; Kubernetes' limit for both

_VALUE = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"  # of a label
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"


def matching(pattern: str, rule: str, longest: int = 253) -> AfterValidator:
    """Return what checks that a text is not too long and matches; ``rule`` says if it does not."""

    def check(value: str) -> str:
        if len(value) > longest or not re.fullmatch(pattern, value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


_ENDS = "with a letter or digit at both ends"
_NAMED = f"must be at most 253 of a-z, 0-9, - and ., {_ENDS}"

Namespace = Annotated[
    str, matching(_LABEL, f"must be at most {LONGEST} of a-z, 0-9 and -, {_ENDS}", LONGEST)
]
ObjectName = Annotated[str, matching(_SUBDOMAIN, _NAMED)]
KEY = (
    f"must be at most {LONGEST} letters, digits, -, _ and ., {_ENDS}, optionally after a host name "
    "and /"
)
VALUE = f"must be empty or at most {LONGEST} letters, digits, -, _ and ., {_ENDS}"


def is_key(key: str) -> bool:
    """Return whether a label or an annotation may be called so."""
    prefix, _, last = key.rpartition("/")
    named = bool(re.fullmatch(_VALUE, last))
    return named and (not prefix or bool(re.fullmatch(_SUBDOMAIN, prefix)))


def is_value(value: str) -> bool:
    """Return whether a label may have this value."""
    return value == "" or bool(re.fullmatch(_VALUE, value))
