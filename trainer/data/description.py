"""``dataset.json``: what a dataset's files do not say, for people and for reports.

It changes no image and no label, so a run's identity does not depend on it.
"""

import json
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from trainer.common.untrusted_json import json_object
from trainer.errors import DataError
from trainer.storage.base import ObjectNotFoundError, Storage, read_at_most

NAME = "dataset.json"
MOST_BYTES = 1 << 20
LONGEST = 100  # characters of a class's name
LONGEST_TEXT = 1000  # of any other text


_UNFIT = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of a character, and ends of a line


@dataclass(frozen=True)
class Description:
    """What is known of a dataset besides its files.

    Attributes:
        class_names: of class 0 on; empty if the classes have no names.
        label_offset: what was taken from the source's labels, so that they start at 0.
        source: where it came from, for people.
        licence: that the source names, or "".
        normalization: what was done to the source's pixels, or "".
    """

    class_names: tuple[str, ...] = ()
    label_offset: int = 0
    source: str = ""
    licence: str = ""
    normalization: str = ""


def encode(description: Description) -> bytes:
    """Return the object's bytes; halves of characters, as of file names, become question marks."""
    text = json.dumps(asdict(description), indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="replace")


def read(storage: Storage) -> Description:
    """Return what a dataset's folder says of it; nothing where there is no such object.

    Raises:
        DataError: the object is damaged.
    """
    try:
        return decode(read_at_most(storage, NAME, MOST_BYTES), f"{storage.uri}/{NAME}")
    except ObjectNotFoundError:
        return Description()


def decode(data: bytes, where: str) -> Description:
    """Return a description from its bytes.

    Raises:
        DataError: they are no such object; ``where`` names it.
    """
    values = json_object(data)
    if values is None:
        raise DataError(f"{where}: damaged: must be a JSON object; delete it or put it again")
    names = values.get("class_names", [])
    if not isinstance(names, list) or (fault := names_fault(names)):
        rule = fault if isinstance(names, list) else "must be a list"
        raise DataError(f"{where}: damaged: class_names: {rule}; correct or delete it")
    offset = values.get("label_offset", 0)
    texts = {name: _text(values.get(name)) for name in ("source", "licence", "normalization")}
    return Description(tuple(names), offset if type(offset) is int else 0, **texts)


def names_fault(names: list[Any]) -> str | None:
    """Return the rule that names of classes break, or None."""
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name.strip()) <= LONGEST:
            return f"{str(name)[:40]!r}: each must be a text of 1 to {LONGEST} characters"
        if any(unicodedata.category(character) in _UNFIT for character in name):
            return f"{name[:40]!r}: holds a control character or a line end"
    twice, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        return f"{twice[:40]!r}: is there twice"
    return None


def _text(value: Any) -> str:
    return value[:LONGEST_TEXT] if isinstance(value, str) else ""
