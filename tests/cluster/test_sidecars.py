"""Pods with a second container: the kind that keeps its pod, and the kind that ends with it."""

import json
import time
from typing import Any

import pytest
import yaml

from tests.support.clusters import IMAGE, Space, figure

SMALL = {"preset": "mlp-100", "steps": 40, "chunk_steps": 20}
ONE = {"cpu": "400m", "memory": "1500Mi"}
SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
FEW = {"cpu": "10m", "memory": "64Mi"}


def start(space: Space, path: str, kind: str, args: list[str] | None = None) -> None:
    """Create what ``render`` prints with a sidecar that sleeps, as a mutating policy adds one."""
    items = list(yaml.safe_load_all(space.k8s("render", path).out))
    pod = items[-1]["spec"]["template"]["spec"]
    sleeps = (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit()); time.sleep(900)"
    )
    sidecar: dict[str, Any] = {
        "name": "proxy",
        "image": IMAGE,
        "command": ["python", "-c", sleeps],
        "securityContext": SAFE,
        "resources": {"requests": FEW, "limits": FEW},
    }
    if kind == "native":
        pod["initContainers"] = [{**sidecar, "restartPolicy": "Always"}]
    else:
        pod["containers"].insert(0, sidecar)
    if args:
        [trainer] = [each for each in pod["containers"] if each["name"] == "trainer"]
        trainer["args"] = args
    space.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(items))


def test_a_run_is_done_though_a_sidecar_keeps_its_pods(space: Space) -> None:
    path = space.run_file(train=SMALL, resources=ONE)
    start(space, path, "regular")
    began = time.monotonic()
    done = space.k8s("submit", path, "--follow")
    assert done.code == 0, done.out + done.err
    last = done.out.splitlines()[-1]
    assert "finished; sidecar proxy keeps the pods" in last
    figure("sidecar that keeps the pods", f"after {time.monotonic() - began:.0f} s: {last}")
    status = space.status(path)
    assert (status["phase"], status["cause_kind"]) == ("Succeeded", "Sidecar")
    assert {each["state"] for each in status["ranks"]} == {"Completed"}
    [job] = space.objects("jobs")
    assert "conditions" not in job["status"]  # which the Job does not know
    assert json.loads(space.k8s("result", path, "-o", "json").out)["steps"] == SMALL["steps"]
    assert "there is nothing to stop" in space.k8s("cancel", path).out
    # The Job reaches its deadline, and its pods are gone.
    patch = json.dumps({"spec": {"activeDeadlineSeconds": 1}})
    space.kubectl("patch", "job", job["metadata"]["name"], "--type=merge", "-p", patch)
    space.until(lambda: space.status(path)["ranks"] == [])
    status = space.status(path)
    assert status["phase"] == "Succeeded", status
    assert "its Job failed after that" in status["cause"]


def test_a_native_sidecar_ends_with_the_trainer(space: Space) -> None:
    path = space.run_file(train=SMALL, resources=ONE)
    start(space, path, "native")
    done = space.k8s("submit", path, "--wait")
    assert done.code == 0, done.out + done.err
    assert "sidecar" not in done.out.splitlines()[-1]
    figure("native sidecar", done.out.splitlines()[-1])
    space.until(lambda: space.objects("jobs")[0]["status"].get("completionTime"))
    assert space.status(path)["cause"] == ""


@pytest.mark.parametrize("kind", ["regular", "native"])
def test_a_trainer_that_fails_beside_a_sidecar_ends_the_run(kind: str, space: Space) -> None:
    path = space.run_file(retries=0, resources=ONE)
    start(space, path, kind, ["train", "--preset", "none"])
    done = space.k8s("submit", path, "--wait")
    assert done.code == 1, done.out + done.err
    assert ("sidecar proxy keeps its pod" in done.out) == (kind == "regular")
    figure(f"bad configuration beside a {kind} sidecar", done.out.splitlines()[-1])
