"""The files that services and tools of developers read."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.imports import ROOT
from tests.support.processes import environment
from trainer import __version__
from trainer.cluster_spec import DEFAULT_PORT


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_ci_runs_what_a_change_must_pass_on_every_python_that_is_supported() -> None:
    job = load(".github/workflows/ci.yml")["jobs"]["ci"]
    pythons = job["strategy"]["matrix"]["python"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert bounds is not None
    assert pythons == [f"3.{minor}" for minor in range(int(bounds[1]), int(bounds[2]))]


@pytest.mark.process
def test_the_help_of_make_fits_on_a_terminal() -> None:
    asked = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True)
    targets, _, _ = asked.stdout.partition("\nSettings")
    assert "test-fast" in targets
    assert [line for line in targets.splitlines() if len(line) > 80] == []


@pytest.mark.process
def test_a_store_may_have_spaces_in_its_name(tmp_path: Path) -> None:
    store = tmp_path / "my store"
    for number, name in enumerate(("first", "last one")):
        config = store / "runs" / name / "config.json"
        config.parent.mkdir(parents=True)
        config.touch()
        os.utime(config, (number, number))
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "[%s]" "$@" >> "$(dirname "$0")/log"\n')
    python.chmod(0o755)
    for stamp in ("trainer", "onnx"):
        (tmp_path / "venv" / stamp).touch()
    given = [f"STORE={store}", f"VENV={tmp_path / 'venv'}", "ARGS=--show 'a b'"]
    targets = ("run", "report", "predict", "export", "watch", "compare", "tensorboard", "help")
    asked = subprocess.run(
        ["make", *targets, *given], cwd=ROOT, check=True, capture_output=True, text=True
    )
    log = (python.parent / "log").read_text()
    assert f"[put][--from][auto][--to][{store}/data]" in log
    for name in ("report", "predict", "export", "watch"):
        assert f"[{name}][--run][{store}/runs/last one][--show][a b]" in log
    for words in (f"[compare][{store}/runs]", f"[tensorboard][--run][{store}/runs]"):
        assert words in log
    assert f"{store}/runs/last one (a folder, to inspect)" in asked.stdout


@pytest.mark.process
def test_make_predict_needs_something_to_read() -> None:
    asked = subprocess.run(
        ["make", "predict", "RUN=run", "-o", ".venv/trainer"],
        cwd=ROOT,
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 2
    assert asked.stderr.startswith("give PICTURES=, files or a folder")


@pytest.mark.process
def test_a_tag_publishes_the_image_of_this_version_for_both_processors() -> None:
    job = load(".github/workflows/publish.yml")["jobs"]["image"]
    [command] = [step["run"] for step in job["steps"] if "run" in step]
    asked = subprocess.run(
        ["bash", "-c", f"make --dry-run {command.removeprefix('make ')}"],
        cwd=ROOT,
        env={**os.environ, "GITHUB_REPOSITORY": "An/Owner", "GITHUB_REF_NAME": "v0.1.0"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "--platform linux/amd64,linux/arm64 --sbom=true --provenance=mode=max --push" in asked
    assert "-t ghcr.io/an/owner:0.1.0 " in asked
    version = re.search(r"VERSION=\$\((.*?)\) ", asked)
    assert version is not None
    told = subprocess.run(version[1], shell=True, cwd=ROOT, check=True, capture_output=True)
    assert told.stdout.decode().strip() == __version__


def test_dependabot_looks_into_folders_that_are_there() -> None:
    updates = {
        each["package-ecosystem"]: each for each in load(".github/dependabot.yml")["updates"]
    }
    assert set(updates) == {"pip", "github-actions", "docker"}
    for each in updates.values():
        for folder in each.get("directories", [each.get("directory")]):
            assert (ROOT / folder.lstrip("/")).is_dir(), folder
    assert (ROOT / "Dockerfile").exists()


def test_pre_commit_has_the_projects_own_ruff() -> None:
    [repository] = load(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    checks = [hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]]
    makefile = (ROOT / "Makefile").read_text()
    for check in checks:
        assert re.search(rf"\$\(BIN\)/{check}", makefile), check


def test_security_names_the_ports_there_are() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for number in range(3):
        assert f"| {DEFAULT_PORT + number} |" in text
