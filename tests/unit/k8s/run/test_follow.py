"""Following a run to its end: its logs, its exit code, and where it is given up."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import manifest
from k8s.__main__ import main
from tests.support import processes
from tests.support.apiserver import ApiServer, Fault
from tests.support.controller import Controller
from tests.support.verbs import STEP, change, in_background
from trainer.storage.base import open_storage

ROOT = Path(__file__).parents[4]


def test_follow_shows_all_ranks_and_ends_as_the_run_does(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    def live() -> None:
        while not api.sent("get", "pods/log"):
            time.sleep(0.01)
        first, second = (pod["metadata"]["name"] for pod in controller.pods(controller.job()))
        api.push(first, json.dumps(STEP), "2026-01-01T00:00:01.5Z")
        api.push(second, json.dumps({"warning": "rank 1: slow store"}))
        api.push(first, json.dumps({**STEP, "step": 150}), "2026-01-01T00:00:02.5Z")
        api.push(first, json.dumps({"message": "test accuracy 99.22%", "test_accuracy": 0.9922}))
        time.sleep(0.2)
        controller.end("Complete")

    thread = in_background(live)
    assert main(["submit", str(run_file), "--follow"]) == 0
    thread.join()
    out = capsys.readouterr().out
    assert "0 | step    100/200  loss 0.5000  accuracy 90.00%  9,000 images/s\n" in out
    assert "0 | step    150/200  loss 0.5000  accuracy 90.00%  9,000 images/s  1s left\n" in out
    assert "1 | warning: rank 1: slow store\n" in out
    assert "0 | test accuracy 99.22%\n" in out
    assert out.endswith("mnist: Succeeded after 1m5s\n")


def test_a_rank_0_that_runs_and_says_nothing_yet_is_explained_once(
    run_file: Path,
    api: ApiServer,
    controller: Controller,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("k8s.run.follow.SILENT", 0.1)

    def live() -> None:
        while len(api.sent("get", "jobs")) < 30:
            time.sleep(0.01)
        controller.report(controller.pods(controller.job())[0]["metadata"]["name"])
        time.sleep(0.2)
        controller.end("Complete")

    thread = in_background(live)
    assert main(["submit", str(run_file), "--follow"]) == 0
    thread.join()
    out = capsys.readouterr().out
    assert out.count("rank 0 imports TensorFlow and loads its data, then it waits for the") == 1
    assert out.index("rank 0 imports") < out.index("cnn: 200 steps")


def test_wait_shows_only_warnings_and_the_end(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    def live() -> None:
        while not api.sent("get", "pods/log"):
            time.sleep(0.01)
        api.push("mnist-0-00000", json.dumps(STEP))
        api.push("mnist-0-00000", json.dumps({"warning": "rank 1: killed; starting again"}))
        api.push("mnist-1-00001", json.dumps({"message": "something"}))
        time.sleep(0.2)
        controller.end("Complete")

    thread = in_background(live)
    assert main(["submit", str(run_file), "--wait"]) == 0
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if " | " in line] == [
        "0 | warning: rank 1: killed; starting again"
    ]


def test_a_log_that_is_cut_goes_on_without_a_line_twice_or_lost(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    api.faults.append(Fault("cut-log", "get", "pods/log", times=3, lines=5))

    def live() -> None:
        while not controller.api.sent("create", "services"):
            time.sleep(0.01)
        for number in range(30):
            api.push("mnist-0-00000", f"line {number:02}")
        while len(api.sent("get", "pods/log")) < 5:
            time.sleep(0.01)
        time.sleep(0.1)
        controller.end("Complete")

    thread = in_background(live)
    assert main(["submit", str(run_file), "--follow"]) == 0
    thread.join()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("0 | line")]
    assert lines == [f"0 | line {number:02}" for number in range(30)]


CAUSE = "data: gs://bucket/mnist: train-labels-idx1-ubyte is torn; put it there again"


@pytest.mark.parametrize(
    ("condition", "reason", "codes", "exit_code", "words"),
    [
        ("Failed", "PodFailurePolicy", {1: (65, CAUSE), 0: (75, CAUSE)}, 1, CAUSE),
        ("Failed", "DeadlineExceeded", {0: (137, ""), 1: (137, "")}, 124, "DeadlineExceeded"),
        ("Complete", "CompletionsReached", {}, 0, "Succeeded after 1m5s"),
    ],
)
@pytest.mark.parametrize("flag", ["--wait", "--follow"])
def test_the_exit_code_mirrors_the_run(
    condition: str,
    reason: str,
    codes: dict[int, tuple[int, str]],
    exit_code: int,
    words: str,
    flag: str,
    run_file: Path,
    api: ApiServer,
    controller: Controller,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def live() -> None:
        while not any(kind == "Pod" for kind, _, _ in list(api.objects)):
            time.sleep(0.01)
        time.sleep(0.1)
        controller.end(condition, reason, codes)

    thread = in_background(live)
    assert main(["submit", str(run_file), flag]) == exit_code
    thread.join()
    said = capsys.readouterr().out.splitlines()[-1]
    assert words in said
    # For those who look at the Job with kubectl.
    noted = controller.job()["metadata"]["annotations"][manifest.ENDED]
    assert noted.startswith(("Succeeded", "Failed: ", "DeadlineExceeded: "))
    assert noted.partition(": ")[2] in said


@pytest.mark.long
def test_a_run_that_never_starts_is_given_up_with_its_cause(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}}

    def react(verb: str, item: dict[str, Any]) -> None:
        if item["kind"] == "Job" and verb == "patch":
            for rank in range(2):
                name = controller.start(item, rank, waiting)
                api.objects["Pod", "default", name]["status"]["phase"] = "Pending"

    api.react = react
    change(run_file, start_deadline=1)
    assert main(["submit", str(run_file), "--wait"]) == 125
    out = capsys.readouterr().out
    assert "ImagePullBackOff" in out or "cannot be pulled" in out
    assert "not started within 1 s" in out.splitlines()[-1]
    assert ("Job", "default", "mnist") in api.objects


@pytest.mark.process
def test_ctrl_c_leaves_the_run_alone_and_says_how_to_come_back(
    run_file: Path, api: ApiServer, controller: Controller
) -> None:
    del controller
    command = [sys.executable, "-m", "k8s", "submit", str(run_file), "--follow"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not api.sent("get", "pods/log"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(2)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "come back with: python -m k8s logs mnist -f --namespace default" in out
    assert "Traceback" not in err
    assert not api.sent("delete", "jobs")


def test_a_follower_ends_when_the_run_is_cancelled_and_outlives_a_silent_server(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    def live() -> None:
        while not api.sent("get", "pods/log"):
            time.sleep(0.01)
        api.faults.append(Fault("status", "get", "jobs", status=503, times=4, retry_after=0))
        while len(api.sent("list", "events")) < 3:
            time.sleep(0.01)
        assert main(["cancel", "mnist"]) == 0
        for pod in ("mnist-0-00000", "mnist-1-00001"):
            api.end(pod)

    thread = in_background(live)
    assert main(["submit", str(run_file), "--wait"]) == 1
    thread.join()
    assert capsys.readouterr().out.count("was asked to stop; submit it again to resume") == 1
    assert controller.job()["spec"]["suspend"] is True


# What a run shows before it trains.


def test_a_run_is_running_once_its_trainer_says_so(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    def phase() -> str:
        assert main(["list", "-o", "json"]) == 0
        return str(json.loads(capsys.readouterr().out)[0]["phase"])

    assert main(["submit", str(run_file)]) == 0
    capsys.readouterr()
    leader = controller.pods(controller.job())[0]["metadata"]["name"]
    api.push(leader, "Hello from a program")
    assert phase() == "Starting"
    controller.report(leader)
    assert phase() == "Running"
    for number in range(1200):  # more than the tail that progress is taken from
        api.push(leader, f"a model's words {number}")
    assert phase() == "Running"


@pytest.mark.long
@pytest.mark.parametrize("words", ["", "some words", '{"message": "ready", "level": "info"}'])
@pytest.mark.parametrize("flag", ["--wait", "--follow"])
def test_containers_that_only_run_are_given_up_at_the_start_deadline(
    words: str, flag: str, run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    if words:
        api.push("mnist-0-00000", words)
    change(run_file, start_deadline=1)
    assert main(["submit", str(run_file), flag]) == 125
    lines = capsys.readouterr().out.splitlines()
    assert "mnist: Running" not in lines
    assert "not started within 1 s: its container runs, but its log holds nothing" in lines[-1]
    assert f"see whether image {controller.image()} is the trainer's" in lines[-1]


@pytest.mark.long
def test_a_run_that_trains_is_not_given_up(
    run_file: Path, api: ApiServer, controller: Controller
) -> None:
    def live() -> None:
        processes.wait_until(lambda: api.sent("get", "pods/log"))
        controller.report("mnist-0-00000")
        time.sleep(1.2)
        controller.end("Complete")

    change(run_file, start_deadline=1)
    thread = in_background(live)
    assert main(["submit", str(run_file), "--wait"]) == 0
    thread.join()


def test_the_log_of_a_container_that_ran_for_a_moment_is_shown(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    """It is asked for before there is one, and next when the pod has ended."""

    def live() -> None:
        leader = controller.pods(controller.job())[0]["metadata"]["name"]
        api.push(leader, "all that it said")
        controller.end("Complete")

    refused = Fault("status", "get", "pods/log", status=400, message="is waiting to start")
    refused.times, refused.effect = 1, live
    api.faults.append(refused)
    assert main(["submit", str(run_file), "--follow"]) == 0
    assert "0 | all that it said" in capsys.readouterr().out


# What does not end by itself.


@pytest.mark.long
def test_a_log_that_the_kubelet_has_no_more_is_asked_for_ever_less_often(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    """The kubelet answers with 200 and one line, at once, as often as it is asked."""

    def live() -> None:
        processes.wait_until(lambda: api.sent("get", "pods/log"))
        for pod in controller.pods(controller.job()):  # it stays Running: its node is lost
            api.gone.add(pod["metadata"]["name"])
            api.end(pod["metadata"]["name"])
        time.sleep(1.5)
        controller.end("Complete")

    thread = in_background(live)
    assert main(["submit", str(run_file), "--follow"]) == 0
    thread.join()
    # 0.02 s between two looks: 75 of them in this time. Doubled up to 8 looks it is 11 times.
    assert len(api.sent("get", "pods/log")) < 2 * 20
    assert capsys.readouterr().out.count("unable to retrieve container logs") <= 2


def test_a_follower_ends_with_the_namespace(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    """The Job stays: it keeps the last pod of each rank until it can replace it."""

    def live() -> None:
        processes.wait_until(lambda: api.sent("get", "pods/log"))
        for pod in controller.pods(controller.job()):
            pod["status"]["phase"] = "Failed"
            api.gone.add(pod["metadata"]["name"])
            api.end(pod["metadata"]["name"])
        namespace = api.objects["Namespace", "", "default"]
        namespace["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    thread = in_background(live)
    assert main(["submit", str(run_file), "--follow"]) == 1
    thread.join()
    out = capsys.readouterr().out
    assert "namespace default is being deleted, and takes no new pods" in out.splitlines()[-1]
    assert "kubectl delete job mnist --namespace default" in out.splitlines()[-1]
    assert out.count("unable to retrieve container logs") <= 2


def test_the_kubelet_s_own_words_are_no_log(
    run_file: Path, api: ApiServer, controller: Controller, capsys: Any
) -> None:
    assert main(["submit", str(run_file)]) == 0
    api.gone |= {pod["metadata"]["name"] for pod in controller.pods(controller.job())}
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    folder.create("logs/rank-0/20260101T000000Z-abcd.00000.log", b"stored\n")
    capsys.readouterr()
    assert main(["logs", "mnist"]) == 0
    assert capsys.readouterr().out == "0 | stored\n"
