"""Runs in Kueue's queues, and runs that others take the place of.

Skipped where the cluster has no Kueue; its webhook for Jobs must look at namespaces labelled
``kueue=yes``.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clusters import Space, figure, kubectl

ONE = {"cpu": "400m", "memory": "1500Mi"}
SHORT = {"preset": "softmax", "steps": 40, "chunk_steps": 20}
LONG = {"preset": "softmax", "steps": 10_000_000, "chunk_steps": 100}
SLOT = "example.org/slot"  # a resource that nobody else asks for


@dataclass
class Queue:
    """A queue with room for two workers, in which ``high`` goes before ``low``."""

    name: str
    low: str
    high: str
    space: Space

    def apply(self, *items: dict[str, Any]) -> None:
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(items))

    def run_file(self, **changes: Any) -> str:
        values = {"queue": self.name, "resources": ONE, "train": SHORT, **changes}
        return self.space.run_file(**values)


def classes(name: str) -> list[dict[str, Any]]:
    """Return two priorities below everybody else's, so that no other run is preempted."""
    of = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    values = {f"{name}-low": -20, f"{name}-high": -10}
    return [{**of, "metadata": {"name": each}, "value": value} for each, value in values.items()]


@pytest.fixture
def queue(space: Space) -> Iterator[Queue]:
    if "localqueues" not in kubectl("api-resources", "--api-group=kueue.x-k8s.io", "-o", "name"):
        pytest.skip("the cluster has no Kueue")
    kubectl("label", "namespace", space.name, "kueue=yes")
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    of = "kueue.x-k8s.io/v1beta2"
    quota = [{"name": "cpu", "nominalQuota": "800m"}, {"name": "memory", "nominalQuota": "3000Mi"}]
    flavors = [{"name": name, "resources": quota}]
    group = {"coveredResources": ["cpu", "memory"], "flavors": flavors}
    made = Queue(name, f"{name}-low", f"{name}-high", space)
    made.apply(
        *classes(name),
        {"apiVersion": of, "kind": "ResourceFlavor", "metadata": {"name": name}, "spec": {}},
        {
            "apiVersion": of,
            "kind": "ClusterQueue",
            "metadata": {"name": name},
            "spec": {
                "namespaceSelector": {},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [group],
            },
        },
        {
            "apiVersion": of,
            "kind": "LocalQueue",
            "metadata": {"name": name, "namespace": space.name},
            "spec": {"clusterQueue": name},
        },
    )
    yield made
    space.kubectl("delete", "jobs", "--all")
    kubectl("delete", "clusterqueue,resourceflavor", name, "--wait=false", check=False)
    kubectl("delete", "priorityclass", made.low, made.high)


def resumed_at(space: Space, path: str) -> int:
    """Return the step that the newest pod of rank 0 resumed at; 0 if it did not."""
    name = yaml.safe_load(Path(path).read_text())["name"]
    pods = [p for p in space.objects("pods") if p["metadata"]["name"].startswith(f"{name}-0-")]
    pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    log = space.kubectl("logs", pods[-1]["metadata"]["name"], check=False) if pods else ""
    told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return max((each["step"] for each in told if each.get("event") == "resumed"), default=0)


def test_a_queue_admits_preempts_and_admits_again(queue: Queue) -> None:
    space = queue.space
    low = queue.run_file(name="low", priority_class=queue.low, train=LONG)
    assert space.k8s("submit", low).code == 0
    space.until(lambda: space.step(low) > 0, 240)
    high = queue.run_file(name="high", priority_class=queue.high)
    process = space.start("submit", high, "--wait")
    status = space.until(lambda: (s := space.status(low))["cause_kind"] == "Queue" and s)
    figure("preempted by Kueue", f"{status['phase']}: {status['cause']}")
    assert status["phase"] == "Queued"
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    step = space.until(lambda: resumed_at(space, low), 240)
    figure("admitted again", f"resumed at step {step}")
    assert step > 0
    assert space.k8s("cancel", low).code == 0
    left = ("get", "pods", "-l", "app.kubernetes.io/instance=low", "-o", "name")
    space.until(lambda: not space.kubectl(*left))


def test_a_queue_holds_what_it_has_no_room_for(queue: Queue) -> None:
    space = queue.space
    large = queue.run_file(name="large", workers=3, train={**SHORT, "batch_size": 99})
    assert space.k8s("submit", large).code == 0
    status = space.until(lambda: (s := space.status(large))["cause"] and s, 60)
    figure("more workers than the quota", status["cause"])
    assert status["phase"] == "Queued"
    assert "insufficient quota" in status["cause"]
    assert not space.objects("pods")  # and not the two that would fit
    [job] = space.objects("jobs")
    assert (job["spec"]["parallelism"], job["spec"]["completions"]) == (3, 3)
    assert "no log yet" in space.k8s("logs", large).err
    # Its queue goes while it waits.
    space.kubectl("delete", "localqueue", queue.name)
    gone = space.until(lambda: "doesn't exist" in (s := space.status(large))["cause"] and s, 60)
    figure("queue that was deleted", gone["cause"])
    assert "correct queue, or have it made" in gone["cause"]


def test_a_queue_that_is_not_there_is_named(queue: Queue) -> None:
    space = queue.space
    lost = queue.run_file(name="lost", queue="nowhere")
    done = space.k8s("submit", lost)
    figure("queue of a wrong name, submit", (done.err or done.out).splitlines()[0])
    assert done.code == 2
    assert "nowhere" in done.out + done.err
    items = space.k8s("render", lost).out  # past the checks
    space.kubectl("apply", "-f", "-", stdin=items)
    status = space.until(lambda: (s := space.status(lost))["cause"] and s, 60)
    figure("queue of a wrong name", status["cause"])
    assert "correct queue, or have it made" in status["cause"]
    assert not space.objects("pods")


@pytest.fixture
def slots(space: Space) -> Iterator[str]:
    """A node with two slots, and two priorities; returns the beginning of their names."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    [node, *_] = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    where = ("patch", "node", node["metadata"]["name"], "--subresource=status", "--type=merge")
    capacity = json.dumps({"status": {"capacity": {SLOT: "2"}}})
    kubectl(*where, "-p", capacity)
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(classes(name)))
    yield name
    space.kubectl("delete", "jobs", "--all")
    kubectl(*where, "-p", json.dumps({"status": {"capacity": {SLOT: None}}}))
    kubectl("delete", "priorityclass", f"{name}-low", f"{name}-high")


def test_a_run_of_lower_priority_makes_room_and_resumes(space: Space, slots: str) -> None:
    def start(name: str, priority: str, train: dict[str, Any]) -> str:
        path = space.run_file(
            name=name, priority_class=f"{slots}-{priority}", train=train, resources=ONE, retries=0
        )
        items = list(yaml.safe_load_all(space.k8s("render", path).out))
        resources = items[-1]["spec"]["template"]["spec"]["containers"][0]["resources"]
        for each in resources.values():
            each[SLOT] = "1"
        space.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(items))
        return path

    low = start("low", "low", LONG)
    space.until(lambda: space.step(low) > 0, 240)
    high = start("high", "high", SHORT)
    status = space.until(lambda: (s := space.status(low))["cause_kind"] == "Preempted" and s)
    figure("preempted by the scheduler", status["cause"])
    done = space.k8s("logs", high, "-f")
    assert done.code == 0, done.out + done.err
    step = space.until(lambda: resumed_at(space, low), 240)
    figure("room again", f"resumed at step {step}")
    job = json.loads(space.kubectl("get", "job", "low", "-o", "json"))
    assert "failed" not in job["status"] or not job["status"].get("failedIndexes")
