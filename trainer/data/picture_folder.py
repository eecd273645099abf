"""A folder of pictures, in a folder of its own for each class, as a collection."""

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.common.text import one_line, printable
from trainer.data import sampler
from trainer.data.class_labels import named
from trainer.data.collection import Collection, Options, Part, check_room
from trainer.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
TRAIN = ("train", "training")
TEST = ("test", "testing")
VALIDATION = ("val", "valid", "validation", "dev")
# What they hold: Pillow goes by the content, and of other kinds some start programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MOST_PIXELS = 1 << 26  # of one picture
_THREADS = 4
_AT_ONCE = 16  # pictures, which may each have MOST_PIXELS


class Picture(NamedTuple):
    """A picture to be decoded: what messages call it, and where its bytes are."""

    name: str
    file: Path | IO[bytes]


def holds(folder: Path) -> bool:
    """Return whether a folder is of this kind: pictures lie one or two folders below it."""
    return any(
        _pictures(below) or any(map(_pictures, _folders(below))) for below in _folders(folder)
    )


def deeper(folder: Path) -> Path | None:
    """Return the folder further below that has pictures in folders of classes, if there is one."""
    for above, folders, files in os.walk(folder):
        folders.sort(key=lambda name: (name.lower() in (*TEST, *VALIDATION), name))
        if any(map(_is_picture, files)):
            found = Path(above).parent
            is_part = found.name.lower() in (*TRAIN, *TEST, *VALIDATION)
            return found.parent if is_part else found
    return None


def read(folder: Path, options: Options) -> Collection:
    """Read the pictures of FOLDER/CLASS, or of FOLDER/train/CLASS, FOLDER/test/CLASS, ...

    Raises:
        DataError: a class has no picture, one cannot be read, or they differ in size and no size
            is asked for.
    """
    parts, notes = _splits(folder)
    found = [_listed(part) for part in parts.values()]
    paths = [path for part in found for _, path in part]
    images = decode((Picture(str(path), path) for path in paths), options)
    labels, of_labels = named(*([name for name, _ in part] for part in found))
    cuts = np.cumsum([len(part) for part in found])[:-1]
    made = dict(zip(parts, map(Part, np.split(images, cuts), labels), strict=True))
    # They are listed class by class, and the first ones are for validation.
    for name in made.keys() - {TEST if TEST in made else VALIDATION}:
        if len(made) > 1:
            of, drawn = made[name], sampler.permutation(options.seed, 0, len(made[name].labels))
            made[name] = Part(of.images[drawn], of.labels[drawn])
    train, test, validation = made[TRAIN], made.get(TEST), made.get(VALIDATION)
    return Collection(train, test, str(folder), of_labels, notes, validation)


def _splits(folder: Path) -> tuple[dict[tuple[str, ...], Path], tuple[str, ...]]:
    """Return the folders of the parts, that of TRAIN first, and what people should know."""
    below = {path.name.lower(): path for path in _folders(folder)}
    parts: dict[tuple[str, ...], Path] = {
        part: next(below[name] for name in part if name in below)
        for part in (TRAIN, TEST, VALIDATION)
        if below.keys() & set(part)
    }
    if TRAIN in parts and _folders(parts[TRAIN]):
        others = [path.name for path in below.values() if path not in parts.values()]
        note = f"left out the folder {others[0]!r}{', ...' * (len(others) > 1)}" if others else ""
        return parts, (note,) if note else ()
    if len(below) == 1 and not any(map(_pictures, below.values())):  # around the one of classes
        return _splits(*below.values())
    return {TRAIN: folder}, ()


def _listed(folder: Path) -> list[tuple[str, Path]]:
    """Return the pictures of each class, by class and name."""
    listed: list[tuple[str, Path]] = []
    for of_class in _folders(folder):
        files = [Path(path) for path in sorted(_below(of_class))]
        if not files:
            raise DataError(
                f"{printable(str(of_class))}: no picture there ({', '.join(ENDINGS[:3])}, ...); a "
                "folder is a class, so add pictures or take it away"
            )
        listed += [(of_class.name, path) for path in files]
    if not listed:
        raise DataError(f"{folder}: no folder of a class there; give FOLDER/CLASS/PICTURE.png")
    return listed


def decode(pictures: Iterable[Picture], options: Options) -> npt.NDArray[np.uint8]:
    """Return pictures as images, uint8 [n, height, width(, 3)].

    Raises:
        DataError: one cannot be read, they differ in size and no size is asked for, or all take
            more than ``check_room`` allows.
    """
    names: list[str] = []
    images: list[npt.NDArray[np.uint8]] = []
    size, rest = 0, iter(pictures)
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore")  # what Pillow says of sizes and of palettes
        while some := list(itertools.islice(rest, _AT_ONCE)):
            for image in pool.map(lambda picture: _decoded(picture, options), some):
                images.append(image)
                size += image.nbytes
            names += [picture.name for picture in some]
            check_room(size, names[-1])
    return _alike(images, names, options)


def _alike(
    pictures: list[npt.NDArray[np.uint8]], names: list[str], options: Options
) -> npt.NDArray[np.uint8]:
    """Return images of one shape as an array; grey ones among coloured ones become coloured."""
    if options.channels is None and any(each.ndim == 3 for each in pictures):
        pictures = [
            each if each.ndim == 3 else np.repeat(each[..., None], 3, 2) for each in pictures
        ]
    first = pictures[0].shape
    for name, picture in zip(names, pictures, strict=True):
        if picture.shape != first:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (first, picture.shape)]
            raise DataError(
                f"{printable(name)}: is {sizes[1]} pixels and {printable(Path(names[0]).name)} "
                f"{sizes[0]}; all must be alike: give --size N to scale them"
            )
    return np.stack(pictures)


def _decoded(picture: Picture, options: Options) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        with Image.open(picture.file, formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(f"{opened.width}x{opened.height} pixels, above {MOST_PIXELS:,}")
            pixels = ImageOps.exif_transpose(opened)
            if pixels.mode in ("I", "F"):
                raise ValueError("its pixels have 32 bits, not 8 or 16")
            if pixels.mode.startswith("I;16"):
                pixels = Image.fromarray((np.asarray(pixels) >> 8).astype(np.uint8))
            if pixels.has_transparency_data:  # paper is white
                pixels = pixels.convert("RGBA")
                paper = Image.new("RGBA", pixels.size, "white")
                pixels = Image.alpha_composite(paper, pixels)
            grey = options.channels == 1 or (options.channels is None and _is_grey(pixels))
            pixels = pixels.convert("L" if grey else "RGB")
            if options.size is not None:
                size = (options.size, options.size)
                pixels = pixels.resize(size, Image.Resampling.LANCZOS)
            return np.asarray(pixels)
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        reason = one_line(error, 200) or type(error).__name__
        raise DataError(
            f"{printable(picture.name)}: cannot be read as a picture: {reason}; save it again or "
            "take it away"
        ) from None


def _is_grey(picture: object) -> bool:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    if picture.mode in ("1", "L", "LA"):
        return True
    red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")), 2, 0)
    return bool((red == green).all() and (green == blue).all())


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _pictures(folder: Path) -> bool:
    return any(_is_picture(path.name) for path in folder.iterdir())


def _below(folder: Path) -> Iterator[str]:
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(above, name) for name in files if _is_picture(name))  # noqa: PTH118


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")
