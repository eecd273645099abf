"""Every command of docs/tutorials, page by page, in one folder as one reader would."""

import re
from pathlib import Path

import pytest

from tests.support import mnist, pages, series
from tests.support.processes import ROOT
from trainer.presets import PRESETS

pytestmark = [pytest.mark.process, pytest.mark.tensorflow]

FOLDER = ROOT / "docs/tutorials"
PAGES = sorted(page.name for page in FOLDER.glob("*.md"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tutorials")
    (folder / "docs").symlink_to(ROOT / "docs")
    return folder


@series.only_long
@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_train_and_show_what_it_promises(name: str, place: Path) -> None:
    found = mnist.find_mnist()
    env = {"MNIST_DIR": str(found)} if found else {}
    page = FOLDER / name
    commands = "".join(pages.blocks(page))
    out = pages.run(commands, place, env)
    assert out.count("results in ") == commands.count("trainer train")  # also of finished runs
    if tested := re.search(r"--test (\d+)", commands):
        assert re.search(rf"^test image {tested[1]}: \d; predicted: \d", out, re.MULTILINE)
    if "compare" in commands:
        assert "page: compare.html" in out
    if "docs/sheet.jpg" in commands:
        assert re.search(r"^docs/sheet\.jpg  \d +[\d.]+%", out, re.MULTILINE)


def test_each_preset_of_a_tutorial_has_a_page_that_trains_it() -> None:
    commands = "".join(block for name in PAGES for block in pages.blocks(FOLDER / name))
    trained = set(re.findall(r"--preset (\S+)", commands))
    assert trained == {name for name, preset in PRESETS.items() if preset.source}
