"""How the tests themselves are laid out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.imports import ROOT, names_imported
from tests.support.needs import GUARD


@pytest.mark.long
def test_what_tests_share_is_in_support() -> None:
    """A test module that others import cannot be changed, moved or left out alone."""
    modules = [path for name in ("tests", "docs", "benchmarks") for path in _python(name)]
    assert len(modules) > 100
    for path in modules:
        ours = {name for name in names_imported(path) if name.split(".")[0] == "tests"}
        assert all(name.startswith("tests.support") for name in ours), path


def test_a_test_without_a_marker_neither_starts_processes_nor_loads_tensorflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(AssertionError, match="imports TensorFlow and has no marker 'tensorflow'"):
        import tensorflow  # noqa: F401
    for start in (lambda: subprocess.run(["true"]), lambda: os.system("true"), os.fork):
        with pytest.raises(AssertionError, match="has no marker 'process'"):
            start()
    assert len(GUARD.refused) == 4
    GUARD.refused.clear()


@pytest.mark.process
def test_a_test_with_a_marker_does() -> None:
    assert subprocess.run(["true"]).returncode == 0


def _python(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))
