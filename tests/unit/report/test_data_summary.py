"""What ``data show`` says of datasets, plain and in shards."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from tests.support.datasets import TEST_LABELS, TRAIN_LABELS, some, write
from tests.support.names import HARD
from tests.support.processes import ROOT
from trainer.cli.main import main
from trainer.common.text import printable
from trainer.data import dataset, description, shards, sources
from trainer.data.description import Description
from trainer.report import data_summary
from trainer.storage.local import LocalStorage

PAGE = ROOT / "docs/data.md"
ABOUT = Description(HARD[4:7], 1, "somewhere\u202e", "CC0", "mean 0")


@pytest.fixture(params=["plain", "shards"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return a dataset of three classes, of which the last has no test image."""
    arrays = some(train=20, test=5, shape=(6, 9, 3))
    arrays[TEST_LABELS] %= 2
    uri = write(tmp_path, arrays)
    if request.param == "shards":
        sources.put(uri, str(tmp_path / "shards"), split=4)
        uri = str(tmp_path / "shards")
    (Path(uri) / description.NAME).write_bytes(description.encode(ABOUT))
    return uri


def test_the_table_has_each_class_and_what_is_known(folder: str) -> None:
    found = data_summary.read(folder, pictures=False)
    text = data_summary.as_text(found)
    lines = text.splitlines()
    assert lines[:3] == [
        f"folder    {folder}",
        "images    6x9x3 (height, width, channels)",
        "training  20 images" + (" in 4 shards" if folder.endswith("shards") else ""),
    ]
    for line in (
        f"SHA-256   {dataset.load(folder, 0).sha256}",
        "source    somewhere\ufffd",
        "licence   CC0",
        "pixels    mean 0",
        "labels    1 and up in the source, 0 and up here",
    ):
        assert line in lines
    assert [line.split()[-2:] for line in lines[-5:-1]] == [
        ["training", "test"],
        ["7", "3"],
        ["7", "2"],
        ["no", "images"],
    ]
    assert lines[-2].split()[-3] == "6"
    assert lines[-1] == "class 2 T-shirt/top of 3 has no test image"
    assert len({cell_len(line) for line in lines[-5:-1]}) == 1
    assert all(line == printable(line) for line in lines)


def test_one_of_a_kind_is_singular(tmp_path: Path) -> None:
    folder = write(tmp_path, some(train=20, test=1))
    line = sources.put(folder, str(tmp_path / "shards"), split=1)
    assert ": 20 training and 1 test image 3x5x1, " in line
    assert ", in 1 shard, " in line
    text = data_summary.as_text(data_summary.read(str(tmp_path / "shards"), pictures=False))
    assert "\ntraining  20 images in 1 shard\ntest      1 image\n" in text


def test_the_same_for_programs(folder: str) -> None:
    values = json.loads(data_summary.as_json(data_summary.read(folder, pictures=False)))
    assert values == {
        "uri": folder,
        "sha256": dataset.load(folder, 0).sha256,
        "input_shape": [6, 9, 3],
        "classes": 3,
        "class_names": list(HARD[4:7]),
        "training": [7, 7, 6],
        "test": [3, 2, 0],
        "shards": 4 if folder.endswith("shards") else None,
        "label_offset": 1,
        "source": "somewhere\u202e",
        "licence": "CC0",
        "normalization": "mean 0",
    }


def test_a_picture_has_images_of_each_class_beside_its_name(folder: str) -> None:
    found = data_summary.read(folder, pictures=True)
    png = data_summary.picture(found)
    drawn = np.asarray(Image.open(io.BytesIO(png)))
    left = drawn.shape[1] - 10 * 72
    assert 60 < left < 180
    assert drawn.shape[0] == 3 * 72 + 8
    for label in range(3):
        row = drawn[8 + 72 * label : 72 + 72 * label]
        assert (row[:, :left] != 255).any()  # its name
        there = int((found.pictured.labels == label).sum())
        for column in range(data_summary.ACROSS):
            cell = row[:, left + 72 * column : left + 64 + 72 * column]
            assert (cell != 255).any() == (column < max(there, 1))  # or "no images"


def test_a_name_that_the_font_cannot_draw_is_a_number_in_the_picture(tmp_path: Path) -> None:
    found = data_summary.read(write(tmp_path, some()), pictures=True)
    foreign, plain = (
        replace(found, data=replace(found.data, class_names=names))
        for names in (("\u732b", "\xe9", "c"), ("0", "1", "c"))
    )
    assert data_summary.picture(foreign) == data_summary.picture(plain)


def test_only_the_first_shard_is_read_whole_and_only_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.put("digits", str(tmp_path), train_count=40, test_count=10, split=4)
    asked: list[str] = []

    class Counting(LocalStorage):
        def read(self, name: str, *rest: Any) -> bytes:
            asked.append(name)
            return super().read(name, *rest)

    monkeypatch.setattr(data_summary, "open_storage", Counting)
    for pictures, wanted in ((False, []), (True, [shards.names(0, 4)[0]])):
        asked.clear()
        found = data_summary.read(str(tmp_path), pictures=pictures)
        assert sum(found.training) == 40
        assert [name for name in asked if name.startswith("train-images")] == wanted


def test_the_command(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.png"
    assert main(["data", "show", folder, "--picture", str(file)]) == 0
    assert capsys.readouterr().out.endswith(f"picture: {file}\n")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert main(["data", "show", folder, "--json", "--picture", str(file)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["training"] == [7, 7, 6]
    assert shown.err == f"picture: {file}\n"
    for code, arguments, words in (
        (2, [folder, "--picture", "a.jpg"], "--picture 'a.jpg': must end in .png; give NAME.png"),
        (2, [folder, "--picture", "/nowhere/a.png"], "No such file or directory; give another"),
        (65, [str(tmp_path / "nothing")], "no train-images-idx3-ubyte"),
    ):
        assert main(["data", "show", *arguments]) == code
        shown = capsys.readouterr()
        assert (shown.out, shown.err.count("\n")) == ("", 1)
        assert words in shown.err


@pytest.mark.long
def test_the_page_shows_what_its_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    [put, _, show, printed] = blocks[:4]
    for command in (put, show):
        capsys.readouterr()
        assert main(command.split()[3:]) == 0
    shown = capsys.readouterr().out
    before, after = printed.split("...\n")
    assert shown.startswith(before)
    assert shown.endswith(after)


def test_a_stray_label_is_seen_and_its_gap_is_named(tmp_path: Path) -> None:
    arrays = some(train=8)
    arrays[TRAIN_LABELS][3] = 255
    text = data_summary.as_text(data_summary.read(write(tmp_path, arrays), pictures=True))
    assert "classes 3, 4, 5, 6, 7 and 247 more of 256 have no training image" in text
    assert len(text.splitlines()) == 5 + 2 + 256 + 2


@pytest.mark.parametrize(("shape", "count"), [((1, 1), 3), ((300, 2, 2), 3), ((40, 50), 300)])
def test_images_of_any_size_are_drawn(tmp_path: Path, shape: tuple[int, ...], count: int) -> None:
    found = data_summary.read(write(tmp_path, some(train=count, shape=shape)), pictures=True)
    assert Image.open(io.BytesIO(data_summary.picture(found))).height == 224
