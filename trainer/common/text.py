"""Text for people, whatever it was made of."""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat

if TYPE_CHECKING:
    from pydantic import ValidationError

JOINERS = "\u200c\u200d"  # Persian, Hindi and emoji of several people are spelt with them


CALLED = "TRAINYARD_CALLED"  # variable with the name of the installed command, if it was called


def called(program: str) -> str:
    """Return how people call ``trainer`` or ``k8s`` here, for commands that they copy."""
    name = os.environ.get(CALLED)
    if not name:
        return f"python -m {program}"
    return name if program == "k8s" else "trainyard"


def printable(text: str) -> str:
    """Return one line that a terminal shows and does not obey.

    Run folders, peers, pods and pictures name things as they like. Escape sequences, line ends and
    marks that turn the direction of writing become U+FFFD each; a tab becomes a space.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in JOINERS else " " if c == "\t" else "\ufffd" for c in text
    )


def one_line(words: object, most: int = 2000) -> str:
    """Return an error or a text as one printable line, short enough for a pipe to take it whole."""
    return printable(" ".join(str(words).split())[:most])


def shortened(text: str, most: float, width: Callable[[str], float] = len) -> str:
    """Return a text as one printable line that is at most so wide; an ellipsis ends what is cut."""
    line = printable(text)
    if width(line) <= most:
        return line
    cuts = (f"{line[:end].rstrip()}…" for end in range(len(line) - 1, 0, -1))
    return next((cut for cut in cuts if width(cut) <= most), "…")


def class_name(
    label: int, names: Sequence[str], most: float = 24, width: Callable[[str], float] = len
) -> str:
    """Return what people call a class: its name, shortened, or its number where it has none."""
    return shortened(names[label], most, width) if label < len(names) else str(label)


def class_label(
    label: int, names: Sequence[str], most: float = 24, width: Callable[[str], float] = len
) -> str:
    """Return a class in a list of all: its number and, where that says more, its name."""
    if label >= len(names) or names[label] == str(label):
        return str(label)
    return shortened(f"{label} {names[label]}", most, width)


def plural(count: int, noun: str) -> str:
    """Return a number of things: ``1 step``, ``2,000 steps``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ranks(numbers: Sequence[int], most: int = 8) -> str:
    """Return ranks in words: ``rank 1``, ``ranks 1, 3``, ``ranks 0, 1 and 9 more``."""
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    noun = "rank" if len(numbers) == 1 else "ranks"
    return f"{noun} {', '.join(map(str, numbers[:most]))}{more}"


def duration(seconds: float) -> str:
    """Return a time span as kubectl writes ages: 45s, 3m12s, 2h5m, 3d4h."""
    whole = max(0, round(seconds))
    for unit, size, next_unit, next_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size}{unit}" + (f"{rest}{next_unit}" if rest else "")
    return f"{whole}s"


def size(count: SupportsFloat) -> str:
    """Return a number of bytes: ``512 MiB``, ``1.5 GiB``."""
    amount = float(count)
    unit, factor = ("GiB", 2**30) if abs(amount) >= 2**30 else ("MiB", 2**20)
    return f"{amount / factor:,.1f}".removesuffix(".0") + f" {unit}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the clause ``; did you mean X?`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


class Problem(NamedTuple):
    """The first thing that is wrong with a value.

    Attributes:
        kind: pydantic's name for it, such as ``missing``.
        path: names and places from the outermost mapping to the value.
        value: the value.
        rule: what it breaks, in words.
    """

    kind: str
    path: list[str]
    value: Any
    rule: str


def first_problem(error: "ValidationError") -> Problem:
    """Return the first problem of a pydantic error."""
    problem = error.errors(include_url=False)[0]
    rule = problem["msg"].removeprefix("Value error, ")
    rule = re.sub(r"^\w+ should ", "must ", rule)  # "Input should", "String should", ...
    rule = rule.partition(", unable to parse")[0]  # which says the same again
    rule = rule.replace("a valid dictionary", "a mapping")
    path = [str(part) for part in problem["loc"]]
    if path[-1:] == ["[key]"]:  # pydantic's word for the name before it
        path, rule = path[:-1], "must be text; put it in quotes"
    return Problem(problem["type"], path, problem["input"], rule)
