"""Commands in a namespace of a real cluster."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from k8s import run_file
from trainer.runs import run_folder
from trainer.storage.base import Storage, open_storage

ROOT = Path(__file__).parents[2]


IMAGE = os.environ.get("TRAINYARD_E2E_IMAGE", "")


LIMIT = float(os.environ.get("TRAINYARD_E2E_LIMIT", "300"))  # seconds for any command


#: Settings of a run whose report is not looked at: charts take longer than most trainings here.
LIGHT = {"report": False, "tensorboard": "off"}


#: Two workers of which, so that a node of two cores has room for them.
RESOURCES = {
    "cpu": os.environ.get("TRAINYARD_E2E_CPU", "900m"),
    "memory": "2Gi",
    "limits": {"cpu": "1"},
}


STEPS = 600


KILL_WORKER = """
import os, signal
parents = {}
for pid in filter(str.isdecimal, os.listdir("/proc")):
    try:
        parents[int(pid)] = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    except OSError:
        pass
[forkserver] = [pid for pid, parent in parents.items() if parent == 1]
[worker] = [pid for pid, parent in parents.items() if parent == forkserver]
os.kill(worker, signal.SIGKILL)
"""


OWN = {"model": "mymodels:small", "steps": 200, "chunk_steps": 20}


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass
class Space:
    """A namespace, and the commands in it."""

    name: str
    folder: Path
    store: str
    kubeconfig: str = field(default_factory=lambda: os.environ.get("KUBECONFIG", ""))

    def run_file(self, **changes: Any) -> str:
        """Write a run file with some fields changed and return its path."""
        name = changes.get("name", f"run-{uuid.uuid4().hex[:6]}")
        values = {
            "name": name,
            "namespace": self.name,
            "image": IMAGE,
            "image_pull_policy": "IfNotPresent",
            "data": "gs://bucket/mnist",
            "run": f"gs://bucket/{self.name}/{name}",
            "workers": 2,
            "resources": RESOURCES,
            "storage_endpoint": self.store,
            "train": {"preset": "cnn", "steps": STEPS, "chunk_steps": 20},
        } | changes
        values["train"] = {**LIGHT, **values["train"]}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    def stored(self, path: str) -> Storage:
        return open_storage(run_file.read(path).run_uri)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "k8s", *arguments],
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": self.kubeconfig},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def k8s(self, *arguments: str) -> Done:
        """Run ``python -m k8s`` to its end."""
        began = time.monotonic()
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
        return Done(process.returncode, out, err, time.monotonic() - began)

    def status(self, path: str) -> dict[str, Any]:
        done = self.k8s("status", path, "-o", "json")
        assert done.code == 0, done.err
        return dict(json.loads(done.out))

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        return kubectl("--namespace", self.name, *arguments, check=check, stdin=stdin)

    def objects(self, kind: str) -> list[dict[str, Any]]:
        return list(json.loads(self.kubectl("get", kind, "-o", "json"))["items"])

    def until(self, what: Callable[[], Any], seconds: float = 120.0) -> Any:
        """Wait for something to be true and return it; longer where commands may take longer."""
        end = time.monotonic() + seconds * LIMIT / 300
        while not (found := what()):
            assert time.monotonic() < end, f"not within {seconds:g} s"
            time.sleep(0.2)
        return found

    def step(self, path: str) -> int:
        """The last step that rank 0 logged; 0 before the first."""
        name = yaml.safe_load(Path(path).read_text())["name"]
        pods = [p for p in self.objects("pods") if p["metadata"]["name"].startswith(f"{name}-0-")]
        if not pods:
            return 0
        pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        log = self.kubectl("logs", pods[-1]["metadata"]["name"], check=False)
        told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return max((line["step"] for line in told if "loss" in line), default=0)

    def pod_of(self, path: str, rank: int) -> str:
        """Return the name of a rank's pod."""
        name = yaml.safe_load(Path(path).read_text())["name"]
        names = [pod["metadata"]["name"] for pod in self.objects("pods")]
        return str(min(each for each in names if each.startswith(f"{name}-{rank}-")))

    def kill_worker(self, path: str, rank: int) -> None:
        """Kill the process that trains in a rank's pod; its supervisor lives on."""
        self.kubectl("exec", self.pod_of(path, rank), "--", "python", "-c", KILL_WORKER)


def kubectl(*arguments: str, check: bool = True, stdin: str | None = None) -> str:
    path = shutil.which("kubectl")
    assert path, "kubectl is not installed"
    done = subprocess.run(
        [path, *arguments], check=False, capture_output=True, text=True, input=stdin, timeout=LIMIT
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def write_own_code(folder: Path, size: int) -> None:
    """Write the example's model into a folder, and a file of so many bytes that it reads."""
    folder.mkdir()
    (folder / "seed.bin").write_bytes(os.urandom(size))
    reads = "from pathlib import Path\n\n(Path(__file__).parent / 'seed.bin').read_bytes()\n\n"
    (folder / "mymodels.py").write_text(reads + (ROOT / "runs/mymodels.py").read_text())


def weights(folder: str) -> str:
    """Return the digest of the weights that a run ended with."""
    return str((run_folder.read_result(open_storage(folder)) or {})["weights_sha256"])


def trained_here(train: dict[str, Any], folder: Path = ROOT) -> str:
    """Train two workers with these settings on this machine and return the weights' digest.

    Args:
        train: settings, as a run file has them.
        folder: where the command is given.
    """
    run = f"gs://bucket/local/{uuid.uuid4().hex}"
    given = {"workers": 2, "run": run, "data": "gs://bucket/mnist", "tensorboard": "off", **train}
    given.pop("report", None)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    subprocess.run(
        [sys.executable, "-m", "trainer", "train", "--no-report", *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=LIMIT,
    )
    return weights(str(given["run"]))


def figure(name: str, value: str) -> None:
    """Print a figure, and append it to the file that TRAINYARD_E2E_FIGURES names."""
    line = f"{name}: {value}"
    print(line)
    if path := os.environ.get("TRAINYARD_E2E_FIGURES"):
        with Path(path).open("a") as file:
            file.write(line + "\n")
