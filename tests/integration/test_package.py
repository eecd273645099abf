"""The wheel, installed where there is no clone: what it holds, and the commands that it brings."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import trainer
from tests.support.processes import LIMIT, ROOT, environment
from tests.support.runfiles import PLAIN

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERBS = ("train", "report", "predict", "submit", "status", "logs", "completion")

Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that the build leaves nothing in this folder."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("trainer", "k8s"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", copy / "dist", copy], check=True, timeout=LIMIT)
    (built,) = (copy / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return what runs an installed command in a folder of its own and returns its output.

    The environment has the wheel, and its dependencies from the one that runs the tests.
    """
    venv, folder = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=LIMIT)
    python = str(venv / "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, timeout=LIMIT)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    env = environment()
    del env["PYTHONPATH"]

    def start(command: str, *arguments: str) -> str:
        done = subprocess.run(
            [venv / "bin" / command, *arguments],
            cwd=folder,
            env={**env, "PATH": f"{venv}/bin{os.pathsep}{env['PATH']}"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    return start


def test_the_wheel_holds_every_file_of_both_packages(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for name in ("trainer", "k8s") for path in (ROOT / name).rglob("*")]
    paths = {str(path.relative_to(ROOT)) for path in files if path.is_file()}
    assert held == {path for path in paths if "__pycache__" not in path}
    assert {"trainer/py.typed", "k8s/py.typed"} <= held


def test_the_packages_are_those_of_the_wheel(run: Run) -> None:
    code = "import importlib.metadata as m, trainer, k8s; print(trainer.__file__, k8s.__file__,"
    name = PROJECT["name"]
    *files, version = run("python", "-c", f"{code} m.version({name!r}))").split()
    assert all("/site-packages/" in file and not file.startswith(str(ROOT)) for file in files)
    assert version == trainer.__version__


@pytest.mark.early
def test_a_run_is_trained_and_reported_and_imports_nothing_from_the_current_folder(
    run: Run,
) -> None:
    """What is there may be somebody else's, such as a folder with a run in it."""
    folder = Path(run("python", "-c", "print(__import__('os').getcwd())").strip())
    names = ("trainer", "yaml", "jinja2", "numpy", "tensorflow", "random")
    for name in names:
        (folder / f"{name}.py").write_text("open('imported', 'w')\n")
    try:
        counts = ("--train-count", "1000", "--test-count", "300")
        run("trainyard", "data", "put", "--from", "digits", "--to", "data", *counts)
        few = ("--steps", "20", "--validation", "0", "--xla", "off")
        train = ("train", "--preset", "softmax", "--data", "data", "--run", "run", *few)
        assert run("trainyard", *train).splitlines()[-2:] == [
            "results in run/",
            "report in run/report.html",
        ]
    finally:
        for name in names:
            (folder / f"{name}.py").unlink()
    assert "<svg" in (folder / "run/report.html").read_text()
    assert not (folder / "imported").exists()
    assert run("python", "-m", "trainer", "report", "--run", "run", "--text")


def test_a_run_file_is_rendered(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(PLAIN))
    out = run("trainyard", "render", str(tmp_path / "run.yaml"))
    kinds = [each["kind"] for each in yaml.safe_load_all(out)]
    assert kinds == ["ConfigMap", "NetworkPolicy", "Service", "Job"]
    assert run("python", "-m", "k8s", "render", str(tmp_path / "run.yaml")) == out
    assert run("kubectl-trainyard", "render", str(tmp_path / "run.yaml")) == out


def test_help_names_the_command_as_it_is_called(run: Run) -> None:
    for command, name in (("trainyard", "trainyard"), ("kubectl-trainyard", "kubectl trainyard")):
        assert run(command, "--help").startswith(f"usage: {name} [-h] [--version] COMMAND")
        assert run(command, "doctor", "--help").startswith(f"usage: {name} doctor ")
    shown = run("trainyard", "--help")
    assert all(re.search(rf"^    {verb}\b", shown, re.MULTILINE) for verb in VERBS)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_flags_and_files(shell: str, run: Run) -> None:
    script = run("trainyard", "completion", shell)
    assert all(verb in script for verb in VERBS)
    assert "--learning-rate" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=LIMIT)
    if shell == "bash":
        code = f"{script}\nCOMP_WORDS=(trainyard rep); COMP_CWORD=1; "
        code += "_shtab_trainyard trainyard rep trainyard; echo ${COMPREPLY[@]}"
        done = subprocess.run(
            ["bash", "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.stdout == "report\n"
