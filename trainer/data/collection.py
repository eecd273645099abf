"""Labelled images as people have them, made into the four files of a dataset.

``pictures``, ``tables`` and ``idx_names`` each read one kind of source as a Collection; ``finish``
makes four IDX files of it, and a description.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trainer.common.text import one_line, plural, printable
from trainer.data import class_labels, description, idx, split
from trainer.data.description import Description
from trainer.errors import DataError


@dataclass(frozen=True)
class Part:
    """Images uint8 [n, height, width] or [n, height, width, channels], and their labels.

    Labels are integers [n], as the source has them.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Collection:
    """What a source holds.

    Attributes:
        train: images to train on.
        test: images to test on; None if the source does not set any apart.
        where: the source, for messages.
        names: of the labels that have one.
        notes: what people should know of how it was read.
        validation: images for validation; None if the source does not set any apart.
    """

    train: Part
    test: Part | None
    where: str
    names: dict[int, str]
    notes: tuple[str, ...] = ()
    validation: Part | None = None


@dataclass(frozen=True)
class Options:
    """How to make a dataset of a collection.

    Attributes:
        size: height and width that every image is scaled to, pixels; None to keep them.
        channels: 1 for grey, 3 for colour; None to keep what the images have.
        transpose: whether rows and columns are exchanged in the source.
        test_share: share of the images that become test images, if the source sets none apart.
        classes: file with the classes' names; see ``class_labels.read_names``.
        licence: of the data, for its description.
        seed: which images become test images.
    """

    size: int | None = None
    channels: int | None = None
    transpose: bool = False
    test_share: float = split.TEST_SHARE
    classes: str | None = None
    licence: str = ""
    seed: int = 0


AS_IT_IS = Options()


def finish(collection: Collection, options: Options) -> tuple[list[bytes], Description, list[str]]:
    """Return the four IDX files, the description, and what people should know.

    Raises:
        ConfigError: the names of the classes do not fit.
        DataError: a label has no image between others that have, or there are too few images.
    """
    notes = list(collection.notes)
    train, test = _parts(collection, options, notes)
    names = collection.names
    if options.classes is not None:
        names = class_labels.read_names(options.classes)
        if min(names) == 0 and train.labels.min() == 1 and len(names) == train.labels.max():
            names = {label + 1: name for label, name in names.items()}
    elif fault := description.names_fault(list(names.values())):
        raise DataError(
            f"{collection.where}: class names: {printable(fault)}; rename it, or give --classes"
        )
    elif unused := [name for label, name in names.items() if label > train.labels.max()]:
        names = {label: name for label, name in names.items() if name not in unused}
        notes.append(f"left out {unused[0]!r}{', ...' * (len(unused) > 1)}: it has no image")
    offset = class_labels.offset(train.labels, names, collection.where)
    if offset:
        notes.append(f"labels {offset} and up became 0 and up")
    _check_test(train, test, collection)
    if train.images.min() == train.images.max():
        notes.append(f"every pixel is {train.images.min()}: look at the pictures again")
    named = class_labels.in_order(
        names, offset, int(train.labels.max()) - offset + 1, collection.where
    )
    about = Description(
        class_names=named,
        label_offset=offset,
        source=one_line(collection.where, description.LONGEST_TEXT),
        licence=options.licence,
    )
    files = []
    for part in (train, test):
        images = part.images.swapaxes(1, 2) if options.transpose else part.images
        if images.ndim == 4 and images.shape[-1] == 1:
            images = images[..., 0]
        labels = (part.labels - offset).astype(np.uint8)
        files += [
            idx.encode(np.ascontiguousarray(each), compress=True) for each in (images, labels)
        ]
    return files, about, notes


def white(values: npt.NDArray[np.generic]) -> int:
    """Return which value is white in images: 1 if none is larger, else 255."""
    return 1 if values.size and values.dtype.kind in "biuf" and 0 < values.max() <= 1 else 255


def as_pixels(
    values: npt.NDArray[np.generic], where: str, white: int = 255
) -> npt.NDArray[np.uint8]:
    """Return images, [n, height, width] or with channels, as bytes.

    ``white`` is the value of white in all parts of the source, see there.

    Raises:
        DataError: another shape, or values that are no brightness; ``where`` names them.
    """
    if values.ndim not in (3, 4) or 0 in values.shape or values.dtype.kind not in "biuf":
        kind = f"{'x'.join(map(str, values.shape))} of {values.dtype}"
        raise DataError(f"{where}: images are {kind}; give n x height x width [x channels] numbers")
    if values.ndim == 4 and values.shape[1] in (1, 3, 4) and values.shape[3] > 4:
        raise DataError(
            f"{where}: images are {'x'.join(map(str, values.shape))}: channels must come last; "
            "save them with numpy's .transpose(0, 2, 3, 1)"
        )
    if values.dtype == np.uint8 and white == 255:
        return values.astype(np.uint8, copy=False)
    numbers = values.astype(np.float32)
    least, most = float(numbers.min()), float(numbers.max())
    if not (np.isfinite(least) and np.isfinite(most)) or least < 0 or most > white:
        of_train = ", and no training image has one above 1" if 1 < most <= 255 else ""
        raise DataError(
            f"{where}: pixels from {least:g} to {most:g}{of_train}; give 0 to 255, or 0.0 to 1.0"
        )
    pixels: npt.NDArray[np.uint8] = np.rint(numbers * (255 / white)).astype(np.uint8)
    return pixels


def orientation(images: npt.NDArray[np.uint8]) -> str:
    """Return a hint if images [n, height, width, channels] seem to lie on their side, else "".

    Characters are taller than wide: MNIST's digits by 1.30, and of 1,000 samples of 50 digits none
    fell below 1.1.
    """
    if images.shape[1:] != (28, 28, 1) or len(images) < 50:
        return ""
    is_ink = images[:1000, ..., 0] >= 64
    tall, wide = (float(is_ink.any(axis).sum(1).mean()) for axis in (2, 1))
    if wide <= 1.1 * tall:
        return ""
    return (
        f"what is drawn is {wide:.0f} pixels wide and {tall:.0f} tall, in the mean: if it lies on "
        "its side, as EMNIST does, exchange rows and columns with --transpose"
    )


def darkness(images: npt.NDArray[np.uint8]) -> str:
    """Return a hint if the brightest pixel of images is far from white, else "".

    Such as scikit-learn's digits, which go from 0 to 16: nothing in them says which value is white.
    """
    brightest = int(images.max())
    if not 0 < brightest < 128:
        return ""
    return (
        f"the brightest pixel is {brightest} of 255: if it means white, multiply the pixels by "
        f"{255 / brightest:.4g} first"
    )


def check_room(size: int, where: str) -> None:
    """Refuse images of more bytes than a dataset's file may have."""
    if size > idx.MAX_BYTES:
        raise DataError(
            f"{printable(where)}: with it, the images take more than {idx.MAX_BYTES >> 30} GiB; "
            "give a smaller --size, or fewer images"
        )


def _parts(collection: Collection, options: Options, notes: list[str]) -> tuple[Part, Part]:
    """Return the images to train on, those for validation first, and the test images.

    What people should know of it is appended to ``notes``.
    """
    train, validation, test = collection.train, collection.validation, collection.test
    if validation is not None:
        _check_shape(train, validation, "validation", collection.where)
        if test is None:
            test = validation
            notes.append("its validation images became the test images")
        else:
            train = _joined(validation, train)
            count = len(validation.labels)
            notes.append(f"its validation images come first: train with --validation {count}")
    if test is None:
        drawn = split.draw(train.labels, options.test_share, options.seed, collection.where)
        train, test = (Part(train.images[each], train.labels[each]) for each in drawn)
        notes.append(f"{plural(len(test.labels), 'image')} drawn for testing, with --seed")
    return train, test


def _joined(first: Part, second: Part) -> Part:
    """Return the images of both, those of ``first`` first."""
    return Part(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.labels, second.labels]),
    )


def _check_test(train: Part, test: Part, collection: Collection) -> None:
    where = collection.where
    _check_shape(train, test, "test", where)
    strange = np.setdiff1d(test.labels, train.labels)
    if len(strange):
        label = printable(str(collection.names.get(int(strange[0]), strange[0])))
        raise DataError(f"{where}: test label {label} has no training image; correct the labels")


def _check_shape(train: Part, other: Part, name: str, where: str) -> None:
    if train.images.shape[1:] != other.images.shape[1:]:
        shapes = ["x".join(map(str, part.images.shape[1:])) for part in (train, other)]
        raise DataError(
            f"{where}: training images are {shapes[0]}, {name} images {shapes[1]}; make them alike "
            "with --size N and --grey or --colour"
        )


def scaled(collection: Collection, options: Options) -> Collection:
    """Return a collection of tables or IDX files with the size and channels that are asked for.

    Raises:
        DataError: images have another number of channels than 1 and 3.
    """

    def made(part: Part) -> Part:
        return replace(part, images=scaled_images(part.images, options, collection.where))

    return replace(
        collection,
        train=made(collection.train),
        test=collection.test and made(collection.test),
        validation=collection.validation and made(collection.validation),
    )


def scaled_images(
    images: npt.NDArray[np.uint8], options: Options, where: str
) -> npt.NDArray[np.uint8]:
    """Return images with the size and channels that are asked for.

    Raises:
        DataError: they have another number of channels than 1 and 3.
    """
    if options.size is None and options.channels is None:
        return images
    from PIL import Image

    channels = images.shape[3] if images.ndim == 4 else 1
    if channels not in (1, 3):
        raise DataError(f"{where}: images have {channels} channels; scaling takes 1 or 3")
    mode = {None: "L" if channels == 1 else "RGB", 1: "L", 3: "RGB"}[options.channels]

    plain = images[..., 0] if images.ndim == 4 and channels == 1 else images

    def convert(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        picture = Image.fromarray(image)
        if options.size is not None:
            picture = picture.resize((options.size, options.size), Image.Resampling.LANCZOS)
        return np.asarray(picture.convert(mode))

    return np.stack([convert(image) for image in plain])
