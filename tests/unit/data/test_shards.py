"""Shards on disk: what is put is what is read, and one line says what is wrong."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.datasets import some, write
from trainer.config import TrainConfig
from trainer.data import dataset, digits, idx, shards, sources
from trainer.errors import ConfigError, DataError, UserError
from trainer.storage.local import LocalStorage

IMAGES, LABELS = shards.names(1, 3)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    sources.put("digits", str(folder), train_count=17, test_count=20, split=3)
    return folder


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    """17 training images of 28x28 in shards of 5, 6 and 6."""
    return shutil.copytree(drawn, tmp_path / "data")


def refusal(folder: Path, validation: int = 2) -> UserError:
    """Return why the data cannot be used, at the start or when the shards are read."""
    with pytest.raises(UserError) as caught:
        load_all(folder, validation)
    assert "\n" not in str(caught.value)
    return caught.value


def load_all(folder: Path, validation: int) -> None:
    dataset.load(str(folder), validation)
    read_all(folder, validation)


def read_all(folder: Path, validation: int = 0) -> list[shards.Part]:
    found = shards.locate(LocalStorage(str(folder)), validation)
    assert found is not None
    return [shards.read(LocalStorage(str(folder)), found, n) for n in range(len(found.counts))]


def test_digits_in_shards_are_those_of_one_file(folder: Path) -> None:
    data = dataset.load(str(folder), validation=2)
    images, labels = digits.draw(17, 0)
    parts = read_all(folder)
    assert [len(part.labels) for part in parts] == [5, 6, 6]
    np.testing.assert_array_equal(np.concatenate([p.images for p in parts])[..., 0], images)
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), labels)
    np.testing.assert_array_equal(data.validation.images[..., 0], images[:2])
    assert (data.samples, len(data.train.labels), len(data.test.labels)) == (15, 0, 20)
    assert data.shards is not None
    assert data.shards.counts == (3, 6, 6)
    assert (data.classes, data.input_shape) == (10, (28, 28, 1))


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_another_source_is_shuffled_into_shards(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    arrays = some(train=20, shape=shape)
    write(source, arrays)
    line = sources.put(str(source), str(target), split=4)
    assert line.startswith(f"{target}: 20 training and 4 test images")
    assert "in 4 shards" in line
    parts = read_all(target)
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    wanted = dataset.load(str(source), 0)
    order = [int((wanted.train.images == image).all(axis=(1, 2, 3)).argmax()) for image in images]
    assert sorted(order) == list(range(20))
    assert order != sorted(order)
    np.testing.assert_array_equal(labels, wanted.train.labels[order])
    data = dataset.load(str(target), 0)
    np.testing.assert_array_equal(data.test.images, wanted.test.images)
    assert (data.classes, data.input_shape) == (wanted.classes, wanted.input_shape)


def test_an_interrupted_put_is_completed_and_nothing_is_overwritten(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in (shards.INDEX, IMAGES):
        (folder / name).unlink()
    assert f"no {shards.INDEX}" in str(refusal(folder))
    sources.put("digits", str(folder), train_count=17, test_count=20, split=3)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for options in ({"seed": 1}, {"split": 0}, {"split": 4}):
        wanted: dict[str, Any] = {"train_count": 17, "test_count": 20, "split": 3, **options}
        with pytest.raises(ConfigError, match="holds other data"):
            sources.put("digits", str(folder), **wanted)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sources.put("auto", str(folder), split=4).endswith("kept as it was")


def test_test_images_of_another_dataset_are_not_taken_for_its_own(tmp_path: Path) -> None:
    sources.put("digits", str(tmp_path), train_count=17, test_count=20, split=3, seed=1)
    for path in tmp_path.iterdir():
        if not path.name.startswith("t10k"):
            path.unlink()
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    (tmp_path / images.stem).write_bytes(gzip.decompress(images.read_bytes()))
    images.unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="t10k-images-idx3-ubyte holds other data"):
        sources.put("digits", str(tmp_path), train_count=17, test_count=20, split=3)
    assert sorted(tmp_path.iterdir()) == before


def test_too_few_digits_for_shards(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="digits: 9 in shards; give at least 10"):
        sources.put("digits", str(tmp_path), train_count=9, test_count=20, split=2)


def test_a_dataset_is_whole_or_in_shards(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is in shards already"):
        sources.put(str(folder), str(tmp_path / "copy"), split=2)
    assert sources.put("auto", str(folder)).endswith("kept as it was")
    (folder / "train-images-idx3-ubyte").write_bytes(b"")
    assert "train-images-idx3-ubyte beside the shards" in str(refusal(folder))
    whole = tmp_path / "whole"
    sources.put("digits", str(whole), train_count=17, test_count=20)
    with pytest.raises(ConfigError, match="holds other data"):
        sources.put("digits", str(whole), train_count=17, test_count=20, split=2)


def test_no_file_is_written_that_is_too_large_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "MAX_BYTES", 20 + 6 * 784)
    with pytest.raises(ConfigError, match=r"more than 4724 bytes; give at least 3$"):
        sources.put("digits", str(tmp_path), train_count=17, test_count=20, split=2)
    sources.put("digits", str(tmp_path), train_count=17, test_count=20, split=3)
    dataset.load(str(tmp_path), 2)
    monkeypatch.setattr(idx, "MAX_BYTES", 20 + 5 * 784)
    with pytest.raises(DataError, match="put the dataset again in more shards"):
        dataset.load(str(tmp_path), 2)


@pytest.mark.parametrize("split", [-1, 18, 100_000])
def test_a_number_of_shards_that_cannot_be(split: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"shards: {split}: there are 17 training images"):
        sources.put("digits", str(tmp_path), train_count=17, test_count=20, split=split)
    assert not list(tmp_path.iterdir())


def test_compressed_shards_are_the_same_data(folder: Path) -> None:
    before, parts = dataset.load(str(folder), 2).sha256, read_all(folder)
    path = folder / IMAGES
    array = idx.decode(path.read_bytes(), "")
    (folder / f"{IMAGES}.gz").write_bytes(idx.encode(array, compress=True))
    path.unlink()
    data = dataset.load(str(folder), 2)
    assert data.sha256 == before
    assert data.shards is not None
    assert data.shards.compressed
    for part, again in zip(parts, read_all(folder), strict=True):
        np.testing.assert_array_equal(part.images, again.images)


def test_the_digest_depends_on_every_file(folder: Path) -> None:
    before = dataset.load(str(folder), 2).sha256
    index = json.loads((folder / shards.INDEX).read_text())
    index["shards"][2]["labels_sha256"] = "0" * 64
    (folder / shards.INDEX).write_text(json.dumps(index, indent=1) + "\n")
    assert dataset.load(str(folder), 2).sha256 != before


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(edit((folder / name).read_bytes()))

    return damage


def relist(folder: Path) -> None:
    """Let the index promise other sizes than the files have."""
    index = json.loads((folder / shards.INDEX).read_text())
    index["shards"][1]["count"] = 5
    (folder / shards.INDEX).write_text(json.dumps(index, indent=1) + "\n")


def relist_compressed(folder: Path) -> None:
    """Let it promise other sizes than files have whose sizes say nothing."""
    relist(folder)
    for name in (IMAGES, LABELS):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()


def recount(folder: Path) -> None:
    """Let the index promise fewer classes than there are."""
    index = json.loads((folder / shards.INDEX).read_text())
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(
        idx.encode(np.zeros(20, np.uint8), compress=True)
    )
    index["classes"] = 2
    (folder / shards.INDEX).write_text(json.dumps(index, indent=1) + "\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change(IMAGES, lambda data: data[:-1] + bytes([data[-1] ^ 1])), f"{IMAGES}: is not the"),
        (change(LABELS, lambda data: data[:-1] + bytes([data[-1] ^ 1])), f"{LABELS}: is not the"),
        (change(IMAGES, lambda data: data[:500]), f"{IMAGES}: has 500 bytes, but shards.json"),
        (change(LABELS, lambda _: b""), f"{LABELS}: has 0 bytes"),
        (change(IMAGES, lambda data: data + bytes(100)), f"{IMAGES}: has "),
        (change(IMAGES, lambda data: data + b"x"), f"{IMAGES}: the IDX header promises"),
        (lambda folder: (folder / IMAGES).unlink(), f"no {IMAGES} there"),
        (lambda folder: (folder / LABELS).unlink(), f"no {LABELS} there"),
        (lambda folder: (folder / shards.INDEX).unlink(), "but no shards.json; put the dataset"),
        (lambda folder: (folder / shards.names(3, 3)[0]).write_text(""), "is not one of the 3"),
        (lambda folder: (folder / shards.names(0, 4)[1]).write_text(""), "is not one of the 3"),
        (change(shards.INDEX, lambda data: data[:100]), "shards.json: damaged"),
        (change(shards.INDEX, lambda _: b"[]"), "shards.json: damaged"),
        (change(shards.INDEX, lambda d: d.replace(b'"count": 5', b'"count": 0')), "damaged"),
        (relist, f"{IMAGES}: has 4720 bytes, but shards.json lists 3920 elements"),
        (relist_compressed, f"{IMAGES}.gz: holds 6x28x28, but shards.json lists 5x28"),
        (recount, r"a label is 9, but shards.json lists 2 classes"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(folder)
    error = refusal(folder)
    assert isinstance(error, DataError)
    assert str(error).startswith(str(folder))
    assert words in str(error)


@pytest.mark.parametrize("validation", [5, 6, -1])
def test_the_images_for_validation_are_of_the_first_shard(folder: Path, validation: int) -> None:
    error = refusal(folder, validation)
    assert isinstance(error, ConfigError)
    assert re.match(f"validation {validation}: .* shard 0, and that has 5 images", str(error))
    default = TrainConfig.model_fields["validation"].default
    assert f"give a validation of 0 to 4 (default: {default})" in str(error)
