"""Nothing that a cluster, a log or a result says is obeyed by a terminal."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.__main__ import main
from k8s.diagnosis import run_phase
from k8s.run.screen import Screen
from tests.support.apiserver import ApiServer, Fault
from tests.support.controller import Controller
from tests.support.verbs import RESULT, STEP, finish
from trainer.runs import run_folder
from trainer.storage.base import open_storage


def test_what_a_model_prints_does_not_reach_the_terminal_as_it_is(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    api.push(controller.pods(controller.job())[0]["metadata"]["name"], "\x1b]0;title\x07text")
    api.push("mnist-0-00000", '{"step": null, "loss": 1}')
    capsys.readouterr()
    assert main(["logs", "mnist"]) == 0
    out = capsys.readouterr().out
    assert "text" in out
    assert "\x1b" not in out
    assert main(["status", "mnist"]) == 0


# What reaches a terminal.

ODD = "[red]a\x1b]0;title\x07\x9b2J\u202eb[/red]"


def obeyed(text: str) -> set[str]:
    return {c for c in text if not c.isprintable()} - {"\n"}


def test_nothing_of_a_cluster_is_obeyed_by_a_terminal(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    api.warnings.append(ODD.replace("\u202e", ""))  # headers are Latin-1
    assert main(["submit", str(run_file)]) == 0
    pods = controller.pods(controller.job())
    for pod in pods:
        pod["spec"]["nodeName"] = pod["status"]["phase"] = ODD
        pod["status"]["containerStatuses"][0]["state"] = {
            "waiting": {"reason": ODD, "message": ODD}
        }
    pods[0]["status"]["containerStatuses"][0]["state"] = {
        "terminated": {"exitCode": 2, "message": ODD}
    }
    pods[0]["status"]["phase"] = "Failed"
    api.push(pods[0]["metadata"]["name"], json.dumps({"warning": ODD, "step": ODD, "loss": ODD}))
    involved = {"uid": controller.job()["metadata"]["uid"], "kind": "Job"}
    event = {
        "involvedObject": involved,
        "reason": "FailedCreate",
        "message": ODD,
        "type": "Warning",
    }
    api.add({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, **event})
    quota = {"hard": {"requests.cpu": "0"}}
    api.add(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": ODD}, "status": quota}
    )
    seen = capsys.readouterr().out
    for arguments in (["status", "mnist"], ["list"], ["logs", "mnist"], ["doctor", str(run_file)]):
        main(arguments)
        seen += capsys.readouterr().out
    for output in (["status", "mnist", "-o", "json"], ["list", "-o", "json"]):
        main(output)
        printed = capsys.readouterr().out
        assert not obeyed(printed)
    api.faults.append(Fault("status", "get", "jobs", status=400, message=ODD))
    assert main(["status", "mnist"]) == 2
    seen += capsys.readouterr().err
    assert not obeyed(seen)
    assert seen.count("[red]a") > 5  # nor is it read as markup


def test_nothing_of_a_log_is_obeyed_by_the_bar_of_a_terminal(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes any output for a terminal
    screen, progress = Screen(2), run_phase.Progress()
    facts = {**STEP, "step": 1, "loss": "[/red][bold]no figure[/bold]"}
    progress.take("2026-01-01T00:00:00Z", facts)
    screen.line(0, facts, progress)
    screen.close()
    out = capsys.readouterr().out
    assert "[/red][bold]no figure[/bold]" in out


def test_nothing_of_a_result_is_obeyed_by_a_terminal(
    run_file: Path, tmp_path: Path, capsys: Any
) -> None:
    finish(run_file)
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    folder.replace(
        run_folder.RESULT,
        run_folder.pretty({**RESULT, "weights_sha256": ODD + "\x7f", "steps": ODD}),
    )
    for more in ([], ["-o", "json"], ["--download", str(tmp_path / "x")]):
        assert main(["result", str(run_file), *more]) == 0
        captured = capsys.readouterr()
        assert not obeyed(captured.out + captured.err)
    folder.replace(run_folder.RESULT, run_folder.pretty({"test_accuracy": ODD}))
    assert main(["result", str(run_file)]) == 65
