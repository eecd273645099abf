"""What counts as a run's success, and whose result is believed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.__main__ import main
from tests.support import processes
from tests.support.apiserver import ApiServer
from tests.support.controller import RESULT as CONTROLLER_RESULT
from tests.support.controller import WORDS, Controller
from tests.support.verbs import RESULT, change, finish, in_background
from trainer.runs import run_folder
from trainer.storage.base import open_storage

# What proves a success.


def ends_like(
    outcome: str, phase: str, run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> str:
    """Check that every command says the same of a Job that is complete, and return the cause."""
    code = {"Succeeded": 0, "Failed": 1, "Unproven": 69}[phase]
    for flag in ("--wait", "--follow"):
        api.requests.clear()
        thread = in_background(lambda: end_when_followed(api, controller, outcome))
        assert main(["submit", str(run_file), flag]) == code
        thread.join()
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith(f"mnist: {phase} after 1m5s"), last
        assert main(["list", "-o", "json"]) == 0
        [listed] = json.loads(capsys.readouterr().out)
        assert main(["status", "mnist", "-o", "json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["phase"] == listed["phase"] == phase
        assert shown["cause"] == listed["cause"]
        assert shown["cause"] in last
        for pod in controller.pods(controller.job()):
            del api.objects["Pod", "default", pod["metadata"]["name"]]
        assert main(["delete", "mnist"]) == 0
        api.logs.clear()
        capsys.readouterr()
    return str(shown["cause"])


def end_when_followed(api: ApiServer, controller: Controller, outcome: str) -> None:
    processes.wait_until(lambda: api.sent("get", "pods/log"))
    leader = controller.pods(controller.job())[0]["metadata"]["name"]
    if outcome == "garbage":
        for line in (
            "[" * 100_000,
            '{"a":' * 100_000,
            "\x1b]0;x\x07",
            '{"test_accuracy": 1}',
            "\0",
        ):
            api.push(leader, line)
    if outcome == "logged":
        api.push(leader, json.dumps({"message": WORDS, "event": "finished", **RESULT}))
    codes = {} if outcome == "left" else {0: (0, "")}
    if outcome == "some":
        codes[1] = (0, CONTROLLER_RESULT)
    controller.end("Complete", "CompletionsReached", codes)


def test_ending_with_0_is_no_success(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    cause = ends_like("echo", "Failed", run_file, api, controller, capsys)
    image = yaml.safe_load(run_file.read_text())["image"]
    assert "every pod ended with 0 but left no result" in cause
    assert f"see whether image {image} is the trainer's" in cause


@pytest.mark.parametrize("outcome", ["garbage", "logged", "some"])
def test_neither_garbage_nor_what_is_only_said_is_a_success(
    outcome: str, run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    ends_like(outcome, "Failed", run_file, api, controller, capsys)


def test_the_result_that_rank_0_left_is_a_success(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    assert ends_like("left", "Succeeded", run_file, api, controller, capsys) == ""


def test_this_run_s_result_is_a_success_whatever_became_of_its_pods(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    finish(run_file)
    assert ends_like("echo", "Succeeded", run_file, api, controller, capsys) == ""


def test_another_run_s_result_is_none_of_this_run(
    run_file: Path, controller: Controller, capsys: Any
) -> None:
    finish(run_file, train={"validation": 100, "seed": 7})
    # The check before submitting would have said so, if the folder had been like this by then.
    assert main(["submit", str(run_file)]) == 2
    capsys.readouterr()
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    others = {name: folder.read(name) for name in (run_folder.CONFIG, run_folder.RESULT)}
    for name in others:
        folder.delete(name)
    assert main(["submit", str(run_file)]) == 0
    for name, data in others.items():
        folder.create(name, data)
    controller.end("Complete", "CompletionsReached", {0: (0, "")})
    capsys.readouterr()
    assert main(["status", "mnist", "-o", "json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["phase"] == "Failed"
    assert "belongs to a run with other settings: seed (7 there, " in status["cause"]
    for argument in ("mnist", str(run_file)):
        assert main(["result", argument]) == 2
        assert "seed (7 there, " in capsys.readouterr().err
    assert main(["result", "--folder", folder.uri]) == 0  # whichever run it is


@pytest.mark.long
@pytest.mark.parametrize(
    ("outcome", "phase"), [("echo", "Unproven"), ("logged", "Succeeded"), ("left", "Succeeded")]
)
def test_where_the_bucket_is_not_seen_from_here_the_pod_or_its_log_tells(
    outcome: str,
    phase: str,
    run_file: Path,
    api: ApiServer,
    controller: Controller,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(run_file, storage_endpoint="http://127.0.0.1:9")
    monkeypatch.setattr("k8s.run.run_store.DEADLINE", 0.2)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    cause = ends_like(outcome, phase, run_file, api, controller, capsys)
    assert ("is not seen from here" in cause) == (phase == "Unproven")
