"""Who may import whom: a module imports only from its left."""

from pathlib import Path

import pytest

from tests.imports import loaded, names_imported

ROOT = Path(__file__).parents[2]
LAYERS = (
    "text imports stall",
    "errors",
    "sockets",
    "ring",
    "config cluster order schedule metrics charts idx ink process rollcall gcs_server",
    "storage wire",
    "membership",
    "shards",
    "presets dataset digits sources run checkpoint progress causes logs figures events predictions "
    "augment optimizers forward picture page stream",
    "restore eventlog runs search",
    "models loop epilogue network compare",
    "devices",
    "train facts curves",
    "evaluate report export predict tensorboard sweep worker supervisor",
    "gang terminal",
    "chaos",
    "arguments",
    "__main__",
)
LAYER = {module: place for place, layer in enumerate(LAYERS) for module in layer.split()}
# Edges allowed within one layer; none starts where another ends, so that they form no cycle.
WITHIN = {
    ("schedule", "config"),
    ("sources", "dataset"),
    ("sources", "digits"),
    ("causes", "run"),
    ("predictions", "run"),
}
# Who may import a package, at any place in the module.
OWNERS: dict[str, set[str]] = {
    "tensorflow": {"augment", "optimizers", "forward", "loop", "devices", "train", "export"},
    "keras": {"augment", "models", "forward", "export"},
    "google": {"storage"},
    "kubernetes": set(),
    "k8s": set(),
    "tensorboard": {"events"},
}
WITH_TENSORFLOW = {
    "augment",
    "optimizers",
    "forward",
    "models",
    "loop",
    "devices",
    "train",
    "evaluate",
}

MODULES = sorted(path.stem for path in (ROOT / "trainer").glob("*.py") if path.stem != "__init__")


def imports(module: str) -> set[str]:
    return names_imported(ROOT / "trainer" / f"{module}.py")


def edges() -> set[tuple[str, str]]:
    """(importer, imported) among the trainer's modules."""
    return {
        (module, name.split(".")[1])
        for module in MODULES
        for name in imports(module)
        if name.startswith("trainer.") and name.split(".")[1] in MODULES
    }


def test_every_module_has_its_place() -> None:
    assert set(MODULES) - set(LAYER) == set()
    assert not imports("__init__")


def test_a_module_imports_only_from_its_left() -> None:
    assert {edge for edge in edges() if LAYER[edge[0]] < LAYER[edge[1]]} == set()
    assert {edge for edge in edges() if LAYER[edge[0]] == LAYER[edge[1]]} - WITHIN == set()
    assert not {importer for importer, _ in WITHIN} & {imported for _, imported in WITHIN}


@pytest.mark.parametrize("package", OWNERS)
def test_a_package_is_imported_by_its_owners_only(package: str) -> None:
    users = {m for m in MODULES if package in {n.split(".")[0] for n in imports(m)}}
    assert users - OWNERS[package] == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "trainer", "--help"),
        ("-m", "trainer", "train", "--help"),
        ("-c", "import trainer." + ", trainer.".join(set(MODULES) - WITH_TENSORFLOW)),
    ],
    ids=["--help", "train --help", "import"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(arguments: tuple[str, ...]) -> None:
    names = loaded(*arguments)
    assert {"trainer.config", "trainer.storage", "numpy"} <= names
    for package in ("tensorflow", "keras", "google.cloud", "google.auth", "kubernetes"):
        assert not {n for n in names if n == package or n.startswith(f"{package}.")}, package


def test_tensorflow_is_imported_without_scikit_learn_which_can_be_had_afterwards() -> None:
    code = """
import gc
from trainer.imports import quick_imports
with quick_imports():
    import trainer.train, sys
    assert "keras" in sys.modules and "sklearn.base" not in sys.modules
assert gc.isenabled()
import sklearn.metrics
"""
    assert {"tensorflow", "sklearn.metrics"} <= loaded("-c", code)
