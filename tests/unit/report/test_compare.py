import json
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.support import folders
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.presets import configure
from trainer.report import compare, compare_page
from trainer.runs import reader

RESULT = {
    "test_accuracy": 0.9,
    "test_loss": 0.3,
    "steps": 20,
    "train_seconds": 2.0,
    "images_per_second": 320.0,
    "workers": 1,
}


def records(steps: int = 20, *, validations: bool = True) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(5, steps + 1, 5):
        at = {"step": step, "epoch": 0.1, "train_seconds": step / 10}
        lines.append({**at, "loss": 1 / step, "accuracy": step / 100, "images_per_second": 9.0})
        if validations:
            score = {"validation_accuracy": step / 50, "validation_loss": 2 / step}
            lines.append({**at, **score})
    return lines


def make(
    folder: Path,
    *,
    result: dict[str, Any] | None = None,
    lines: list[dict[str, Any]] | None = None,
    attempts: list[dict[str, Any]] | None = None,
    data_sha256: str = "ab" * 32,
    **settings: Any,
) -> str:
    """Write a run's folder as train does."""
    folder.mkdir(parents=True)
    told = {"data": "data", "input_shape": [28, 28, 1], "classes": 10}
    config = configure(settings, {}).identity()
    stored = {**config, "data_sha256": data_sha256, **told}
    (folder / "config.json").write_text(json.dumps(stored))
    if result is not None:
        (folder / "result.json").write_text(json.dumps({**RESULT, **result}))
    for name, values in (("metrics", lines), ("attempts", attempts)):
        if values is not None:
            text = "".join(json.dumps(value) + "\n" for value in values)
            (folder / f"{name}.jsonl").write_text(text)
    return str(folder)


def table(*uris: str) -> compare.Comparison:
    return compare.compare(uris, lambda message: pytest.fail(message))


def test_the_best_is_first_and_only_what_differs_is_shown(tmp_path: Path) -> None:
    make(tmp_path / "a", result={"test_accuracy": 0.91}, learning_rate=0.01)
    make(tmp_path / "b", result={"test_accuracy": 0.93}, learning_rate=0.03)
    make(tmp_path / "c", result={"test_accuracy": 0.92}, learning_rate=0.1)
    found = table(str(tmp_path))
    assert found.settings == ("learning_rate",)
    assert [row.name for row in found.rows] == ["b", "c", "a"]
    assert [row.settings["learning_rate"] for row in found.rows] == [0.03, 0.1, 0.01]
    assert [each.uri for each in found.runs] == [row.uri for row in found.rows]


def test_figures_are_those_of_the_folder(tmp_path: Path) -> None:
    attempts: list[dict[str, Any]] = [
        folders.attempt(1, 0, 10, "lost"),
        folders.attempt(2, 10, 20, None),
    ]
    make(tmp_path / "a", result={}, lines=records(), attempts=attempts)
    (row,) = table(str(tmp_path / "a")).rows
    assert (row.accuracy, row.loss, row.split, row.steps) == (0.9, 0.3, "test", 20)
    assert (row.train_seconds, row.images_per_second, row.restarts) == (2.0, 320.0, 1)
    assert (row.finished, row.trouble, row.label) == (True, None, "a")


@pytest.mark.process
def test_goodput_is_that_of_the_result_where_there_is_room(tmp_path: Path) -> None:
    make(tmp_path / "known", result={"test_accuracy": 0.5, "goodput": 0.876})
    make(tmp_path / "old", result={"test_accuracy": 0.4})
    make(tmp_path / "running", lines=records())
    found = table(str(tmp_path))
    assert [row.goodput for row in found.rows] == [0.876, None, None]
    header, known, old, running, *_ = compare.as_text(found, 80).splitlines()
    assert header.split()[-2:] == ["restarts", "goodput"]
    assert [line.split()[-1] for line in (known, old, running)] == ["87.6%", "-", "-"]
    narrow = compare.as_text(found, 60).splitlines()
    assert narrow[0].endswith(" restarts")
    assert narrow[1].endswith(" 0")
    page = compare_page.as_page(found).decode()
    assert '<th scope="col" class="number">goodput</th>' in page
    assert '<td class="number">87.6%</td>' in page


@pytest.mark.parametrize("value", ["x", 1.5, -0.1, []])
def test_a_goodput_that_is_none_is_damage(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r"result\.json: damaged: goodput: "):
        table(make(tmp_path / "a", result={"goodput": value}))


@pytest.mark.process
def test_an_unfinished_run_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    make(tmp_path / "done", result={"test_accuracy": 0.1}, seed=1)
    attempts = [folders.attempt(1, 0, 10, "loss became nan at step 12")]
    attempts[0]["cause"]["remedy"] = "lower learning_rate"
    make(tmp_path / "bad", lines=records(10), attempts=attempts, seed=2, batch_size=64)
    make(tmp_path / "early", lines=records(5, validations=False), seed=3)
    make(tmp_path / "new", seed=4)
    found = table(str(tmp_path))
    assert [row.name for row in found.rows] == ["done", "bad", "early", "new"]
    _, bad, early, new = found.rows
    assert (bad.accuracy, bad.loss, bad.split, bad.steps) == (0.2, 0.2, "validation", 10)
    assert (bad.train_seconds, bad.images_per_second) == (1.0, 10 * 64 / 1.0)
    assert (early.accuracy, early.loss, early.split) == (0.05, 0.2, "training")
    assert (new.accuracy, new.loss, new.split, new.steps) == (None, None, None, 0)
    text = compare.as_text(found)
    assert "~20.00%" in text
    assert "10.00%" in text
    assert "~10.00%" not in text
    assert "3 of 4 not finished" in text
    assert "bad: rank 1: loss became nan at step 12; lower learning_rate" in text
    assert "3 of 4 not finished" in compare_page.as_page(found).decode()


def test_what_a_preset_implies_is_not_repeated(tmp_path: Path) -> None:
    make(tmp_path / "a", result={}, preset="cnn")
    make(tmp_path / "b", result={}, preset="mlp-100")
    assert table(str(tmp_path)).settings == ("preset",)
    make(tmp_path / "c", result={}, preset="mlp-100", learning_rate=0.5)
    assert table(str(tmp_path)).settings == ("preset", "learning_rate")


def test_planned_steps_and_steps_done_have_headings_of_their_own(tmp_path: Path) -> None:
    make(tmp_path / "a", result={}, steps=20)
    make(tmp_path / "b", lines=records(10), steps=40)
    planned, steps, *_ = compare.as_text(table(str(tmp_path)), 100).splitlines()
    assert planned.split() == ["planned"]
    assert steps.split()[:5] == ["run", "steps", "accuracy", "loss", "steps"]


def test_epochs_that_follow_from_steps_are_no_setting(tmp_path: Path) -> None:
    """A run that was stopped early has trained fewer epochs, with the same settings."""
    for rate, steps in ((0.1, 20), (0.2, 10)):
        lines = [{**line, "epoch": line["step"] / 100} for line in records(steps)]
        result = {"test_accuracy": 0.9} if steps == 20 else None
        make(tmp_path / f"{rate}", result=result, lines=lines, learning_rate=rate, steps=20)
    found = table(str(tmp_path))
    assert found.settings == ("learning_rate",)
    assert [row.label for row in found.rows] == ["learning_rate 0.1", "learning_rate 0.2"]
    make(tmp_path / "c", result={}, learning_rate=0.1, epochs=3, steps=0)
    found = table(str(tmp_path))
    assert found.settings == ("epochs", "steps", "learning_rate")
    assert {row.settings["epochs"] for row in found.rows} == {0.1, 0.2, 3.0}


def test_a_model_of_ones_own_has_no_preset_and_the_defaults(tmp_path: Path) -> None:
    make(tmp_path / "a", result={}, preset="cnn")
    make(tmp_path / "b", result={}, model="mymodels:wide", code="ab" * 32)
    found = table(str(tmp_path))
    assert found.settings == ("preset", "model")
    assert [row.label for row in found.rows] == ["preset cnn", "model mymodels:wide"]
    make(tmp_path / "c", result={}, model="mymodels:deep", code="cd" * 32)
    assert table(str(tmp_path)).settings == ("preset", "model")  # it has a code of its own
    make(tmp_path / "d", result={}, model="mymodels:wide", code="ef" * 32)
    found = table(str(tmp_path))
    assert found.settings == ("preset", "model", "code")
    assert [row.label for row in found.rows][3] == "model mymodels:wide, code efefefefefef"
    make(tmp_path / "e", result={}, model="mymodels:wide", code="ef" * 32, preset="mlp-100")
    assert table(str(tmp_path)).rows[4].settings["preset"] == "mlp-100"


def test_other_data_and_other_numbers_of_workers_count_as_settings(tmp_path: Path) -> None:
    make(tmp_path / "a", result={"workers": 2})
    make(tmp_path / "b", result={"workers": 1}, data_sha256="cd" * 32)
    assert table(str(tmp_path)).settings == ("data", "workers")


def test_equal_numbers_do_not_differ(tmp_path: Path) -> None:
    make(tmp_path / "a", result={}, epochs=5)
    text = (tmp_path / "a/config.json").read_text()
    assert '"epochs": 5.0' in text
    make(tmp_path / "b", result={}, epochs=5)
    (tmp_path / "b/config.json").write_text(text.replace('"epochs": 5.0', '"epochs": 5'))
    assert table(str(tmp_path)).settings == ()


def test_a_run_is_found_once_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "deep/er/a", result={})
    make(tmp_path / "deep/b", result={}, seed=2)
    (tmp_path / "link").symlink_to(tmp_path / "deep/b")
    monkeypatch.chdir(tmp_path)
    uris = ["deep", "deep/b/", f"file://{tmp_path}/deep/b", str(tmp_path / "deep/er/a"), "link"]
    assert reader.find(uris) == ["deep/b", "deep/er/a"]
    assert [row.name for row in table(*uris).rows] == ["b", "er/a"]


def test_where_no_run_is_one_line_says_so(tmp_path: Path) -> None:
    make(tmp_path / "a", result={})
    (tmp_path / "empty").mkdir()
    for uri in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(ConfigError, match=r"no run there.*give folders of runs"):
            compare.compare([str(tmp_path / "a"), str(uri)], print)
    with pytest.raises(ConfigError):
        compare.compare([str(tmp_path / "a/config.json")], print)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "\xff"),
        ("result.json", "null"),
        ("result.json", "{}"),
        ("result.json", '{"test_accuracy": "high"}'),
        ("metrics.jsonl", "{"),
        ("metrics.jsonl", '{"step": "x"}'),
        ("metrics.jsonl", '{"step": 1}'),
        ("metrics.jsonl", '{"step": 1, "train_seconds": 1, "loss": []}'),
        ("metrics.jsonl", '{"step": 1, "train_seconds": NaN}'),
        ("metrics.jsonl", f'{{"step": 1, "train_seconds": {10**400}}}'),
        ("result.json", json.dumps({**RESULT, "test_accuracy": 7})),
        ("result.json", json.dumps({**RESULT, "test_loss": float("nan")})),
        ("result.json", "[" * 100_000),
        ("metrics.jsonl", "[" * 100_000),
        ("attempts.jsonl", "nothing"),
        ("attempts.jsonl", "1"),
        ("attempts.jsonl", '{"cause": "?"}'),
    ],
)
def test_damaged_runs_are_left_out_and_told_of(tmp_path: Path, name: str, content: str) -> None:
    bad = make(tmp_path / "bad", result={}, lines=records(), attempts=[])
    (tmp_path / "bad" / name).write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=f"{bad}/{name}: damaged"):
        compare.compare([bad], print)
    make(tmp_path / "good", result={})
    told: list[str] = []
    found = compare.compare([str(tmp_path)], told.append)
    assert [row.name for row in found.rows] == ["good"]
    assert len(told) == 1
    assert f"{bad}/{name}: damaged" in told[0]


HOSTILE = "<script>alert(1)</script>\x1b[31m&\"'{{7*7}}\ud800</svg>"


@pytest.mark.process
def test_what_a_run_says_is_text_only(tmp_path: Path) -> None:
    make(tmp_path / "a", result={}, lines=records(), seed=1)
    make(tmp_path / "b", lines=records(), attempts=[folders.attempt(1, 0, 1, HOSTILE)], seed=2)
    config = tmp_path / "b/config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "model": HOSTILE, HOSTILE: 1}))
    (tmp_path / "b").rename(tmp_path / "<b onload=x>")
    found = table(str(tmp_path))
    html = compare_page.as_page(found).decode()
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert "<b onload" not in html
    assert "{{7*7}}" in html
    assert not re.search(r'(src|href)="(?!#|data:)', html)
    assert "\x1b" not in compare.as_text(found)
    assert json.loads(compare.as_json(found))[1]["settings"]["model"] == HOSTILE
    assert list(json.loads(compare.as_json(found))[0]) == [
        *("run", "settings", "finished", "accuracy", "loss", "split", "steps", "train_seconds"),
        *("images_per_second", "restarts", "goodput", "trouble"),
    ]


@pytest.mark.process
def test_fifty_runs_make_a_page_below_a_megabyte(tmp_path: Path) -> None:
    lines = [
        {"step": k, "train_seconds": k / 97, "loss": 1 / k, "accuracy": 0.5 + k / 2000}
        for k in range(1, 601)
    ]
    lines += [{**line, "validation_accuracy": line["accuracy"]} for line in lines[::20]]
    lines.sort(key=lambda line: line["step"])
    for k in range(50):
        result = {"test_accuracy": k / 50, "steps": 600}
        make(tmp_path / f"run-{k}", result=result, lines=lines, seed=k + 1)
    found = table(str(tmp_path))
    drawn = compare_page.curves(found)
    assert {len(chart.series) for chart in drawn} == {compare_page.COLOURED}
    assert len({(s.colour, s.dash) for s in drawn[0].series}) == compare_page.COLOURED
    assert {s.name for s in drawn[0].series} == {f"seed {k + 1}" for k in range(38, 50)}
    html = compare_page.as_page(found)
    assert len(html) < 1_000_000
    assert html.count(b'<tr>\n<th scope="row" title=') == 50
    assert b"The best 12 of the 50 runs" in html


@pytest.mark.process
def test_curves_hold_the_runs_points(tmp_path: Path) -> None:
    make(tmp_path / "a", result={}, lines=records(), seed=1)
    make(tmp_path / "b", lines=records(validations=False), seed=2)
    bad = records(10)
    bad[0]["loss"], bad[2]["loss"] = float("nan"), 1e300
    make(tmp_path / "c", lines=bad, seed=3)
    found = table(str(tmp_path))
    drawn = {chart.key: chart for chart in compare_page.curves(found)}
    assert set(drawn) == {"loss-step", "accuracy-step", "loss-second", "accuracy-second"}
    loss = {series.name: list(series.points) for series in drawn["loss-second"].series}
    assert loss["seed 1"] == [(0.5, 0.2), (1.0, 0.1), (1.5, 1 / 15), (2.0, 0.05)]
    assert loss["seed 3"] == [(1.0, 1e100)]
    accuracy = {series.name: list(series.points) for series in drawn["accuracy-step"].series}
    assert accuracy["seed 1"] == [(5, 0.1), (10, 0.2), (15, 0.3), (20, 0.4)]
    assert accuracy["seed 2 (training images)"] == [(5, 0.05), (10, 0.1), (15, 0.15), (20, 0.2)]


@pytest.mark.process
def test_lines_break_where_a_run_diverges(tmp_path: Path) -> None:
    lines = records(30, validations=False)
    for line, loss in zip(lines, (1.8, 5.0, 35.0, 20.0, 0.008, 0.004), strict=True):
        line["loss"] = loss
    make(tmp_path / "a", result={"steps": 30}, lines=lines)
    found = table(str(tmp_path))
    chart = next(each for each in compare_page.curves(found) if each.key == "loss-step")
    assert [y for _, y in chart.series[0].points] == [1.8, 5.0, 35.0, 20.0, 0.008, 0.004]
    drawn = [layer["data"]["values"] for layer in chart.spec["layer"]]
    first, second, dots = [[(point["x"], point["y"]) for point in each] for each in drawn]
    assert first == [(5, 1.8), (10, 5.0), (pytest.approx(10.8333, abs=1e-3), 10)]
    assert second == [(pytest.approx(22.501, abs=1e-3), 10), (25, 0.008), (30, 0.004)]
    assert dots == [(5, 1.8), (10, 5.0), (25, 0.008), (30, 0.004)]
    note = b"Where a line leaves its chart at the top, the loss is above 10."
    assert note in compare_page.as_page(found)
    make(tmp_path / "b", result={}, lines=records(), seed=2)
    assert note not in compare_page.as_page(table(str(tmp_path / "b")))


@pytest.mark.process
def test_a_page_without_metrics_says_so(tmp_path: Path) -> None:
    make(tmp_path / "a")
    html = compare_page.as_page(table(str(tmp_path))).decode()
    assert "No run has stored metrics yet." in html
    assert "None is finished." in html


def test_a_preset_of_another_type_is_a_value_like_any(tmp_path: Path) -> None:
    uri = make(tmp_path / "a", result={})
    settings = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps({**settings, "preset": []}))
    make(tmp_path / "b", result={})
    assert "[]" in compare.as_text(table(uri, str(tmp_path / "b")), 80)


def test_what_is_no_file_does_not_become_one(tmp_path: Path) -> None:
    found = table(make(tmp_path / "a", result={}))
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    compare_page.write(found, str(tmp_path / "pipe"))
    reader.join(60)
    assert b"Comparison of runs" in got[0]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "target.html").write_text("")
    (tmp_path / "link.html").symlink_to(tmp_path / "target.html")
    compare_page.write(found, str(tmp_path / "link.html"))
    assert (tmp_path / "link.html").is_symlink()
    assert b"Comparison of runs" in (tmp_path / "target.html").read_bytes()
    with pytest.raises(ConfigError, match="Is a directory"):
        compare_page.write(found, str(tmp_path))


@pytest.mark.process
def test_the_page_is_written_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = table(make(tmp_path / "a", result={}))
    monkeypatch.chdir(tmp_path)
    for output in ("here.html", "new/there.html", f"{tmp_path}/full.html", f"file://{tmp_path}/u"):
        compare_page.write(found, output)
    for name in ("here.html", "new/there.html", "full.html", "u"):
        assert b"Comparison of runs" in (tmp_path / name).read_bytes()
    for output in ("", "folder/", "gs://bucket"):
        with pytest.raises(ConfigError, match="no name of a file"):
            compare_page.write(found, output)


settings_of = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 9),
        "learning_rate": st.floats(1e-6, 10),
        "optimizer": st.sampled_from(["sgd", "adam"]),
        "label_smoothing": st.sampled_from([0.0, 0.1]),
        "model": st.text(min_size=1, max_size=40),
        "momentum": st.integers(1, 10**400),
    },
)
FIGURES = re.compile(r"(%|-) +(\d\.\d{4}|-) +[\d,]+ +\S+ +\S+ +0( +-)?$")
accuracies = st.one_of(st.none(), st.floats(0, 1))


@given(st.lists(st.tuples(settings_of, accuracies), min_size=1, max_size=8), st.integers(80, 200))
def test_any_table_names_every_run_within_its_width(
    wanted: list[tuple[dict[str, Any], float | None]], width: int
) -> None:
    base = TrainConfig.model_validate({}).identity()
    found = compare.tabulate(
        [
            reader.Run(
                uri=f"gs://bucket/runs/{'n' * k}{k}",
                settings={**base, **settings},
                records=(),
                result=None
                if accuracy is None
                else reader.Result.model_validate({**RESULT, "test_accuracy": accuracy}),
                attempts=(),
            )
            for k, (settings, accuracy) in enumerate(wanted)
        ]
    )
    for name in base:
        values = {json.dumps({**base, **settings}[name]) for settings, _ in wanted}
        if name == "preset":  # a model of one's own has none
            values = {json.dumps("model" in settings) for settings, _ in wanted}
        assert (name in found.settings) == (len(values) > 1)
    finished = [row.accuracy for row in found.rows if row.finished]
    assert finished == sorted(finished, key=lambda a: -(a or 0))
    assert [row.finished for row in found.rows] == sorted([r.finished for r in found.rows])[::-1]
    text = compare.as_text(found, width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert {f"{k}" for k in range(len(wanted))} <= set(re.findall(r"n*(\d)\b", text))
    assert len([line for line in lines if FIGURES.search(line)]) == len(wanted)
