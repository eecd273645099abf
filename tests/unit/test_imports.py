"""What is loaded, and when; who may import whom is in pyproject.toml, see ``make check``."""

import pytest

from tests.support.imports import ROOT, loaded, names_imported

# Everything but what is imported when it is needed: TensorFlow's modules and a store's own.
LIGHT = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in (ROOT / "trainer").rglob("*.py")
    if path.parent.name != "train" and path.name not in ("__init__.py", "__main__.py", "gcs.py")
)
HEAVY = ("tensorflow", "keras", "google.cloud", "google.auth", "kubernetes")


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "trainer", "--help"),
        ("-m", "trainer", "train", "--help"),
        ("-c", f"import {', '.join(LIGHT)}"),
    ],
    ids=["--help", "train --help", "import"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(arguments: tuple[str, ...]) -> None:
    names = loaded(*arguments)
    assert {"trainer.config", "trainer.presets", "pydantic"} <= names
    for package in HEAVY:
        assert not {n for n in names if n == package or n.startswith(f"{package}.")}, package


@pytest.mark.parametrize("arguments", [("--help",), ("submit", "--help")])
def test_the_cluster_side_answers_for_help_at_once(arguments: tuple[str, ...]) -> None:
    names = loaded("-m", "k8s", *arguments)
    for package in (*HEAVY, "google", "pydantic", "numpy", "rich", "yaml"):
        assert not {n for n in names if n == package or n.startswith(f"{package}.")}, package


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
