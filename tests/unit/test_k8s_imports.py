"""Who may import whom in ``k8s``, and what its --help does not load."""

from pathlib import Path

import pytest

from tests.imports import loaded, names_imported

ROOT = Path(__file__).parents[2]
LAYERS = (
    "quantity evidence spec client",
    "manifest refusals unstarted view",
    "symptoms store screen",
    "diagnose submit doctor logs result",
    "observe",
    "follow status",
    "__main__",
)
LAYER = {module: place for place, layer in enumerate(LAYERS) for module in layer.split()}
TRAINER = {
    "errors",
    "config",
    "presets",
    "storage",
    "run",
    "dataset",
    "progress",
    "logs",
    "stream",
    "text",
}
MODULES = sorted(path.stem for path in (ROOT / "k8s").glob("*.py") if path.stem != "__init__")


def imported(module: str) -> set[str]:
    return names_imported(ROOT / "k8s" / f"{module}.py")


def edges() -> set[tuple[str, str]]:
    return {
        (module, name.split(".")[1])
        for module in MODULES
        for name in imported(module)
        if name.startswith("k8s.") and name.split(".")[1] in MODULES
    }


def test_a_module_imports_only_from_its_left() -> None:
    assert set(MODULES) == set(LAYER)
    assert {e for e in edges() if LAYER[e[0]] <= LAYER[e[1]]} == set()


def test_only_the_client_imports_kubernetes_and_nothing_imports_tensorflow() -> None:
    packages = {m: {name.split(".")[0] for name in imported(m)} for m in MODULES}
    assert [m for m in MODULES if "kubernetes" in packages[m]] == ["client"]
    assert not [m for m in MODULES if packages[m] & {"tensorflow", "keras", "google"}]
    used = {name.split(".")[1] for m in MODULES for name in imported(m) if name[:8] == "trainer."}
    assert used - TRAINER == set()


def test_the_diagnosis_is_pure() -> None:
    outside = {
        "k8s",
        "dataclasses",
        "datetime",
        "collections",
        "typing",
        "re",
        "decimal",
        "json",
        "functools",
    }
    for module in ("diagnose", "symptoms", "unstarted", "refusals", "evidence", "quantity"):
        assert {name.split(".")[0] for name in imported(module)} <= outside, module


@pytest.mark.parametrize("arguments", [("--help",), ("submit", "--help")])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    names = loaded("-m", "k8s", *arguments)
    for package in ("tensorflow", "kubernetes", "google", "pydantic", "numpy", "rich", "yaml"):
        assert not {n for n in names if n == package or n.startswith(f"{package}.")}, package
