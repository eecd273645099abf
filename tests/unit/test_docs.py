"""What the documentation names exists, and what it measured stands in one place."""

import re
import shlex
import subprocess
import tomllib
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from trainer.cli.main import PROGRAM
from trainer.presets import PRESETS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "infra/**/*.md", "benchmarks/*.md")
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

# Pages that a benchmark or a long test writes, or whose measurements have no other page.
SOURCES = {"results.md", "presets.md", "predict.md", "reliability.md", "e2e.md", "tensorboard.md"}
# A number with decimals and a unit: "99.5%", or "6.7" and "17.8" of "6.7 to 17.8 times".
FIGURE = re.compile(
    r"(?<![\d.])(\d[\d,]*\.\d+)(?=(?: (?:to|and) [\d,.]+)?(%|(?: (?:s|ms|us|times|seconds|MiB))\b))"
)
LINK = re.compile(r"\]\(([^)#\s:]+\.md)(?:#([^)]*))?\)")
TEXT = {page: re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL) for page in PAGES}
DRAWN = re.findall(
    r"```\n((?:__main__|console) .*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL
)  # the layers of trainer and of k8s


def blocks(text: str) -> list[str]:
    """Return the paragraphs and list items of a page, each on one line."""
    return [" ".join(block.split()) for block in re.split(r"\n\n|\n(?=- |\d+\. )", text)]


def section(page: Path, anchor: str) -> str:
    """Return what a link to a page leads to: the section that the anchor names, or all of it."""
    parts = re.split(r"^#+ (.*)$", TEXT[page], flags=re.MULTILINE)
    named = {slug(heading): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    return named[anchor] if anchor else TEXT[page]


def slug(heading: str) -> str:
    """Return the name of a heading, as sites that show Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def rounds_to(figure: str, text: str) -> bool:
    """Return whether a number in the text is the figure, or becomes it when it is rounded."""
    wanted = Decimal(figure.replace(",", ""))
    numbers = (Decimal(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?", text))
    return any(
        number.quantize(wanted, rounding) == wanted
        for number in numbers
        for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN)
    )


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings."""
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_measured_figure_stands_in_one_place_or_equals_its_source(page: Path) -> None:
    if page.name in SOURCES or page.name == "CHANGELOG.md":
        return
    others = [text for other, text in TEXT.items() if other != page]
    prose = re.sub(r"^\|.*$", "", TEXT[page], flags=re.MULTILINE)  # tables have the next test
    for block in blocks(prose if page.name == "scaling.md" else TEXT[page]):
        linked = [section((page.parent / path).resolve(), at) for path, at in LINK.findall(block)]
        for figure, unit in FIGURE.findall(block):
            if unit == "%":
                equal = any(figure + unit in text for text in linked)
            else:
                equal = any(rounds_to(figure, text) for text in linked)
            may_own = page.name not in {"README.md", "CONTRIBUTING.md", "architecture.md"}
            alone = may_own and not any((figure, unit) in FIGURE.findall(text) for text in others)
            assert equal or alone, f"{figure}{unit}: not on a page that this links to: {block}"


def test_the_figures_of_scaling_are_those_that_were_measured() -> None:
    measured = (ROOT / "benchmarks/results.md").read_text()
    section = re.findall(r"^## Scaling\n(.*?)^## ", measured, re.DOTALL | re.MULTILINE)[0]
    rows = re.findall(r"^\| [`\d].*$", TEXT[ROOT / "docs/scaling.md"], re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        for figure in re.findall(r"(?<![-\d])\d[\d,]*(?:\.\d+)?", row.replace("mlp-100", "")):
            assert rounds_to(figure, section), f"{figure} in {row}"


@pytest.mark.parametrize(("contract", "drawn"), list(enumerate(DRAWN)), ids=("trainer", "k8s"))
def test_the_architecture_page_has_the_layers_that_are_enforced(contract: int, drawn: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = settings["contracts"][contract]["layers"]
    assert [re.split(r"  +", line)[0] for line in drawn.splitlines()] == layers


@pytest.mark.parametrize("name", PRESETS)
def test_pages_describe_each_preset_as_the_program_does(name: str) -> None:
    preset = PRESETS[name]
    page = (ROOT / "docs/presets.md").read_text()
    assert f"| `{name}` | {preset.summary} |" in (ROOT / "README.md").read_text()
    assert f"| `{name}` | {preset.summary} | {preset.accuracy:.2%}" in page
    assert f"- `{name}`: {preset.source}\n" in page or not preset.source


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_text_exist(page: Path) -> None:
    if page.name != "CHANGELOG.md":
        paths = r"`((?:trainer|k8s|tests|benchmarks|docs|infra|runs)/[\w/.-]*)`"
        for path in re.findall(paths, page.read_text()):
            assert (ROOT / path).exists(), path


def test_the_tree_in_readme_is_the_one_on_disk() -> None:
    tree = re.findall(r"```\n(trainer/ .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    parent, listed = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        parent = parent if line.startswith(" ") else name
        listed.add(parent + name if line.startswith(" ") else name)
    for package in ("trainer", "k8s"):
        folders = {
            f"{package}/{child.name}/"
            for child in (ROOT / package).iterdir()
            if any(child.glob("*.*"))
        }
        assert {f for f in folders if "__pycache__" not in f} == {
            f for f in listed if f.startswith(f"{package}/") and f != f"{package}/"
        }
    assert all((ROOT / path).is_dir() for path in listed)


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
        assert PROGRAM.parse(words).command


@pytest.mark.process
def test_pictures_are_small() -> None:
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "docs"], capture_output=True, text=True, check=False
    )
    for name in tracked.stdout.split():
        assert (ROOT / name).stat().st_size < 500_000, name
