"""Every command in README.md is run, on small data and with stand-ins for what is not here.

Commands run one after another in one folder, with a few steps. The environment has few
digits for MNIST, the virtual environment that runs the tests, a loopback server for
Cloud Storage, and a program that only notes its arguments for docker.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from k8s import run_file
from tests.support import warm
from tests.support.apiserver import ApiServer
from tests.support.controller import Controller
from tests.support.processes import LIMIT, ROOT, environment
from tests.support.stores import Stores, make_bucket
from trainer.storage.base import open_storage

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
# These run everything else, or never end; that they exist and what they would do is checked.
DRY = {"make test", "make check", "make presets", "make tensorboard", "make watch"}
FIGURES = {"step": 100, "total_steps": 516, "loss": 0.5, "accuracy": 0.9, "images_per_second": 9e3}
RESULT = {
    "test_accuracy": 0.99,
    "test_loss": 0.1,
    "steps": 516,
    "train_seconds": 7.0,
    "images_per_second": 14000.0,
    "weights_sha256": "ab" * 32,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks like a clone whose virtual environment is set up."""
    folder = tmp_path_factory.mktemp("clone")
    parts = ("Makefile", "Dockerfile", "trainer", "k8s", "benchmarks", "requirements")
    for name in parts:
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", folder / "docs")  # a command writes there
    (folder / "tests/support").mkdir(parents=True)
    for name in ("azurite", "axe"):  # programs of Node.js
        (folder / "tests/support" / name).symlink_to(ROOT / "tests/support" / name)
    (folder / "runs").mkdir()
    run_file = (ROOT / "runs/gcs.yaml").read_text()
    (folder / "runs/gcs.yaml").write_text(f"{run_file}  validation: 400\n")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    for stamp in ("trainer", "k8s", "onnx", "dev"):
        (folder / ".venv" / stamp).touch()
    (folder / "docker").write_text('#!/bin/sh\necho "$@" >> docker.log\n')
    (folder / "docker").chmod(0o755)
    (folder / "kubectl").write_text('#!/bin/sh\necho "$@" >> kubectl.log\n')
    (folder / "kubectl").chmod(0o755)
    model = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert model is not None
    (folder / "mymodels.py").write_text(model[1])
    return folder


@pytest.mark.early
def test_every_command(project: Path, digits: Path, stores: Stores) -> None:
    assert len(COMMANDS) > 10
    requests = warm.lend(project / ".venv/bin/python")
    script = "set -e\n"
    for command in COMMANDS:
        dry = command.replace("make", "make -n", 1) if command in DRY else command
        script += f"echo '$ {command}'\n{dry}\n"
    server = stores("gs")
    assert make_bucket(server.url, "my-bucket")
    with server.entered(), ApiServer() as api:
        # What `kubectl apply -k infra/cluster` makes, of what submit looks at.
        api.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "trainyard"}})
        account = {"name": "trainer", "namespace": "trainyard"}
        api.add({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        controller, bucket = Controller(api), open_storage("gs://my-bucket")

        def react(verb: str, item: dict[str, Any]) -> None:
            controller.react(verb, item)
            if item["kind"] == "Job" and verb == "patch":  # it has been started
                api.push("mnist-cnn-0-00000", json.dumps(FIGURES))
                api.push("mnist-cnn-0-00000", json.dumps({"message": "trained"}))
                its = run_file.read(str(project / "runs/gcs.yaml")).config
                config = its.identity() | {"data_sha256": "0" * 64}
                for name, values in (("config", config), ("result", RESULT)):
                    data = json.dumps(values).encode()
                    bucket.create(f"runs/mnist-cnn/{name}.json", data)

        api.react = react
        env = environment(
            {
                "KUBECONFIG": api.kubeconfig(project / "kubeconfig"),
                "MNIST_DIR": str(digits),
                **server.environment,
                "DOCKER": "./docker",
                "PATH": f"{project}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
        )
        # Flags of a user win over those of a preset, so they can be given to all runs alike.
        # That runs end with a report, those of `make run` show whose model is the default.
        few = "--steps 30 --validation 400 --xla off"
        script = re.sub(r"(trainer train (?!--help).*)", rf"\1 {few} --no-report", script)
        script = re.sub(
            r"^make run(?: ARGS=\"(.*)\")?",
            rf'make run ARGS="{few} \1"',
            script,
            flags=re.MULTILINE,
        )
        # Two workers train in the first of them.
        script = script.replace(' --seed 2"', ' --seed 2 --no-report" WORKERS=1')
        script = script.replace('" PRESET=', '--no-report" PRESET=')
        script = re.sub(r"(make run .*)(STORE=gs)", r"\1WORKERS=1 PRESET=softmax \2", script)
        script = script.replace(
            "make chaos", 'make chaos WORKERS=1 FAULTS=1 ARGS="--preset softmax --steps 400"'
        )
        script = re.sub(r"(--from digits .*)", r"\1 --train-count 2000 --test-count 500", script)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=project,
            env=env,
            pass_fds=[requests],
            timeout=4 * LIMIT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        objects = bucket.list("runs/")
    trained = [c for c in COMMANDS if re.match(r"make run|python -m trainer train (?!--help)", c)]
    assert done.stdout.count("results in ") == len(trained)
    stored = {entry.name.rpartition("/")[2] for entry in objects}
    assert {"result.json", "report.html", "predictions.safetensors"} <= stored
    assert "most confused ──" in done.stdout
    assert re.search(r"^docs/sheet\.jpg  \d +[\d.]+%", done.stdout, re.MULTILINE)
    assert "page: compare.html" in done.stdout
    assert "model.onnx" in done.stdout
    assert "created ConfigMap, NetworkPolicy, Service, Job mnist-cnn" in done.stdout
    assert "mnist-cnn  Running" in done.stdout
    assert "0 | trained" in done.stdout
    assert "test accuracy  99.00%" in done.stdout
    assert (project / "kubectl.log").read_text() == "apply -k infra/cluster\n"
    log = (project / "docker.log").read_text()
    assert "build --build-arg PYTHON_IMAGE=" in log
    assert "train --preset cnn --data bucket/data" in log
