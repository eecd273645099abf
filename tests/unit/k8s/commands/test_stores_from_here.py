"""Runs in S3 and Azure, seen from the machine where the user types, with its own credentials."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import run_file as spec
from k8s.__main__ import main
from tests.support.apiserver import ApiServer
from tests.support.runfiles import PLAIN
from tests.support.stores import Server, Stores
from trainer.data import dataset, sources
from trainer.runs import run_folder
from trainer.storage.base import open_storage

pytestmark = pytest.mark.process

RESULT = {
    "test_accuracy": 0.9922,
    "test_loss": 0.1,
    "steps": 200,
    "train_seconds": 7.0,
    "images_per_second": 14000.0,
    "weights_sha256": "ab" * 32,
}


@pytest.fixture(params=["s3", "az"])
def server(
    request: pytest.FixtureRequest, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> Server:
    """A store, and this machine with its credentials alone: only run files know where it is."""
    started = stores(request.param)
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name, value in started.environment.items():
        if "ENDPOINT" not in name:
            monkeypatch.setenv(name, value)
    return started


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ApiServer() as running:
        monkeypatch.setenv("KUBECONFIG", running.kubeconfig(tmp_path / "kubeconfig"))
        yield running


@pytest.fixture
def endpoint(server: Server) -> str:
    (found,) = (value for name, value in server.environment.items() if "ENDPOINT" in name)
    return found


@pytest.fixture
def run_file(tmp_path: Path, server: Server, endpoint: str) -> Path:
    """The run file of a run that has finished."""
    folder = server.folder()
    with server.entered():
        sources.put("digits", f"{folder}/data", train_count=600, test_count=100, seed=0)
    path = tmp_path / "run.yaml"
    values: dict[str, Any] = {
        **PLAIN,
        "data": f"{folder}/data",
        "run": f"{folder}/run",
        "storage_endpoint": endpoint,
        "environment": {"AZURE_STORAGE_ACCOUNT": "account", "AWS_ALLOW_HTTP": True},
        "train": {"validation": 100},
    }
    values["environment"]["AZURE_ALLOW_HTTP"] = True
    path.write_text(yaml.safe_dump(values))
    its = spec.read(str(path))
    with server.entered():
        there = open_storage(its.run_uri)
        data = dataset.load(its.data, its.config.validation)
        run_folder.claim(there, its.config, data.sha256)
        there.create(run_folder.RESULT, run_folder.pretty(RESULT))
        there.create("logs/rank-0/20260101T000000Z-abcd.00000.log", b"a line\n")
    return path


def test_every_verb_reads_a_runs_folder_by_its_run_file(
    run_file: Path, api: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["result", str(run_file), "--download", str(tmp_path / "copy")]) == 0
    assert "test accuracy  99.22%" in capsys.readouterr().out
    assert (tmp_path / "copy/result.json").exists()
    assert main(["logs", str(run_file)]) == 0
    assert capsys.readouterr().out == "0 | a line\n"
    assert main(["doctor", str(run_file)]) == 0
    checked = capsys.readouterr().out
    assert "600 training and 100 test images" in checked
    assert "can be written" in checked
    assert api.requests


def test_a_run_is_found_by_its_name_and_no_token_goes_where_a_job_says(
    run_file: Path, api: ApiServer, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", str(run_file)]) == 0
    for item in yaml.safe_load_all(capsys.readouterr().out):
        item["metadata"]["namespace"] = "default"
        api.add(item)
    if endpoint.endswith("/account"):  # Azure
        assert main(["result", "mnist"]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"k8s: mnist: its store is at {endpoint}; ")
        assert line.endswith(f"give --storage-endpoint {endpoint} or its run file\n")
        assert main(["result", "mnist", "--storage-endpoint", endpoint]) == 0
    else:
        assert main(["result", "mnist"]) == 0
    assert "test accuracy  99.22%" in capsys.readouterr().out
    assert not any("ENDPOINT_URL" in name for name in os.environ if "S3" not in name)


@pytest.mark.usefixtures("api")
def test_a_machine_without_credentials_is_told_what_to_do(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("k8s.run.run_store.DEADLINE", 2.0)
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_"))]:
        monkeypatch.delenv(name)
    assert main(["result", str(run_file)]) in (2, 69)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "on a laptop" in line
    assert main(["doctor", str(run_file)]) in (0, 2)
    assert "on a laptop" in capsys.readouterr().out
