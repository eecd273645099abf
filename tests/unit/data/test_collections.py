"""Data as people have them: ten kinds that are put, and those that are refused in one line."""

import csv
import gzip
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.support.mnist import find_mnist
from trainer.cli import main as cli
from trainer.data import class_labels, collection, dataset, description, digits, idx, sources
from trainer.data.collection import Options
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError, DataError, UserError
from trainer.storage.local import LocalStorage

Array = npt.NDArray[Any]
COUNT, CLASSES, SIDE = 40, 4, 6
DRAW = np.random.default_rng(3)
LABELS = np.arange(COUNT) % CLASSES
IMAGES = DRAW.integers(0, 256, (COUNT, SIDE, SIDE)).astype(np.uint8)
COLOUR = DRAW.integers(0, 256, (COUNT, SIDE, SIDE, 3)).astype(np.uint8)


def put(source: Path | str, to: Path, **options: Any) -> tuple[Dataset, description.Description]:
    said = sources.put(str(source), str(to), options=Options(**options))
    assert "\n" not in said
    return dataset.load(str(to), 0), description.read(LocalStorage(str(to)))


def write_idx(folder: Path, name: str, array: Array, *, zipped: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(idx.encode(array, compress=zipped))


def write_set(
    folder: Path, prefix: str, images: Array, labels: Array, kind: str = "idx1-ubyte"
) -> None:
    dimensions = images.ndim
    for part, rows in (("train", slice(0, 30)), ("test", slice(30, None))):
        write_idx(folder, f"{prefix}-{part}-images-idx{dimensions}-ubyte.gz", images[rows])
        write_idx(folder, f"{prefix}-{part}-labels-{kind}.gz", labels[rows])


def pictures(folder: Path, images: Array, names: list[str], ending: str = "png") -> None:
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name / f"{number:03}.{ending}")


ANIMALS = [["ant", "bee", "cat", "dog"][label] for label in LABELS]


def same(data: Dataset, images: Array, labels: Array) -> None:
    """Check the images of both parts, in the order of the source."""
    shape = images.shape if images.ndim == 4 else (*images.shape, 1)
    got = np.concatenate([data.train.images, data.test.images])
    np.testing.assert_array_equal(got, images.reshape(shape))
    np.testing.assert_array_equal(np.concatenate([data.train.labels, data.test.labels]), labels)


def test_pictures_in_a_folder_for_each_class(tmp_path: Path) -> None:
    pictures(tmp_path / "zoo", IMAGES, ANIMALS)
    (tmp_path / "zoo" / "ant" / "Thumbs.db").write_text("x")
    (tmp_path / "zoo" / ".DS_Store").write_text("x")
    data, about = put(tmp_path / "zoo", tmp_path / "to", test_share=0.25)
    assert about.class_names == ("ant", "bee", "cat", "dog")
    assert (len(data.train.labels), len(data.test.labels)) == (30, 10)
    assert data.input_shape == (SIDE, SIDE, 1)
    for part in (data.train, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            [at] = np.flatnonzero((image[..., 0] == IMAGES).all(axis=(1, 2)))
            assert LABELS[at] == label
    again, _ = put(tmp_path / "zoo", tmp_path / "to2", test_share=0.25)
    assert again.sha256 == data.sha256
    other, _ = put(tmp_path / "zoo", tmp_path / "to3", test_share=0.25, seed=9)
    assert other.sha256 != data.sha256


@pytest.mark.parametrize("seed", range(12))
def test_every_class_keeps_an_image_to_train_on(tmp_path: Path, seed: int) -> None:
    labels = np.array([0] * 30 + [1, 2, 3] + [4] * 7)
    np.savez(tmp_path / "d.npz", x=IMAGES, y=labels)
    data, _ = put(tmp_path / "d.npz", tmp_path / "to", test_share=0.5, seed=seed)
    assert set(data.train.labels) == {0, 1, 2, 3, 4}
    assert 17 <= len(data.test.labels) <= 20


def test_pictures_in_train_and_test(tmp_path: Path) -> None:
    pictures(tmp_path / "zoo" / "train", COLOUR[:30], ANIMALS[:30])
    pictures(tmp_path / "zoo" / "val", COLOUR[30:], ANIMALS[30:])
    data, _ = put(tmp_path / "zoo", tmp_path / "to")
    assert (len(data.train.labels), len(data.test.labels)) == (30, 10)
    assert data.input_shape == (SIDE, SIDE, 3)
    in_grey, _ = put(tmp_path / "zoo", tmp_path / "grey", channels=1, size=9)
    assert in_grey.input_shape == (9, 9, 1)


def test_pictures_for_validation_come_first(tmp_path: Path) -> None:
    cuts = {"valid": slice(0, 8), "train": slice(8, 30), "test": slice(30, 40)}
    for name, rows in cuts.items():
        pictures(tmp_path / "zoo" / name, IMAGES[rows], ANIMALS[rows])
    pictures(tmp_path / "zoo" / "extra", IMAGES[:1], ANIMALS[:1])
    said = sources.put(str(tmp_path / "zoo"), str(tmp_path / "to"))
    assert "train with --validation 8" in said
    assert "left out the folder 'extra'" in said
    data = dataset.load(str(tmp_path / "to"), 0)
    for got, rows in (
        (data.train.images[:8], cuts["valid"]),
        (data.train.images[8:], cuts["train"]),
        (data.test.images, cuts["test"]),
    ):
        assert set(map(bytes, got[..., 0])) == set(map(bytes, IMAGES[rows]))
    assert (np.diff(data.train.labels[:8]) < 0).any()  # not class by class


@pytest.mark.parametrize(
    ("mode", "value", "wanted"),
    [("L", 7, 7), ("1", 1, 255), ("I;16", 0x1234, 0x12), ("RGBA", (9, 9, 9, 0), 255), ("P", 0, 0)],
)
def test_pictures_of_every_mode(tmp_path: Path, mode: str, value: Any, wanted: int) -> None:
    for name in ("a", "b"):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for number in range(5):
            Image.new(mode, (4, 4), value).save(tmp_path / "zoo" / name / f"{number}.png")
    data, _ = put(tmp_path / "zoo", tmp_path / "to")
    assert (data.train.images == wanted).all()
    assert data.input_shape == (4, 4, 1)


def test_npz_of_keras(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"x_train": IMAGES[:30], "y_train": LABELS[:30], "x_test": IMAGES[30:]}
    np.savez(tmp_path / "mnist.npz", **parts, y_test=LABELS[30:])
    data, about = put(tmp_path / "mnist.npz", tmp_path / "to")
    same(data, IMAGES, LABELS)
    assert about.source == str(tmp_path / "mnist.npz")


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_one_hot_labels(tmp_path: Path, kind: Any) -> None:
    one_hot = np.eye(CLASSES)[LABELS].astype(kind)
    parts: dict[str, Any] = {"x_train": IMAGES[:30], "x_test": IMAGES[30:]}
    np.savez(tmp_path / "d.npz", **parts, y_train=one_hot[:30], y_test=one_hot[30:])
    same(put(tmp_path / "d.npz", tmp_path / "to")[0], IMAGES, LABELS)


def test_npz_with_words_for_labels(tmp_path: Path) -> None:
    few, words = LABELS > 0, np.array(ANIMALS)
    parts: dict[str, Any] = {"x_train": IMAGES, "x_test": IMAGES[few]}
    np.savez(tmp_path / "d.npz", **parts, y_train=words[:, None], y_test=words[few])
    data, about = put(tmp_path / "d.npz", tmp_path / "to")
    assert data.test.labels.tolist() == LABELS[few].tolist()
    assert about.class_names == ("ant", "bee", "cat", "dog")


def test_npz_of_medmnist(tmp_path: Path) -> None:
    cuts = {"val": slice(0, 8), "train": slice(8, 30), "test": slice(30, 40)}
    parts: dict[str, Any] = {f"{name}_images": COLOUR[rows] for name, rows in cuts.items()}
    parts |= {f"{name}_labels": LABELS[rows, None] for name, rows in cuts.items()}
    np.savez_compressed(tmp_path / "path.npz", **parts)
    said = sources.put(str(tmp_path / "path.npz"), str(tmp_path / "to"))
    assert "train with --validation 8" in said
    same(dataset.load(str(tmp_path / "to"), 0), COLOUR, LABELS)


def test_validation_images_are_test_images_where_there_are_no_others(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"x_train": IMAGES[:30], "y_train": LABELS[:30]}
    np.savez(tmp_path / "d.npz", **parts, x_val=IMAGES[30:], y_val=LABELS[30:])
    said = sources.put(str(tmp_path / "d.npz"), str(tmp_path / "to"))
    assert "its validation images became the test images" in said
    same(dataset.load(str(tmp_path / "to"), 0), IMAGES, LABELS)


def test_npz_of_shares_of_light(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=IMAGES / 255, y=LABELS.astype(np.float64))
    data, _ = put(tmp_path / "d.npz", tmp_path / "to", test_share=0.5)
    assert set(np.unique(data.train.images)) <= set(np.unique(IMAGES))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_the_kind_of_number_does_not_decide_what_is_white(tmp_path: Path, kind: Any) -> None:
    bits = IMAGES > 127
    arrays: dict[str, Any] = {"x_train": bits, "x_test": bits & (LABELS < 2)[:, None, None]}
    arrays = {name: array.astype(kind) for name, array in arrays.items()}
    np.savez(tmp_path / "d.npz", **arrays, y_train=LABELS, y_test=LABELS)
    data, _ = put(tmp_path / "d.npz", tmp_path / "to")
    np.testing.assert_array_equal(data.train.images[..., 0], bits * 255)


def test_the_training_images_decide_what_is_white(tmp_path: Path) -> None:
    few = np.where(LABELS[:, None, None] == 0, IMAGES > 127, 0)
    for kind in (np.uint8, np.float32):
        parts: dict[str, Any] = {"x_train": IMAGES.astype(kind), "x_test": few.astype(kind)}
        np.savez(tmp_path / "d.npz", **parts, y_train=LABELS, y_test=LABELS)
        data, _ = put(tmp_path / "d.npz", tmp_path / kind.__name__)
        assert data.test.images.max() == 1
    parts = {"x_train": IMAGES / 255, "x_test": IMAGES}
    np.savez(tmp_path / "d.npz", **parts, y_train=LABELS, y_test=LABELS)
    with pytest.raises(DataError, match="and no training image has one above 1; give 0 to 255"):
        put(tmp_path / "d.npz", tmp_path / "to")


def test_dark_images_get_a_hint(tmp_path: Path) -> None:
    """As scikit-learn's digits, which go from 0 to 16."""
    np.savez(tmp_path / "d.npz", images=IMAGES // 16, target=LABELS)
    said = sources.put(str(tmp_path / "d.npz"), str(tmp_path / "to"))
    hint = "the brightest pixel is 15 of 255: if it means white, multiply the pixels by 17 first"
    assert hint in said
    assert "brightest" in sources.put(str(tmp_path / "to"), str(tmp_path / "copy"))
    np.savez(tmp_path / "d.npz", images=IMAGES, target=LABELS)
    assert "brightest" not in sources.put(str(tmp_path / "d.npz"), str(tmp_path / "light"))


def write_csv(path: Path, rows: list[list[Any]], header: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([*([header] if header else []), *rows])


FLAT = IMAGES.reshape(COUNT, -1).tolist()
ROWS = [[label, *pixels] for label, pixels in zip(LABELS.tolist(), FLAT, strict=True)]
HEADER = ["label", *(f"pixel{number}" for number in range(SIDE * SIDE))]


def test_csv_of_kaggle(tmp_path: Path) -> None:
    write_csv(tmp_path / "k" / "train.csv", ROWS, HEADER)
    write_csv(tmp_path / "k" / "test.csv", [row[1:] for row in ROWS], HEADER[1:])
    said = sources.put(str(tmp_path / "k"), str(tmp_path / "to"))
    assert "test.csv has no labels and was left out" in said
    data = dataset.load(str(tmp_path / "to"), 0)
    assert (data.samples, len(data.test.labels)) == (34, 6)


def test_csv_without_a_header_in_two_files(tmp_path: Path) -> None:
    write_csv(tmp_path / "c" / "mnist_train.csv", ROWS[:30])
    write_csv(tmp_path / "c" / "mnist_test.csv", ROWS[30:])
    data, _ = put(tmp_path / "c", tmp_path / "to")
    same(data, IMAGES, LABELS)


def test_csv_of_validation_images(tmp_path: Path) -> None:
    for name, rows in (("val", ROWS[:8]), ("train", ROWS[8:30]), ("test", ROWS[30:])):
        write_csv(tmp_path / "c" / f"{name}.csv", rows, HEADER)
    said = sources.put(str(tmp_path / "c"), str(tmp_path / "to"))
    assert "train with --validation 8" in said
    same(dataset.load(str(tmp_path / "to"), 0), IMAGES, LABELS)


def test_csv_with_words_for_labels_in_the_last_column(tmp_path: Path) -> None:
    rows = [[*pixels, name] for pixels, name in zip(FLAT, ANIMALS, strict=True)]
    write_csv(tmp_path / "t.csv", rows, [*HEADER[1:], "Class"])
    plain = (tmp_path / "t.csv").read_bytes()
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(plain))
    data, about = put(tmp_path / "t.csv.gz", tmp_path / "to")
    assert about.class_names == ("ant", "bee", "cat", "dog")
    assert data.classes == 4


COUNTED = list(map(str, range(SIDE * SIDE)))  # as pandas names columns without a name


@pytest.mark.parametrize(
    ("header", "order"),
    [
        (["label", *COUNTED], "lp"),
        (["", *COUNTED, "target"], "ipl"),
        (["", "Animal", *COUNTED], "ilp"),
        (["Unnamed: 0", *COUNTED, "y"], "ipl"),
        ([*COUNTED, str(SIDE * SIDE)], "lp"),
        (["", *COUNTED, str(SIDE * SIDE)], "ilp"),
        (["1", *map(str, range(2, SIDE * SIDE + 2))], "lp"),
    ],
)
@pytest.mark.parametrize("words", [False, True])
def test_a_header_of_numbers_is_no_image(
    tmp_path: Path, header: list[str], order: str, words: bool
) -> None:
    labels = ANIMALS if words else LABELS.tolist()
    write_csv(tmp_path / "plain.csv", ROWS)
    rows = []
    for number, (label, pixels) in enumerate(zip(labels, FLAT, strict=True)):
        parts: dict[str, list[Any]] = {"i": [number], "l": [label], "p": pixels}
        rows.append([cell for part in order for cell in parts[part]])
    write_csv(tmp_path / "t.csv", rows, header)
    data, _ = put(tmp_path / "t.csv", tmp_path / "to")
    assert data.sha256 == put(tmp_path / "plain.csv", tmp_path / "plain")[0].sha256


def test_a_first_row_with_a_word_for_its_label_is_an_image(tmp_path: Path) -> None:
    rows = [[name, *pixels] for name, pixels in zip(ANIMALS, FLAT, strict=True)]
    write_csv(tmp_path / "t.csv", rows)
    data, _ = put(tmp_path / "t.csv", tmp_path / "to")
    assert data.samples + len(data.test.labels) == COUNT


def test_a_table_to_test_on_may_lack_a_class(tmp_path: Path) -> None:
    rows = [[name, *pixels] for name, pixels in zip(ANIMALS, FLAT, strict=True)]
    write_csv(tmp_path / "c" / "train.csv", rows)
    write_csv(tmp_path / "c" / "test.csv", [row for row in rows if row[0] != "ant"])
    data, _ = put(tmp_path / "c", tmp_path / "to")
    assert data.test.labels.tolist() == LABELS[LABELS > 0].tolist()


def test_emnist_letters(tmp_path: Path) -> None:
    write_set(tmp_path / "gzip", "emnist-letters", IMAGES, LABELS.astype(np.uint8) + 1)
    write_set(tmp_path / "gzip", "emnist-digits", IMAGES, LABELS.astype(np.uint8))
    mapping = "".join(f"{label} {64 + label} {96 + label}\n" for label in range(1, CLASSES + 1))
    (tmp_path / "gzip" / "emnist-letters-mapping.txt").write_text(mapping)
    with pytest.raises(DataError, match="holds several datasets: emnist-digits, emnist-letters"):
        put(tmp_path / "gzip", tmp_path / "to")
    source = tmp_path / "gzip" / "emnist-letters"
    data, about = put(source, tmp_path / "to", transpose=True, licence="CC0")
    same(data, IMAGES.swapaxes(1, 2), LABELS)
    assert about.class_names == ("A", "B", "C", "D")
    assert (about.label_offset, about.licence) == (1, "CC0")
    assert "give --transpose" in sources.put(str(source), str(tmp_path / "to2"))
    done = sources.put(str(source), str(tmp_path / "to3"), options=Options(transpose=True))
    assert "--transpose" not in done


def test_emnist_letters_without_their_mapping_file(tmp_path: Path) -> None:
    labels = np.arange(1, 27).astype(np.uint8)
    for part in ("train", "test"):
        images = np.zeros((26, 4, 4), np.uint8)
        write_idx(tmp_path / "l", f"emnist-letters-{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "l", f"emnist-letters-{part}-labels-idx1-ubyte.gz", labels)
    _, about = put(tmp_path / "l", tmp_path / "to", transpose=True)
    assert "".join(about.class_names) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_the_first_pictures_are_of_every_class(tmp_path: Path) -> None:
    pictures(tmp_path / "zoo", IMAGES, ANIMALS)
    pictures(tmp_path / "two" / "train", IMAGES[:30], ANIMALS[:30])
    pictures(tmp_path / "two" / "test", IMAGES[30:], ANIMALS[30:])
    for name in ("zoo", "two"):
        data, _ = put(tmp_path / name, tmp_path / "to" / name)
        assert set(data.train.labels[:20]) == set(range(CLASSES))
        for image, label in zip(data.train.images, data.train.labels, strict=True):
            [at] = np.flatnonzero((image[..., 0] == IMAGES).all(axis=(1, 2)))
            assert LABELS[at] == label


def test_names_go_along_with_a_copy(tmp_path: Path) -> None:
    pictures(tmp_path / "zoo", IMAGES, ANIMALS)
    first = put(tmp_path / "zoo", tmp_path / "one", licence="CC0")[1]
    for number, options in enumerate(({}, {"size": 5})):
        data, about = put(tmp_path / "one", tmp_path / f"copy{number}", **options)
        assert data.class_names == about.class_names == ("ant", "bee", "cat", "dog")
    assert description.read(LocalStorage(str(tmp_path / "copy0"))) == first


@pytest.mark.parametrize("split", [0, 2])
def test_digits_on_their_side_get_a_hint_whatever_their_names(tmp_path: Path, split: int) -> None:
    images, labels = digits.draw(400, 5)
    for name, upright in (("up", True), ("side", False)):
        drawn = images if upright else images.swapaxes(1, 2).copy()
        for file, array in zip(
            dataset.FILES, (drawn[:300], labels[:300], drawn[300:], labels[300:]), strict=True
        ):
            write_idx(tmp_path / name, file, array, zipped=False)
        said = sources.put(str(tmp_path / name), str(tmp_path / "to" / name), split=split)
        assert ("if it lies on its side" in said) != upright
        turned = Options(transpose=True)
        to = str(tmp_path / "turned" / name)
        said = sources.put(str(tmp_path / name), to, options=turned, split=split)
        assert ("if it lies on its side" in said) == upright


def test_mnist_is_told_from_mnist_on_its_side() -> None:
    folder = find_mnist()
    if folder is None:
        pytest.skip("MNIST is not on this machine")
    images = dataset.load(str(folder), 0).train.images
    for start in range(0, 60_000, 6000):  # of as few images as it looks at
        few = images[start : start + 50]
        assert collection.orientation(few) == ""
        assert "if it lies on its side" in collection.orientation(few.swapaxes(1, 2))


def test_pictures_that_fill_their_frame_get_no_hint() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1)).astype(np.uint8)
    for images in (noise, noise[:, :, :20], np.zeros_like(noise), noise[:10]):
        assert collection.orientation(images) == ""


def test_letters_under_mnists_own_names(tmp_path: Path) -> None:
    """Labels from 1 on: class 0 would have no image."""
    labels = LABELS.astype(np.uint8) + 1
    for name, array in zip(
        dataset.FILES, (IMAGES[:30], labels[:30], IMAGES[30:], labels[30:]), strict=True
    ):
        write_idx(tmp_path / "letters", name, array, zipped=False)
    data, about = put(tmp_path / "letters", tmp_path / "to")
    same(data, IMAGES, LABELS)
    assert (data.classes, about.label_offset, about.class_names) == (4, 1, ("1", "2", "3", "4"))


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("test", ["t10k", "test"])
@pytest.mark.parametrize("sign", ["-", "."])
def test_the_usual_names_may_be_mixed_with_mnists_own(
    tmp_path: Path, colours: int, test: str, sign: str
) -> None:
    images = IMAGES if colours == 1 else np.stack([IMAGES, 255 - IMAGES, IMAGES // 2], axis=-1)
    labels = LABELS.astype(np.uint8)
    for part, rows in (("train", slice(0, 30)), (test, slice(30, None))):
        for kind, array in (("images", images), ("labels", labels)):
            name = f"{part}-{kind}{sign}idx{array.ndim}-ubyte"
            write_idx(tmp_path / "mixed", name, array[rows], zipped=False)
    data, _ = put(tmp_path / "mixed", tmp_path / "to")
    same(data, images, LABELS)


def test_qmnist(tmp_path: Path) -> None:
    labels = np.zeros((COUNT, 8), np.int32)
    labels[:, 0], labels[:, 3] = LABELS, 70_000
    write_set(tmp_path / "q", "qmnist", IMAGES, labels, "idx2-int")
    same(put(tmp_path / "q", tmp_path / "to")[0], IMAGES, LABELS)


def test_colour_and_single_pixels(tmp_path: Path) -> None:
    write_set(tmp_path / "c", "cifar", COLOUR, LABELS.astype(np.uint8))
    same(put(tmp_path / "c", tmp_path / "to")[0], COLOUR, LABELS)
    write_set(tmp_path / "p", "dots", IMAGES[:, :1, :1], LABELS.astype(np.uint8))
    assert put(tmp_path / "p", tmp_path / "to2")[0].input_shape == (1, 1, 1)


def test_files_in_folders_named_as_archives_unpack_them(tmp_path: Path) -> None:
    labels = LABELS.astype(np.uint8)
    arrays = (IMAGES[:30], labels[:30], IMAGES[30:], labels[30:])
    for name, array in zip(dataset.FILES, arrays, strict=True):
        write_idx(tmp_path / "m" / name.replace("-idx", ".idx"), name, array, zipped=False)
    same(put(tmp_path / "m", tmp_path / "to")[0], IMAGES, LABELS)


@pytest.mark.parametrize("shape", [(6, 6), (6, 1), (1, 1), (6, 6, 1), (6, 1, 1), (6, 6, 3)])
def test_images_of_every_shape_are_scaled(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = DRAW.integers(0, 256, (COUNT, *shape)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x=images, y=LABELS)
    for channels in (None, 1, 3):
        options = {"size": 4, "channels": channels, "test_share": 0.5}
        data, _ = put(tmp_path / "d.npz", tmp_path / f"to{channels}", **options)
        assert data.input_shape == (4, 4, channels or (3 if shape[-1:] == (3,) else 1))


def test_names_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=IMAGES, y=LABELS)
    (tmp_path / "names.txt").write_text("T-shirt\nTrouser\nKleid\nÄrmel\n")
    _, about = put(tmp_path / "d.npz", tmp_path / "to", classes=str(tmp_path / "names.txt"))
    assert about.class_names == ("T-shirt", "Trouser", "Kleid", "Ärmel")


@pytest.mark.parametrize("line", ["① ②", "² 65", "1" * 5000 + " 65"])
def test_names_that_are_digits_and_no_numbers(tmp_path: Path, line: str) -> None:
    (tmp_path / "names.txt").write_text(f"{line}\n1 66\n")
    if len(line) > 100:
        with pytest.raises(ConfigError, match="each must be a text of 1 to 100 characters"):
            class_labels.read_names(str(tmp_path / "names.txt"))
    else:
        assert class_labels.read_names(str(tmp_path / "names.txt")) == {0: line, 1: "1 66"}


def test_more_classes_than_a_byte_has_are_refused(tmp_path: Path) -> None:
    """Names of classes are labels, too, and there may be any number of them."""
    names = [f"{number:03}" for number in range(300)]
    pictures(tmp_path / "zoo" / "train", np.resize(IMAGES, (300, 6, 6)), names)
    pictures(tmp_path / "zoo" / "test", IMAGES, names[:COUNT])
    with pytest.raises(DataError, match="300 classes; give at most 256"):
        put(tmp_path / "zoo", tmp_path / "to")


def test_shards_take_names_along(tmp_path: Path) -> None:
    pictures(tmp_path / "zoo", IMAGES, ANIMALS)
    sources.put(str(tmp_path / "zoo"), str(tmp_path / "to"), split=3)
    assert description.read(LocalStorage(str(tmp_path / "to"))).class_names[3] == "dog"
    assert dataset.load(str(tmp_path / "to"), 0).samples == 34


def test_a_folder_around_the_one_of_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "zip" / "zoo", IMAGES, ANIMALS)
    write_csv(tmp_path / "zip" / "labels.csv", [["ant/000.png", "ant"]], ["file", "label"])
    assert put(tmp_path / "zip", tmp_path / "to")[1].class_names == ("ant", "bee", "cat", "dog")


def test_the_only_npz_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    source = npz(x=IMAGES, y=LABELS)(tmp_path / "d")
    assert put(source.parent, tmp_path / "to")[0].classes == 4


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_tables_of_other_delimiters_with_a_column_of_numbers(
    tmp_path: Path, delimiter: str
) -> None:
    """As pandas writes its index, without a name."""
    rows: list[list[Any]] = [["", *HEADER], *([number, *row] for number, row in enumerate(ROWS))]
    text = "".join(delimiter.join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "t.tsv").write_text(text)
    (tmp_path / "plain.csv").write_text(table_text(ROWS))
    data, _ = put(tmp_path / "t.tsv", tmp_path / "to")
    plain, _ = put(tmp_path / "plain.csv", tmp_path / "plain")
    assert data.sha256 == plain.sha256


def test_pictures_of_one_brightness_get_a_hint(tmp_path: Path) -> None:
    """Such as pictures of 16 bits that hold 0 to 255."""
    pictures(tmp_path / "zoo", IMAGES.astype(np.uint16), ANIMALS)
    assert "every pixel is 0: look at" in sources.put(str(tmp_path / "zoo"), str(tmp_path / "to"))


def table_text(rows: list[list[Any]]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "d.npz", **arrays)
        return folder / "d.npz"

    return write


def table(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "t.csv").write_text(text)
        return folder / "t.csv"

    return write


def zoo(spoil: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pictures(folder / "zoo", IMAGES, ANIMALS)
        spoil(folder / "zoo")
        return folder / "zoo"

    return write


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    sum_of = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + sum_of + bytes(4) + b"IDAT"


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def loose(folder: Path) -> Path:
    pictures(folder / "zoo", IMAGES, ["."] * COUNT)
    return folder / "zoo"


def deep(folder: Path) -> Path:
    pictures(folder / "zoo" / "train" / "x", IMAGES, ANIMALS)
    made(folder / "zoo" / "y")
    return folder / "zoo"


STRAY = np.where(np.arange(COUNT) == 7, 255, LABELS)
BROKEN: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "a stray label": (
        npz(x=IMAGES, y=STRAY),
        {"test_share": 0.1, "seed": 3},
        "to 255 (1 image), but no image has label 4, 5, 6, 7, 8, ...; they must start at 0 or 1",
    ),
    "no image for testing": (
        npz(x=IMAGES[:4], y=LABELS[:4]),
        {"test_share": 0.5},
        "leaves none for",
    ),
    "validation images of another size": (
        npz(
            x_train=IMAGES,
            y_train=LABELS,
            x_val=IMAGES[:, 1:],
            y_val=LABELS,
            x_test=IMAGES,
            y_test=LABELS,
        ),
        {},
        "training images are 6x6, validation images 5x6; make them alike with --size N and",
    ),
    "a table of no labels": (
        table(table_text([["nan", *row[1:]] for row in ROWS])),
        {},
        "label nan: must be a whole number from 0 to 255",
    ),
    "a first row without a pixel": (
        table(table_text([[*ROWS[0][:-1], "nan"], *ROWS[1:]])),
        {},
        "pixels from nan to nan",
    ),
    "a first row with a word for a pixel": (
        table(table_text([[*ROWS[0][:-1], "NA"], *ROWS[1:]])),
        {},
        "could not convert string 'NA' to float",
    ),
    "one class of words": (
        npz(x=IMAGES, y=np.array(["only"] * COUNT)),
        {},
        "every training label is only; a classifier needs two classes",
    ),
    "labels of bytes": (
        npz(x=IMAGES, y=np.array([b"a"] * COUNT)),
        {},
        "labels are 40 of |S1; give",
    ),
    "texts and numbers": (
        npz(x_train=IMAGES, y_train=np.array(ANIMALS), x_test=IMAGES, y_test=LABELS),
        {},
        "d.npz: y_test: labels are numbers here, and texts in other parts of the data",
    ),
    "one class": (npz(x=IMAGES, y=LABELS * 0), {}, "a classifier needs two classes"),
    "labels of several columns": (
        npz(x=IMAGES, y=np.zeros((COUNT, 5))),
        {},
        "labels are 40x5 of float64; give one whole number or text a sample, such as the largest "
        "of each row: np.argmax(y, 1)",
    ),
    "channels first": (
        npz(x=COLOUR.transpose(0, 3, 1, 2), y=LABELS),
        {},
        "images are 40x3x6x6: channels must come last",
    ),
    "a label that is no number": (
        npz(x=IMAGES, y=np.where(LABELS == 1, np.nan, LABELS)),
        {},
        "label nan: must be a whole number",
    ),
    "pictures of 32 bits": (
        zoo(lambda f: Image.new("F", (6, 6)).save(f / "cat" / "x.tif")),
        {},
        "x.tif: cannot be read as a picture: its pixels have 32 bits",
    ),
    "a name with a line end": (
        zoo(lambda f: (f / "cat").rename(f / "c\nat")),
        {},
        "holds a control character or a line end; rename it",
    ),
    "pictures in no folder of a class": (loose, {}, "put each into one with the class's name"),
    "classes further below": (deep, {}, "zoo/train/x; give that"),
    "an unknown kind of file": (
        lambda f: table("x")(f).rename(f / "d.h5"),
        {},
        "d.h5: this kind of file is not read",
    ),
    "an empty folder": (lambda f: made(f / "none"), {}, "give another folder"),
    "half a label": (npz(x=IMAGES, y=LABELS + 0.5), {}, "label 0.5: must be a whole number"),
    "other counts": (npz(x=IMAGES, y=LABELS[:9]), {}, "has 40 images and y 9 labels"),
    "pixels that are no light": (npz(x=IMAGES * 9.0, y=LABELS), {}, "give 0 to 255, or 0.0 to 1.0"),
    "flat images": (
        npz(x=IMAGES.reshape(40, 36), y=LABELS),
        {},
        "images are 40x36 of uint8; give n",
    ),
    "other arrays": (npz(a=IMAGES, b=LABELS), {}, "holds a, b; name the arrays x_train"),
    "objects": (
        npz(x=np.array([{}] * 40, object), y=LABELS),
        {},
        "Object arrays cannot be loaded when allow_pickle=False; save the arrays again",
    ),
    "no npz": (lambda f: table("x")(f).rename(f / "x.npz"), {}, "save the arrays again"),
    "no square": (
        table("label,a,b\n1,2,3\n0,4,5\n"),
        {},
        "2 columns besides the label are no square",
    ),
    "words for pixels": (
        table("1,2,3,4,5\n0,4,x,6,7\n"),
        {},
        "is no table of numbers: could not convert",
    ),
    "a ragged table": (table("1,2,3,4,5\n0,4,5\n"), {}, "is no table of numbers"),
    "an empty table": (table(""), {}, "has fewer than two rows"),
    "a picture of another size": (
        zoo(lambda f: Image.new("L", (9, 7)).save(f / "bee" / "odd.png")),
        {},
        "is 9x7 pixels and 000.png 6x6; all must be alike: give --size N to scale them",
    ),
    "a torn picture": (
        zoo(lambda f: (f / "cat" / "torn.png").write_bytes(b"\x89PNG\r\n")),
        {},
        "torn.png: cannot be read as a picture",
    ),
    "a page under a picture's name": (
        zoo(lambda f: (f / "cat" / "page.png").write_bytes(b"<svg><script>1</script></svg>")),
        {},
        "page.png: cannot be read as a picture",
    ),
    "a program for a printer": (  # which Pillow would have Ghostscript run
        zoo(lambda f: (f / "cat" / "x.png").write_bytes(POSTSCRIPT)),
        {},
        "x.png: cannot be read as a picture: cannot identify image file",
    ),
    "a picture that unpacks to much": (
        zoo(lambda f: (f / "cat" / "bomb.png").write_bytes(png_header(10_000, 10_000))),
        {},
        "bomb.png: cannot be read as a picture: 10000x10000 pixels, above 67,108,864",
    ),
    "an empty class": (
        zoo(lambda f: (f / "emu").mkdir()),
        {},
        "a folder is a class, so add pictures",
    ),
    "too few names": (
        npz(x=IMAGES, y=LABELS),
        {"classes": "one"},
        "1 name for 4 classes, none for",
    ),
    "a name twice": (npz(x=IMAGES, y=LABELS), {"classes": "a\na\nb\nc"}, "'a': is there twice"),
    "too many names": (
        npz(x=IMAGES, y=LABELS),
        {"classes": "a\nb\nc\nd\ne"},
        "5 names for 4 classes; 'e' has no image; leave it out",
    ),
    "an archive": (lambda f: table("x")(f).rename(f / "d.zip"), {}, "is not read; unpack it"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    write, options, words = BROKEN[name]
    if "classes" in options:
        (tmp_path / "names.txt").write_text(options["classes"])
        options = {**options, "classes": str(tmp_path / "names.txt")}
    source = write(tmp_path)
    with pytest.raises(UserError) as caught:
        put(source, tmp_path / "to", **options)
    message = str(caught.value)
    assert words in message
    assert message.isprintable()
    assert isinstance(caught.value, DataError | ConfigError)
    assert not (tmp_path / "to").exists()


def test_a_folder_of_pictures_given_as_data_is_told_apart(tmp_path: Path) -> None:
    pictures(tmp_path / "zoo", IMAGES[:4], ANIMALS[:4])
    with pytest.raises(DataError) as caught:
        dataset.load(str(tmp_path / "zoo"))
    assert str(caught.value).endswith(
        f"make a dataset of what is there, such as ant/000.png: python -m trainer data put --from "
        f"{tmp_path / 'zoo'} --to FOLDER"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--size", "0"), "--size: 0; give 1 to 2048 pixels"),
        (("--test-share", "1"), "--test-share: 1; give more than 0 and less than 1"),
        (("--classes", "/no/such"), "--classes /no/such: No such file or directory"),
    ],
)
def test_flags_are_checked(
    tmp_path: Path, flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = npz(x=IMAGES, y=LABELS)(tmp_path)
    code = cli.main(["data", "put", "--from", str(source), "--to", str(tmp_path / "to"), *flags])
    assert code == 2
    assert words in capsys.readouterr().err


def test_a_description_that_is_damaged_is_refused(tmp_path: Path) -> None:
    for values, words in (
        ([], "must be a JSON object"),
        ({"class_names": "ant"}, "class_names: must be a list"),
        ({"class_names": ["a", 3]}, "'3': each must be a text of 1 to 100 characters"),
        ({"class_names": ["a", "b\x1b[2J"]}, "holds a control character"),
        ({"class_names": ["a", "x" * 101]}, "each must be a text of 1 to 100 characters"),
    ):
        (tmp_path / description.NAME).write_text(json.dumps(values))
        with pytest.raises(DataError) as caught:
            description.read(LocalStorage(str(tmp_path)))
        assert words in str(caught.value)
