"""The page of a run in the cluster: what it is given, and which runs it cannot show."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from k8s.__main__ import main
from k8s.client.cluster import Cluster
from k8s.commands import watch
from tests.support.apiserver import ApiServer
from tests.support.verbs import RESULT, STEP, change, finish
from trainer.report import live_server
from trainer.report.live_server import Watcher

Given = list[tuple[dict[str, Any], str]]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """What would be served: the first answer, and the folder."""
    found: Given = []

    def serve(watcher: Watcher, where: str, *_: object) -> None:
        watcher.look()
        found.append((json.loads(watcher.state()), where))

    monkeypatch.setattr(live_server, "serve", serve)
    return found


@pytest.mark.usefixtures("controller")
def test_a_run_in_the_cluster_is_shown_with_its_pods(
    run_file: Path, api: ApiServer, given: Given
) -> None:
    assert main(["submit", str(run_file)]) == 0
    api.push("mnist-0-00000", json.dumps(STEP))
    for run in (str(run_file), "mnist"):
        assert main(["watch", run]) == 0
    finish(run_file)
    assert main(["watch", "mnist"]) == 0
    states = [shown["state"] for shown, _ in given]
    assert states == ["waiting", "waiting", "finished"]
    assert given[0][0]["words"] == "Running"
    rows = [row["cells"] for row in given[0][0]["ranks"]["rows"]]
    assert rows[1] == ["1", "", "mnist-1-00001", "Running", "node0"]
    assert {where for _, where in given} == {f"gs://bucket/runs/{run_file.parent.name}"}


def test_a_folder_alone_is_shown_without_a_cluster(
    run_file: Path, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nothing/there")
    finish(run_file)
    folder = f"gs://bucket/runs/{run_file.parent.name}"
    assert main(["watch", "--run", folder]) == 0
    assert main(["watch", "--folder", folder]) == 0
    assert [shown["state"] for shown, _ in given] == ["finished"] * 2
    assert RESULT["steps"] == 200


@pytest.mark.usefixtures("controller")
def test_a_folder_that_pods_alone_see_is_refused_with_what_to_do(
    run_file: Path, given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_file, run="/runs/mnist", volumes=[{"claim": "runs", "mount": "/runs"}])
    assert main(["watch", str(run_file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is on a claim, which only pods see; python -m k8s logs" in error
    assert given == []


def test_the_cluster_is_asked_seldom(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pods = watch.Pods(Cluster(), "gone")
    assert pods.look().cause == "it is not in the cluster"
    asked = len(api.requests)
    now[0] = watch.EVERY
    pods.look()
    assert len(api.requests) == asked
    now[0] += 1
    pods.look()
    assert len(api.requests) > asked
