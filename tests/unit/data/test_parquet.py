"""Parquet files of images as data-set hubs store them, and those that are refused in one line."""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data import dataset, description, idx, parquet, sources
from trainer.data.collection import Options
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError, DataError
from trainer.storage.local import LocalStorage

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COUNT, CLASSES, SIDE = 40, 4, 6
DRAW = np.random.default_rng(3)
LABELS = np.arange(COUNT) % CLASSES
IMAGES = DRAW.integers(0, 256, (COUNT, SIDE, SIDE)).astype(np.uint8)
COLOUR = DRAW.integers(0, 256, (COUNT, SIDE, SIDE, 3)).astype(np.uint8)
NAMES = ("ant", "bee", "cat", "dog")


def put(source: Path, to: Path, **options: Any) -> tuple[Dataset, description.Description]:
    said = sources.put(str(source), str(to), options=Options(**options))
    assert "\n" not in said
    return dataset.load(str(to), 0), description.read(LocalStorage(str(to)))


def png(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def files(images: Any) -> list[dict[str, Any]]:
    return [{"bytes": png(image), "path": "x.png"} for image in images]


def write(path: Path, columns: dict[str, Any], features: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        said = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(said)
    pq.write_table(table, path, row_group_size=7)
    return path


def features(image: str, label: str) -> dict[str, Any]:
    return {
        image: {"_type": "Image"},
        label: {"names": list(NAMES), "_type": "ClassLabel"},
    }


def same(data: Dataset, images: Any, labels: Any) -> None:
    shape = images.shape if images.ndim == 4 else (*images.shape, 1)
    got = np.concatenate([data.train.images, data.test.images])
    np.testing.assert_array_equal(got, images.reshape(shape))
    np.testing.assert_array_equal(np.concatenate([data.train.labels, data.test.labels]), labels)


@pytest.mark.parametrize("folder", ["", "data"])
def test_a_folder_of_the_hub(tmp_path: Path, folder: str) -> None:
    cuts = {
        "train-00000-of-00002": slice(0, 16),
        "train-00001-of-00002": slice(16, 30),
        "test-00000-of-00001": slice(30, 40),
    }
    for name, rows in cuts.items():
        columns = {"image": files(IMAGES[rows]), "label": LABELS[rows]}
        path = tmp_path / "hub" / folder / f"{name}.parquet"
        write(path, columns, features("image", "label"))
    (tmp_path / "hub" / "README.md").write_text("x")
    data, about = put(tmp_path / "hub", tmp_path / "to")
    same(data, IMAGES, LABELS)
    assert about.class_names == NAMES


def test_columns_of_other_names_and_validation_images(tmp_path: Path) -> None:
    """As CIFAR-100: ``img``, a coarse label that is passed over, and another split."""
    of = {**features("img", "fine_label"), "coarse_label": {"_type": "ClassLabel", "names": ["a"]}}
    for name, rows in (
        ("validation", slice(0, 8)),
        ("train", slice(8, 30)),
        ("test", slice(30, 40)),
    ):
        count = len(COLOUR[rows])
        columns = {
            "coarse_label": np.zeros(count, np.int64),
            "img": files(COLOUR[rows]),
            "fine_label": LABELS[rows],
        }
        write(tmp_path / "hub" / f"{name}-00000-of-00001.parquet", columns, of)
    said = sources.put(str(tmp_path / "hub"), str(tmp_path / "to"))
    assert "train with --validation 8" in said
    same(dataset.load(str(tmp_path / "to"), 0), COLOUR, LABELS)
    scaled, _ = put(tmp_path / "hub", tmp_path / "small", size=4, channels=1)
    assert scaled.input_shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (IMAGES.tolist(), IMAGES),
        (COLOUR.tolist(), COLOUR),
        (IMAGES.reshape(COUNT, -1).tolist(), IMAGES),
        ((IMAGES / 255).tolist(), IMAGES),
        ([png(image) for image in IMAGES], IMAGES),
        (pa.array(IMAGES.reshape(COUNT, -1).tolist(), pa.list_(pa.uint8(), SIDE**2)), IMAGES),
    ],
    ids=["rows", "colour", "flat", "shares", "bytes", "fixed"],
)
def test_images_as_lists_and_as_plain_bytes(tmp_path: Path, images: Any, wanted: Any) -> None:
    path = write(tmp_path / "d.parquet", {"image": images, "label": LABELS})
    data, _ = put(path, tmp_path / "to", test_share=0.5)
    for part in (data.train, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            [at] = np.flatnonzero((image.squeeze() == wanted).reshape(COUNT, -1).all(axis=1))
            assert LABELS[at] == label


def test_labels_that_are_words(tmp_path: Path) -> None:
    words = [NAMES[label] for label in LABELS]
    path = write(tmp_path / "d.parquet", {"Image": files(IMAGES), "Label": words})
    _, about = put(path, tmp_path / "to")
    assert about.class_names == NAMES


def test_words_mean_the_same_class_in_every_part(tmp_path: Path) -> None:
    """Also in a part that lacks the first class."""
    words = np.array([NAMES[label] for label in LABELS])
    few = LABELS > 0
    for part, chosen in (("train", LABELS >= 0), ("validation", few), ("test", few)):
        columns = {"image": files(IMAGES[chosen]), "label": words[chosen]}
        write(tmp_path / "hub" / f"{part}.parquet", columns)
    data, about = put(tmp_path / "hub", tmp_path / "to")
    assert about.class_names == NAMES
    assert data.train.labels.tolist() == [*LABELS[few], *LABELS]
    assert data.test.labels.tolist() == LABELS[few].tolist()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("cow", "test label cow has no training image"),
        (7, "labels are numbers here, and texts in other parts"),
    ],
)
def test_a_label_of_the_test_part_alone_is_refused(tmp_path: Path, label: Any, words: str) -> None:
    named = [NAMES[each] for each in LABELS]
    write(tmp_path / "hub" / "train.parquet", {"image": files(IMAGES), "label": named})
    columns = {"image": files(IMAGES), "label": [label] * COUNT}
    write(tmp_path / "hub" / "test.parquet", columns)
    with pytest.raises(DataError, match=words):
        put(tmp_path / "hub", tmp_path / "to")


def test_names_in_another_order_in_another_file_are_refused(tmp_path: Path) -> None:
    columns = {"image": files(IMAGES), "label": LABELS}
    of = features("image", "label")
    write(tmp_path / "hub" / "train.parquet", columns, of)
    of["label"]["names"] = list(NAMES[::-1])
    write(tmp_path / "hub" / "test.parquet", columns, of)
    with pytest.raises(DataError, match=r"other names of classes than train\.parquet"):
        put(tmp_path / "hub", tmp_path / "to")


def test_a_name_that_no_image_has_is_left_out(tmp_path: Path) -> None:
    columns = {"image": files(IMAGES), "label": LABELS % 3}
    path = write(tmp_path / "d.parquet", columns, features("image", "label"))
    assert "left out 'dog': it has no image" in sources.put(str(path), str(tmp_path / "to"))
    assert description.read(LocalStorage(str(tmp_path / "to"))).class_names == NAMES[:3]


def test_a_test_split_without_labels_is_left_out(tmp_path: Path) -> None:
    columns = {"image": files(IMAGES), "label": LABELS}
    write(tmp_path / "hub" / "train.parquet", columns)
    write(tmp_path / "hub" / "test.parquet", {**columns, "label": np.full(COUNT, -1)})
    assert "have no labels and were left out" in sources.put(
        str(tmp_path / "hub"), str(tmp_path / "to")
    )


def test_without_pyarrow_one_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.parquet", {"image": files(IMAGES), "label": LABELS})
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"the extra ``parquet``.*pip install pyarrow") as caught:
        put(path, tmp_path / "to")
    assert str(caught.value).isprintable()


def test_images_are_bounded_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a few kilobytes can stand for more images than memory holds."""
    monkeypatch.setattr(idx, "MAX_BYTES", 20_000)
    black = np.zeros((64, 64), np.uint8)
    for name, images in (("files", files([black] * 40)), ("lists", [black.tolist()] * 40)):
        path = write(tmp_path / f"{name}.parquet", {"image": images, "label": LABELS})
        with pytest.raises(DataError, match="the images take more than"):
            put(path, tmp_path / "to")
    monkeypatch.setattr(parquet, "_MOST_ROWS", 39)
    with pytest.raises(DataError, match="has 40 rows; give 1 to 39"):
        put(path, tmp_path / "to")


Broken = tuple[Callable[[Path], Any], str]
BROKEN: dict[str, Broken] = {
    "no parquet": (lambda f: f.write_text("PAR1"), "cannot be read as Parquet"),
    "cut": (
        lambda f: f.write_bytes(
            write(f, {"image": files(IMAGES), "label": LABELS}).read_bytes()[:-9]
        ),
        "cannot be read as Parquet",
    ),
    "no rows": (lambda f: write(f, {"image": [], "label": []}), "has 0 rows"),
    "other columns": (
        lambda f: write(f, {"text": ["\x1b[2J"] * 4, "label": [0, 1, 0, 1]}),
        "has the columns text, label; name them image and label",
    ),
    "no label": (
        lambda f: write(f, {"image": files(IMAGES), "label": [None, *LABELS[1:].tolist()]}),
        "an image has no label",
    ),
    "paths alone": (
        lambda f: write(f, {"image": [{"bytes": None, "path": "a"}] * 40, "label": LABELS}),
        "row 0: has no bytes of an image",
    ),
    "a torn picture": (
        lambda f: write(f, {"image": [*files(IMAGES[1:]), {"bytes": b"x"}], "label": LABELS}),
        "row 39: cannot be read as a picture",
    ),
    "other sizes": (
        lambda f: write(
            f, {"image": [*files(IMAGES[1:]), *files(IMAGES[:1, 1:])], "label": LABELS}
        ),
        "row 39: is 6x5 pixels",
    ),
    "lists of other sizes": (
        lambda f: write(f, {"image": [*IMAGES[1:].tolist(), [[1]]], "label": LABELS}),
        "its images differ in size",
    ),
    "words for pixels": (
        lambda f: write(f, {"image": ["a"] * 40, "label": LABELS}),
        "images are 40 of object",
    ),
    "several labels": (
        lambda f: write(f, {"image": files(IMAGES), "label": [[0, 1]] * 40}),
        "labels are 40 of object",
    ),
    "names of damaged features": (
        lambda f: write(
            f,
            {"image": files(IMAGES), "label": LABELS},
            {"label": {"_type": "ClassLabel", "names": [1, {}, "x\n", "y"]}},
        ),
        "'1': each must be a text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, words = BROKEN[name]
    make(tmp_path / "d.parquet")
    with pytest.raises((DataError, ConfigError)) as caught:
        put(tmp_path / "d.parquet", tmp_path / "to")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "to").exists()


def test_flipped_bytes_are_read_or_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "d.parquet", {"image": files(IMAGES), "label": LABELS}).read_bytes()
    for number in range(60):
        draws = np.random.default_rng(number)
        data = bytearray(whole)
        data[int(draws.integers(len(data)))] ^= int(draws.integers(1, 256))
        (tmp_path / "x.parquet").write_bytes(data)
        try:
            put(tmp_path / "x.parquet", tmp_path / f"to{number}")
        except (DataError, ConfigError) as error:
            assert str(error).isprintable()  # noqa: PT017
