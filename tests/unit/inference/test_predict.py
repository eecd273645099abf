import dataclasses
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.hostile import encoded
from trainer.cli.main import main
from trainer.data import digits
from trainer.errors import ConfigError, DataError
from trainer.inference import panel, predict, test_image
from trainer.inference.picture import Digit, shrunk
from trainer.inference.predict import Prediction, Seen

MNIST = (28, 28, 1)
IMAGES, LABELS = digits.draw(3, seed=1)


def prediction(name: str = "a.png", probability: float = 0.95) -> Prediction:
    rest = [(1 - probability) / 2, 0.0, (1 - probability) / 2, 0.0]
    return Prediction(name, 4, probability, [*rest, probability], (1, 2, 30, 40))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "seven.png"
    path.write_bytes(encoded(Image.fromarray(255 - IMAGES[0]), format="PNG"))
    return str(path)


def test_good_pictures_are_prepared_and_bad_ones_told(picture: str, tmp_path: Path) -> None:
    junk, blank = tmp_path / "junk.png", tmp_path / "blank.png"
    junk.write_bytes(b"no picture")
    blank.write_bytes(encoded(Image.new("L", (30, 30)), format="PNG"))
    names = [str(junk), picture, str(blank), str(tmp_path / "missing.png"), str(tmp_path)]
    seen, errors = predict.look(names, MNIST, "auto")
    assert [each.name for each in seen] == [picture]
    assert [type(error) for error in errors] == [DataError, DataError, ConfigError, ConfigError]
    for error, name in zip(
        errors, (junk, blank, "missing.png: No such file", tmp_path), strict=True
    ):
        assert str(name) in str(error)


def test_digits_are_prepared_at_the_size_of_the_model(picture: str) -> None:
    seen, _ = predict.look([picture], (20, 20, 1), "auto")
    assert seen[0].digits[0].image.shape == (20, 20)


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 30, 1)])
def test_other_models_get_the_whole_picture(picture: str, shape: tuple[int, int, int]) -> None:
    seen, _ = predict.look([picture], shape, "auto")
    assert seen[0].digits[0].image.shape == shape
    assert seen[0].digits[0].box == (0, 0, 28, 28)
    with pytest.raises(ConfigError, match="--prepare resize"):
        predict.look([picture], shape, "mnist")


def test_resize_keeps_the_picture_as_it_is(picture: str) -> None:
    seen, _ = predict.look([picture], MNIST, "resize")
    np.testing.assert_array_equal(seen[0].digits[0].image[..., 0], 255 - IMAGES[0])


def test_standard_input(picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(picture).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    seen, _ = predict.look(["-"], MNIST, "auto")
    assert seen[0].name == "-"
    with pytest.raises(ConfigError, match="can be read once"):
        predict.look(["-", "-"], MNIST, "auto")


def test_a_closed_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    _, (error,) = predict.look(["-"], MNIST, "auto")
    assert isinstance(error, ConfigError)
    assert "standard input is closed" in str(error)


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    names = ["/dev/zero", str(tmp_path / "pipe"), str(tmp_path)]
    seen, errors = predict.look(names, MNIST, "auto")
    assert not seen
    for name, error in zip(names, errors, strict=True):
        assert isinstance(error, ConfigError)
        assert str(error).startswith(f"{name}: no regular file")


def test_the_pictures_in_a_folder_are_read_sorted(
    picture: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("b.JPG", "a.gif", "seven.seen.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(Path(picture).read_bytes())
    (tmp_path / "c.png").mkdir()
    names, errors = predict.files([picture, str(tmp_path), "-"])
    inside = [str(tmp_path / name) for name in ("a.gif", "b.JPG", "seven.png")]
    assert names == [picture, *inside, "-"]
    assert not errors
    assert capsys.readouterr().err == (
        f"trainer: {tmp_path}: left out 3 files that are no pictures\n"
    )
    names, (error,) = predict.files([str(tmp_path / "c.png"), picture])
    assert names == [picture]
    assert "no picture in it" in str(error)
    monkeypatch.setattr(predict, "MOST_FILES", 2)
    names, (error,) = predict.files([str(tmp_path)])
    assert not names
    assert "3 pictures, above the limit of 2" in str(error)


def test_huge_files_are_refused(
    picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "LARGEST", len(Path(picture).read_bytes()))
    larger = tmp_path / "larger.png"
    larger.write_bytes(Path(picture).read_bytes() + b"x")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(larger.read_bytes())))
    seen, errors = predict.look([picture, str(larger), "-"], MNIST, "auto")
    assert [each.name for each in seen] == [picture]
    assert [type(error) for error in errors] == [DataError, DataError]
    assert "more than" in str(errors[0])


@pytest.mark.long
def test_of_a_large_picture_a_small_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encoded(Image.fromarray(IMAGES[0]).resize((2000, 2000)), format="PNG"))
    (seen,), _ = predict.look([str(path)], MNIST, "auto")
    assert seen.size == (2000, 2000)
    assert max(seen.small.size) == predict.SHOWN
    assert seen.digits[0].box[3] > 1000
    sheet = np.asarray(panel.draw(seen, [dataclasses.replace(prediction(), box=(0, 0, 1000, 9))]))
    assert np.flatnonzero((sheet[9] == (0xE4, 0x57, 0x2E)).all(axis=1)).max() == 8 + 320 + 1


def test_names_are_told_in_printable_letters(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{each}\x1b[2J\udcff.png") for each in ("good", "junk", "none")]
    Path(names[0]).write_bytes(encoded(Image.fromarray(IMAGES[0]), format="PNG"))
    Path(names[1]).write_bytes(b"junk")
    seen, errors = predict.look(names, MNIST, "auto")
    assert [each.name for each in seen] == names[:1]
    predictions = [prediction(names[0])]
    told = [predict.as_text(predictions), *panel.show(seen, predictions, ""), *map(str, errors)]
    assert len(told) == 4
    assert all(line.rstrip("\n").isprintable() for line in told)
    assert json.loads(predict.as_json(predictions))[0]["picture"] == names[0]


def test_text_fits_80_columns_and_names_the_second_choice_when_unsure() -> None:
    sure, unsure = prediction(), prediction("/a/long/path" * 20 + "/b.png", 0.52)
    lines = predict.as_text([sure, unsure]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["a.png", "4", "95.0%"]
    assert lines[1].split()[-5:] == ["4", "52.0%", "or", "2", "24.0%"]
    assert "/b.png" in lines[1]


def test_json_is_a_list_of_objects() -> None:
    (value,) = json.loads(predict.as_json([prediction()]))
    assert value["picture"] == "a.png"
    assert value["digit"] == 4
    assert value["probability"] == value["probabilities"][4] == 0.95
    assert value["box"] == [1, 2, 30, 40]
    assert predict.as_json([]) == "[]\n"


def test_of_many_classes_the_truth_and_what_is_left_out_are_told() -> None:
    seen = Seen("test image 0", Image.new("L", (2, 2)), (2, 2), [])
    shares = np.arange(256) / np.arange(256).sum()
    many = Prediction("", 255, float(shares[-1]), shares.tolist(), (0, 0, 2, 2))
    _, _, head, *bars, last = test_image.as_text(seen, 3, many).splitlines()
    assert head == "test image 0: 3; predicted: 255, wrong"
    assert [int(bar.split()[0]) for bar in bars] == [3, *range(236, 256)]
    assert last == "and 235 more, 84.9% in all"
    assert "more" not in test_image.as_text(seen, 3, prediction())


def test_show_writes_what_was_seen(picture: str, tmp_path: Path) -> None:
    seen, _ = predict.look([picture], MNIST, "auto")
    (path,) = panel.show(seen, [prediction(picture)], "")
    assert path == str(tmp_path / "seven.seen.png")
    pixels = np.asarray(Image.open(path).convert("L"))
    enlarged = seen[0].digits[0].image.repeat(4, axis=0).repeat(4, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(pixels[:121, :], enlarged.shape)
    assert (windows == enlarged).all(axis=(2, 3)).any()


@pytest.mark.parametrize(("shape", "size"), [((30, 200, 1), (112, 17)), ((40, 10, 3), (28, 112))])
def test_an_image_that_is_not_square_keeps_its_form(
    shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    digit = Digit(np.zeros(shape, np.uint8), (0, 0, 1, 1))
    seen = Seen("a", Image.new("L", (400, 400)), (400, 400), [digit])
    sheet = np.asarray(panel.draw(seen, [prediction()]).convert("L"))
    dark = sheet[8 : 8 + panel.CELL, 8 + 400 + 8 :] < 255
    assert (dark.any(axis=0).sum(), dark.any(axis=1).sum()) == size


def test_pictures_of_one_name_do_not_overwrite_each_other(picture: str, tmp_path: Path) -> None:
    (seen,), _ = predict.look([picture], MNIST, "auto")
    other = dataclasses.replace(seen, name="elsewhere/seven.jpg")
    folder = tmp_path / "new" / "folder"
    paths = [*map(Path, panel.show([seen, other], [prediction()] * 2, str(folder)))]
    assert len(set(paths)) == 2
    assert all(path.parent == folder and path.is_file() for path in paths)


def test_show_refuses_what_is_no_folder(picture: str) -> None:
    seen, _ = predict.look([picture], MNIST, "auto")
    with pytest.raises(ConfigError, match="give another folder"):
        panel.show(seen, [prediction()], picture)


@pytest.mark.parametrize("size", [(1, 1), (3000, 40), (40, 3000), (28, 28)])
@pytest.mark.parametrize("count", [1, 23])
def test_panels_of_any_size(size: tuple[int, int], count: int) -> None:
    digit = Digit(IMAGES[0], (0, 0, 1, 1))
    seen = Seen("a", shrunk(Image.new("L", size), predict.SHOWN), size, [digit] * count)
    sheet = panel.draw(seen, [prediction()] * count)
    assert max(sheet.size) < 1500


def test_classes_are_called_by_their_names(picture: str) -> None:
    names = ("a", "b", "c", "\u202e<b>" + "long " * 19, "T-shirt/top")
    surest, other = prediction(), Prediction("b.png", 3, 0.5, [0.4, 0, 0.1, 0.5], (0, 0, 1, 1))
    lines = predict.as_text([surest, other], names).splitlines()
    assert lines == [
        "a.png  T-shirt/top                95.0%",
        "b.png  \ufffd<b>long long long long…   50.0%  or a  40.0%",
    ]
    values = json.loads(predict.as_json([surest, other], names))
    assert [each["class_name"] for each in values] == [names[4], names[3]]
    assert "class_name" not in json.loads(predict.as_json([surest]))[0]
    [seen], _ = predict.look([picture], MNIST, "auto")
    sheets = [panel.draw(seen, [each], names) for each in (surest, other)]
    plain = panel.draw(seen, [surest])
    assert {sheet.size for sheet in sheets} == {plain.size}
    assert len({sheet.tobytes() for sheet in (*sheets, plain)}) == 3
    assert panel.draw(seen, [surest], (*names[:4], "\u732b")).tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--test 3 sheet.jpg", "--test 3: takes an image of a dataset instead of pictures, but "),
        ("--show sheet.jpg", "--show sheet.jpg: is the folder to write to, and no PICTURE is left"),
        ("--show", "predict: name a PICTURE or a folder of them, or give --test N"),
    ],
)
def test_too_many_arguments_or_too_few_are_named(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--run", "run", *arguments.split()]) == 2
    assert words in capsys.readouterr().err
