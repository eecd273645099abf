"""What the documentation names is there: files, headings, make's targets, commands."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from trainer.cli import arguments

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "infra/**/*.md", "benchmarks/*.md")
    for page in ROOT.glob(pattern)
)
COMMANDS = sorted(
    {
        (page.name, line)
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    }
)


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as sites that show Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(linked), target


def test_every_page_is_linked_from_readme_or_contributing() -> None:
    text = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in text, page.name


@pytest.mark.parametrize("command", [line for _, line in COMMANDS if "make " in line])
def test_make_knows_its_targets(command: str) -> None:
    words = shlex.split(command.partition(" #")[0])
    targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
    known = re.findall(r"^([a-z0-9 -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[0] == "make"
    assert set(targets) <= {name for line in known for name in line.split()}


@pytest.mark.parametrize(
    "command", [line for _, line in COMMANDS if line.startswith("python -m trainer")]
)
def test_the_trainer_takes_its_commands(command: str) -> None:
    words = shlex.split(command.partition(" #")[0].replace("...", "more"))[3:]
    if "--help" not in words:
        assert arguments.create().parse_args(words).command


def test_pictures_are_small() -> None:
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "docs"], capture_output=True, text=True, check=False
    )
    for name in tracked.stdout.split():
        assert (ROOT / name).stat().st_size < 500_000, name
