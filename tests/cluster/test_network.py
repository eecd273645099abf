"""NetworkPolicies, where something in the cluster enforces them: skipped where nothing does."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clusters import IMAGE, ROOT, Space, figure

LONG = {"preset": "softmax", "steps": 10_000_000, "chunk_steps": 100}
SHORT = {"preset": "softmax", "steps": 40, "chunk_steps": 20}
ONE = {"cpu": "400m", "memory": "1500Mi"}
PORTS = (2222, 2223, 2224)
PROBE = """
import socket, sys
for target in sys.argv[1:]:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=4).close()
        print(target, "open")
    except ConnectionRefusedError:
        print(target, "refused")  # of a policy, or of a port that nobody listens on
    except OSError as error:
        print(target, type(error).__name__)
"""


def policy(name: str, **spec: Any) -> dict[str, Any]:
    of = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}}
    return {**of, "spec": {"podSelector": {}, **spec}}


def apply(space: Space, *items: dict[str, Any]) -> None:
    space.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(items))


def reached(space: Space, labels: dict[str, str], *targets: str) -> dict[str, str]:
    """Return what a pod with these labels finds at each ``host:port``."""
    name = f"probe-{uuid.uuid4().hex[:6]}"
    few = {"cpu": "50m", "memory": "64Mi"}
    container = {
        "name": "probe",
        "image": IMAGE,
        "command": ["python", "-c", "import time; time.sleep(8)\n" + PROBE, *targets],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": few, "limits": few},
    }
    safe = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "securityContext": safe, "containers": [container]}
    metadata = {"name": name, "labels": labels}
    apply(space, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    phase = ("get", "pod", name, "-o", "jsonpath={.status.phase}")
    space.until(lambda: space.kubectl(*phase) == "Succeeded")
    lines = space.kubectl("logs", name).splitlines()
    space.kubectl("delete", "pod", name, "--wait=false")
    return dict(line.split(" ", 1) for line in lines)


@pytest.fixture
def enforced(space: Space) -> None:
    """Skip where a pod reaches what a policy forbids it."""
    host = space.store.removeprefix("http://")
    apply(space, policy("nothing", podSelector={"matchLabels": {"a": "b"}}, policyTypes=["Egress"]))
    found = reached(space, {"a": "b"}, host)
    space.kubectl("delete", "networkpolicy", "nothing")
    if found[host] == "open":
        pytest.skip("nothing enforces NetworkPolicies in this cluster")


@pytest.mark.usefixtures("enforced")
def test_only_the_run_s_own_pods_reach_its_ports(space: Space) -> None:
    apply(space, policy("deny-ingress", policyTypes=["Ingress"]))  # as infra/cluster has it
    path = space.run_file(train=LONG, resources=ONE)
    assert space.k8s("submit", path).code == 0
    name = yaml.safe_load(Path(path).read_text())["name"]
    space.until(lambda: space.step(path) > 0, 240)  # by names, and with the store
    pods = {
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]: pod["status"]
        for pod in space.objects("pods")
    }
    targets = [f"{pods[rank]['podIP']}:{port}" for rank in sorted(pods) for port in PORTS]
    strange = reached(space, {"app.kubernetes.io/name": "trainyard"}, *targets)
    own = reached(
        space,
        {"app.kubernetes.io/name": "trainyard", "app.kubernetes.io/instance": name},
        f"{pods['0']['podIP']}:2223",
    )
    figure("ports of a run, for another pod of its namespace", str(sorted(set(strange.values()))))
    assert "open" not in strange.values()
    assert own == {f"{pods['0']['podIP']}:2223": "open"}
    assert space.status(path)["phase"] == "Running"


DNS = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}


@pytest.mark.usefixtures("enforced")
@pytest.mark.parametrize("blocked", ["store", "peers"])
def test_a_namespace_that_denies_egress_is_named(space: Space, blocked: str) -> None:
    apply(space, policy("deny-all", policyTypes=["Ingress", "Egress"]))
    if blocked == "peers":
        host, _, port = space.store.removeprefix("http://").partition(":")
        store = {"to": [{"ipBlock": {"cidr": f"{host}/32"}}], "ports": [{"port": int(port)}]}
        apply(space, policy("store", policyTypes=["Egress"], egress=[DNS, store]))
    train = {**SHORT, "peer_deadline": 30}
    path = space.run_file(train=train, resources=ONE, retries=0)
    began = time.monotonic()
    done = space.k8s("submit", path, "--wait")
    assert done.code == 1, done.out + done.err
    status = space.status(path)
    figure(f"egress denied to {blocked}", f"{time.monotonic() - began:.0f} s: {status['cause']}")
    assert status["cause_kind"] == {"store": "Store", "peers": "Peers"}[blocked]
    assert "deny-all" in status["cause"]
    assert "NetworkPolic" in status["cause"]


@pytest.mark.usefixtures("enforced")
def test_a_namespace_that_denies_all_but_what_the_page_lists_trains(space: Space) -> None:
    text = (ROOT / "docs/storage.md").read_text()
    [allowed] = [
        item
        for block in text.split("```yaml\n")[1:]
        for item in yaml.safe_load_all(block.split("```")[0])
        if isinstance(item, dict) and item.get("kind") == "NetworkPolicy"
    ]
    host, _, port = space.store.removeprefix("http://").partition(":")
    allowed["metadata"].pop("namespace", None)
    [store] = [rule for rule in allowed["spec"]["egress"] if "ipBlock" in json.dumps(rule)]
    store["to"][0]["ipBlock"] = {"cidr": f"{host}/32"}
    store["ports"][0]["port"] = int(port)
    apply(space, policy("deny-all", policyTypes=["Ingress", "Egress"]), allowed)
    path = space.run_file(train=SHORT, resources=ONE)
    done = space.k8s("submit", path, "--wait")
    assert done.code == 0, done.out + done.err
    figure("egress denied but for what docs/storage.md lists", done.out.splitlines()[-1])
