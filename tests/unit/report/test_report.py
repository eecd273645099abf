"""The page is read as a browser would; a panel says what a run's folder lacks."""

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.support.folders import attempt, digits, make_run, metric_lines, result
from tests.support.mnist import find_mnist
from tests.support.names import HARD
from trainer import classification
from trainer.cli.main import main
from trainer.common.text import printable
from trainer.data import dataset, idx
from trainer.errors import ConfigError, DataError
from trainer.report import charts, facts, terminal, vega
from trainer.report import run_page as report
from trainer.report.html import MOST_PIXELS, png
from trainer.runs import checkpoint, goodput, predictions, run_folder
from trainer.storage.base import open_storage

pytestmark = pytest.mark.process

PANELS = [
    *("training", "draw", "confusion", "classes", "wrong", "lookup", "samples", "calibration"),
    "settings",
]
HOSTILE = "</script><script>alert('{{ 7*7 }}')</script><img src=x onerror=alert(1)>\x1b[2J\n& \"'"
vega_draw = vega.draw
VOID = {"meta", "link", "img", "br", "input", "hr", "col"}


class Page(HTMLParser):
    """The elements of a page, the text of its panels, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.scripts: list[str] = []
        self.open: list[str] = []
        self._panel = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self._panel = dict(attrs)["id"] or ""
            self.texts[self._panel] = ""
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif "section" in self.open and "style" not in self.open:
            self.texts[self._panel] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


drawn: dict[str, Any] = {}  # pictures by their specs


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw equal charts once for all tests, as drawing takes longer than all else of a page."""

    def draw(specs: dict[str, vega.Spec]) -> dict[str, Any]:
        wanted = {name: json.dumps(spec) for name, spec in specs.items()}
        missing = {text: specs[name] for name, text in wanted.items() if text not in drawn}
        drawn.update(vega_draw(missing))
        return {name: drawn[text] for name, text in wanted.items() if text in drawn}

    monkeypatch.setattr(vega, "draw", draw)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def page_of(where: Path) -> Page:
    return Page(report.as_page(facts.gather(str(where))).decode())


def text_of(where: Path) -> str:
    return terminal.as_text(facts.gather(str(where)))


def squeezed(text: str) -> str:
    return " ".join(text.split())


def check_html(page: Page) -> None:
    """Assert what holds for every page."""
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))
    assert [panel for panel in page.texts if panel != "attempts"] == PANELS
    assert all(each.get("scope") in ("row", "col", "colgroup") for each in page.all("th"))
    assert all(each.get("alt") and each["src"] for each in page.all("img"))
    assert all(each.get("aria-label") for _, each in page.elements if each.get("role") == "img")
    named = [each.get("aria-labelledby") for each in page.all("section")]
    assert all(name in ids for name in named)
    targets = [str(each["href"])[1:] for each in page.all("a")]
    assert all(target in ids for target in targets)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("nav")) == 1
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            link = attributes.get(name)
            assert not link or link.startswith(("#", "data:")), (tag, link)
    for script, attributes in zip(page.scripts, page.all("script"), strict=True):
        if attributes.get("type") == "application/json":
            json.loads(script, parse_constant=lambda constant: pytest.fail(constant))


def test_the_page_of_a_whole_run(folder: Path) -> None:
    page = page_of(folder)
    check_html(page)
    html = report.as_page(facts.gather(str(folder))).decode()
    assert len(html) < 300_000
    assert set(re.findall(r"https?://[^\"' ]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    policy = next(each for each in page.all("meta") if each.get("http-equiv"))
    assert str(policy["content"]).startswith(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:;"
    )
    assert len(page.all("svg")) >= 5
    assert "attempts" not in page.texts
    for words in ("passes over the training images", "ab" * 32, "cd" * 32, "2.21.0", "8x8x1"):
        assert words in page.texts["settings"]


def test_a_count_of_images_is_no_accuracy() -> None:
    result = {"train_accuracy": 0.98, "train_accuracy_images": 350, "versions": {"python": "3.11"}}
    assert report.result_rows(result) == [
        ("train accuracy", "98.00%"),
        ("images of the train accuracy", "350"),
        ("python", "3.11"),
    ]


def test_where_the_time_went_is_said_of_a_finished_run(folder: Path) -> None:
    spent = goodput.Goodput(50.0, 40.0, {"restarting: <b>killed\x1b[1m": 7.5, "storing": 2.5})
    ended = run_folder.pretty(result(0.9, **spent.record()))
    open_storage(str(folder)).replace(run_folder.RESULT, ended)
    found = facts.gather(str(folder))
    html, text = report.as_page(found).decode(), squeezed(terminal.as_text(found))
    assert "<td>40.0 s, 80.0%</td>" in html
    assert "<b>killed" not in html
    assert "restarting: &lt;b&gt;killed" in html
    assert "steps that count 40.0 s, 80.0%" in text
    assert "killed\x1b" not in text
    assert "7.5 s, 15.0%" in text


def test_where_the_time_goes_is_said_of_a_run_in_progress(folder: Path) -> None:
    storage = open_storage(str(folder))
    storage.delete(run_folder.RESULT)
    ends = {10: 4.0, 20: 5.0, 30: 10.0}  # the third chunk of a second began 4 s late
    lines = [
        {"step": step, "time": 1.7e9 + end, "train_seconds": step / 10}
        for step, end in ends.items()
    ]
    storage.replace(run_folder.METRICS, run_folder.lines(lines))
    storage.replace(run_folder.START, run_folder.pretty({"started": 1.7e9}))
    storage.replace(run_folder.ATTEMPTS, b"")
    found = facts.gather(str(folder))
    assert report.time_rows(found) == [
        ("steps that count", "3.0 s, 30.0%"),
        ("starting", "3.0 s, 30.0%"),
        ("storing", "4.0 s, 40.0%"),
    ]


def test_the_result_in_a_line(folder: Path) -> None:
    storage = open_storage(str(folder))
    storage.replace(run_folder.RESULT, run_folder.pretty(result(0.98765)))
    assert report.headline(facts.gather(str(folder))) == [
        "test accuracy 98.77%",
        "loss 0.2500",
        "1,000 steps in 20.0 s",
        "5,000 images/s",
        "2 workers",
    ]


def test_classes_are_called_by_their_names(tmp_path: Path) -> None:
    where = make_run(tmp_path, class_names=HARD)
    found = replace(facts.gather(str(where)), network={"classes": 10})
    html = report.as_page(found).decode()
    page = Page(html)
    check_html(page)
    for bad in ("<script>alert", "\u202e", "\u200f", "<b>&"):
        assert bad not in html
    for panel in ("confusion", "classes", "wrong", "samples"):
        assert "T-shirt/top" in page.texts[panel], panel
    assert "{{ 7*7 }}" in page.texts["classes"]  # as it is, and not computed
    assert "8 7" in page.texts["confusion"]
    assert "7" in page.texts["wrong"]
    heads = [each.get("title") for each in page.all("th")]
    assert heads.count(HARD[1].strip()) == heads.count("T-shirt/top") == 4
    rows = [each for _, each in page.elements if each.get("data-draw") == "probability"]
    assert [each["data-name"] for each in rows][6:] == ["T-shirt/top", "{{ 7*7 }}", "7", "9"]
    text = text_of(where)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert text == "".join(c if c == "\n" else printable(c) for c in text)
    for words in ("6 T-shirt/top", "8 7 ", "  9 ", " predicted as "):
        assert words in text
    assert "long long" in text.partition("most confused")[0]


def test_names_do_not_change_the_matrix_of_many_classes(tmp_path: Path) -> None:
    where = make_run(tmp_path, 26, [chr(97 + n) for n in range(26)])
    text = text_of(where)
    assert max(map(len, text.splitlines())) <= 80
    assert "25 z" in text
    check_html(page_of(where))


def test_a_page_stands_fewer_names_than_classes(folder: Path) -> None:
    found = replace(facts.gather(str(folder)), class_names=("a", "b"))
    check_html(Page(report.as_page(found).decode()))
    assert "1 b" in terminal.as_text(found)


def test_classes_without_test_images_do_not_count_in_the_means(folder: Path) -> None:
    labels = np.repeat(np.arange(1, 27), 4).astype(np.int32)  # as EMNIST's letters come
    logits = np.eye(27, dtype=np.float32)[labels]
    found = replace(facts.gather(str(folder)), quality=classification.judge(logits, labels))
    panel = squeezed(Page(report.as_page(found).decode()).texts["classes"])
    assert "0no images 1100.00%100.00%100.00%4 " in panel
    assert "mean100.00%100.00%100.00%104" in panel
    assert "Classes without test images do not count in the means." in panel
    assert panel.count("no images") == 1
    [line] = [line for line in terminal.as_text(found).splitlines() if "no images" in line]
    assert line.split() == ["0", "no", "images", "0"]
    assert "do not count" not in page_of(folder).texts["classes"]


def real_predictions() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return logits of a nearest-mean classifier of the real MNIST, and its test labels."""
    mnist = find_mnist()
    if mnist is None:
        pytest.skip("MNIST_DIR names no folder with MNIST")
    data = dataset.load(str(mnist), 0)
    flat = data.train.images.reshape(len(data.train.images), -1)
    means = np.stack([flat[data.train.labels == k].mean(axis=0) for k in range(10)])
    test = data.test.images.reshape(len(data.test.images), -1).astype(np.float64)
    logits = (test @ means.T - (means**2).sum(axis=1) / 2) / 1e6
    return logits.astype(np.float32), data.test.labels


def check_against_sklearn(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]
) -> classification.Quality:
    quality = classification.judge(logits, labels)
    predicted, classes = logits.argmax(axis=1), np.arange(logits.shape[1])
    wanted = sklearn.metrics.confusion_matrix(labels, predicted, labels=classes)
    np.testing.assert_array_equal(quality.matrix, wanted)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    np.testing.assert_allclose(quality.precision, precision, rtol=1e-12)
    np.testing.assert_allclose(quality.recall, recall, rtol=1e-12)
    np.testing.assert_allclose(quality.f1, f1, rtol=1e-12)
    np.testing.assert_array_equal(quality.support, support)
    assert quality.accuracy == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    return quality


@given(st.integers(2, 30), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_figures_are_those_of_sklearn(classes: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count).astype(np.int32)
    logits = random.normal(0, 1, (count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += np.float32(random.uniform(0, 4))
    check_against_sklearn(logits, labels)


def test_figures_of_real_predictions_are_those_of_sklearn() -> None:
    quality = check_against_sklearn(*real_predictions())
    assert 0.8 < quality.accuracy < 0.84  # as every nearest-mean classifier of MNIST
    assert quality.images == 10_000


def test_the_page_shows_these_figures(folder: Path) -> None:
    quality = facts.gather(str(folder)).quality
    assert isinstance(quality, classification.Quality)
    html = report.as_page(facts.gather(str(folder))).decode()
    table = html[html.index('class="confusion"') :].partition("</table>")[0]
    cells = np.array(re.findall(r"<td class=\"(?:hit|miss|none)\"[^>]*>(\d+)</td>", table), int)
    np.testing.assert_array_equal(cells.reshape(10, 10), quality.matrix)
    by_class = page_of(folder).texts["classes"]
    for share in (*quality.precision, *quality.recall, *quality.f1):
        assert f"{share:.2%}" in by_class


def test_the_gallery_starts_with_the_most_confident_error(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    images, labels = digits(10)
    logits = np.zeros((len(labels), 10), np.float32)
    logits[np.arange(len(labels)), labels] = 5
    logits[13] = 0
    logits[13, (labels[13] + 1) % 10] = 9
    logits[21] = 0
    logits[21, (labels[21] + 3) % 10] = 3
    found = predictions.Predictions(
        1000, predictions.images_sha256(images), logits, labels.astype(np.int32)
    )
    open_storage(str(folder)).replace(run_folder.PREDICTIONS, predictions.encode(found))
    first, second = facts.gather(str(folder)).quality.wrong  # type: ignore[union-attr]
    assert (first.index, first.label, first.predicted) == (13, labels[13], (labels[13] + 1) % 10)
    assert first.probability == pytest.approx(np.exp(9) / (np.exp(9) + 9))
    assert (second.index, second.predicted) == (21, (labels[21] + 3) % 10)
    page = page_of(folder)
    shown = [each for each in page.all("img") if "predicted as" in str(each["alt"])]
    assert shown[0]["alt"] == f"Test image 13: {labels[13]} predicted as {(labels[13] + 1) % 10}"
    assert "2 of 70 test images" in squeezed(page.texts["wrong"])
    assert "#13" in page.texts["wrong"]


def test_restarts_are_marked_and_told(folder: Path) -> None:
    lines = [
        attempt(1, 0, 300, "its worker was killed by SIGKILL"),
        attempt(2, 300, 300, "its worker said nothing for 10 s"),
        attempt(3, 300, 1000, None),
    ]
    open_storage(str(folder)).replace(run_folder.ATTEMPTS, run_folder.lines(lines))
    found = facts.gather(str(folder))
    assert found.restarts == [300]
    assert report.headline(found)[-1] == "2 restarts"
    drawings = vega.draw(
        {c.key: c.spec for _, c in report.curves(found) if isinstance(c, charts.Chart)}
    )
    assert len(drawings) == 4
    assert all(svg.count(f'stroke="{vega.PALETTE["mark"][0]}"') == 1 for svg in drawings.values())
    page = page_of(folder)
    check_html(page)
    assert "rank 1: its worker was killed by SIGKILL" in page.texts["attempts"]
    assert "(step 300)" in page.texts["training"]
    assert "from step 300: rank 1: its worker was killed by SIGKILL" in text_of(folder)


def test_the_learning_rate_is_that_of_the_schedule(tmp_path: Path) -> None:
    found = facts.gather(str(make_run(tmp_path, schedule="one-cycle", learning_rate=0.5)))
    rates = dict(found.learning_rate)  # type: ignore[arg-type]
    assert max(rates) == 1000
    assert max(rates.values()) == pytest.approx(0.5, rel=1e-3)
    assert rates[1] == pytest.approx(0.5 / 25, rel=1e-2)
    assert rates[1000] < 1e-5


def test_an_unfinished_run_says_so_and_shows_what_is_there(folder: Path) -> None:
    for name in (run_folder.RESULT, run_folder.PREDICTIONS, run_folder.ATTEMPTS):
        (folder / name).unlink()
    storage = open_storage(str(folder))
    storage.replace(run_folder.METRICS, run_folder.lines(metric_lines(300)))
    found = facts.gather(str(folder))
    assert report.headline(found)[:2] == ["in progress", "300 steps so far"]
    rates = dict(found.learning_rate)  # type: ignore[arg-type]
    assert max(rates) == 300
    page = page_of(folder)
    check_html(page)
    assert len([each for each in page.all("figure") if each.get("class") == "chart"]) == 4
    for panel in ("confusion", "classes", "wrong", "lookup", "calibration"):
        assert facts.UNFINISHED in page.texts[panel]
    assert len([each for each in page.all("img") if "of class" in str(each["alt"])]) == 10
    assert facts.UNFINISHED in text_of(folder)


def damage(name: str) -> Callable[[Path], object]:
    return lambda folder: open_storage(str(folder)).replace(name, b"{nonsense\n")


def remove_data(folder: Path) -> None:
    for path in (folder.parent / "data").iterdir():
        path.unlink()


def change_data(folder: Path) -> None:
    images, _ = digits(10)
    (folder.parent / "data" / dataset.FILES[2]).write_bytes(idx.encode(images // 2))


def odd_layer(folder: Path) -> None:
    inputs = {"class_name": "InputLayer", "module": "keras.layers", "config": {"name": "input"}}
    layer = {"class_name": "ReLU", "module": "keras.layers", "config": {"name": "relu"}}
    model = {"class_name": "Sequential", "config": {"name": "m", "layers": [inputs, layer]}}
    open_storage(str(folder)).replace(run_folder.ARCHITECTURE, json.dumps(model).encode())


def odd_attempt(folder: Path) -> None:
    line = {**attempt(1, 0, 1000, None), "first_step": 1e99}
    open_storage(str(folder)).replace(run_folder.ATTEMPTS, run_folder.lines([line]))


@pytest.mark.parametrize(
    ("spoil", "panels", "words"),
    [
        (lambda f: (f / run_folder.METRICS).unlink(), ["training"], "No step has been reported"),
        (damage(run_folder.METRICS), ["training"], "damaged"),
        (
            lambda f: (f / run_folder.PREDICTIONS).unlink(),
            ["confusion", "classes", "wrong", "lookup", "calibration"],
            facts.NONE_STORED,
        ),
        (damage(run_folder.RESULT), ["settings"], "damaged"),
        (damage(run_folder.ATTEMPTS), ["attempts"], "damaged"),
        (
            damage(run_folder.PREDICTIONS),
            ["confusion", "classes", "wrong", "lookup", "calibration"],
            "damaged",
        ),
        (remove_data, ["wrong", "lookup", "samples"], "The dataset is not there any more"),
        (change_data, ["wrong", "lookup", "samples"], "not the ones that the run was tested on"),
        (lambda f: (f / checkpoint.object_name(1000)).unlink(), ["draw"], "no usable checkpoint"),
        (damage(run_folder.ARCHITECTURE), ["draw"], "damaged, or of another version of Keras"),
        (odd_layer, ["draw"], "damaged, or of another version of Keras"),
        (odd_attempt, ["attempts"], "damaged"),
        (lambda f: (f / run_folder.RESULT).write_text("[" * 100_000), ["settings"], "damaged"),
        (Path.iterdir, ["draw"], "This model is not in the page"),  # nothing is spoilt
    ],
)
def test_a_panel_says_why_it_is_empty(
    folder: Path, spoil: Callable[[Path], object], panels: list[str], words: str
) -> None:
    spoil(folder)
    page = page_of(folder)
    check_html(page)
    assert [panel for panel, text in page.texts.items() if words in squeezed(text)] == panels
    assert text_of(folder)


@pytest.mark.parametrize("classes", [2, 26])
def test_few_and_many_classes(tmp_path: Path, classes: int) -> None:
    folder = make_run(tmp_path, classes)
    check_html(page_of(folder))
    assert len(report.as_page(facts.gather(str(folder)))) < 300_000
    text = text_of(folder)
    assert max(map(len, text.splitlines())) <= 80
    assert ("too many for 80 columns" in text) == (classes == 26)


def test_one_step_without_validation(folder: Path) -> None:
    lines = [{"step": 1, "epoch": 1.0, "loss": 0.5, "accuracy": 0.5, "images_per_second": 10.0}]
    storage = open_storage(str(folder))
    storage.replace(run_folder.METRICS, run_folder.lines(lines))
    ended = result(0.5, steps=1, selected_step=1, workers=1)
    del ended["validation_accuracy"]
    storage.replace(run_folder.RESULT, run_folder.pretty(ended))
    page = page_of(folder)
    check_html(page)
    assert "1 step in 20.0 s  5,000 images/s  1 worker" in text_of(folder)
    titles = [each["aria-label"] for each in page.all("div") if each.get("role") == "img"]
    assert "Loss over steps. training: 0.5 at step 1. test: 0.25 at step 1." in titles


def test_figures_that_are_not_finite_are_left_out(folder: Path) -> None:
    lines = metric_lines(50)
    lines[1] |= {"loss": float("nan"), "accuracy": float("inf"), "images_per_second": 10**400}
    lines[2] |= {"loss": "0.1", "accuracy": None, "step": None, "epoch": True}
    storage = open_storage(str(folder))
    lines = [line for line in lines if isinstance(line["step"], int)]
    storage.replace(run_folder.METRICS, run_folder.lines(lines))
    storage.replace(
        run_folder.RESULT, run_folder.pretty(result(float("nan"), test_loss=float("inf")))
    )
    found = facts.gather(str(folder))
    assert [x for x, _ in found.points("loss")] == [10, 40, 50]
    assert len(found.points("images_per_second")) == 3
    assert report.headline(found) == ["finished", "result not readable"]
    check_html(page_of(folder))
    text_of(folder)


@pytest.mark.parametrize("value", [None, [], {}, "x", True, -1, 1e300, [[1]], {"a": [None]}])
def test_any_types_of_values_make_a_page(folder: Path, value: Any) -> None:
    storage = open_storage(str(folder))
    stored = json.loads((folder / run_folder.CONFIG).read_bytes())
    for names in (("preset", "batch_size", "unknown"), ("model", "classes", "input_shape", "data")):
        storage.replace(
            run_folder.CONFIG, run_folder.pretty({**stored, **dict.fromkeys(names, value)})
        )
        check_html(page_of(folder))
    storage.replace(run_folder.CONFIG, run_folder.pretty(stored))
    storage.replace(
        run_folder.RESULT, run_folder.pretty(dict.fromkeys([*result(1), "ranks"], value))
    )
    told = ("started", "workers", "device", "microbatches", "commit", "model")
    storage.replace(run_folder.START, run_folder.pretty(dict.fromkeys(told, value)))
    storage.replace(
        run_folder.ATTEMPTS, run_folder.lines([dict.fromkeys(attempt(1, 0, 1, "x"), value)] * 2)
    )
    check_html(page_of(folder))
    text_of(folder)


def test_ranks_have_the_numbers_that_their_result_gives_them(folder: Path) -> None:
    ranks = [{"peak_memory_bytes": 2**20, "cpu_seconds": 1.5} | more for more in ({}, {"rank": 2})]
    storage = open_storage(str(folder))
    storage.replace(run_folder.RESULT, run_folder.pretty({**result(1), "ranks": ranks}))
    rows = report.rank_rows(facts.gather(str(folder)))
    assert rows == [(0, "1 MiB", "1.5"), (2, "1 MiB", "1.5")]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "L")])
def test_pictures_are_the_images(channels: int, mode: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, channels), np.uint8)
    picture = decoded(png(images))
    assert (picture.mode, picture.size) == (mode, (90, 20))
    shown = np.asarray(picture).reshape(20, 90, -1)
    for k in range(3):
        wanted = images[k] if channels == 3 else images[k, ..., :1]
        np.testing.assert_array_equal(shown[:, 30 * k : 30 * k + 30], wanted)


def test_large_pictures_are_made_smaller() -> None:
    images = np.full((2, 500, 1000, 3), 7, np.uint8)
    picture = decoded(png(images))
    assert picture.size == (2 * MOST_PIXELS, MOST_PIXELS // 2)
    assert set(np.asarray(picture).flat) == {7}


def decoded(uri: str) -> PIL.Image.Image:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_hostile_text_stays_text(folder: Path) -> None:
    storage = open_storage(str(folder))
    clean = len(page_of(folder).elements)
    stored = json.loads((folder / run_folder.CONFIG).read_bytes())
    storage.replace(
        run_folder.CONFIG, run_folder.pretty({**stored, "model": HOSTILE, HOSTILE: HOSTILE})
    )
    ended = result(1.0, preset=HOSTILE, weights_sha256=HOSTILE, **{HOSTILE: HOSTILE})
    storage.replace(run_folder.RESULT, run_folder.pretty({**ended, "versions": {HOSTILE: HOSTILE}}))
    lines = [attempt(1, 0, 300, HOSTILE), attempt(2, 300, 1000, "\ud800")]
    storage.replace(run_folder.ATTEMPTS, run_folder.lines(lines))
    page = page_of(folder)
    check_html(page)
    assert not [each for each in page.all("img") if "onerror" in each]
    assert not [script for script in page.scripts if "alert" in script]
    assert "{{ 7*7 }}" in page.texts["settings"]
    assert "49" not in squeezed(page.texts["attempts"])
    assert "\x1b" not in page.texts["attempts"]
    assert len(page.elements) < clean + 80
    text = text_of(folder)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_colours_have_the_contrast_that_reading_takes() -> None:
    style = (Path(report.__file__).parent / "pages" / "page.css").read_text()
    pairs = dict(re.findall(r"--([\w-]+): light-dark\((#\w{6}, #\w{6})\)", style))
    themes = {name: tuple(pair.split(", ")) for name, pair in pairs.items()} | vega.PALETTE
    names = [name for name in vega.PALETTE if name.startswith("series")]
    wanted = [(each, "card") for each in (*names, "ink", "muted", "accent", "label", "mark", "bad")]
    wanted += [(text, back) for text in ("ink", "muted", "accent") for back in ("page", "sunken")]
    wanted += [("ink", "hit"), ("ink", "miss")]
    for theme in (0, 1):
        for text, back in wanted:
            ratio = contrast(themes[text][theme], themes[back][theme])
            assert ratio >= 4.5, (text, back, theme, ratio)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""

    def luminance(colour: str) -> float:
        shares = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
        red, green, blue = (
            s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=100), st.integers(5, 70))
def test_a_curve_of_blocks(values: list[float], columns: int) -> None:
    points = tuple((float(x), y) for x, y in enumerate(values))
    rows = terminal.blocks(points, columns, 4)
    assert len(rows) == 4
    assert {len(row) for row in rows} == {columns}
    assert set("".join(rows)) <= set(terminal.EIGHTHS)
    assert " " not in rows[-1]
    if len(values) <= columns and values[0] == max(values) > min(values):
        assert rows[0][0] == "█"


def test_the_text_in_80_columns(folder: Path) -> None:
    text = text_of(folder)
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "test accuracy",
        "precision",
        "confusion matrix",
        "predicted as",
        "restarts",
        "█",
    ):
        assert words in text
    assert "\nnone\n" in text  # restarts


def test_one_point_is_no_curve(folder: Path) -> None:
    line = {"step": 10, "epoch": 0.1, "train_seconds": 1.0, "loss": 0.5}
    open_storage(str(folder)).replace(run_folder.METRICS, run_folder.lines([line]))
    assert "loss 0.5 at step 10\n" in text_of(folder)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--run", str(folder), "--text"]) == 0
    assert "confusion matrix" in capsys.readouterr().out
    assert not (folder / "report.html").exists()
    other = tmp_path / "new" / "page.html"
    assert main(["report", "--run", str(folder), "--output", str(other)]) == 0
    assert capsys.readouterr().out == f"report in {other}\n"
    assert not (folder / "report.html").exists()
    for _ in range(2):  # a second one takes the place of the first
        assert main(["report", "--run", str(folder)]) == 0
        assert capsys.readouterr().out == f"report in {folder}/report.html\n"
    assert (folder / "report.html").read_bytes() == other.read_bytes()


def test_no_run_and_a_damaged_one_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json there; give the folder of a run"):
        facts.gather(str(tmp_path / "data"))
    (folder / run_folder.CONFIG).write_bytes(b"[]")
    with pytest.raises(DataError, match="damaged"):
        facts.gather(str(folder))
