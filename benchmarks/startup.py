"""Seconds until a run takes its first step, and until a job is sent; and the memory it takes.

    python -m benchmarks.startup --data URI

``trainer train`` is started as the gang starts it, and reports its stages; its first chunk is one
step, so that the last stage is tracing, compiling and that step. ``k8s submit`` sends to an API
server on the loopback interface that answers at once, and looks into a store there. The image's
size is that of the packages that it installs, as they are installed here.
"""

import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import yaml

from benchmarks import common
from benchmarks.common import Spread, table
from tests.support.apiserver import ApiServer
from tests.support.stores import kept_gcs
from trainer.cluster_spec import environment
from trainer.data import sources
from trainer.gang.process import Child
from trainer.worker_events import Event

LIMIT = 180.0  # seconds of one start
LOOK = 0.05  # seconds between two looks at the memory
STAGES = {
    "started": "worker forked: TensorFlow imported, data loaded",
    "joined": "gang met, model built",
    "step": "first step",
    "exit": "end of a run of 200 steps, with evaluation and report",
}
PRESET = "cnn"
SIDE = common.ROOT / "benchmarks" / "k8s_side.py"
SUBMITTED = "k8s submit, to the job sent"

Memory = dict[str, float]  # MiB by name


def main() -> None:
    """Measure and print."""
    parser = common.options(main.__doc__, rounds=5)
    chosen = common.parse(parser)
    times: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for _ in range(chosen.rounds):
        for workers in (1,) if chosen.quick else (1, 2):
            stages, used = start(chosen.data, workers)
            for name, text in STAGES.items():
                key = f"`trainer train --preset {PRESET} --workers {workers}`: {text}"
                times.setdefault(key, []).append(stages[name])
            for name, value in used.items():
                key = f"{workers} worker{'s' * (workers > 1)}: {name}"
                memory.setdefault(key, []).append(value)
        seconds, peak = submit()
        times.setdefault(SUBMITTED, []).append(seconds)
        memory.setdefault("k8s submit: at its peak", []).append(peak)
    rows = [[name, Spread.of(found).text(".2f")] for name, found in times.items()]
    sizes = [[name, Spread.of(found).text(".0f")] for name, found in memory.items()]
    about = f"Median (least to greatest) of {chosen.rounds} starts each."
    body = [
        table(["from the start of the command to", "seconds"], rows),
        table(["resident memory (RSS)", "MiB"], sizes),
        "At rest means while the worker trains. Fork server and worker share memory, so their "
        "sizes do not add up; the sum of their proportional shares (PSS) is what they take "
        "together.",
        f"Packages and trainer add {image_size():,.0f} MiB to the image's base, not compressed; "
        f"{package_size('tensorflow-cpu'):,.0f} MiB of them are TensorFlow.",
    ]
    common.publish(chosen, "Start-up and memory", about, "\n\n".join(body))


def start(data: str, workers: int) -> tuple[dict[str, float], Memory]:
    """Return seconds until each stage of a run, and its memory."""
    told: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
    port = common.free_ports(workers + 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["train", "--preset", PRESET, "--data", data, "--run", f"{folder}/run"]
        arguments += ["--steps", "200", "--chunk-steps", "1", "--workers", str(workers)]
        began = time.perf_counter()
        gang = [
            Child(
                arguments,
                environment(rank, workers, port) | {"TF_CPP_MIN_LOG_LEVEL": "3"},
                (lambda _, event: told.put((time.perf_counter() - began, event)))
                if rank == 0
                else (lambda *_: None),
                out=Path(folder) / f"log-{rank}",
            )
            for rank in range(workers)
        ]
        try:
            return follow(gang[0], told)
        finally:
            for child in gang:
                common.kill(child.process)


def follow(
    child: Child, told: queue.SimpleQueue[tuple[float, Event]]
) -> tuple[dict[str, float], Memory]:
    """Watch a run to its end."""
    stages: dict[str, float] = {}
    pids: dict[str, int] = {"supervisor": child.process.pid}
    used: Memory = {}
    while "exit" not in stages:
        try:
            seconds, event = told.get(timeout=LOOK)
        except queue.Empty:
            look(pids, used, training="step" in stages)
            assert not stages or max(stages.values()) < LIMIT, stages
            continue
        name = event.get("event", "")
        if name in STAGES:
            stages.setdefault(name, seconds)
        if name == "started":
            pids |= {"forkserver": event["parent"], "worker": event["pid"]}
        if name == "exit":
            assert event["code"] == 0, event
    return stages, used


def look(pids: dict[str, int], used: Memory, *, training: bool) -> None:
    """Note the memory of a run's processes: at rest while they train, and the peak so far."""
    shares = 0.0
    for name, pid in pids.items():
        now = status(pid)
        if not now:
            return
        if training:
            used.setdefault(f"{name}, at rest", now["VmRSS"])
        key = f"{name}, at its peak"
        used[key] = max(used.get(key, 0.0), now["VmHWM"])
        shares += now.get("Pss", 0.0)
    key = "one rank's processes together (PSS), at their peak"
    used[key] = max(used.get(key, 0.0), shares)


def status(pid: int) -> Memory:
    """Return what the kernel reports of a process's memory; nothing if it has ended."""
    found: Memory = {}
    for name in ("status", "smaps_rollup"):
        try:
            lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
        except OSError:
            return {}
        for line in lines:
            key, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[key] = int(value.split()[0]) / 1024
    return found if "VmRSS" in found else {}


def image_size() -> float:
    """Return the MiB of what the Dockerfile copies into the image; needs ``strip``."""
    locked = (common.ROOT / "requirements" / "trainer.txt").read_text()
    names = set(re.findall(r"^([\w.-]+)==", locked, re.MULTILINE))  # once a Python version
    names.discard("libclang")
    code = (each for each in (common.ROOT / "trainer").rglob("*.*") if each.suffix != ".pyc")
    ours = sum(each.stat().st_size for each in code)
    return sum(map(package_size, names)) + ours / 2**20


def package_size(name: str) -> float:
    """Return the MiB of an installed package as the Dockerfile trims it; 0 on other platforms."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return 0.0
    kept = {
        each
        for each in files
        if each.parts[:2] != ("tensorflow", "include")
        and not (each.parts[0] in ("numpy", "scipy") and "tests" in each.parts)
    }
    paths = (Path(str(each.locate())) for each in kept)
    return sum(trimmed(path) for path in paths if path.is_file()) / 2**20


def trimmed(path: Path) -> int:
    """Return the bytes of a file, of TensorFlow's libraries those without symbols."""
    if ".so" not in path.name or "tensorflow" not in path.parts:
        return path.stat().st_size
    with tempfile.NamedTemporaryFile() as copy:
        subprocess.run(["strip", "--strip-unneeded", "-o", copy.name, path], check=True)
        return Path(copy.name).stat().st_size


def submit() -> tuple[float, float]:
    """Return seconds of ``k8s submit`` and its greatest memory, MiB."""
    objects = kept_gcs(Path(tempfile.mkdtemp()))
    with tempfile.TemporaryDirectory() as name, objects as store, ApiServer() as api:
        folder = Path(name)
        os.environ["STORAGE_EMULATOR_HOST"] = store.url
        sources.put("digits", "gs://bucket/mnist", train_count=600, test_count=100, seed=0)
        spec = {"name": "mnist", "image": "trainyard:local", "workers": 2}
        spec |= {"data": "gs://bucket/mnist", "run": "gs://bucket/runs/{name}"}
        spec |= {"storage_endpoint": store.url, "train": {"validation": 100}}
        (folder / "run.yaml").write_text(yaml.safe_dump(spec))
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, SIDE, str(folder / "sent"), "submit", str(folder / "run.yaml")],
            cwd=common.ROOT,
            env=common.environment({"KUBECONFIG": api.kubeconfig(folder / "kubeconfig")}),
            stdout=subprocess.DEVNULL,
        )
        assert process.wait() == 0, "k8s submit failed"
        seconds = time.perf_counter() - began
        peak = json.loads((folder / "sent").read_text())["peak"]
        assert any(kind == "Job" for kind, *_ in api.objects), "no job was sent"
        del os.environ["STORAGE_EMULATOR_HOST"]
    return seconds, peak / 1024


if __name__ == "__main__":
    main()
