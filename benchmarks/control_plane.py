"""What the verbs of k8s take at a control plane's limits: seconds, memory, requests, bytes.

    python -m benchmarks.control_plane --kubeconfig FILE

One run of 1,024 ranks, and a namespace with 500 runs. The cluster has an API server, controllers
and a scheduler; its nodes and their kubelets are played here, so that no container runs. Pods of
these runs tolerate those nodes alone, and all that is created is deleted at the end.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from benchmarks import common
from k8s import run_file
from k8s.client.cluster import Cluster
from k8s.client.informer import Informer
from k8s.client.refusals import ConflictError
from k8s.commands import submit
from k8s.diagnosis import evidence
from tests.support import certificates

Object = dict[str, Any]

MARK = "trainyard.benchmark"  # label and taint of the nodes
TICK = 0.2  # seconds between two looks at the pods
LEASES = "coordination.k8s.io/v1"
LEASE = 10.0  # seconds between two signs of life of the nodes
LIMIT = 900.0  # seconds for pods to get where they shall be
FOLLOWED = 30.0  # seconds that a run is followed
STEPS = 1000  # lines of the log of rank 0

WORDS = "batch 17 has a value that is not finite"
RESULT = {"event": "finished", "message": "done", "test_accuracy": 0.99, "steps": STEPS}


class Kubelet(BaseHTTPRequestHandler):
    """The logs of all pods: rank 0 is halfway, the others have said nothing."""

    def do_GET(self) -> None:
        query = dict(part.partition("=")[::2] for part in self.path.partition("?")[2].split("&"))
        lines = _log() if "-0-" in self.path else []
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write("".join(lines[-int(query.get("tailLines", STEPS)) :]).encode())
        with contextlib.suppress(OSError):  # it has gone
            while "follow" in query:
                time.sleep(1)
                for last in lines[-1:]:
                    self.wfile.write(f"{_now('.5')} {last.partition(' ')[2]}".encode())
                self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Kubelets(ThreadingHTTPServer):
    """Where the API server asks for logs: as many at once as a kubelet answers."""

    request_queue_size = 128


class Nodes:
    """Nodes that are said to be there, and run every pod that is bound to them.

    Attributes:
        ends: how pods end, by run and rank: exit code and termination message; others go on.
    """

    def __init__(self, cluster: Cluster, count: int, folder: Path) -> None:
        self.ends: dict[tuple[str, int], tuple[int, str]] = {}
        self._cluster, self._count = cluster, count
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificates.self_signed(folder))
        self._logs = Kubelets(("127.0.0.1", common.free_ports(1)), Kubelet)
        self._logs.socket = tls.wrap_socket(self._logs.socket, server_side=True)
        self._pool = ThreadPoolExecutor(8)
        self._over = threading.Event()
        self._seen: dict[str, str] = {}  # what was last said of a pod, by uid
        self.pods = Informer(cluster, "Pod", "app.kubernetes.io/name=trainyard")
        for work in (self._logs.serve_forever, self._breathe, self._run):
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._logs.shutdown()
        self.pods.close()
        for name in self._names():
            self._cluster._send("DELETE", f"/api/v1/nodes/{name}")
        self._pool.shutdown()

    def _names(self) -> list[str]:
        return [f"{MARK}-{number}" for number in range(self._count)]

    def _breathe(self) -> None:
        with ThreadPoolExecutor(4) as pool:  # not to wait for pods
            list(pool.map(self._create, self._names()))
            while not self._over.wait(LEASE):
                list(pool.map(self._renew, self._names()))

    def _create(self, name: str) -> None:
        room = {"cpu": "64", "memory": "256Gi", "pods": "110"}
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        node: Object = {"apiVersion": "v1", "kind": "Node"}
        node["metadata"] = {"name": name, "labels": {MARK: "true"}}
        node["spec"] = {"taints": [{"key": MARK, "effect": "NoSchedule"}]}
        with contextlib.suppress(ConflictError):  # of an earlier series that was cut off
            self._cluster.create(node)
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "allocatable": room,
            "capacity": room,
            "conditions": [{**condition, **dict.fromkeys(("lastHeartbeatTime",), _now())}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.server_port}},
        }
        self._patch(f"/api/v1/nodes/{name}/status", {"status": status})
        lease = {"apiVersion": LEASES, "kind": "Lease", "metadata": {"name": name}}
        with contextlib.suppress(ConflictError):
            self._cluster._send("POST", self._lease(), {}, lease)
        self._renew(name)

    def _lease(self, name: str = "") -> str:
        return f"/apis/{LEASES}/namespaces/kube-node-lease/leases/{name}".rstrip("/")

    def _renew(self, name: str) -> None:
        path = self._lease(name)
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _now(".000000")}
        self._patch(path, {"spec": spec})

    def _patch(self, path: str, body: Object) -> None:
        self._cluster._send("PATCH", path, {}, body)

    def _run(self) -> None:
        while not self._over.wait(TICK):
            list(self._pool.map(self._see, self.pods.now()))

    def _see(self, pod: Object) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        run = metadata["labels"]["batch.kubernetes.io/job-name"]
        end = self.ends.get((run, evidence.rank(pod)))
        wanted = f"{end}" if end else "running" if pod["spec"].get("nodeName") else ""
        wanted = "gone" if metadata.get("deletionTimestamp") else wanted
        if self._seen.get(metadata["uid"], "") == wanted:
            return
        self._seen[metadata["uid"]] = wanted
        with contextlib.suppress(Exception):  # it has gone
            if wanted == "gone":
                end = end or (128 + signal.SIGKILL, "")
            state: Object = {"running": {"startedAt": _now()}}
            phase = "Running"
            if end:
                phase = "Failed" if end[0] else "Succeeded"
                state = {"terminated": {"exitCode": end[0], "message": end[1], "reason": "Error"}}
                state["terminated"] |= {"startedAt": _now(), "finishedAt": _now()}
            container: Object = {"name": "trainer", "image": "trainyard", "state": state}
            container |= {"ready": not end, "restartCount": 0, "imageID": ""}
            conditions = [
                {"type": each, "status": str(not end), "lastTransitionTime": _now()}
                for each in ("Ready", "ContainersReady", "Initialized", "PodScheduled")
            ]
            status = {"phase": phase, "startTime": _now(), "conditions": conditions}
            self._patch(f"{path}/status", {"status": {**status, "containerStatuses": [container]}})
            if wanted == "gone":  # also where its Job goes with it, and does not let go
                self._patch(path, {"metadata": {"finalizers": None}})
                self._cluster._send("DELETE", path, {"gracePeriodSeconds": "0"})


@functools.cache
def _log() -> list[str]:
    """Return the lines of rank 0, made once: a kubelet reads them from a file."""
    step = {"total_steps": 2 * STEPS, "loss": 0.5, "accuracy": 0.9, "images_per_second": 9e3}
    facts: list[Object] = [{"message": "cnn", "event": "started"}]
    facts += [{"step": number + 1, **step} for number in range(STEPS)]
    return [f"{_now(f'.{n:09}')} {json.dumps(each)}\n" for n, each in enumerate(facts)]


def _now(decimals: str = "") -> str:
    return time.strftime(f"%Y-%m-%dT%H:%M:%S{decimals}Z", time.gmtime())


@dataclass(frozen=True)
class Taken:
    """What one command took, and printed."""

    seconds: float
    processor: float
    mebibytes: float
    counts: dict[str, int]
    out: str

    def row(self, name: str) -> list[str]:
        size = f"{self.counts.get('bytes', 0) / 1e6:.1f}"
        figures = [f"{self.seconds:.1f}", f"{self.processor:.1f}", f"{self.mebibytes:.0f}"]
        return [name, *figures, str(self.counts.get("requests", 0)), size]


def measure(chosen: argparse.Namespace, *arguments: str, after: float | None = None) -> Taken:
    """Run a verb to its end, or leave it by Ctrl-C after some seconds."""
    side = Path(__file__).parent / "k8s_side.py"
    with tempfile.NamedTemporaryFile() as counts, tempfile.TemporaryFile("w+") as out:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-P", side, counts.name, *arguments],
            env={**os.environ, "KUBECONFIG": chosen.kubeconfig, "PYTHONPATH": chosen.code},
            stdout=out,
            stderr=out,
        )
        if after:
            timer = threading.Timer(after, process.send_signal, [signal.SIGINT])
            timer.start()
        _, _, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        out.seek(0)
        processor = used.ru_utime + used.ru_stime
        sent = json.loads(Path(counts.name).read_text())
        return Taken(seconds, processor, sent["peak"] / 1024, sent, out.read())


@contextlib.contextmanager
def namespace(chosen: argparse.Namespace, folder: Path) -> Iterator[tuple[Cluster, Nodes]]:
    """Return a namespace with a bound claim for the runs' folders, and nodes for their pods."""
    name = f"{MARK.replace('.', '-')}-{uuid.uuid4().hex[:6]}"
    cluster = Cluster(namespace=name, kubeconfig=chosen.kubeconfig)
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    size, modes = {"storage": "1Gi"}, ["ReadWriteMany"]
    spec: Object = {"accessModes": modes, "storageClassName": ""}
    volume = {"capacity": size, "hostPath": {"path": "/nowhere"}, **spec}
    claimed = {"claimRef": {"namespace": name, "name": "folders"}}
    head = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}}
    cluster._send("POST", "/api/v1/persistentvolumes", {}, {**head, "spec": volume | claimed})
    claim = {**spec, "resources": {"requests": size}, "volumeName": name}
    head = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "folders"}}
    cluster.create({**head, "spec": claim})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainer"}}
    cluster.create(account)
    nodes = Nodes(cluster, chosen.nodes, folder)
    try:
        yield cluster, nodes
    finally:
        cluster._send("DELETE", f"/api/v1/namespaces/{name}")
        cluster._send("DELETE", f"/api/v1/persistentvolumes/{name}")
        until = time.monotonic() + LIMIT
        while cluster.list("Pod", most=1) and time.monotonic() < until:  # their nodes let them go
            time.sleep(1)
        nodes.close()


def spec(cluster: Cluster, name: str, workers: int) -> Object:
    """Return a run file."""
    return {
        "name": name,
        "namespace": cluster.namespace,
        "image": "trainyard:0",
        "data": "/data/mnist",
        "run": "/data/runs/{name}",
        "volumes": [{"claim": "folders", "mount": "/data"}],
        "workers": workers,
        "service_account": "trainer",
        "resources": {"cpu": "100m", "memory": "512Mi"},
        "node_selector": {MARK: "true"},
        "tolerations": [{"key": MARK, "operator": "Exists"}],
        "train": {"preset": "cnn", "batch_size": 2 * workers},
    }


def wait(nodes: Nodes, run: str, phase: str, count: int) -> float:
    """Wait until so many pods of a run are in a phase; return the seconds."""
    began = time.monotonic()
    found = -1
    while time.monotonic() - began < LIMIT:
        of_run = [p for p in nodes.pods.now() if p["metadata"]["name"].startswith(run)]
        found = sum(p["status"].get("phase") == phase for p in of_run)
        if found >= count:
            return time.monotonic() - began
        time.sleep(TICK)
    raise RuntimeError(f"{found} of {count} pods of {run} are {phase}")


def large(chosen: argparse.Namespace, cluster: Cluster, nodes: Nodes, folder: Path) -> list[Any]:
    """Measure one run of many ranks."""
    path = folder / "big.yaml"
    path.write_text(yaml.safe_dump(spec(cluster, "big", chosen.ranks)))
    run = str(path)
    doctor = measure(chosen, "doctor", run)
    submitted = measure(chosen, "submit", run)
    assert "created" in submitted.out, submitted.out
    took = wait(nodes, "big-", "Running", chosen.ranks)
    print(f"{chosen.ranks} pods run after {took:.0f} s", flush=True)
    rows = [doctor.row("`doctor`"), submitted.row("`submit`")]
    rows.append(measure(chosen, "status", run).row("`status`"))
    rows.append(measure(chosen, "logs", run).row("`logs`"))
    followed = measure(chosen, "logs", run, "-f", after=FOLLOWED)
    rows.append(followed.row(f"`logs -f`, {FOLLOWED:.0f} s"))
    rank = chosen.ranks * 7 // 10
    failed = {"event": "failed", "kind": "crashed", "rank": rank, "code": 1, "message": WORDS}
    nodes.ends["big", rank] = (1, json.dumps(failed))
    wait(nodes, "big-", "Failed", 1)
    found = measure(chosen, "status", run)
    named = [line for line in found.out.splitlines() if WORDS in line]
    print("\n".join(named), flush=True)
    assert any(f"rank {rank}" in line for line in named), found.out
    rows.append(found.row("`status`, one rank failed"))
    rows.append(measure(chosen, "delete", run).row("`delete`"))
    return rows


def many(chosen: argparse.Namespace, cluster: Cluster, nodes: Nodes) -> list[Any]:
    """Measure many runs of two ranks: one in ten is in progress, one in fifty has failed."""

    def start(number: int) -> None:
        name = f"run-{number}"
        if number % 50 == 7:
            nodes.ends[name, 1] = (65, json.dumps({"message": WORDS}))
        elif number % 10:
            nodes.ends |= {(name, 0): (0, json.dumps(RESULT)), (name, 1): (0, "")}
        submit.submit(cluster, run_file.parse(spec(cluster, name, 2), name), lambda _: None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, range(chosen.runs)))
    going = len(range(0, chosen.runs, 10))
    wait(nodes, "run-", "Running", 2 * going)
    wait(nodes, "run-", "Succeeded", 2 * (chosen.runs - going - len(range(7, chosen.runs, 50))))
    time.sleep(10)  # the controllers take note
    flag = f"--namespace={cluster.namespace}"
    rows = []
    for verb in ("list", "status"):
        found = measure(chosen, verb, flag)
        lines = sum(line.startswith("run-") for line in found.out.splitlines())
        assert lines >= chosen.runs, found.out
        rows.append(found.row(f"`{verb}`" + " without a run" * (verb == "status")))
    rows.append(measure(chosen, "status", "run-10", flag).row("`status` of one"))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kubeconfig", required=True, help="of a cluster that may be filled")
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--code", default=str(common.ROOT), help="folder whose k8s is measured")
    parser.add_argument("--quick", action="store_true", help="see that it works; no figures")
    parser.add_argument("--write", action="store_true", help="put the section into results.md")
    chosen = common.parse(parser)
    head = ["command", "seconds", "processor, s", "MiB at the peak", "requests", "MB received"]
    with tempfile.TemporaryDirectory() as name, namespace(chosen, Path(name)) as (cluster, nodes):
        start = measure(chosen, "status", "--help").row("`status --help`")
        body = [
            f"One run of {chosen.ranks:,} ranks on {chosen.nodes} nodes:",
            common.table(head, [start, *large(chosen, cluster, nodes, Path(name))]),
            f"A namespace with {chosen.runs} runs of two ranks:",
            common.table(head, many(chosen, cluster, nodes)),
        ]
        version = cluster.version()
    about = f"Kubernetes {version} on the same machine, without kubelets."
    common.publish(chosen, "The control plane", about, "\n\n".join(body))


if __name__ == "__main__":
    main()
