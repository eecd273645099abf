"""How far the loop is from what the machine can do.

    python -m benchmarks.limits --data URI [--only PRESET ...]

In a process for each preset: seconds of a step's matrix products and convolutions, each alone and
of the step's shapes, over the seconds of the step. Between two: the all-reduce of a gradient
against MPICH's, which is written in C, and against the loopback's round trip.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import common
from benchmarks.allreduce import FLOATS
from benchmarks.common import ABSENT, Side, Spread, ratios, table, take_turns
from benchmarks.throughput import settings_of
from trainer import presets
from trainer.gang import process
from trainer.presets import PRESETS

SECONDS = 1.0  # of one turn
WHOLE = 4  # bytes of a float


def main() -> None:
    """Measure and print."""
    parser = common.options(main.__doc__, rounds=5)
    parser.add_argument("--only", nargs="*", choices=list(PRESETS), default=list(PRESETS))
    chosen = common.parse(parser)
    if chosen.quick:
        chosen.only = chosen.only[:1]
    rows = [arithmetic(name, chosen) for name in chosen.only]
    head = ["preset", "batch", "GFLOP a step", "ms a step", "GFLOP/s", "ms bare", "GFLOP/s bare"]
    lines = ["gradient", "KiB", *(f"{name}, ms" for name in NAMES.values()), "MPI by TCP over ours"]
    about = (
        "A step beside its matrix products and convolutions alone: median (least to greatest) of "
        f"{chosen.rounds} turns of each."
    )
    body = [
        table([*head, "share of the step"], rows),
        '"Bare" is TensorFlow\'s own products and convolutions, forward and backward, with the '
        "shapes and in the order of the step (`trainer/train/forward.py`), on as many threads and "
        "in as many parts side by side, without the gradient for the first layer's input. The "
        "rest of a step gathers and scales images, and computes activations, normalisation, loss "
        "and update. If XLA compiles the step, its products can be faster than the bare ones.",
        "Summing a vector of a gradient's size over two processes on the loopback interface:",
        table(lines, collectives(chosen)),
        "MPI is MPICH, called from Python (mpi4py), by TCP on the loopback interface as ours, and "
        "through shared memory, which only processes on one machine have.",
    ]
    common.publish(chosen, "Limits", about, "\n\n".join(body))


def arithmetic(name: str, chosen: argparse.Namespace) -> list[str]:
    """Return the line of a preset: its step against its products alone."""
    settings = settings_of(name)
    seconds = 0.02 if chosen.quick else SECONDS
    command = [sys.executable, "-m", "benchmarks.arithmetic", json.dumps(settings), chosen.data]
    with Side(command, env=process.huge_pages(os.environ)) as side:

        def timed(do: str) -> float:
            return float(side.ask(do=do, seconds=seconds)["seconds"])

        flops: float = side.ask(do="flops")["flops"]
        kinds = ("step", "bare")
        times = take_turns({kind: partial(timed, kind) for kind in kinds}, chosen.rounds)
    batch = presets.configure({}, settings).batch_size
    line = [f"`{name}`", str(batch), f"{flops / 1e9:.3f}"]
    for kind in kinds:
        line.append(Spread.of(t * 1e3 for t in times[kind]).text(".3f"))
        line.append(f"{flops / statistics.median(times[kind]) / 1e9:.0f}")
    return [*line, ratios(times["bare"], times["step"]).text(".0%")]


NAMES = {
    "ours": "ours",
    "tensorflow": "TensorFlow",
    "torch": "PyTorch gloo",
    "mpi tcp": "MPI by TCP",
    "mpi shared": "MPI, shared memory",
    "round trip": "round trip of a byte",
}
MPI_ENV = {
    "mpi tcp": ["MPIR_CVAR_NOLOCAL=1", "UCX_TLS=tcp,self"],
    "mpi shared": ["UCX_TLS=posix,sysv,self"],
}


def collectives(chosen: argparse.Namespace) -> list[list[str]]:
    """Return a line for each size of a gradient."""
    rows = []
    repeats = 20 if chosen.quick else 300
    commands = {
        kind: [sys.executable, "-m", "benchmarks.allreduce", kind]
        for kind in ("ours", "tensorflow", "round trip")
    }
    if python := common.peer_python("torch"):
        commands["torch"] = [python, "-m", "benchmarks.allreduce", "torch"]
    if python := common.peer_python("mpi4py"):
        program = [str(Path(python).parent / "mpiexec"), "-n", "2"]
        for kind, env in MPI_ENV.items():
            commands[kind] = ["env", *env, *program, python, "-m", "benchmarks.allreduce", "mpi"]
    sizes = dict(list(FLOATS.items())[: 1 if chosen.quick else None])
    for name, floats in sizes.items():
        work: dict[str, Callable[[], float]] = {}
        with gangs(commands) as found:
            for kind, gang in found.items():
                work[kind] = partial(together, gang, floats, repeats)
                work[kind]()
            times = take_turns(work, chosen.rounds)
        row = [f"`{name}`" if name in PRESETS else name, f"{floats * WHOLE / 1024:,.0f}"]
        for kind in NAMES:
            found_times = [t * 1e3 for t in times.get(kind, [])]
            row.append(Spread.of(found_times).text(".2f") if found_times else ABSENT)
        mpi = times.get("mpi tcp")
        rows.append([*row, ratios(mpi, times["ours"]).text(".0%") if mpi else ABSENT])
    return rows


@contextmanager
def gangs(commands: dict[str, list[str]]) -> Iterator[dict[str, list[Side]]]:
    """Start two processes of each kind."""
    made: dict[str, list[Side]] = {}
    try:
        for kind, command in commands.items():
            if kind in MPI_ENV:
                made[kind] = [Side(command)]
            else:
                port = str(common.free_ports(2))
                made[kind] = [Side([*command, str(rank), port]) for rank in range(2)]
            for side in made[kind]:  # joined before the next looks for free ports
                side.send(floats=1, repeats=1)
            for side in made[kind]:
                side.receive(limit=120)
        yield made
    finally:
        for side in (side for gang in made.values() for side in gang):
            side.close()


def together(gang: list[Side], floats: int, repeats: int) -> float:
    """Return the seconds of one sum."""
    for side in gang:
        side.send(floats=floats, repeats=repeats)
    seconds: float = max(side.receive(limit=120)["seconds"] for side in gang)
    return seconds / repeats


if __name__ == "__main__":
    main()
