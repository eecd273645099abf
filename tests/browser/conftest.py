"""Chromium, pages in it, and a finished run whose report it opens."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import shared, warm
from tests.support.chromium import FLAGS

PAGES = Path(__file__).parents[2] / "trainer" / "report" / "pages"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python package")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium; apt-get install chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def scripts(browser: Any) -> Iterator[Any]:
    """A page with nothing but the scripts."""
    page = browser.new_page()
    page.set_content("<!doctype html><title>scripts</title>")
    for name in ("network.js", "draw.js"):
        page.add_script_tag(path=PAGES / name)
    yield page
    page.close()


@pytest.fixture(scope="session")
def run(browser: Any, trained: Path) -> Path:
    """The folder of a finished run of the preset cnn."""
    assert browser.is_connected()
    return trained


@pytest.fixture(scope="session")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run."""

    def make(folder: Path) -> None:
        folder.mkdir()
        where = ("--run", str(run), "--output", str(folder / "report.html"))
        code, _, errors = warm.run("report", *where)
        assert code == 0, errors

    return shared.once(tmp_path_factory, "report", make) / "report.html"
