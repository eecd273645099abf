"""What the verbs ask of the API server where a run or a namespace is large."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s import manifest, run_file
from k8s.__main__ import main
from k8s.client.cluster import PAGE, Cluster
from k8s.commands import status
from k8s.run import gather_evidence, log_streams
from tests.support import pods as shaped
from tests.support.apiserver import ApiServer
from tests.support.controller import RESULT
from tests.support.runfiles import PLAIN
from tests.support.verbs import STEP, change

pytestmark = pytest.mark.long

RANKS, RUNS, GOING = 1024, 500, 30
FAILED = 711
PAGES = -(-RANKS // PAGE)
STARTED = json.dumps({"message": "cnn", "event": "started"})
WORDS = "loss is not finite"


def submit(api: ApiServer, name: str, workers: int) -> dict[str, Any]:
    """Put a Job there, as submitting a run does."""
    spec = run_file.parse({**PLAIN, "name": name, "workers": workers}, name)
    return api.add(manifest.objects(spec)[-1])


def start(
    api: ApiServer, job: dict[str, Any], rank: int, state: dict[str, Any] | None = None
) -> str:
    """Put a pod there, as the Job's controller and a kubelet do; return its name."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    pod = shaped.pod(rank, state)
    metadata = {**pod["metadata"], "name": f"{name}-{rank}-aaaaa", "uid": f"{name}{rank}"}
    metadata["labels"] |= {
        "app.kubernetes.io/name": "trainyard",
        "batch.kubernetes.io/controller-uid": uid,
    }
    metadata["namespace"] = "default"
    metadata["managedFields"] = [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]
    api.add({"apiVersion": "v1", "kind": "Pod", **pod, "metadata": metadata})
    return f"{name}-{rank}-aaaaa"


@pytest.fixture
def large(api: ApiServer) -> dict[str, Any]:
    """A run of 1,024 ranks that trains."""
    job = submit(api, "big", RANKS)
    for rank in range(RANKS):
        api.logs[start(api, job, rank)] = []
    api.push("big-0-aaaaa", STARTED)
    api.push("big-0-aaaaa", json.dumps(STEP))
    return job


def asked(api: ApiServer) -> Counter[str]:
    return Counter(f"{request.verb} {request.resource}" for request in api.requests)


@pytest.mark.usefixtures("large")
def test_the_failed_rank_of_a_large_run_is_named_with_few_requests(
    api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pod = api.objects["Pod", "default", f"big-{FAILED}-aaaaa"]
    failure = {"kind": "crashed", "rank": FAILED, "code": 1, "message": WORDS}
    state = shaped.ended(1, json.dumps({"event": "failed", **failure}))
    pod["status"] |= {"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": state}]}
    assert main(["status", "big"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"rank {FAILED} at 14:02:11 UTC: {WORDS}")
    assert asked(api) == {
        "get jobs": 2,
        "list pods": PAGES,
        "get pods/log": 1,
        "list events": 1,
        "get namespaces": 1,
    }
    assert {request.query["fieldSelector"] for request in api.sent("list", "events")} == {
        "type=Warning"
    }


@pytest.mark.usefixtures("large")
def test_a_large_run_is_followed_without_listing_it_again_and_again(
    api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def live() -> None:
        while len(api.sent("get", "jobs")) < 30:
            time.sleep(0.01)
        job = api.objects["Job", "default", "big"]
        pod = api.objects["Pod", "default", "big-0-aaaaa"]
        state = shaped.ended(0, RESULT)
        pod["status"]["containerStatuses"] = [{"name": "trainer", "state": state}]
        for name in api.logs:
            api.end(name)
        job["status"] = {"conditions": [shaped.holds("Complete", "")]}

    thread = threading.Thread(target=live)
    thread.start()
    assert main(["logs", "big", "-f"]) == 0
    thread.join()
    out = capsys.readouterr().out
    assert out.startswith(f"big: shows ranks 0 to {log_streams.STREAMS - 1} of {RANKS}")
    assert "big: Succeeded" in out
    found = asked(api)
    assert found["list pods"] == 2 * PAGES  # at the start, and what is left at the end
    assert 1 <= found["watch pods"] <= 3
    followed = {request.name for request in api.sent("get", "pods/log")}
    assert len(followed) == log_streams.STREAMS


@pytest.mark.usefixtures("large")
def test_the_logs_of_a_large_run_are_those_of_its_first_ranks(
    api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "big"]) == 0
    assert f"shows ranks 0 to {log_streams.STREAMS - 1} of {RANKS}" in capsys.readouterr().err
    assert len(api.sent("get", "pods/log")) == log_streams.STREAMS
    assert main(["logs", "big", "--rank", str(FAILED)]) == 0
    assert len(api.sent("get", "pods/log")) == log_streams.STREAMS + 1


def test_many_runs_are_listed_with_few_requests_and_threads(
    api: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(RUNS):
        job = submit(api, f"run-{number}", 2)
        going = number < GOING
        for rank in (0, 1):
            state = None if going else shaped.ended(0, "" if rank else RESULT)
            pod = start(api, job, rank, state)
            api.logs[pod] = [(f"2026-11-20T14:00:00.{n:09}Z", STARTED) for n in range(2000 * going)]
        if not going:
            there = api.objects["Job", "default", f"run-{number}"]
            there["status"] = {"conditions": [shaped.holds("Complete", "")]}
    reading, most = 0, 0
    lock, log = threading.Lock(), Cluster.log

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        lines = list(log(*arguments, **named))
        with lock:
            reading -= 1
        return iter(lines)

    monkeypatch.setattr(Cluster, "log", counted)
    assert main(["list", "-o", "json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert Counter(run["phase"] for run in runs) == {"Succeeded": RUNS - GOING, "Running": GOING}
    assert {run["accuracy"] for run in runs if run["phase"] == "Succeeded"} == {0.9922}
    assert asked(api) == {
        "list jobs": -(-RUNS // PAGE),
        "list pods": -(-2 * RUNS // PAGE),
        "get pods/log": GOING,
        "patch jobs": gather_evidence.NOTES,
        "list events": 1,
        "get namespaces": 1,
    }
    lines = {int(request.query["tailLines"]) for request in api.sent("get", "pods/log")}
    assert lines == {status.LINES // GOING}
    assert 1 < most <= status.AT_ONCE


def test_kubelets_that_are_away_delay_a_list_once(
    api: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        start(api, submit(api, f"run-{number}", 1), 0)
    monkeypatch.setattr(status, "AT_ONCE", 1)
    monkeypatch.setattr(status, "LOG", 0.5)

    def away(_: Cluster, pod: str, deadline: float, **__: Any) -> Iterator[tuple[str, str]]:
        tried.append(pod)
        time.sleep(deadline)
        return iter(())

    tried: list[str] = []
    monkeypatch.setattr(Cluster, "log", away)
    assert main(["list", "-o", "json"]) == 0
    assert {run["phase"] for run in json.loads(capsys.readouterr().out)} == {"Starting"}
    assert len(tried) <= 2


def test_doctor_does_not_read_all_nodes_of_a_large_cluster(
    run_file: Path, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(200):
        api.add({"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"}})
    change(run_file, workers=RANKS, train={"validation": 100, "batch_size": RANKS})
    main(["doctor", str(run_file)])
    assert "nodes" not in capsys.readouterr().out
    [request] = api.sent("list", "nodes")
    assert request.query["limit"] == "51"
    assert not [each for each in api.sent("list", "pods") if not each.namespace]
