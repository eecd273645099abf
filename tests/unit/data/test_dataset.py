import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.datasets import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    Arrays,
    some,
    write,
)
from tests.support.mnist import find_mnist
from tests.support.names import HARD
from trainer.config import TrainConfig
from trainer.data import dataset, description, idx, sources
from trainer.data.description import Description
from trainer.errors import ConfigError, DataError, UserError
from trainer.storage.local import LocalStorage


def refusal(uri: str, validation: int = 2) -> UserError:
    with pytest.raises(UserError) as caught:
        dataset.load(uri, validation)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith((uri, "validation"))
    return caught.value


def test_the_first_training_images_are_for_validation(tmp_path: Path) -> None:
    arrays = some()
    data = dataset.load(write(tmp_path, arrays), validation=2)
    np.testing.assert_array_equal(data.validation.images[..., 0], arrays[TRAIN_IMAGES][:2])
    np.testing.assert_array_equal(data.validation.labels, arrays[TRAIN_LABELS][:2])
    np.testing.assert_array_equal(data.train.images[..., 0], arrays[TRAIN_IMAGES][2:])
    np.testing.assert_array_equal(data.train.labels, arrays[TRAIN_LABELS][2:])
    np.testing.assert_array_equal(data.test.images[..., 0], arrays[TEST_IMAGES])
    np.testing.assert_array_equal(data.test.labels, arrays[TEST_LABELS])
    assert data.classes == 3
    assert data.input_shape == (3, 5, 1)
    for split in (data.train, data.validation, data.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32


def test_no_validation_is_a_choice(tmp_path: Path) -> None:
    data = dataset.load(write(tmp_path, some()), validation=0)
    assert (len(data.train.images), len(data.validation.images)) == (6, 0)
    assert data.validation.images.shape == (0, 3, 5, 1)


@pytest.mark.parametrize("sharded", [False, True])
def test_names_of_classes_lie_beside_the_files(tmp_path: Path, sharded: bool) -> None:
    uri = write(tmp_path, some())
    if sharded:
        sources.put(uri, str(tmp_path / "shards"), split=2)
        uri = str(tmp_path / "shards")
    before = dataset.load(uri, validation=0)
    assert before.class_names == ()
    file = Path(uri) / description.NAME
    file.write_bytes(description.encode(Description(HARD[:3])))
    found = dataset.load(uri, validation=0)
    assert (found.class_names, found.sha256) == (HARD[:3], before.sha256)
    for names in (HARD[:2], HARD[:4]):
        file.write_bytes(description.encode(Description(names)))
        assert str(refusal(uri)) == (
            f"{uri}/dataset.json: has {len(names)} class_names, but the training labels are of 3 "
            "classes, 0 to 2; give a name for each, or none"
        )


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\x1b[2J", "a\nb", "a\u2028b", "a\ud800", 1])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: object) -> None:
    uri = write(tmp_path, some())
    (tmp_path / description.NAME).write_text(json.dumps({"class_names": ["a", name, "c"]}))
    assert "dataset.json: damaged: class_names: " in str(refusal(uri))


def test_classes_without_images_are_counted() -> None:
    assert dataset.without_images([1, 2]) is None
    assert dataset.without_images([0, *26 * [4]]) == "class 0 of 27 has no"
    assert dataset.without_images([1, 0, 0], ("a", "b", "2")) == "classes 1 b, 2 of 3 have no"
    stray = dataset.without_images([*10 * [9], *245 * [0], 1], 256 * ("x" * 100,))
    assert stray is not None
    assert stray.endswith("… and 240 more of 256 have no")
    assert len(stray) < 200


def test_channels_come_from_the_data(tmp_path: Path) -> None:
    data = dataset.load(write(tmp_path, some(shape=(4, 2, 3))), validation=2)
    assert data.input_shape == (4, 2, 3)


@pytest.mark.parametrize("alias", range(4))
def test_every_name_holds_the_same_data(tmp_path: Path, alias: int) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.mkdir()
    other.mkdir()
    expected = dataset.load(write(plain, some()), 2)
    found = dataset.load(write(other, some(), alias), 2)
    np.testing.assert_array_equal(found.train.images, expected.train.images)
    assert found.sha256 == expected.sha256


def test_of_two_names_the_uncompressed_one_is_read(tmp_path: Path) -> None:
    write(tmp_path, some())
    (tmp_path / f"{TRAIN_IMAGES}.gz").write_bytes(b"not looked at")
    assert len(dataset.load(str(tmp_path), 2).train.images) == 4


@settings(deadline=None)  # other processes may take the processor
@given(st.sampled_from(dataset.FILES), st.data())
def test_every_element_counts_in_the_digest(name: str, data: st.DataObject) -> None:
    def digest(arrays: Arrays) -> str:
        files = {name: idx.encode(array) for name, array in arrays.items()}
        return dataset.assemble(dataset.parse(files, "d"), "d", 0).sha256

    arrays = some()
    before = digest(arrays)
    changed = arrays[name].copy()
    at = data.draw(st.integers(0, changed.size - 1))
    changed.flat[at] = (int(changed.flat[at]) + 1) % 3
    assert digest(arrays | {name: changed}) != before


def test_mnist_is_read_whole() -> None:
    folder = find_mnist()
    if folder is None:
        pytest.skip("MNIST is not on this machine")
    data = dataset.load(str(folder))
    counts = [len(split.images) for split in (data.train, data.validation, data.test)]
    assert counts == [55_000, 5_000, 10_000]
    assert (data.classes, data.input_shape) == (10, (28, 28, 1))
    assert data.validation.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.sha256 == "e9914cff2ade526da2ab1ac60c072f9173cc53e35b9411692de8207cb1b9009d"


def replaced(name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Arrays:
    arrays = some()
    return arrays | {name: change(arrays[name])}


CONTRADICTIONS = {
    "lengths": (
        replaced(TRAIN_LABELS, lambda a: a[:-1]),
        "train-images-idx3-ubyte holds 6 images but train-labels-idx1-ubyte 5 labels; each image",
    ),
    "test lengths": (
        replaced(TEST_IMAGES, lambda a: a[:-1]),
        "t10k-images-idx3-ubyte holds 3 images but t10k-labels-idx1-ubyte 4 labels; each image",
    ),
    "no images": (replaced(TRAIN_IMAGES, lambda a: a[:0]), "idx3-ubyte is 0x3x5, which is empty"),
    "no pixels": (replaced(TEST_IMAGES, lambda a: a[:, :0]), "is 4x0x5, which is empty"),
    "sizes": (
        replaced(TEST_IMAGES, lambda a: a[:, :2]),
        "training images are 3x5x1 but test images 2x5x1 (height x width x channels)",
    ),
    "flat images": (replaced(TRAIN_IMAGES, lambda a: a[0]), "is 3x5; images are count x height"),
    "flat labels": (replaced(TEST_LABELS, lambda a: a[None]), "is 1x4; labels have one dimension"),
    "one class": (replaced(TRAIN_LABELS, np.zeros_like), "every training label is 0; a classifier"),
    "a class too many": (
        replaced(TEST_LABELS, lambda a: np.where(a == 2, 3, a).astype(np.uint8)),
        "test label 3 at index 2 lies outside the 3 classes of the training labels, 0 to 2; check",
    ),
    "wide labels": (
        replaced(TRAIN_LABELS, lambda a: a.astype(np.int32)),
        "train-labels-idx1-ubyte: the elements are int32; images and labels must be uint8 (0x08)",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_refuses_data_that_contradict_each_other(tmp_path: Path, case: str) -> None:
    arrays, message = CONTRADICTIONS[case]
    error = refusal(write(tmp_path, arrays))
    assert isinstance(error, DataError)
    assert message in str(error)


@pytest.mark.parametrize("validation", [-1, 6, 5000])
def test_refuses_a_validation_split_that_leaves_nothing(tmp_path: Path, validation: int) -> None:
    error = refusal(uri := write(tmp_path, some()), validation)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"validation {validation}: {uri} has 6 training images; give a validation of 0 to 5 "
        f"(default: {TrainConfig.model_fields['validation'].default})"
    )


def test_refuses_a_malformed_file_by_its_name(tmp_path: Path) -> None:
    uri = write(tmp_path, some(), alias=1)
    torn = tmp_path / f"{TEST_LABELS}.gz"
    torn.write_bytes(torn.read_bytes()[:-3])
    assert str(refusal(uri)).startswith(f"{torn}: the gzip stream is torn")


def test_refuses_a_bomb_without_inflating_it(tmp_path: Path) -> None:
    uri = write(tmp_path, some())
    bomb = idx.encode(some()[TRAIN_IMAGES]) + bytes(20_000_000)
    (tmp_path / TRAIN_IMAGES).write_bytes(gzip.compress(bomb))
    assert "90 bytes, but the file holds more" in str(refusal(uri))


def test_refuses_a_file_too_large_without_reading_it(tmp_path: Path) -> None:
    uri = write(tmp_path, some())
    with (tmp_path / TRAIN_IMAGES).open("ab") as file:
        file.truncate(idx.MAX_BYTES + 1)  # sparse: it takes no space
    assert "the file has 4294967297 bytes, above the limit of 4294967296" in str(refusal(uri))


@pytest.mark.parametrize("name", dataset.FILES)
def test_says_which_file_is_missing(tmp_path: Path, name: str) -> None:
    uri = write(tmp_path, some())
    (tmp_path / name).unlink()
    error = refusal(uri)
    assert isinstance(error, DataError)
    dotted = name.replace("-idx", ".idx")
    assert f"no {name} there, with or without .gz, nor as {dotted};" in str(error)
    assert str(error).endswith("; put what is missing there")


def test_says_where_the_dataset_lies_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "mnist").mkdir(parents=True)
    below = write(tmp_path / "a" / "mnist", some(), alias=1)
    assert str(refusal(str(tmp_path))).endswith(f"a dataset lies below it: name {below}")


def test_says_that_a_file_is_no_folder(tmp_path: Path) -> None:
    uri = write(tmp_path, some())
    error = refusal(f"{uri}/{TRAIN_IMAGES}")
    assert isinstance(error, ConfigError)
    assert re.search(rf"names one file; .* name {re.escape(uri)}$", str(error))


def test_says_that_a_folder_is_not_there(tmp_path: Path) -> None:
    error = refusal(str(tmp_path / "nowhere"))
    assert isinstance(error, DataError)
    assert ", ".join(dataset.FILES) in str(error)
    assert str(error).endswith(f"python -m trainer data put --from mnist --to {tmp_path}/nowhere")


def test_what_to_copy_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "mein öff"
    assert str(refusal(str(folder))).endswith(f"data put --from mnist --to '{folder}'")
    folder.mkdir()
    below = write(folder, some())
    assert str(refusal(str(tmp_path))).endswith(f"name '{below}'")
    assert str(refusal(f"{below}/{TRAIN_IMAGES}")).endswith(f"name '{below}'")


def test_the_files_are_found_among_others(tmp_path: Path) -> None:
    uri = write(tmp_path, some())
    (tmp_path / "t.txt").write_text("")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / TRAIN_IMAGES).write_text("another")
    assert list(dataset.locate(LocalStorage(uri))) == list(dataset.FILES)
