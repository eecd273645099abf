"""A real Prometheus picks a run's rank 0 by the labels of its pods, and reads its metrics."""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.support import processes
from tests.support.clusters import ROOT, Space, figure

PORT = 9400
LONG = {"preset": "softmax", "steps": 400_000, "chunk_steps": 50, "checkpoint_steps": 500}


@contextmanager
def prometheus(space: Space) -> Iterator[str]:
    """Start Prometheus with the relabelings of infra/metrics, and yield its URL."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs prometheus, a package of Debian")
    (endpoint,) = yaml.safe_load((ROOT / "infra/metrics/podmonitor.yaml").read_text())["spec"][
        "podMetricsEndpoints"
    ]
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    rules = [
        {names.get(key, key): value for key, value in rule.items()}
        for rule in endpoint["relabelings"]
    ]
    port = {
        "source_labels": ["__meta_kubernetes_pod_container_port_name"],
        "regex": endpoint["port"],
        "action": "keep",
    }
    job = {
        "job_name": "runs",
        "static_configs": targets(space),
        "relabel_configs": [port, *rules],
    }
    config = space.folder / "prometheus.yml"
    values = {"global": {"scrape_interval": "5s", "scrape_timeout": "5s"}, "scrape_configs": [job]}
    config.write_text(yaml.safe_dump(values))
    address = f"127.0.0.1:{processes.free_ports(1)}"
    process = subprocess.Popen(
        [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={space.folder}/tsdb",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


def targets(space: Space) -> list[dict[str, Any]]:
    """Return what Prometheus' discovery of pods finds, which Debian's is built without."""
    found = []
    for pod in space.objects("pods"):
        meta = "__meta_kubernetes_pod"
        labels = {
            f"{meta}_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}": value
            for name, value in pod["metadata"]["labels"].items()
        }
        for port in pod["spec"]["containers"][0]["ports"]:
            named = {**labels, f"{meta}_container_port_name": port["name"]}
            address = f"{pod['status']['podIP']}:{port['containerPort']}"
            found.append({"targets": [address], "labels": named})
    return found


def query(url: str, expression: str) -> dict[str, float]:
    """Return the values of an expression by run; none while Prometheus starts."""
    text = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{text}", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return {}
    return {each["metric"].get("run", ""): float(each["value"][1]) for each in found}


def test_prometheus_reads_a_run_that_asks_for_it_and_no_other(space: Space) -> None:
    small = {"cpu": "50m", "memory": "1Gi", "limits": {"cpu": "1"}}
    seen = space.run_file(
        name="seen", workers=1, resources=small, train={**LONG, "metrics_port": PORT}
    )
    unseen = space.run_file(name="unseen", workers=1, resources=small, train=LONG)
    for path in (seen, unseen):
        assert space.k8s("submit", path).code == 0
    space.until(
        lambda: [p["status"].get("phase") for p in space.objects("pods")] == ["Running"] * 2
    )
    with prometheus(space) as url:
        space.until(lambda: query(url, "trainyard_steps > 500"), 600)
        began = query(url, "trainyard_steps")["seen"]
        space.until(lambda: query(url, "trainyard_steps")["seen"] > began)
        assert set(query(url, "up")) == {"seen"}
        assert query(url, "up") == {"seen": 1}
        assert query(url, "trainyard_target_steps") == {"seen": 400_000}
        assert 0 < query(url, "trainyard_accuracy_ratio")["seen"] <= 1
        assert query(url, "trainyard_images_per_second")["seen"] > 0
        assert query(url, "trainyard_checkpoint_age_seconds")["seen"] < 300
        assert query(url, "sum by (run) (trainyard_restarts_total)") == {"seen": 0}
        space.kill_worker(seen, 0)
        space.until(lambda: query(url, 'trainyard_restarts_total{cause="killed"}')["seen"] == 1)
        figure("restarts that Prometheus saw", "1, killed")
    space.until(lambda: space.step(unseen) > 0, 300)
    for path, ports in ((seen, {PORT}), (unseen, set())):
        name = space.pod_of(path, 0)
        listens = space.kubectl("exec", name, "--", "cat", "/proc/net/tcp", "/proc/net/tcp6")
        lines = [line.split() for line in listens.splitlines() if " 0A " in line]
        assert {int(line[1].rpartition(":")[2], 16) for line in lines} == ports
    figure("ports that a run listens on", "none; with metrics_port that one")
