"""Labels of classes and their names, as sources have them, made 0, 1, 2, ... without gaps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.common.text import plural, printable
from trainer.data import description
from trainer.errors import ConfigError, DataError

MOST_CLASSES = 256  # a label is one byte


def read_names(path: str) -> dict[int, str]:
    """Return the names of labels from a file.

    It has a name a line, of label 0 on, or, as EMNIST's mapping files, a label and the number of
    its character (and perhaps another character's) a line.

    Raises:
        ConfigError: it cannot be read, or a line is neither.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(
            f"--classes {path}: {reason}; give a text file of a name a line"
        ) from None
    rows = [line.strip() for line in lines if line.strip()]
    names = dict(enumerate(rows))
    numbers = [row.split() for row in rows]
    if rows and all(len(row) in (2, 3) and all(map(_is_short_number, row)) for row in numbers):
        codes = {int(row[0]): int(row[1]) for row in numbers}
        if all(32 < code < 0x110000 for code in codes.values()):
            names = {label: chr(code) for label, code in codes.items()}
    if not names or len(names) > MOST_CLASSES:
        raise ConfigError(f"--classes {path}: {plural(len(names), 'name')}; give 1 to 256")
    if fault := description.names_fault(list(names.values())):
        raise ConfigError(f"--classes {path}: {printable(fault)}; correct the file")
    return names


def _is_short_number(text: str) -> bool:
    """Return whether ``int`` takes a text: not, for example, a digit in a circle."""
    return text.isdecimal() and len(text) < 10


def as_labels(values: npt.NDArray[np.generic], where: str) -> npt.NDArray[np.int64]:
    """Return integers, [n] or as MedMNIST has them [n, 1], or one-hot rows [n, classes] as labels.

    Raises:
        DataError: they are no integers from 0 to 255, or several a sample; ``where`` names them.
    """
    values = _one_column(values)
    is_number = values.dtype.kind in "biuf"
    if is_number and values.ndim == 2 and _is_one_hot(values):
        values = values.argmax(1)
    if values.ndim != 1 or not is_number:
        kind = f"{'x'.join(map(str, values.shape))} of {values.dtype}"
        hint = ", such as the largest of each row: np.argmax(y, 1)" if values.ndim == 2 else ""
        raise DataError(f"{where}: labels are {kind}; give one whole number or text a sample{hint}")
    with np.errstate(invalid="ignore"):  # of what is not a number
        labels = values.astype(np.int64)
    if len(labels) and (not (labels == values).all() or labels.min() < 0 or labels.max() > 255):
        odd = values[(labels != values) | (labels < 0) | (labels > 255)][0]
        raise DataError(f"{where}: label {odd}: must be a whole number from 0 to 255")
    return labels


def named(*parts: Sequence[str]) -> tuple[list[npt.NDArray[np.int64]], dict[int, str]]:
    """Return labels that are texts as numbers, in the order of the texts, and their names.

    A text has the same number in all parts of a source.
    """
    names = dict(enumerate(sorted(set().union(*parts))))
    numbers = {name: number for number, name in names.items()}
    return [np.array([numbers[each] for each in part], np.int64) for part in parts], names


def of_parts(
    *parts: tuple[npt.NDArray[Any], str],
) -> tuple[list[npt.NDArray[np.int64]], dict[int, str]]:
    """Return the labels of a source's parts, and the names of those that are texts.

    Each part is its labels, as ``as_labels`` takes them or texts, and what messages call them.

    Raises:
        DataError: see ``as_labels``; or some parts have texts, and others numbers.
    """
    columns = [_one_column(labels) for labels, _ in parts]
    are_texts = [
        each.ndim == 1 and len(each) > 0 and all(isinstance(label, str) for label in each)
        for each in columns
    ]
    if not any(are_texts):
        return [as_labels(labels, where) for labels, where in parts], {}
    for (_, where), is_text in zip(parts, are_texts, strict=True):
        if not is_text:
            raise DataError(
                f"{where}: labels are numbers here, and texts in other parts of the data; "
                "give the same kind in all"
            )
    return named(*(each.tolist() for each in columns))


def _is_one_hot(values: npt.NDArray[Any]) -> bool:
    wanted = [0] * (values.shape[1] - 1) + [1]
    return len(wanted) > 1 and bool((np.sort(values, 1) == wanted).all())


def _one_column(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def offset(labels: npt.NDArray[np.int64], names: dict[int, str], where: str) -> int:
    """Return the smallest label.

    Raises:
        DataError: there is one class only, or a label in between has no image, and no names say
            that it is a class nevertheless.
    """
    there = np.unique(labels)
    least, most = int(there[0]), int(there[-1])
    if len(there) < 2:
        only = printable(str(names.get(least, least)))
        raise DataError(f"{where}: every training label is {only}; a classifier needs two classes")
    if len(there) > MOST_CLASSES:
        raise DataError(f"{where}: {len(there)} classes; give at most {MOST_CLASSES}")
    if set(range(least, most + 1)) <= names.keys():
        return 0 if 0 in names else least
    if least > 1 or len(there) < most - least + 1:
        absent = sorted(set(range(most + 1)) - set(there.tolist()))
        counts = {int(label): int((labels == label).sum()) for label in (there[0], there[-1])}
        shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
        raise DataError(
            f"{where}: labels {least} ({plural(counts[least], 'image')}) to {most} "
            f"({plural(counts[most], 'image')}), but no image has label {shown}; they must start "
            "at 0 or 1 and have no gaps: correct them, or name all classes with --classes"
        )
    return least


def in_order(names: dict[int, str], least: int, classes: int, where: str) -> tuple[str, ...]:
    """Return the names of classes in the order of their labels, of which ``least`` is the first.

    Without names these are the labels themselves, where they do not start at 0.

    Raises:
        ConfigError: there are names for fewer or more classes than there are.
    """
    if not names:
        return tuple(str(least + label) for label in range(classes)) if least else ()
    wanted = range(least, least + max(classes, len(names)))
    missing = [label for label in wanted if label not in names]
    if missing:
        raise ConfigError(
            f"{where}: {plural(len(names), 'name')} for {classes} classes, none for label "
            f"{missing[0]}; give a name for each"
        )
    if len(names) > classes and max(names) - least >= classes:
        extra = [names[label] for label in wanted[classes:]]
        raise ConfigError(
            f"{where}: {plural(len(names), 'name')} for {classes} classes; {extra[0]!r} has no "
            "image; leave it out"
        )
    return tuple(names[label] for label in wanted)
