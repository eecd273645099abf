"""A sweep in a real cluster: a Job a run, whatever fails or dies, and a comparison at its end."""

import json
import re
import signal
import threading
from pathlib import Path
from typing import Any

import yaml

from tests.support.clusters import Space, figure
from trainer.storage.base import open_storage

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1e37]  # the last one's loss becomes NaN
STEPS = 60_000  # so that a run takes longer than two looks, on whatever machine
SETTINGS = {"preset": "softmax", "steps": STEPS, "tensorboard": "off", "report": False}
SMALL = {"cpu": "50m", "memory": "1Gi", "limits": {"cpu": "1"}}
PARALLEL = 3


def ended(space: Space) -> set[str]:
    """Return the runs that have finished, and no pod that may still write a report."""
    return {f"rates-{name.split('/')[0]}" for name in finished(space)} - {*active(space)}


def sweep_file(space: Space, **changes: Any) -> str:
    values = {
        "folder": f"gs://bucket/{space.name}/sweep",
        "parallel": PARALLEL,
        "settings": SETTINGS,
        "grid": {"learning_rate": RATES},
        **changes,
    }
    path = space.folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def finished(space: Space) -> set[str]:
    entries = open_storage(f"gs://bucket/{space.name}/sweep").list()
    return {e.name for e in entries if e.name.endswith("/result.json")}


def active(space: Space) -> list[str]:
    """Return the runs in progress, the oldest first."""
    jobs = sorted(space.objects("jobs"), key=lambda job: job["metadata"]["creationTimestamp"])
    return [job["metadata"]["name"] for job in jobs if (job.get("status") or {}).get("active")]


def evict(space: Space, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    where = f"/api/v1/namespaces/{space.name}/pods/{pod}/eviction"
    space.kubectl("create", "--raw", where, "-f", "-", stdin=json.dumps(eviction))


def test_eight_runs_three_at_a_time_of_which_one_fails_and_one_is_evicted(space: Space) -> None:
    sweep, run = sweep_file(space), space.run_file(name="rates", workers=1, resources=SMALL)
    most, over = [0], threading.Event()

    def count() -> None:
        while not over.wait(0.5):
            most.append(len(active(space)))

    counting = threading.Thread(target=count)
    counting.start()
    try:
        with space.start("sweep", sweep, "--on", run) as process:
            space.until(lambda: ended(space) and len(active(space)) == PARALLEL, 600)
            evicted = active(space)[-1]  # another may end before it can be evicted
            pods = [p["metadata"]["name"] for p in space.objects("pods")]
            evict(space, next(pod for pod in pods if pod.startswith(f"{evicted}-0-")))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        assert "its runs in progress continue; the same command resumes the sweep" in out
        before, jobs = ended(space), {j["metadata"]["name"] for j in space.objects("jobs")}
        assert before
        assert len(jobs) < len(RATES)
        listed = space.k8s("list", "--namespace", space.name)
        assert "\nrates " in listed.out, listed.out + listed.err
        done = space.k8s("sweep", sweep, "--on", run)
    finally:
        over.set()
        counting.join()
    assert done.code == 1, done.out + done.err
    assert "1 of 8 runs failed" in done.err
    assert done.out.count("finished before") >= len(before)
    [failed] = [line for line in done.out.splitlines() if "  failed: " in line]
    assert "learning_rate 1e+37" in failed
    assert max(most) == PARALLEL
    assert len(finished(space)) == len(RATES) - 1
    rows = re.findall(r"^[0-9a-f]{8} .*[\d%-]$", done.out, re.MULTILINE)  # of the table
    assert len(rows) == len(RATES)
    page = open_storage(f"gs://bucket/{space.name}/sweep").read("compare.html")
    assert b"<table" in page
    pods = [p for p in space.objects("pods") if p["metadata"]["name"].startswith(f"{evicted}-0-")]
    assert len(pods) == 1  # the one that was evicted is replaced
    names = [
        each["name"]
        for each in json.loads(space.k8s("list", "--namespace", space.name, "-o", "json").out)
    ]
    assert len(names) == len(set(names)) == len(RATES)
    again = space.k8s("sweep", sweep, "--on", run)
    assert again.out.count("finished before") == len(RATES) - 1
    assert "started" not in again.out
    figure("a sweep of 8 runs, 3 at a time", f"{done.seconds:.0f} s from where it was left")
    figure("the failed one", failed)


def test_the_worse_half_of_a_sweep_is_stopped_early(space: Space) -> None:
    settings = {**SETTINGS, "eval_epochs": 1, "checkpoint_steps": 500}
    halving = {"first": 500, "metric": "accuracy"}
    grid = {"learning_rate": [1e-7, 1e-3, 2e-7, 3e-3]}
    sweep = sweep_file(space, settings=settings, grid=grid, halving=halving)
    run = space.run_file(name="halved", workers=1, resources=SMALL)
    done = space.k8s("sweep", sweep, "--on", run)
    assert done.code == 0, done.out + done.err
    early = [line for line in done.out.splitlines() if "stopped early: " in line]
    slow = [line for line in early if "learning_rate 1e-07" in line or "rate 2e-07" in line]
    assert slow
    assert len(early) - len(slow) <= 1  # of the two others, a later rung stops one if it is slower
    assert len(finished(space)) == 4 - len(early)
    jobs = {job["metadata"]["name"]: job["spec"].get("suspend") for job in space.objects("jobs")}
    # One more may have finished while it was being suspended.
    assert sum(map(bool, jobs.values())) >= len(early)
    for line in early:
        figure("stopped early", line)


def test_a_sweep_whose_folder_pods_cannot_see_is_refused(space: Space) -> None:
    sweep = Path(sweep_file(space, folder="bucket/sweeps/first"))
    done = space.k8s("sweep", str(sweep), "--on", space.run_file(workers=1))
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "folder: 'bucket/sweeps/first'" in done.err
