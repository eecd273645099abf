"""One of two workers is killed: seconds until training continues, and the steps that it costs.

    python -m benchmarks.recovery --data URI

Ours and the ways of PyTorch (recovery_side.py) take turns. Each time a gang is started, and loses
rank 1 to SIGKILL halfway between two checkpoints.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import arrays, common
from benchmarks.common import ABSENT, Spread, table, take_turns
from trainer import presets
from trainer.gang.process import Child
from trainer.worker_events import Event

LIMIT = 100.0  # seconds until a gang must train, and must train again
LOOK = 0.02  # seconds between two looks at the steps, before the kill
GLANCE = 0.1  # and after it, where looking takes time from those who start again
MARKS = 4  # checkpoints before the kill
SETTINGS = {"preset": "mlp-100"}
OURS = "trainyard"
PEERS = {"torchrun": "torch", "ft_launcher": "nvidia-resiliency-ext", "torchft": "torchft-nightly"}
HEAD = ["seconds until a step counts", "until both train", "steps repeated", "steps alone"]
NOTES = (
    "A step counts if it is not done again later. Ours reports one when its chunk has ended, so "
    "its seconds include a chunk. With torchrun (as in PyTorch's tutorial on fault tolerance: "
    "rank 0 stores a checkpoint, all load it at the start) and with the ft_launcher of "
    "nvidia-resiliency-ext (restarts in the job, a heartbeat every step) both processes start "
    "again from the last checkpoint. torchrun has `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`, without "
    "which new workers may look for the old ones' addresses. With torchft (a lighthouse, a "
    "torchrun for each worker, gloo, settings of its README and its example, the same "
    "checkpoints) the worker that is left continues with half of the batch, and gives its state to "
    "the new one; it is a nightly build, because with 0.2.0 a failed all-reduce ends that worker, "
    "too (`assert fut._fut` in ddp.py). Peers have one thread a process."
)


class Step(NamedTuple):
    """What a worker reported after a step."""

    at: float  # monotonic seconds
    pid: int
    rank: int
    members: int  # workers that made it; 0 if it does not count
    step: int


class Recovery(NamedTuple):
    """What a kill cost; the cells of the table."""

    idle: float  # seconds until the next step that counts
    whole: float  # seconds until both workers train
    repeated: float  # steps that were finished and are done again, or were dropped
    alone: float  # steps on half of a batch, by the worker that is left


Steps = Callable[[], Sequence[Step]]


def main() -> None:
    """Measure and print."""
    chosen = common.parse(common.options(main.__doc__, rounds=3))
    rounds, every = chosen.rounds, presets.configure({}, SETTINGS).chunk_steps
    if chosen.quick:
        rounds, every = 1, 100
    kills: dict[str, list[Recovery]] = {OURS: []}
    kills |= {kind: [] for kind, package in PEERS.items() if common.peer_python(package)}
    with tempfile.TemporaryDirectory() as folder:
        work = {
            kind: partial(kill, kind, chosen.data, Path(folder), every, found)
            for kind, found in kills.items()
        }
        take_turns(work, rounds)
    about = (
        "Two workers train `mlp-100`, and one is killed (SIGKILL) halfway between two checkpoints, "
        f"which come every {every} steps: median (least to greatest) of {rounds} kills of each "
        "side in turns."
    )
    rows = [[kind, *cells(kills.get(kind, []))] for kind in (OURS, *PEERS)]
    versions = (f"{each} {common.peer_version(each) or ABSENT}" for each in PEERS.values())
    body = [table(["", *HEAD], rows), f"{NOTES} Versions: {', '.join(versions)}."]
    common.publish(chosen, "Recovery", about, "\n\n".join(body))


def cells(kills: Sequence[Recovery]) -> list[str]:
    """Return a contender's line of the table without its name."""
    if not kills:
        return [ABSENT] * len(HEAD)
    forms = (".2f", ".2f", ",.0f", ",.0f")
    return [Spread.of(c).text(f) for c, f in zip(zip(*kills, strict=True), forms, strict=True)]


def kill(kind: str, data: str, folder: Path, every: int, kills: list[Recovery]) -> float:
    """Start a contender, kill one of its workers, note what that cost, and return the seconds."""
    start, unit = (ours, every) if kind == OURS else (partial(peers, kind), 1)
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        start(data, Path(place), every) as steps,
    ):
        struck = strike(kind, steps, every)
        while not (found := recovered(steps(), struck, unit)):
            assert time.monotonic() < struck + LIMIT, f"{kind}: not back within {LIMIT:g} s"
            time.sleep(GLANCE)
    kills.append(found)
    return found.idle


def strike(kind: str, steps: Steps, every: int) -> float:
    """Kill rank 1 halfway between two checkpoints; return when."""
    marks: list[Step] = []
    end = time.monotonic() + LIMIT
    while len(marks) < MARKS:
        assert time.monotonic() < end, f"{kind}: no {MARKS * every} steps within {LIMIT:g} s"
        time.sleep(LOOK)
        whole = (s for s in steps() if s.members == 2 and s.rank == 0)
        marks = [s for s in whole if s.step % every == 0]
    halfway = marks[-1].at + (marks[-1].at - marks[-2].at) / 2
    time.sleep(max(0.0, halfway - time.monotonic()))
    victim = next(s.pid for s in reversed(steps()) if s.rank == 1)
    struck = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    return struck


def recovered(steps: Sequence[Step], struck: float, unit: int) -> Recovery | None:
    """Return what a kill has cost, or None as long as both workers do not train again.

    Args:
        steps: as they were reported.
        struck: when the worker was killed, monotonic seconds.
        unit: steps of a report. Of those that were to come in the next one, as many count as
            finished as would have been at the pace of the last.
    """
    old = {s.pid for s in steps if s.at <= struck}
    after = [s for s in steps if s.at > struck]
    again = next((s for s in after if s.pid not in old and s.members == 2), None)
    if not again:
        return None
    meanwhile = [s for s in after if s.at < again.at]
    alone = [s for s in meanwhile if s.members == 1]
    first = min([*alone, again], key=lambda s: s.at)
    before = [s for s in steps if s.pid in old and s.members == 2 and s.at < first.at]
    *_, earlier, last = (s for s in before if s.rank == 0)
    partly = round(unit * (struck - last.at) / (last.at - earlier.at))
    reached = last.step + min(max(partly, 0), unit - 1)
    repeated = reached - (first.step - unit) + sum(not s.members for s in meanwhile)
    return Recovery(first.at - struck, again.at - struck, repeated, len({s.step for s in alone}))


@contextmanager
def ours(data: str, folder: Path, every: int) -> Iterator[Steps]:
    """Start ``trainer train`` with two workers."""
    pids: dict[int, int] = {}
    steps: list[Step] = []

    def tell(_: Child, event: Event) -> None:
        match event:
            case {"event": "started", "rank": rank, "pid": pid}:
                pids[rank] = pid
            case {"event": "step", "rank": rank, "step": step}:
                steps.append(Step(time.monotonic(), pids[rank], rank, 2, step))

    settings = {**SETTINGS, "workers": 2, "steps": 10**7, "chunk_steps": every}
    settings |= {"checkpoint_steps": every, "data": data, "run": folder / "run"}
    flags = [t for k, v in settings.items() for t in (f"--{k.replace('_', '-')}", str(v))]
    env = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    child = Child(["train", "--no-report", *flags], env, tell, out=folder / "log")
    try:
        yield lambda: list(steps)
    finally:
        common.kill(child.process)


@contextmanager
def peers(kind: str, data: str, folder: Path, every: int) -> Iterator[Steps]:
    """Start a peer's launchers."""
    python = common.peer_python(PEERS[kind])
    config, path = presets.configure({}, SETTINGS), folder.parent / "arrays.npz"
    assert python
    if not path.exists():
        arrays.save(data, config.validation, folder.parent)
    settings = json.dumps(config.model_dump())
    side = ["-m", "benchmarks.recovery_side", kind, settings, str(path), str(folder), str(every)]
    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with ExitStack() as stack, (folder / "log").open("wb") as log:
        for command, more in launchers(kind, Path(python), side):
            process = subprocess.Popen(
                ["timeout", "-s", "KILL", f"{2 * LIMIT:.0f}", *command],
                cwd=common.ROOT,
                env=common.environment(env | more),
                stdout=log,
                stderr=log,
            )
            stack.callback(common.kill, process)
        yield reports(folder / "steps")


def launchers(kind: str, python: Path, side: list[str]) -> list[tuple[list[str], dict[str, str]]]:
    """Return the commands of a gang with their variables, as its documentation has them."""
    flags = ["--standalone", "--max-restarts", "3", "--nproc-per-node"]
    torchrun = [str(python), "-m", "torch.distributed.run", *flags]
    if kind != "torchft":
        launcher = torchrun if kind == "torchrun" else [str(python.with_name(kind)), *flags]
        return [([*launcher, "2", *side], {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})]
    port = common.free_ports(1)
    lighthouse = [str(python.with_name("torchft_lighthouse")), "--bind", f"[::]:{port}"]
    lighthouse += ["--min_replicas", "1", "--quorum_tick_ms", "100", "--join_timeout_ms", "10000"]
    where = {"TORCHFT_LIGHTHOUSE": f"http://localhost:{port}"}
    groups = [where | {"REPLICA_GROUP_ID": str(rank)} for rank in range(2)]
    return [(lighthouse, {}), *(([*torchrun, "1", *side], env) for env in groups)]


def reports(path: Path) -> Steps:
    """Return what reads the steps that a peer's workers write down; each line is read once."""
    steps: list[Step] = []
    read = 0

    def look() -> list[Step]:
        nonlocal read
        if path.exists():
            with path.open("rb") as file:
                file.seek(read)
                lines, end, _ = file.read().rpartition(b"\n")
            read += len(lines + end)
            for at, *rest in map(bytes.split, lines.splitlines()):
                steps.append(Step(float(at), *map(int, rest)))
        return steps

    return look


if __name__ == "__main__":
    main()
