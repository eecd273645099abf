"""axe-core finds nothing in the pages that keeps people from reading them."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import chromium, series
from tests.support.folders import attempt, make_run, metric_lines
from trainer.report import compare, compare_page, run_page
from trainer.runs import predictions, run_folder
from trainer.storage.base import open_storage

VIEWS = [(1280, "light"), (390, "dark")]


def failed(folder: Path) -> Path:
    """Return the folder of a run of 26 classes that failed at step 300."""
    where = make_run(folder, 26, [chr(97 + n) * 20 for n in range(26)])
    for name in (run_folder.RESULT, run_folder.PREDICTIONS):
        (where / name).unlink()
    storage = open_storage(str(where))
    storage.replace(run_folder.METRICS, run_folder.lines(metric_lines(300)))
    line = attempt(1, 0, 300, "loss became nan at step 312")
    line["cause"] |= {"kind": "config", "code": 2, "remedy": "lower learning_rate"}
    storage.replace(run_folder.ATTEMPTS, run_folder.lines([line]))
    return where


@pytest.fixture(scope="module")
def pages(run: Path, report: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    lost = failed(folder / "lost")
    comparison = compare.compare([str(run), str(lost)], print)
    return {
        "report": report,
        "failed": Path(run_page.write(str(lost))),
        "compare": Path(compare_page.write(comparison, str(folder / "compare.html"))),
    }


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        *(("report", *view) for view in VIEWS),
        pytest.param("failed", *VIEWS[0], marks=series.only_long),  # made as the report is
        ("failed", *VIEWS[1]),
        *(("compare", *view) for view in VIEWS),
    ],
)
def test_axe_finds_nothing(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(pages[name].as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach((each) => each.open = true)")
    chromium.check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_a_failed_run_says_why_at_the_top(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(pages["failed"].as_uri())
    box = page.locator(".status.trouble")
    assert "loss became nan at step 312" in box.inner_text()
    assert "Lower learning_rate." in box.inner_text()
    assert box.bounding_box()["y"] < 300
    page.close()


def test_the_true_class_of_an_image_is_listed_however_improbable(
    browser: Any, tmp_path: Path
) -> None:
    where = make_run(tmp_path, 26)
    storage = open_storage(str(where))
    found = predictions.read(storage)
    assert found
    found.logits[0, found.labels[0]] -= 50
    storage.replace(run_folder.PREDICTIONS, predictions.encode(found))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(Path(run_page.write(str(where))).as_uri())
    page.locator("[data-lookup=number]").fill("0")
    rows = page.locator("[data-lookup=shares] tr").all_inner_texts()
    assert len(rows) == 11
    assert rows[-1].split() == [str(found.labels[0]), "0.0%"]
    listed = sum(float(row.split()[-1].rstrip("%")) for row in rows)
    rest = page.locator("[data-lookup=rest]").inner_text()
    assert rest.startswith("and 15 more, ")
    assert listed + float(rest.split()[3].rstrip("%")) == pytest.approx(100, abs=0.7)
    page.close()


def test_a_test_image_is_looked_up(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(pages["report"].as_uri())
    answer = page.locator("[data-lookup=answer]")
    number = page.locator("[data-lookup=number]")
    number.fill("10")
    assert answer.inner_text().startswith("#10: true ")
    number.fill("99999999")
    assert answer.inner_text().startswith("There is no test image #99999999")
    number.fill("0")
    page.locator("[data-lookup=true]").select_option("4")
    seen = set()
    for _ in range(3):
        words = answer.inner_text()
        assert ": true 4, predicted " in words
        seen.add(words)
        assert page.locator("[data-lookup=picture]").is_visible()
        shares = page.locator("[data-lookup=shares] tr td:last-child").all_inner_texts()
        assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=0.6)
        page.locator("[data-lookup=next]").click()
    assert len(seen) == 3
    inked = """(canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
        .data.some((value, i) => i % 4 === 0 && value > 128)"""
    assert page.locator("[data-lookup=picture]").evaluate(inked)
    page.close()
