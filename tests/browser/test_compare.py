"""The page of a comparison: complete without scripts, and sorted by a click with them."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.folders import make_run, result
from trainer.report import compare, compare_page
from trainer.runs import run_folder

ACCURACIES = {9: 0.5, 10: 0.25, 80: 0.125}  # by batch size; as text, 10 comes before 9


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for size, accuracy in ACCURACIES.items():
        where = make_run(folder / str(size), batch_size=size)
        (where / run_folder.RESULT).write_bytes(run_folder.pretty(result(accuracy)))
    comparison = compare.compare([str(folder)], lambda message: pytest.fail(message))
    return Path(compare_page.write(comparison, str(folder / "compare.html")))


def batch_sizes(page: Any) -> list[int]:
    return [
        int(text) for text in page.locator("table.runs tbody td:nth-child(3)").all_inner_texts()
    ]


def test_a_click_on_a_heading_sorts_by_number(browser: Any, file: Path) -> None:
    page = browser.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url))
    page.goto(file.as_uri())
    assert batch_sizes(page) == [9, 10, 80]
    heading = page.get_by_role("button", name="accuracy")
    heading.click()
    assert batch_sizes(page) == [80, 10, 9]
    assert page.locator("th[aria-sort=ascending]").inner_text().strip() == "accuracy"
    heading.click()
    assert batch_sizes(page) == [9, 10, 80]
    page.get_by_role("button", name="batch size").click()
    assert batch_sizes(page) == [9, 10, 80]
    assert [url for url in troubles if not url.startswith(("file:", "data:"))] == []
    page.close()


def test_names_of_runs_break_only_where_they_are_too_long(browser: Any, tmp_path: Path) -> None:
    others: dict[str, Any] = {
        "learning_rate": 0.5,
        "chunk_steps": 7,
        "threads": 1,
        "checkpoint_steps": 5,
    }
    make_run(tmp_path / "own_nested_model", batch_size=9, steps=20)
    make_run(tmp_path / ("W" * 200), batch_size=80, steps=30, **others)
    comparison = compare.compare([str(tmp_path)], pytest.fail)
    page = browser.new_page(viewport={"width": 700, "height": 800})
    page.goto(Path(compare_page.write(comparison, str(tmp_path / "c.html"))).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 700
    boxes = [
        page.locator("table.runs tbody th", has_text=name).bounding_box() for name in ("own_", "WW")
    ]
    assert boxes[0]["height"] < 40 < boxes[1]["height"]
    assert boxes[1]["width"] <= 18 * 16
    heads = [text.split(" \u2195")[0] for text in page.locator("thead th").all_inner_texts()]
    assert heads.count("steps") == heads.count("planned steps") == 1
    page.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_all_is_there_without_scripts_at_any_width(browser: Any, file: Path, width: int) -> None:
    context = browser.new_context(
        java_script_enabled=False, viewport={"width": width, "height": 800}
    )
    page = context.new_page()
    page.goto(file.as_uri())
    assert batch_sizes(page) == [9, 10, 80]
    assert page.locator("figure.chart .plot[role=img] svg").count() == 4
    for figure in page.locator("figure.chart").all():
        box = figure.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert figure.locator(".legend li").all_inner_texts() == [
            f"batch_size {size}" for size in ACCURACIES
        ]
    context.close()
