"""What page.js adds to a page that shows everything without it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import chromium
from tests.support.folders import make_run
from trainer.report import facts, network, run_page


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 1,000 steps: accuracy 1 - 1 / step, validated as 90% after each 200."""
    folder = tmp_path_factory.mktemp("run")
    return Path(run_page.write(str(make_run(folder)), str(folder / "report.html")))


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.goto(file.as_uri())
    yield page
    page.close()


def tip(page: Any) -> list[str]:
    shown = page.locator("#chart-accuracy .tip")
    return list(shown.inner_text().splitlines()) if shown.is_visible() else []


def test_pointing_at_a_chart_shows_the_values_there(page: Any) -> None:
    box = page.locator("#chart-accuracy .plot[role=img]").bounding_box()
    assert tip(page) == []
    # The plot is 244 of the picture's 300 pixels wide, from 46 on.
    page.mouse.move(box["x"] + (46 + 244 * 0.4) / 300 * box["width"], box["y"] + 50)
    assert tip(page) == ["step 400", "training 99.75%", "validation 90.00%"]
    page.mouse.move(box["x"] + (46 + 244 * 0.7) / 300 * box["width"], box["y"] + 90)
    assert tip(page) == ["step 700", "training 99.86%"]
    page.mouse.move(1, 1)
    assert tip(page) == []


def test_arrow_keys_move_along_a_chart(page: Any) -> None:
    chart = page.locator("#chart-accuracy .plot[role=img]")
    chart.focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "End", "ArrowRight", "Home"):
        page.keyboard.press(key)
        seen.append(tip(page)[0])
    steps = ("10", "20", "10", "10", "1,000", "1,000", "10")
    assert seen == [f"step {step}" for step in steps]
    assert page.evaluate("scrollY") == 0
    page.keyboard.press("Escape")
    assert tip(page) == []


def test_a_button_changes_the_theme_and_the_charts_with_it(page: Any) -> None:
    line = page.locator("#chart-loss path[stroke='#0b63b8']")
    colours = [line.evaluate("(path) => getComputedStyle(path).stroke")]
    for name in ("Dark", "Light"):
        button = page.get_by_role("button", name=name)
        button.click()
        colours.append(line.evaluate("(path) => getComputedStyle(path).stroke"))
    assert colours == ["rgb(11, 99, 184)", "rgb(98, 176, 255)", "rgb(11, 99, 184)"]


def test_without_scripts_all_is_shown(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    for name in ("loss", "accuracy", "learning-rate", "images-per-second", "reliability"):
        assert page.locator(f"#chart-{name} .plot[role=img] svg").bounding_box()["height"] > 100
    page.locator("#chart-loss summary").click()
    assert page.locator("#chart-loss tbody tr").first.inner_text().split() == ["10", "0.9"]
    assert not page.locator("#theme").is_visible()
    context.close()


def test_a_page_of_many_classes_stays_short(browser: Any, tmp_path: Path) -> None:
    layers = [
        {"module": "keras", "class_name": "Flatten", "config": {}},
        {
            "module": "keras",
            "class_name": "Dense",
            "config": {"name": "d", "units": 40, "use_bias": False, "activation": "linear"},
        },
    ]
    kernel = np.random.default_rng(1).normal(0, 0.01, (64, 40)).astype(np.float32)
    model = network.describe(
        {"class_name": "Sequential", "config": {"layers": layers}},
        {"parameters/d/kernel": kernel},
        (8, 8, 1),
        40,
    )
    found = replace(facts.gather(str(make_run(tmp_path, classes=40))), network=model)
    file = tmp_path / "report.html"
    file.write_bytes(run_page.as_page(found))
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(file.as_uri())
    for section in ("draw", "confusion", "classes", "samples"):
        assert page.locator(f"#{section}").bounding_box()["height"] < 2 * 844
    assert page.locator("[data-draw=probability]:visible").count() == 0
    page.get_by_role("button", name="Show an example").click()
    page.locator("[data-draw=rest]", has_text="and 30 more, ").wait_for()
    rows = page.locator("[data-draw=probability]:visible").all_inner_texts()
    shares = [float(row.split()[-1].rstrip("%")) for row in rows]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    page.get_by_role("button", name="Clear").click()
    page.locator("[data-draw=rest]:empty").wait_for(state="attached")
    matrix = page.locator(".scroll:has(> .confusion)")
    top = matrix.bounding_box()["y"]
    matrix.evaluate("(it) => it.scrollTo(300, 300)")
    heading = matrix.locator("thead tr:last-child th").first.bounding_box()
    assert 0 <= heading["y"] - top < 2
    chromium.check_accessible(page)
    page.close()


def test_hostile_text_makes_nobody_scroll_sideways(browser: Any, tmp_path: Path) -> None:
    names = [chr(97 + n) * 99 for n in range(26)]
    folder = make_run(tmp_path, classes=26, class_names=names, model=f"m:{'W' * 500}")
    file = Path(run_page.write(str(folder)))
    page = browser.new_page(viewport={"width": 360, "height": 640})
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    around = page.locator(".scroll:has(> .by-class)")
    assert around.evaluate("(it) => it.scrollWidth - it.clientWidth") <= 0
    page.close()
