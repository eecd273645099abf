"""How the tests themselves are laid out."""

from pathlib import Path

from tests.support.imports import ROOT, names_imported


def test_what_tests_share_is_in_support() -> None:
    """A test module that others import cannot be changed, moved or left out alone."""
    modules = [path for name in ("tests", "docs", "benchmarks") for path in _python(name)]
    assert len(modules) > 100
    for path in modules:
        ours = {name for name in names_imported(path) if name.split(".")[0] == "tests"}
        assert all(name.startswith("tests.support") for name in ours), path


def _python(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))
