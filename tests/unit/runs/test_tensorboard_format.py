"""Event files: what TensorBoard's own reader finds in them, and how a run's folder fills."""

import contextlib
import importlib.util
import io
import json
import struct
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from trainer import schedule
from trainer.config import parse
from trainer.data.dataset import Split
from trainer.errors import UnavailableError
from trainer.report.tensorboard_server import Mirror
from trainer.runs import run_folder, tensorboard_format, tensorboard_images, tensorboard_writer
from trainer.runs.tensorboard_writer import EventLog, Scored
from trainer.storage.local import LocalStorage

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 3, 40).astype(np.int32)
IMAGES = RNG.integers(0, 256, (40, 6, 5, 1)).astype(np.uint8)
LOGITS = RNG.normal(size=(40, 3)).astype(np.float32)
SPLIT = Split(IMAGES, LABELS)
SPLIT_OF_NINE = Split(IMAGES[:9], LABELS[:9])
CONFIG = parse({"preset": "mlp-100", "schedule": "cosine", "learning_rate": 0.01})
TOTAL = 1000


def read(path: Path) -> list[Any]:
    """Return the events of a file, by TensorBoard's own reader, which checks the checksums."""
    reader = PyRecordReader_New(str(path))
    found = []
    with contextlib.suppress(OutOfRangeError):
        while True:
            reader.GetNext()
            found.append(Event.FromString(reader.record()))
    return found


def curves(path: Path) -> dict[str, list[Any]]:
    """Return the points of a file by tag."""
    found: dict[str, list[Any]] = {}
    for event in read(path):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[int, list[tuple[str, float]]], dict[int, float]]:
    steps = draw(st.sets(st.integers(0, 2**40), max_size=6))
    numbers = st.floats(width=32, allow_nan=False)
    points = st.lists(st.tuples(st.text(max_size=8), numbers), max_size=4)
    return (
        {step: draw(points) for step in steps},
        {step: draw(st.floats(1e9, 2e9)) for step in steps},
    )


@given(st.lists(tables(), max_size=3))
def test_parts_one_after_the_other_are_a_file_of_all_their_points(
    tmp_path_factory: pytest.TempPathFactory, parts: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("parts") / "events.out.tfevents.0"
    expected = []
    with path.open("wb") as file:
        for table, times in parts:
            values = {
                step: [tensorboard_format.scalar(tag, value) for tag, value in points]
                for step, points in table.items()
            }
            file.write(tensorboard_format.steps(values, times))
            expected += [(s, times[s], table[s]) for s in sorted(table) if table[s]]
    found = [event for event in read(path) if event.HasField("summary")]
    assert [
        (e.step, e.wall_time, [(v.tag, v.tensor.float_val[0]) for v in e.summary.value])
        for e in found
    ] == expected


def test_a_part_tells_readers_to_forget_its_steps(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        tensorboard_format.steps(
            {9: [tensorboard_format.scalar("a", 1)], 7: [tensorboard_format.scalar("a", 2)]},
            {9: 5.0, 7: 4.0},
        )
    )
    version, start, *_ = read(tmp_path / "a")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, SessionLog.START)


def test_times_end_now_and_lie_as_far_apart_as_the_training_between() -> None:
    records = [{"step": 10, "train_seconds": 1.5}, {"step": 30, "train_seconds": 4.0}]
    assert tensorboard_format.times(records, 100.0) == {10: 97.5, 30: 100.0}
    assert tensorboard_format.times([], 100.0) == {}


def test_settings_keep_their_types(tmp_path: Path) -> None:
    values = {"rate": 0.5, "epochs": 3, "best": True, "preset": "cnn", "model": None}
    (tmp_path / "a").write_bytes(tensorboard_format.settings(values, "group", 7.0))
    [value] = [v for e in read(tmp_path / "a") for v in e.summary.value]
    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    found = {
        k: getattr(v, v.WhichOneof("kind")) for k, v in data.session_start_info.hparams.items()
    }
    assert found == {"rate": 0.5, "epochs": 3.0, "best": True, "preset": "cnn"}
    assert type(found["best"]) is bool
    assert value.tag == "_hparams_/session_start_info"


def test_a_histogram_counts_every_value() -> None:
    values = RNG.normal(size=(30, 4)).astype(np.float32)
    tensor = tensorboard_format.histogram("w", values).tensor
    rows = np.frombuffer(tensor.tensor_content).reshape([d.size for d in tensor.tensor_shape.dim])
    assert rows[:, 2].sum() == values.size
    assert rows[0, 0] == values.min()
    assert rows[-1, 1] == values.max()
    inside = (values >= rows[3, 0]) & (values < rows[3, 1])
    assert rows[3, 2] == inside.sum()


def opened(png: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_an_image_tells_its_size() -> None:
    png = tensorboard_images.confusion_matrix(LOGITS, LABELS)
    width, height, data = tensorboard_format.image("a", png).tensor.string_val
    assert opened(data).shape[:2] == (int(height), int(width))


def test_the_confusion_matrix_is_blue_where_right_and_orange_where_wrong() -> None:
    labels = np.array([0, 1, 1], np.int32)
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2]]
    picture = opened(tensorboard_images.confusion_matrix(logits, labels)).astype(int)
    red, blue = picture[:, :, 0], picture[:, :, 2]
    right, wrong = blue > red + 60, red > blue + 60
    middle = {name: np.argwhere(m).mean(axis=0) for name, m in (("r", right), ("w", wrong))}
    assert middle["w"][1] > middle["r"][1]  # class 1 was predicted as 2: right of the diagonal
    perfect = tensorboard_images.confusion_matrix(
        np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32)
    )
    picture = opened(perfect).astype(int)
    assert not (picture[:, :, 0] > picture[:, :, 2] + 60).any()


@pytest.mark.parametrize("classes", [2, 62])
def test_the_confusion_matrix_has_room_for_any_number_of_classes(classes: int) -> None:
    labels = RNG.integers(0, classes, 500).astype(np.int32)
    logits = RNG.normal(size=(500, classes)).astype(np.float32)
    height, width, _ = opened(tensorboard_images.confusion_matrix(logits, labels)).shape
    assert max(height, width) < 2000


def test_the_confusion_matrix_of_hundreds_of_classes_has_colours_but_no_counts() -> None:
    labels = np.arange(256, dtype=np.int32)
    logits = np.eye(256, dtype=np.float32)[labels]
    logits[3] = logits[200]  # the only mistake
    png = tensorboard_images.confusion_matrix(logits, labels)
    assert len(png) < 150_000
    picture = opened(png).astype(int)
    assert max(picture.shape) < 1300
    red, blue = picture[:, :, 0], picture[:, :, 2]
    assert (blue > red + 60).sum() == 255 * 4 * 4
    assert (red > blue + 60).sum() == 4 * 4


@pytest.mark.parametrize("channels", [1, 3])
def test_the_surest_mistake_is_the_first_picture(channels: int) -> None:
    labels = np.zeros(50, np.int32)
    logits = np.zeros((50, 2), np.float32)
    logits[:, 0] = 4
    logits[[7, 20], 1] = (5, 9)  # wrong, the second with more confidence
    images = np.zeros((50, 8, 8, channels), np.uint8)
    images[7], images[20] = 100, 200
    picture = opened(tensorboard_images.wrong_pictures(logits, labels, images))
    # Letters have shades of their own; only a picture fills columns.
    first, second = (
        np.flatnonzero((picture == shade).all(axis=2).sum(axis=0) >= 64) for shade in (200, 100)
    )
    assert len(first) == len(second) == 64
    assert first.max() < second.min()
    assert opened(tensorboard_images.wrong_pictures(logits[:5], labels[:5], images[:5])).size > 0


def records(until: int, first: int = 10) -> list[dict[str, Any]]:
    """Return metrics of a chunk every 10 steps and a validation every 20."""
    lines: list[dict[str, Any]] = []
    for step in range(first, until + 1, 10):
        seconds = {"step": step, "train_seconds": step / 100}
        lines.append(
            {**seconds, "loss": 1 / step, "accuracy": 0.5 + step / 1000, "images_per_second": 9.0}
        )
        if step % 20 == 0:
            lines.append({**seconds, "validation_loss": 2 / step, "validation_accuracy": 0.25})
    return lines


def log(storage: LocalStorage, warnings: list[str], resumed: int = 0, **settings: Any) -> EventLog:
    config = parse({**CONFIG.model_dump(exclude_unset=True), **settings})
    return EventLog(storage, config, TOTAL, resumed, warnings.append)


def write(found: EventLog, until: int) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "parameters/d/kernel": np.ones((3, 2), np.float32),
        "m/d/kernel": np.ones(2),
    }
    found.write(records(until), arrays, Scored(until // 20 * 20, LOGITS, SPLIT), last=True)


def joined(folder: Path, kind: str) -> dict[str, list[Any]]:
    """Return the points of all parts of a kind."""
    found: dict[str, list[Any]] = {}
    for path in sorted((folder / "events" / kind).iterdir()):
        for tag, points in curves(path).items():
            found.setdefault(tag, []).extend(points)
    return found


def check_complete(folder: Path, until: int) -> None:
    """Check that every record is there once, in the order of steps, with its values."""
    lines = records(until)
    training = [line for line in lines if "loss" in line]
    found = joined(folder, "train")
    for tag in ("loss", "accuracy"):
        expected = [(line["step"], pytest.approx(line[tag])) for line in training]
        assert found[tag] == expected
    rates = schedule.learning_rates(CONFIG, TOTAL, 0, until)
    assert found["learning_rate"] == [(line["step"], rates[line["step"] - 1]) for line in training]
    found = joined(folder, "validation")
    validations = [line for line in lines if "validation_loss" in line]
    assert found["loss"] == [(v["step"], pytest.approx(v["validation_loss"])) for v in validations]
    assert set(found) == {"loss", "accuracy"}


def test_hparams_show_the_run_by_its_folder_and_the_epochs_that_its_steps_make(
    tmp_path: Path,
) -> None:
    for name, shown in (("first", "first "), (None, "")):
        config = parse({**CONFIG.model_dump(exclude_unset=True), "steps": 500})
        digest = run_folder.digest(config.identity())[:8]
        folder = tmp_path / (name or f"mlp-{digest}")
        found = EventLog(LocalStorage(str(folder)), config, 500, 0, print, (), 1.625)
        write(found, 30)
        data = (folder / "events/events.out.tfevents.1-settings").read_bytes()
        wanted = f"{shown}{digest}" if name else folder.name
        assert bytes([len(wanted)]) + wanted.encode() in data  # a protobuf's string
        assert struct.pack("<d", 1.625) in data
        assert struct.pack("<d", config.epochs) not in data


def test_each_record_comes_into_one_part(tmp_path: Path) -> None:
    warnings: list[str] = []
    found = log(LocalStorage(str(tmp_path)), warnings)
    for until in (30, 40, 40, 90):
        write(found, until)
        check_complete(tmp_path, until)
    assert sorted(path.name for path in (tmp_path / "events/train").iterdir()) == [
        f"events.out.tfevents.000000{until}" for until in (30, 40, 90)
    ]
    found.finish(records(110), Scored(110, LOGITS, SPLIT))
    check_complete(tmp_path, 110)
    tested = joined(tmp_path, "test")
    assert tested["accuracy"] == [(110, pytest.approx((LOGITS.argmax(axis=1) == LABELS).mean()))]
    assert warnings == []


def test_a_run_that_validates_only_at_its_end_has_events_of_that(tmp_path: Path) -> None:
    found = log(LocalStorage(str(tmp_path)), [])
    training = [line for line in records(30) if "loss" in line]
    found.write(training, {}, None, last=True)
    assert not (tmp_path / "events/validation").exists()
    found.finish(training, Scored(30, LOGITS, SPLIT), Scored(30, LOGITS[:9], SPLIT_OF_NINE))
    [path] = (tmp_path / "events/validation").iterdir()
    accuracy = (LOGITS[:9].argmax(axis=1) == LABELS[:9]).mean()
    assert curves(path)["accuracy"] == [(30, pytest.approx(accuracy))]
    tags = {value.tag for event in read(path) for value in event.summary.value}
    assert tags == {"loss", "accuracy", "confusion matrix", "wrong pictures"}


def test_parts_are_seconds_apart(tmp_path: Path) -> None:
    found = log(LocalStorage(str(tmp_path)), [])
    for until in (10, 20, 30):
        found.write(records(until), {}, None)
    assert [path.name[-2:] for path in (tmp_path / "events/train").iterdir()] == ["10"]
    found.write(records(30), {}, None, last=True)
    check_complete(tmp_path, 30)


def test_an_attempt_that_starts_earlier_replaces_what_comes_after(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    first = log(storage, [])
    for until in (30, 60, 90):
        write(first, until)
    first.finish(records(90), Scored(90, LOGITS, SPLIT))
    again = log(storage, [], resumed=60)  # the checkpoint of step 90 was damaged
    write(again, 80)
    check_complete(tmp_path, 80)
    assert {path.name for path in (tmp_path / "events").iterdir()} == {
        *("train", "validation", "test", "events.out.tfevents.1-settings")
    }
    assert not list((tmp_path / "events/test").iterdir())
    # Records that the attempt before had stored, but in no part, come into the next one.
    late = log(storage, [], resumed=120)
    write(late, 130)
    check_complete(tmp_path, 130)


def test_what_could_not_be_stored_comes_later_and_never_raises(tmp_path: Path) -> None:
    class Failing(LocalStorage):
        fails: Exception | None = UnavailableError("store: out of reach")

        def replace(self, name: str, data: bytes) -> None:
            if self.fails and "validation" in name:
                raise self.fails
            super().replace(name, data)

    storage = Failing(str(tmp_path))
    warnings: list[str] = []
    found = log(storage, warnings)
    write(found, 40)
    assert [w.partition(";")[0] for w in warnings] == ["store: out of reach"]
    storage.fails = None
    write(found, 60)
    check_complete(tmp_path, 60)

    storage.fails = ValueError("a defect")
    for until in (80, 100):
        write(found, until)
    assert len(warnings) == 2
    assert "no more event files" in warnings[1]
    assert "a defect" in warnings[1]


def test_histograms_are_made_on_request(tmp_path: Path) -> None:
    for mode in ("on", "histograms"):
        folder = tmp_path / mode
        write(log(LocalStorage(str(folder)), [], tensorboard=mode), 40)
        [path] = (folder / "events/train").iterdir()
        tags = {v.tag for e in read(path) for v in e.summary.value}
        assert ("weights/d/kernel" in tags) == (mode == "histograms")
        assert len(tags) == 4 + (mode == "histograms")


def test_no_log_is_wanted_without_the_packages_or_when_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensorboard_writer.is_wanted(CONFIG)
    assert not tensorboard_writer.is_wanted(parse({"tensorboard": "off"}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not tensorboard_writer.is_wanted(CONFIG)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (tensorboard_writer.step_name("train", 500), ("", "train", "00000500")),
        ("runs/a/" + tensorboard_writer.step_name("test", 10**9), ("runs/a", "test", "1000000000")),
        ("a/" + tensorboard_writer.object_name(tensorboard_writer.GRAPH), ("a", "", "2-graph")),
        ("a/events/other/events.out.tfevents.1", None),
        ("a/metrics.jsonl", None),
    ],
)
def test_names_say_what_objects_hold(name: str, part: Sequence[str] | None) -> None:
    assert tensorboard_writer.parse(name) == part


class Store(LocalStorage):
    """Writes parts whose bytes are their names."""

    def put(self, *names: str) -> None:
        for name in names:
            self.replace(name, f"{name[-1]},".encode())


def shown(folder: Path) -> Mapping[str, str]:
    """Return the newest file of each folder of TensorBoard."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.parent.relative_to(folder)): path.read_text() for path in files}


def test_a_mirror_joins_parts_as_they_come_and_starts_anew_where_some_are_gone(
    tmp_path: Path,
) -> None:
    store, folder = Store(str(tmp_path / "store")), tmp_path / "here"
    mirror = Mirror(store, folder, pytest.fail)
    assert mirror.refresh() == []
    train = [f"deep/a/{tensorboard_writer.step_name('train', step)}" for step in (1, 2, 3, 4)]
    store.put(
        *train[:2],
        "b/" + tensorboard_writer.object_name(tensorboard_writer.SETTINGS),
        "deep/a/config.json",
    )
    assert mirror.refresh() == ["b", "deep/a"]
    assert shown(folder) == {"deep/a/train": "1,2,", "b": "s,"}
    before = set(folder.rglob("*tfevents*"))
    store.put(*train[2:], f"b/{tensorboard_writer.step_name('validation', 7)}")
    mirror.refresh()
    assert shown(folder) == {"deep/a/train": "1,2,3,4,", "b": "s,", "b/validation": "7,"}
    assert len(set(folder.rglob("*tfevents*")) - before) == 1
    for name in train[1:]:
        store.delete(name)
    store.put(train[3])
    mirror.refresh()
    assert shown(folder)["deep/a/train"] == "1,4,"
    assert {path.read_text() for path in before} == {"1,2,3,4,", "s,"}  # as they were
    for entry in store.list("b/"):
        store.delete(entry.name)
    assert mirror.refresh() == ["deep/a"]
    assert shown(folder) == {"deep/a/train": "1,4,"}
    settings = "deep/" + tensorboard_writer.object_name(tensorboard_writer.SETTINGS)
    for change, kept in ((store.put, {"deep": "s,"}), (store.delete, {})):
        change(settings)
        mirror.refresh()
        assert shown(folder) == {"deep/a/train": "1,4,", **kept}


def test_a_mirror_leaves_out_what_is_too_large_or_lies_elsewhere(tmp_path: Path) -> None:
    store, warnings = Store(str(tmp_path / "store"), links=False), list[str]()
    names = [tensorboard_writer.step_name("train", step) for step in (1, 2, 3, 4)]
    store.put(*names)
    with (tmp_path / "store" / names[1]).open("ab") as file:
        file.truncate(1 << 40)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store" / names[2]).unlink()
    (tmp_path / "store" / names[2]).symlink_to(tmp_path / "secret")
    mirror = Mirror(store, tmp_path / "here", warnings.append)
    for _ in range(2):
        assert mirror.refresh() == ["store"]
        assert shown(tmp_path / "here") == {"store/train": "1,4,"}
    assert len(warnings) == 2  # each once
    assert "above the limit" in warnings[0]
    assert "a link leads out of the folder" in warnings[1]


def test_a_run_by_itself_has_the_name_of_its_folder(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "cnn-1"))
    store.put(tensorboard_writer.step_name("train", 1))
    assert Mirror(store, tmp_path / "here", pytest.fail).refresh() == ["cnn-1"]
    assert json.dumps(list(shown(tmp_path / "here"))) == '["cnn-1/train"]'


def test_pictures_have_the_names_of_classes(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # of a library of TensorBoard's
        from tensorboard import plugin_util
    names = ("![x](http://x.example/x.png)", "\u202e`<script>`", "long " * 19 + "end")
    storage = LocalStorage(str(tmp_path))
    found = EventLog(storage, CONFIG, TOTAL, 0, print, names)
    found.finish(records(20), Scored(20, LOGITS, SPLIT))
    [path] = (tmp_path / "events/test").iterdir()
    described = {
        value.tag: value.metadata.summary_description
        for event in read(path)
        for value in event.summary.value
    }
    for tag in ("confusion matrix", "wrong pictures"):
        html = plugin_util.markdown_to_safe_html(described[tag])
        assert "<img" not in html
        assert "0 ![x](http://x.example/x.png)\n1 \ufffd`&lt;script&gt;`\n2 long" in html
        assert names[2] in html
    assert described["loss"] == ""


def test_names_that_the_font_cannot_draw_are_numbers_in_the_pictures() -> None:
    foreign = ("\u732b", "chat", "\xe9t\xe9", "a\u202eb", *"456789")
    numbers = ("0", "chat", "2", "3", *"456789")
    assert tensorboard_images.drawable(foreign) == list(numbers)
    for draw in (
        partial(tensorboard_images.confusion_matrix, LOGITS, LABELS),
        partial(tensorboard_images.wrong_pictures, LOGITS, LABELS, IMAGES),
    ):
        assert draw(foreign) == draw(numbers)


def test_names_are_drawn_into_the_pictures_and_leave_their_numbers() -> None:
    names = ("long " * 20, *"bcdefghij")
    named, plain = (
        tensorboard_images.confusion_matrix(np.eye(10, dtype=np.float32), LABELS[:10], each)
        for each in (names, ())
    )
    widths = [Image.open(io.BytesIO(png)).width for png in (plain, named)]
    assert widths[0] < widths[1] < widths[0] + 80
    wrong = tensorboard_images.wrong_pictures(LOGITS, LABELS, IMAGES, names)
    assert Image.open(io.BytesIO(wrong)).width == 4 * 200
    mistakes = np.flatnonzero(LOGITS.argmax(axis=1) != LABELS)[:2]
    few = tensorboard_images.wrong_pictures(LOGITS[mistakes], LABELS[mistakes], IMAGES, names)
    assert Image.open(io.BytesIO(few)).width == 2 * 200
