"""What a run's model reads on people's own pictures."""

import json
import math
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.cells import cell_len

from trainer import classification
from trainer.common.text import class_name, plural, printable
from trainer.errors import ConfigError, DataError, UserError
from trainer.inference import picture
from trainer.inference.ink import Box
from trainer.runs.trained_weights import Restored
from trainer.train.quick_import import quick_imports

STANDARD_INPUT = "-"
MOST_FILES = 1000  # of a folder
ENDINGS = (".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".svg", ".tif", ".tiff", ".webp")
LARGEST = 200 * 10**6  # bytes of a file
UNSURE = 0.1  # probability from which on the second choice is printed too
BATCH = 256  # images the model is given at once
MOST_VALUES = 1 << 24  # of a batch
LARGE = 1 << 18  # values of an image
SHOWN = 640  # pixels of the longer side of the original beside what the model saw
COLUMNS = 80
LONGEST_NAME = 24  # columns of a class


@dataclass(frozen=True)
class Seen:
    """One picture and what the model is given of it.

    Attributes:
        name: as the user gave it.
        small: upright, scaled down to be shown; the picture itself is not kept.
        size: width and height of the picture itself, pixels.
        digits: images as the model takes them, uint8 [h, w] or [h, w, c], with their boxes.
        notes: what was left out of the picture or is doubtful, a line each.
    """

    name: str
    small: Image.Image
    size: tuple[int, int]
    digits: list[picture.Digit]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What the model reads in one place of a picture.

    Attributes:
        picture: as the user gave it.
        digit: the class with the highest probability.
        probability: of it.
        probabilities: of every class.
        box: left, top, right and bottom in the picture's pixels, the last two outside.
    """

    picture: str
    digit: int
    probability: float
    probabilities: list[float]
    box: Box


def files(names: Sequence[str]) -> tuple[list[str], list[UserError]]:
    """Return names with those of folders replaced by the pictures in them, sorted.

    What has no ending of a picture, begins with a dot or was written by --show is left out.

    Returns:
        The names, and what is wrong with folders.
    """
    found: list[str] = []
    errors: list[UserError] = []
    for name in names:
        try:
            is_folder = name != STANDARD_INPUT and Path(name).is_dir()
            found += _pictures(name) if is_folder else [name]
        except OSError as error:
            errors.append(ConfigError(f"{printable(name)}: {error.strerror}; name a picture"))
        except UserError as error:
            errors.append(error)
    return found, errors


def _pictures(name: str) -> list[str]:
    """Return the pictures in a folder.

    Raises:
        ConfigError: there is none, or there are too many.
        OSError: it cannot be read.
    """
    folder, shown = Path(name), printable(name)
    inside = sorted(path.name for path in folder.iterdir() if not path.is_dir())
    pictures = [str(folder / each) for each in inside if _like_a_picture(each)]
    others = len(inside) - len(pictures)
    if len(pictures) > MOST_FILES:
        raise ConfigError(
            f"{shown}: {len(pictures):,} pictures, above the limit of {MOST_FILES:,}; name some of "
            "them"
        )
    if not pictures:
        raise ConfigError(
            f"{shown}: no picture in it, but {plural(others, 'other file')}; name a folder "
            "with pictures"
        )
    if others:
        left_out = f"left out {plural(others, 'file')} that are no pictures"
        sys.stderr.write(f"trainer: {shown}: {left_out}\n")
    return pictures


def _like_a_picture(name: str) -> bool:
    ending = Path(name).suffix.lower()
    return ending in ENDINGS and not name.startswith(".") and not name.endswith(".seen.png")


def look(
    names: Sequence[str], shape: tuple[int, int, int], prepare: str
) -> tuple[list[Seen], list[UserError]]:
    """Return what pictures hold, prepared for a model, and what is wrong with the others.

    Args:
        names: of files; "-" is standard input.
        shape: height, width and channels of the model's images.
        prepare: "mnist": find digits and make each as MNIST's are; "resize": scale the whole
            picture; "auto": the first for square images of one channel.

    Raises:
        ConfigError: the model's images cannot be prepared so.
    """
    square = shape[0] == shape[1] and shape[2] == 1
    if prepare == "mnist" and not square:
        raise ConfigError(
            f"--prepare mnist: the model takes {'x'.join(map(str, shape))}, but MNIST's images are "
            "square and have one channel; give --prepare resize"
        )
    if names.count(STANDARD_INPUT) > 1:
        raise ConfigError(f"{STANDARD_INPUT}: standard input can be read once; give it once")
    seen: list[Seen] = []
    errors: list[UserError] = []
    for name in names:
        try:
            original = picture.decode(_read(name), printable(name))
            notes: list[str] = []
            if prepare == "resize" or not square:
                whole = (0, 0, *original.size)
                digits = [picture.Digit(picture.resized(original, shape), whole)]
            else:
                digits, notes = picture.digits(original, printable(name), shape[0])
            small = picture.shrunk(original, SHOWN)
            seen.append(Seen(name, small, original.size, digits, tuple(notes)))
        except UserError as error:
            errors.append(error)
    return seen, errors


def check_large(restored: Restored) -> None:
    """Check, where images are so large that preparing them takes long, that the weights fit them.

    Raises:
        ConfigError, DataError: see ``models.check_size``.
    """
    if math.prod(restored.settings.input_shape) > LARGE:
        with quick_imports():
            from trainer.train import models

        models.check_size(restored)


def predict(restored: Restored, seen: Sequence[Seen]) -> list[Prediction]:
    """Return what a run's model reads, picture by picture, digit by digit.

    Raises:
        ConfigError, DataError: the model cannot be built or does not fit its weights.
    """
    with quick_imports():  # of TensorFlow, which mistakes in pictures need not wait for
        from trainer.train import models

    model = models.load(restored)
    shape = restored.settings.input_shape
    images = np.stack([digit.image.reshape(shape) for each in seen for digit in each.digits])
    batch = min(BATCH, max(1, MOST_VALUES // images[0].size))
    logits = np.concatenate(
        [
            np.asarray(model(images[start : start + batch], training=False), np.float32)
            for start in range(0, len(images), batch)
        ]
    )
    boxes = [(each.name, digit.box) for each in seen for digit in each.digits]
    return [
        Prediction(name, int(row.argmax()), float(row.max()), row.tolist(), box)
        for (name, box), row in zip(boxes, classification.probabilities(logits), strict=True)
    ]


def as_text(predictions: Sequence[Prediction], class_names: Sequence[str] = ()) -> str:
    """Return a line for each digit, for people."""

    def called(label: int) -> str:
        return class_name(label, class_names, LONGEST_NAME, cell_len)

    classes = [called(each.digit) for each in predictions]
    wide = max(map(cell_len, classes), default=0)
    names = [_short(printable(each.picture), COLUMNS - 28) for each in predictions]
    width = max(map(len, names), default=0)
    return "".join(
        f"{name:<{width}}  {digit}{' ' * (wide - cell_len(digit))}  {each.probability:>6.1%}"
        f"{_second_choice(each, called)}\n"
        for name, digit, each in zip(names, classes, predictions, strict=True)
    )


def as_json(
    predictions: Sequence[Prediction], class_names: Sequence[str] = (), truth: int | None = None
) -> str:
    """Return a list of objects, for programs.

    ``class_name`` only where classes have names, ``truth`` only where it is known.
    """
    values = [
        {
            **vars(each),
            **({"class_name": class_names[each.digit]} if class_names else {}),
            "box": list(each.box),
            **({} if truth is None else {"truth": truth}),
        }
        for each in predictions
    ]
    return json.dumps(values, indent=2) + "\n"


def _read(name: str) -> bytes:
    """Return a file's bytes.

    Raises:
        ConfigError: it cannot be opened, or is no file, which may never end.
        DataError: it is too large.
    """
    shown = printable(name)
    try:
        if name != STANDARD_INPUT:
            path = Path(name)
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(f"{shown}: no regular file; name a picture, or give it on -")
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
        elif sys.stdin is None:
            raise ConfigError(f"{shown}: standard input is closed; name a picture")
        else:
            data = sys.stdin.buffer.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown}: {reason}; name a picture") from None
    if len(data) > LARGEST:
        raise DataError(f"{shown}: more than {LARGEST // 10**6} MB; give a smaller picture")
    return data


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else "..." + name[3 - width :]


def _second_choice(prediction: Prediction, called: Callable[[int], str]) -> str:
    second = int(np.argsort(prediction.probabilities)[-2])
    probability = prediction.probabilities[second]
    return f"  or {called(second)}  {probability:.1%}" if probability >= UNSURE else ""
