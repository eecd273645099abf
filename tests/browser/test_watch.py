"""The page of ``watch`` through a whole run, whose folder these tests write part by part."""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import chromium
from tests.support.folders import attempt, digits, make_run, metric_lines
from trainer.report import live_server
from trainer.report.live import Live
from trainer.runs import run_folder, tensorboard_format, tensorboard_images, tensorboard_writer
from trainer.storage.base import open_storage

KILLED: dict[str, Any] = {
    "kind": "killed",
    "rank": 1,
    "code": 1,
    "message": "was killed by signal 9 <b>&",
}
SOON = 5000  # milliseconds: two looks of a second each, and a loaded machine
PATH = "[data-chart=loss] svg path[style*=series-1]"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, threading.Event]]:
    """Watch a folder; give the page's address, and what ends the server."""
    stop, lines = threading.Event(), list[str]()
    said = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        said.set()

    watcher = live_server.Watcher(Live(open_storage(str(folder))))
    server = threading.Thread(
        target=live_server.serve, args=(watcher, str(folder), 0, stop, say), daemon=True
    )
    server.start()
    try:
        assert said.wait(60)
        address = re.search(r"http://127.0.0.1:\d+/", lines[0])
        assert address
        yield address[0], stop
    finally:
        stop.set()
        server.join(30)
        assert not server.is_alive()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a run that has ended, from which another one is filled."""
    return make_run(tmp_path / "ended")


def write_ranks(folder: Path, *states: str, **others: Any) -> None:
    found = {"attempt": 1, "ranks": states, "cause": None, "over": False, **others}
    open_storage(str(folder)).replace(run_folder.RANKS, json.dumps(found).encode())


def validation(step: int) -> bytes:
    """Return an event file with the pictures of a validation."""
    images, labels = digits(10)
    logits = (labels[:, None] == range(10)).astype("float32")
    logits[:9] = 1 - logits[:9]
    values = [
        tensorboard_format.image(
            "confusion matrix", tensorboard_images.confusion_matrix(logits, labels)
        ),
        tensorboard_format.image(
            "wrong pictures", tensorboard_images.wrong_pictures(logits, labels, images[..., None])
        ),
    ]
    return tensorboard_format.steps({step: values}, {step: 1e9})


def test_a_run_is_followed_from_before_it_begins_to_its_report(
    browser: Any, tmp_path: Path, finished: Path
) -> None:
    folder = tmp_path / "run"
    run = open_storage(str(folder))
    ended = open_storage(str(finished))
    lines = metric_lines(1000)
    lines[40] |= {"compute_ms": [1.0, 3.5], "wait_ms": [2.5, 0.0], "sum_ms": 0.25}
    said: list[str] = []
    asked: list[str] = []
    with served(folder) as (address, _):
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(SOON)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_text("this page fills itself").wait_for()
        assert "in progress" not in page.locator("header").inner_text()
        page.evaluate("window.same = true")

        run.create(run_folder.CONFIG, ended.read(run_folder.CONFIG))
        write_ranks(folder, "loading", "missing", attempt=0)
        page.locator("#ranks tbody tr").nth(1).get_by_text("missing").wait_for()
        assert page.locator("#state").inner_text() == "starting"

        write_ranks(folder, "training", "training")
        run.replace(run_folder.METRICS, run_folder.lines(lines[:20]))
        page.locator("#state", has_text="training").wait_for()
        page.locator(PATH).wait_for()
        curve = page.locator(PATH).get_attribute("d")
        assert page.locator("[data-chart=loss] .axis").inner_text() == "step"
        run.replace(run_folder.METRICS, run_folder.lines(lines[:41]))
        page.get_by_text("step 400 of 1,000").wait_for()
        assert len(page.locator(PATH).get_attribute("d")) > len(curve)
        assert page.locator("tr.slowest th").inner_text() == "1 (slowest)"

        write_ranks(folder, "leaving", "loading", cause=KILLED)
        page.locator("#words", has_text="rank 1: was killed by signal 9 <b>&").wait_for()
        assert page.locator("#state").inner_text() == "restarting"
        broken = attempt(1, 0, 400, KILLED["message"])
        run.replace(run_folder.ATTEMPTS, run_folder.lines([broken]))
        write_ranks(folder, "training", "training", attempt=2)
        page.locator("#restarts tbody", has_text="0 to 400").wait_for()
        assert "<b>&" in page.locator("#restarts .cause").inner_text()
        page.locator("[data-chart=loss] path[style*=mark]").wait_for(state="attached")

        step = lines[41]["step"]
        run.replace(
            tensorboard_writer.step_name(tensorboard_writer.VALIDATION, step), validation(step)
        )
        run.replace(run_folder.METRICS, run_folder.lines(lines[:42]))
        page.get_by_text(f"Validation after step {step}").wait_for()
        for picture in page.locator("#validation img").all():
            assert picture.evaluate("async (it) => (await it.decode(), it.naturalWidth)") > 100
            scale = "async (it) => (await it.decode(), it.clientWidth / it.naturalWidth)"
            assert 0.745 <= picture.evaluate(scale) <= 1
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate("window.same")

        for entry in ended.list():
            if entry.name != run_folder.RESULT:
                run.replace(entry.name, ended.read(entry.name))
        run.replace(run_folder.RESULT, ended.read(run_folder.RESULT))
        page.wait_for_url(f"{address}report", timeout=60_000)
        page.get_by_role("heading", name="Confusion matrix").wait_for()
        page.close()
    assert said == []
    assert {url for url in asked if not url.startswith(("data:", address))} == set()


def test_a_page_whose_server_has_ended_says_so(browser: Any, finished: Path) -> None:
    (finished / run_folder.RESULT).unlink()
    with served(finished) as (address, stop):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        page.goto(address)
        page.get_by_text("step 1,000 of 1,000").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
        assert not page.locator("#trouble").is_visible()
        chromium.check_accessible(page)
        stop.set()
        page.locator("#trouble", has_text="does not answer").wait_for(timeout=20_000)
        assert page.get_by_text("step 1,000 of 1,000").is_visible()
        page.close()


def test_other_pages_cannot_read_what_is_served(browser: Any, finished: Path) -> None:
    with served(finished) as (address, _):
        page = browser.new_page()
        page.set_content("<!doctype html><title>a stranger's</title>")
        read = "(url) => fetch(url).then((a) => a.text()).catch((error) => String(error))"
        assert "TypeError" in page.evaluate(read, f"{address}state")
        page.close()
