"""What is loaded, and when; who may import whom is in pyproject.toml, see ``make check``."""

from collections.abc import Iterable

import pytest

from tests.support.imports import ROOT, loaded, names_imported

# Everything but what is imported when it is needed: TensorFlow's modules and a store's own.
LIGHT = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in (ROOT / "trainer").rglob("*.py")
    if path.parent.name != "train"
    and path.name not in ("__init__.py", "__main__.py")
    and path.name not in ("gcs.py", "s3.py", "azure.py", "s3_and_azure.py")
)
HEAVY = ("tensorflow", "keras", "google.cloud", "google.auth", "obstore", "kubernetes")


SLOW = (*HEAVY, "google", "pydantic", "numpy", "rich", "yaml")


def among(packages: Iterable[str], names: set[str]) -> list[str]:
    """The names that are of these packages."""
    return [n for n in names for package in packages if f"{n}.".startswith(f"{package}.")]


@pytest.mark.process
@pytest.mark.parametrize("program", ["trainer", "k8s"])
def test_help_loads_no_command(program: str) -> None:
    names = loaded("-m", program, "--help")
    assert "trainer.errors" in names
    assert among(SLOW, names) == []


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "trainer", "train", "--help"),
        ("-m", "k8s", "submit", "--help"),
        ("-c", f"import {', '.join(LIGHT)}"),
    ],
    ids=["train --help", "submit --help", "import"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(arguments: tuple[str, ...]) -> None:
    names = loaded(*arguments)
    assert "trainer.errors" in names
    assert among(HEAVY, names) == []


@pytest.mark.process
def test_tensorflow_is_imported_without_scikit_learn_which_can_be_had_afterwards() -> None:
    code = """
import gc
from trainer.train.quick_import import quick_imports
with quick_imports():
    import trainer.train.trainer, sys
    assert "keras" in sys.modules and "sklearn.base" not in sys.modules
assert gc.isenabled()
import sklearn.metrics
"""
    assert {"tensorflow", "sklearn.metrics"} <= loaded("-c", code)


def test_the_diagnosis_is_pure() -> None:
    """It does nothing with the world: what it imports cannot."""
    pure = {
        "collections",
        "dataclasses",
        "datetime",
        "decimal",
        "functools",
        "json",
        "math",
        "re",
        "typing",
    }
    for path in (ROOT / "k8s/diagnosis").glob("*.py"):
        outside = {name.split(".")[0] for name in names_imported(path)} - {"k8s", "trainer"}
        assert outside <= pure, path
