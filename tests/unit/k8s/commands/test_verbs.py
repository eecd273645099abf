"""The commands against an API server and a store over real HTTP, with faults in both."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import run_file as spec
from k8s.__main__ import main
from k8s.commands import doctor, follow, submit
from k8s.commands.screen import Screen
from k8s.diagnosis import run_phase
from tests.support import processes
from tests.support.apiserver import ApiServer, Fault
from tests.support.controller import RESULT as CONTROLLER_RESULT
from tests.support.controller import WORDS, Controller
from tests.support.runfiles import PLAIN
from tests.support.stores import Server, Stores
from trainer.data import dataset, sources
from trainer.failure import Failure
from trainer.runs import run_folder
from trainer.storage.base import open_storage

ROOT = Path(__file__).parents[4]
STEP = {"step": 100, "total_steps": 200, "loss": 0.5, "accuracy": 0.9, "images_per_second": 9e3}
RESULT = {
    "test_accuracy": 0.9922,
    "test_loss": 0.1,
    "steps": 200,
    "train_seconds": 7.0,
    "images_per_second": 14000.0,
    "weights_sha256": "ab" * 32,
}


@pytest.fixture(scope="module")
def store(stores: Stores) -> Iterator[Server]:
    server = stores("gs")
    with server.entered():
        sources.put("digits", "gs://bucket/mnist", train_count=600, test_count=100, seed=0)
        yield server


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ApiServer() as server:
        monkeypatch.setenv("KUBECONFIG", server.kubeconfig(tmp_path / "kubeconfig"))
        monkeypatch.setattr(follow, "LOOK", 0.02)
        monkeypatch.setattr(follow, "CAUSE_LOOK", 0.02)
        monkeypatch.setattr(submit, "PAUSE", 0.02)
        yield server


def test_the_store_is_reached_as_it_is_named_here(
    run_file: Path, store: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    finish(run_file)
    change(run_file, storage_endpoint="http://store.invalid:4443")
    monkeypatch.setattr("k8s.commands.run_store.DEADLINE", 0.5)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    assert main(["result", str(run_file)]) == 69
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["result", str(run_file), "--storage-endpoint", store.url]) == 0
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.url)
    assert main(["result", str(run_file)]) == 0


@pytest.fixture
def controller(api: ApiServer) -> Controller:
    return Controller(api)


@pytest.fixture
def run_file(tmp_path: Path, store: Server) -> Path:
    path = tmp_path / "run.yaml"
    folder = f"gs://bucket/runs/{tmp_path.name}"
    train = {"validation": 100}
    write(path, workers=2, storage_endpoint=store.url, run=folder, train=train)
    return path


def write(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump({**PLAIN, **changes}))


def finish(path: Path, **settings: Any) -> None:
    """Leave in a run file's folder what a run with these settings leaves."""
    its = spec.parse({**yaml.safe_load(path.read_text()), **settings}, "test")
    folder = open_storage(its.run_uri)
    run_folder.claim(folder, its.config, dataset.load(its.data, its.config.validation).sha256)
    folder.create(run_folder.RESULT, run_folder.pretty(RESULT))


def change(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_submit_creates_what_render_prints_and_starts_it_last(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert "created ConfigMap, NetworkPolicy, Service, Job mnist in namespace default" in out
    assert f"next: python -m k8s status {run_file}" in out
    assert main(["render", str(run_file)]) == 0
    rendered = {item["kind"]: item for item in yaml.safe_load_all(capsys.readouterr().out)}
    job = controller.job()
    for kind, item in rendered.items():
        stored = api.objects[kind, "default", "mnist"]
        assert {**stored.get("spec", {}), "suspend": 0} == {**item.get("spec", {}), "suspend": 0}
        assert stored.get("data") == item.get("data")
        owners = stored["metadata"].get("ownerReferences", [])
        assert [owner["uid"] for owner in owners] == [job["metadata"]["uid"]] * (kind != "Job")
    writes = [r for r in api.requests if r.verb in ("create", "patch") and not r.dry]
    kinds = [r.resource for r in writes if r.resource != "selfsubjectaccessreviews"]
    assert kinds == ["jobs", "configmaps", "networkpolicies", "services", "jobs"]
    assert writes[-1].body == {"spec": {"suspend": False}}


@pytest.mark.usefixtures("controller")
def test_the_same_run_file_twice_makes_one_run_and_a_changed_one_is_refused(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    assert main(["submit", str(run_file)]) == 0
    assert "mnist: is running already" in capsys.readouterr().out
    assert [r.resource for r in api.requests if r.verb == "create" and not r.dry].count("jobs") == 1
    change(run_file, train={"seed": 3})
    assert main(["submit", str(run_file)]) == 2
    assert capsys.readouterr().err == (
        "k8s: mnist: is submitted with other settings: "
        'train ({"validation": 100} there, {"seed": 3} here); '
        "give another name, or first: python -m k8s delete mnist --namespace default\n"
    )


def test_cancel_suspends_and_submit_goes_on(
    run_file: Path, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    assert main(["cancel", "mnist"]) == 0
    assert controller.job()["spec"]["suspend"] is True
    assert main(["status", "mnist"]) == 0
    assert "Suspended" in capsys.readouterr().out
    assert main(["cancel", "mnist"]) == 0
    assert "is stopped already" in capsys.readouterr().out
    assert main(["submit", str(run_file)]) == 0
    assert "resumes from its last checkpoint" in capsys.readouterr().out
    assert controller.job()["spec"]["suspend"] is False


def test_a_run_in_a_queue_stays_suspended_until_it_is_admitted(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_file, queue="team")
    assert main(["submit", str(run_file)]) == 2
    assert "no such LocalQueue" in capsys.readouterr().out
    api.kueue = ("v1beta2", "v1beta1")
    api.add(
        {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "LocalQueue",
            "metadata": {"name": "team"},
        }
    )
    assert main(["submit", str(run_file)]) == 0
    assert controller.job()["spec"]["suspend"] is True
    assert main(["list"]) == 0
    assert "Queued" in capsys.readouterr().out
    assert main(["cancel", "mnist"]) == 0
    assert ("Job", "default", "mnist") not in api.objects


def test_delete_leaves_nothing_but_says_so_where_there_is_nothing(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    del controller
    assert main(["submit", str(run_file)]) == 0
    assert main(["delete", str(run_file)]) == 0
    kinds = {"Job", "ConfigMap", "Service", "NetworkPolicy"}
    assert not kinds & {kind for kind, _, _ in api.objects}
    capsys.readouterr()
    assert main(["delete", "mnist"]) == 2
    assert "mnist: no such run in namespace default" in capsys.readouterr().err


def test_a_refused_companion_leaves_nothing_behind(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    del controller
    api.faults.append(Fault("status", "create", "services", skip=1, status=403, message="no"))
    assert main(["submit", str(run_file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    kinds = {"Job", "ConfigMap", "Service", "NetworkPolicy"}
    assert not kinds & {kind for kind, _, _ in api.objects}


@pytest.mark.parametrize("resource", ["jobs", "configmaps", "services"])
def test_an_answer_that_is_lost_makes_no_second_object(
    resource: str, run_file: Path, api: ApiServer, controller: Controller
) -> None:
    api.faults.append(Fault("cut-after", "create", resource, skip=1))  # not the dry run
    assert main(["submit", str(run_file)]) == 0
    assert controller.job()["spec"]["suspend"] is False
    assert len(controller.pods(controller.job())) == 2


def test_pods_of_an_earlier_run_of_the_name_are_waited_for(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    old = controller.pods(controller.job())
    assert main(["delete", "mnist"]) == 0
    for pod in old:
        api.add(pod)

    def end() -> None:
        # It asks for them once or twice when it looks around, and then again and again.
        processes.wait_until(lambda: sum(r.resource == "pods" for r in api.requests[seen:]) > 4)
        assert ("Job", "default", "mnist") not in api.objects
        for pod in old:
            del api.objects["Pod", "default", pod["metadata"]["name"]]

    seen = len(api.requests)
    thread = threading.Thread(target=end)
    thread.start()
    assert main(["submit", str(run_file)]) == 0
    thread.join()
    assert "waiting for 2 pods of an earlier run to end" in capsys.readouterr().out


def in_background(action: Any) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


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
        ("Failed", "DeadlineExceeded", {}, 124, "DeadlineExceeded"),
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
        while not api.sent("get", "jobs")[2:]:
            time.sleep(0.01)
        time.sleep(0.1)
        controller.end(condition, reason, codes)

    thread = in_background(live)
    assert main(["submit", str(run_file), flag]) == exit_code
    thread.join()
    assert words in capsys.readouterr().out.splitlines()[-1]


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
        api.faults.append(Fault("status", "list", "pods", status=503, times=4, retry_after=0))
        while len(api.sent("list", "events")) < 3:
            time.sleep(0.01)
        assert main(["cancel", "mnist"]) == 0
        for pod in ("mnist-0-00000", "mnist-1-00001"):
            api.end(pod)

    thread = in_background(live)
    assert main(["submit", str(run_file), "--wait"]) == 1
    thread.join()
    assert "was asked to stop; submit it again to resume" in capsys.readouterr().out
    assert controller.job()["spec"]["suspend"] is True


def test_a_job_that_is_no_run_is_left_alone(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"completions": 1, "template": {"spec": {"containers": [{}]}}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "mnist"}, "spec": spec}
    api.add(job)
    for verb in ("cancel", "delete", "status"):
        assert main([verb, "mnist"]) == 2
        assert "this Job is no run" in capsys.readouterr().err
    assert main(["submit", str(run_file)]) == 2
    assert "not submitted from a run file; give another name" in capsys.readouterr().err
    assert api.objects["Job", "default", "mnist"]["spec"] == spec


def test_a_run_whose_submitting_was_broken_off_is_completed(
    run_file: Path, api: ApiServer, controller: Controller
) -> None:
    change(run_file, queue="team")
    api.kueue = ("v1beta2", "v1beta1")
    queue = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue"}
    api.add({**queue, "metadata": {"name": "team"}})
    assert main(["submit", str(run_file)]) == 0
    for kind in ("ConfigMap", "Service", "NetworkPolicy"):
        del api.objects[kind, "default", "mnist"]
    assert main(["submit", str(run_file)]) == 0
    owners = {
        kind: api.objects[kind, "default", "mnist"]["metadata"]["ownerReferences"][0]["uid"]
        for kind in ("ConfigMap", "Service", "NetworkPolicy")
    }
    assert set(owners.values()) == {controller.job()["metadata"]["uid"]}


@pytest.mark.usefixtures("controller")
def test_the_namespace_is_no_part_of_the_run(run_file: Path) -> None:
    assert main(["submit", str(run_file)]) == 0
    assert main(["submit", str(run_file), "--namespace", "default"]) == 0


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


@pytest.mark.usefixtures("controller")
def test_status_tells_progress_and_list_has_a_line_for_each(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    assert "no runs in namespace default" in capsys.readouterr().out
    assert main(["submit", str(run_file)]) == 0
    api.push("mnist-0-00000", json.dumps(STEP))
    failure = Failure(kind="killed", rank=1, code=1, message="its worker was killed by SIGKILL")
    again = {"warning": "words", "event": "restarting", "failure": failure.record()}
    api.push("mnist-0-00000", json.dumps(again))
    capsys.readouterr()
    assert main(["status", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert "mnist  Running  100/200  90.00%    1" in out
    assert "rank 1: its worker was killed by SIGKILL (restarted)" in out
    assert "mnist-1-00001  Running  node0" in out
    assert main(["list", "-o", "json"]) == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert (listed["phase"], listed["step"], listed["restarts"]) == ("Running", 100, 1)
    assert main(["status", "other"]) == 2


def test_logs_come_from_the_pods_and_from_the_folder_once_they_are_gone(
    run_file: Path, api: ApiServer, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    api.push("mnist-1-00001", "second", "2026-01-01T00:00:02Z")
    api.push("mnist-0-00000", "first", "2026-01-01T00:00:01.5Z")
    api.push("mnist-0-00000", "third", "2026-01-01T00:00:02.25Z")
    capsys.readouterr()
    assert main(["logs", "mnist"]) == 0
    assert capsys.readouterr().out == "0 | first\n1 | second\n0 | third\n"
    assert main(["logs", "mnist", "--rank", "1"]) == 0
    assert capsys.readouterr().out == "1 | second\n"
    assert main(["logs", "mnist", "--rank", "2"]) == 2
    assert "the run has ranks 0 to 1" in capsys.readouterr().err
    newer = controller.start(controller.job(), 1)
    api.objects["Pod", "default", newer]["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z"
    api.push(newer, "after a restart", "2026-01-01T00:00:09Z")
    assert main(["logs", "mnist", "--rank", "1"]) == 0
    assert capsys.readouterr().out == "1 | after a restart\n"
    assert main(["logs", "mnist", "--rank", "1", "--previous"]) == 0
    assert capsys.readouterr().out == "1 | second\n"
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    folder.create("logs/rank-0/20260101T000000Z-abcd.00000.log", b'{"warning": "stored"}\n')
    folder.create("logs/rank-1/20260101T000000Z-abce.00000.log", b"also stored\n")
    main(["delete", "mnist"])
    capsys.readouterr()
    assert main(["logs", str(run_file)]) == 0
    assert capsys.readouterr().out == "0 | warning: stored\n1 | also stored\n"
    assert main(["logs", "--folder", folder.uri, "--rank", "1"]) == 0
    assert capsys.readouterr().out == "1 | also stored\n"
    assert main(["logs", "--folder", folder.uri, "--rank=-1"]) == 2
    assert capsys.readouterr().err == "k8s: --rank -1: must be at least 0\n"
    assert main(["logs", "mnist"]) == 2
    assert "give its run file instead of its name, or --folder" in capsys.readouterr().err
    assert main(["logs"]) == 2


def test_result_is_read_from_the_folder_and_downloaded(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_storage(yaml.safe_load(run_file.read_text())["run"])
    assert main(["result", str(run_file)]) == 2
    assert "the run has not ended; it has no checkpoint yet" in capsys.readouterr().err
    nowhere = tmp_path / "nowhere"
    assert main(["result", "--folder", str(nowhere)]) == 2
    said = f"k8s: {nowhere}: does not exist or is empty; give the folder of a run\n"
    assert capsys.readouterr().err == said
    for endpoint in ("", "store:4443", "ftp://store", "http://"):
        assert main(["result", str(run_file), "--storage-endpoint", endpoint]) == 2
        said = f"k8s: --storage-endpoint: {endpoint!r}: must be http://HOST:PORT\n"
        assert capsys.readouterr().err == said
    folder.create(run_folder.RESULT, run_folder.pretty(RESULT))
    assert main(["result", str(run_file)]) == 2
    assert "holds result.json but no config.json" in capsys.readouterr().err
    folder.delete(run_folder.RESULT)
    finish(run_file)
    folder.create("checkpoints/step-00000100.safetensors", b"weights")
    target = tmp_path / "here"
    assert main(["result", str(run_file), "--download", str(target)]) == 0
    captured = capsys.readouterr()
    assert "test accuracy  99.22%" in captured.out
    assert "3 objects" in captured.err
    assert (target / "checkpoints/step-00000100.safetensors").read_bytes() == b"weights"
    assert "report" not in captured.out
    folder.create(run_folder.REPORT, b"<!doctype html>")
    assert main(["result", str(run_file)]) == 0
    assert f"report         {folder.uri}/report.html\n" in capsys.readouterr().out
    assert main(["result", "--folder", folder.uri, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == RESULT


def checks(
    capsys: pytest.CaptureFixture[str], path: Path
) -> tuple[int, dict[str, tuple[str, str]]]:
    code = main(["doctor", str(path), "-o", "json"])
    found = json.loads(capsys.readouterr().out)
    return code, {each["check"]: (each["state"], each["text"]) for each in found}


def test_doctor_finds_nothing_wrong_where_nothing_is(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {doctor.LEVEL: "restricted"}
    api.objects["Namespace", "", "default"]["metadata"]["labels"] = labels
    code, found = checks(capsys, run_file)
    assert code == 0
    assert {state for state, _ in found.values()} == {"ok"}
    assert "600 training and 100 test images" in found["data"][1]
    assert "v1.36.2" in found["cluster"][1]
    assert not [
        r
        for r in api.requests
        if r.verb in ("create", "patch") and not r.dry and r.resource != "selfsubjectaccessreviews"
    ]
    assert main(["doctor", str(run_file)]) == 0
    assert "✓ run folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("resource", "verb"),
    [(path, verb) for _, path, verbs in doctor.PERMISSIONS for verb in verbs],
)
def test_doctor_names_each_missing_permission(
    resource: str, verb: str, run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.denied.add((verb, resource))
    code, found = checks(capsys, run_file)
    assert code == 2
    state, text = found["permissions"]
    assert state == "failed"
    assert f"you may not {verb} {resource}" in text
    assert doctor.ROLE in text


def test_doctor_asks_for_the_right_to_see_claims_only_where_there_are_some(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.denied.add(("get", "persistentvolumeclaims"))
    assert checks(capsys, run_file)[0] == 0
    change(run_file, **ON_CLAIM)
    code, found = checks(capsys, run_file)
    assert code == 2
    assert "you may not get persistentvolumeclaims" in found["permissions"][1]


ON_CLAIM = {
    "data": "/data/mnist",
    "run": "/data/run",
    "volumes": [{"claim": "x", "mount": "/data"}],
}


def _claim(mode: str, phase: str = "Bound") -> tuple[str, dict[str, Any]]:
    values = {"spec": {"accessModes": [mode]}, "status": {"phase": phase}}
    return "PersistentVolumeClaim", {**values, "metadata": {"name": "x", "uid": "claim"}}


def _event(reason: str, message: str) -> tuple[str, dict[str, Any]]:
    about = {"involvedObject": {"kind": "PersistentVolumeClaim", "uid": "claim"}}
    return "Event", {**about, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("objects", "changes", "check", "state", "words"),
    [
        ([], {"namespace": "other"}, "namespace", "failed", "other: does not exist"),
        ([], {}, "namespace", "warning", "Pod Security level not set"),
        ([], {"image": "trainyard:latest"}, "image", "warning", "not pinned"),
        ([], {"service_account": "bob"}, "service account", "failed", "bob: not in namespace"),
        ([], {"data": "gs://bucket/none"}, "data", "failed", "gs://bucket/none"),
        ([], {"storage_endpoint": "http://127.0.0.1:9"}, "data", "warning", "not seen from here"),
        (
            [("ResourceQuota", {"spec": {}, "status": {"hard": {"requests.cpu": "1"}}})],
            {},
            "quota",
            "failed",
            "requests.cpu 2 asked, x allows 1 in all",
        ),
        (
            [
                (
                    "ResourceQuota",
                    {
                        "status": {
                            "hard": {"limits.memory": "5Gi"},
                            "used": {"limits.memory": "2Gi"},
                        }
                    },
                )
            ],
            {},
            "quota",
            "warning",
            "limits.memory 4 GiB asked, 3 GiB of 5Gi free (x)",
        ),
        (
            [("LimitRange", {"spec": {"limits": [{"type": "Container", "max": {"cpu": "500m"}}]}})],
            {},
            "limits",
            "failed",
            "resources.cpu: 1: LimitRange x allows at most 500m",
        ),
        ([], ON_CLAIM, "volume", "failed", "x: no such claim in namespace default; create it"),
        ([_claim("ReadWriteMany")], ON_CLAIM, "volume", "ok", "x: ReadWriteMany"),
        ([_claim("ReadWriteMany")], ON_CLAIM, "run folder", "ok", "/data/run: on claim x"),
        ([_claim("ReadWriteMany")], ON_CLAIM, "data", "ok", "/data/mnist: on claim x"),
        ([_claim("ReadWriteOnce")], ON_CLAIM, "volume", "failed", "give one_node: true, or take"),
        ([_claim("ReadWriteMany", "Pending")], ON_CLAIM, "volume", "warning", "x: not bound"),
        (
            [_claim("ReadWriteMany", "Pending"), _event("FailedBinding", "no volumes")],
            ON_CLAIM,
            "volume",
            "warning",
            "pods wait until it is: no volumes",
        ),
        (
            [_claim("ReadWriteMany", "Pending"), _event("WaitForFirstConsumer", "waiting")],
            ON_CLAIM,
            "volume",
            "ok",
            "x: not bound, and pods wait until it is: waiting",
        ),
    ],
)
def test_doctor_names_what_is_wrong(
    objects: list[tuple[str, dict[str, Any]]],
    changes: dict[str, Any],
    check: str,
    state: str,
    words: str,
    run_file: Path,
    api: ApiServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("k8s.commands.run_store.DEADLINE", 0.5)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    for kind, values in objects:
        api.add({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, **values})
    change(run_file, **changes)
    code, found = checks(capsys, run_file)
    assert found[check][0] == state
    assert words in found[check][1]
    assert code == (2 if state == "failed" else 0)


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
    monkeypatch.setattr("k8s.commands.run_store.DEADLINE", 0.2)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    cause = ends_like(outcome, phase, run_file, api, controller, capsys)
    assert ("is not seen from here" in cause) == (phase == "Unproven")


@pytest.mark.long
def test_each_run_of_a_list_is_looked_up_in_its_own_store(
    run_file: Path,
    api: ApiServer,
    controller: Controller,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish(run_file)
    monkeypatch.setattr("k8s.commands.run_store.DEADLINE", 0.2)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    for name, changes in {"mnist": {}, "other": {"storage_endpoint": "http://127.0.0.1:9"}}.items():
        change(run_file, name=name, **changes)
        assert main(["submit", str(run_file)]) == 0
        for pod in controller.pods(api.objects["Job", "default", name]):
            del api.objects["Pod", "default", pod["metadata"]["name"]]
        complete = [{"type": "Complete", "status": "True"}]
        api.objects["Job", "default", name]["status"] = {"conditions": complete}
    capsys.readouterr()
    assert main(["list", "-o", "json"]) == 0
    phases = {run["name"]: run["phase"] for run in json.loads(capsys.readouterr().out)}
    assert phases == {"mnist": "Succeeded", "other": "Unproven"}


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


@pytest.mark.usefixtures("api")
def test_doctor_finds_a_folder_of_another_run_and_torn_data(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(run_file.read_text())
    folder = open_storage(values["run"])
    folder.create(run_folder.CONFIG, run_folder.pretty({"seed": 99, "data": "x"}))
    code, found = checks(capsys, run_file)
    assert code == 2
    assert "belongs to a run with other settings" in found["run folder"][1]
    torn = open_storage("gs://bucket/torn")
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        torn.create(name, b"\0\0\x08\x01\0\0")
    change(run_file, data="gs://bucket/torn")
    code, found = checks(capsys, run_file)
    assert found["data"][0] == "failed"


def test_a_pod_security_warning_of_the_dry_run_keeps_a_run_back(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.warnings.append('would violate PodSecurity "restricted:latest": seccompProfile')
    assert main(["submit", str(run_file)]) == 2
    captured = capsys.readouterr()
    assert "would violate PodSecurity" in captured.out
    assert "mnist: not submitted: 4 of the checks failed, see above" in captured.err


def test_a_cluster_that_is_not_there_ends_in_one_line(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["submit", str(run_file)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("k8s: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["submit"], ["submit", "none.yaml"], ["statsu"], ["render", "x.yaml", "-q"]]
)
def test_mistakes_in_arguments_end_in_one_line(arguments: list[str], capsys: Any) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("k8s: ")
    assert captured.err.count("\n") == 1
