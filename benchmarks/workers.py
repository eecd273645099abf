"""Two workers against PyTorch's DistributedDataParallel, and what a second core is worth.

    python -m benchmarks.workers --data URI

Ours are runs of ``python -m trainer train``, one process for each rank as in pods; images per
second come from their metrics, without the first chunk, in which they compile. The peer's gang has
the same model and global batch, gloo over loopback, and one thread a process, as torchrun sets it;
its memory is in huge pages, as ours is.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import common
from benchmarks.common import ABSENT, Side, Spread, ratios, table, take_turns
from benchmarks.throughput import peer_command, settings_of
from trainer.cluster_spec import environment
from trainer.gang import process

LIMIT = 300.0  # seconds of one run
CHUNKS = 7  # of a run of ours; the first is not counted


@dataclass(frozen=True)
class Case:
    """A model, a global batch, and steps that take about a second."""

    preset: str
    batch: int
    steps: int

    @property
    def title(self) -> str:
        """What it is called in the tables."""
        return f"`{self.preset}`, batch {self.batch:,}"

    @property
    def flags(self) -> list[str]:
        """Arguments of a run of ours."""
        settings = {**settings_of(self.preset), "batch_size": self.batch}
        settings |= {"chunk_steps": self.steps, "steps": self.steps * CHUNKS, "eval_epochs": 0}
        named = settings.items()
        return [text for k, v in named for text in (f"--{k.replace('_', '-')}", str(v))]


CASES = (
    Case("mlp-100", 256, 300),
    Case("mlp-100", 2048, 60),
    Case("cnn", 256, 50),
    Case("cnn", 2048, 8),
)


def main() -> None:
    """Measure and print."""
    chosen = common.parse(common.options(main.__doc__, rounds=5))
    cases = [Case("mlp-100", 256, 3)] if chosen.quick else CASES
    against, scaling = [], []
    for case in cases:
        against.append(compare(case, chosen.data, chosen.rounds))
        print(against[-1], file=sys.stderr, flush=True)
    for case in cases:
        scaling.append(scale(case, chosen.data, chosen.rounds))
        print(scaling[-1], file=sys.stderr, flush=True)
    about = (
        "Two workers on this machine, images per second: median (least to greatest) of "
        f"{chosen.rounds} runs of each side in turns, both with memory in huge pages."
    )
    body = [
        table(["model", "trainyard", "PyTorch DDP, gloo", "times DDP"], against),
        "Two workers, each pinned to a core, beside one worker pinned to one core, with the same "
        "global batch (XLA compiles the steps of one worker of `mlp-100`, not those of a gang):",
        table(["model", "one worker, one core", "two workers, two cores", "times one"], scaling),
    ]
    common.publish(chosen, "Two workers", about, "\n\n".join(body))


def compare(case: Case, data: str, rounds: int) -> list[str]:
    """Return a line of the table against DDP."""
    work: dict[str, Callable[[], float]] = {"ours": partial(train, case, data, [None, None])}
    with peers(case, data) as ddp:
        if ddp:
            work["ddp"] = lambda: together(ddp, case)
        rates = take_turns(work, rounds)
    ours = Spread.of(rates["ours"]).text()
    if not ddp:
        return [case.title, ours, ABSENT, ABSENT]
    times = ratios(rates["ours"], rates["ddp"])
    return [case.title, ours, Spread.of(rates["ddp"]).text(), times.text(".2f")]


def scale(case: Case, data: str, rounds: int) -> list[str]:
    """Return a line of the table of one core against two."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    lone = itertools.cycle(([first], [second]))  # the cores need not be equally fast
    work = {
        "one": lambda: train(case, data, next(lone)),
        "two": lambda: train(case, data, [first, second]),
    }
    rates = take_turns(work, rounds)
    spreads = [Spread.of(rates[name]).text() for name in ("one", "two")]
    return [case.title, *spreads, ratios(rates["two"], rates["one"]).text(".2f")]


def train(case: Case, data: str, cores: Sequence[int | None]) -> float:
    """Run a gang of ours with a core for each worker, or None, and return images per second."""
    count, port = len(cores), common.free_ports(len(cores) + 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["train", *case.flags, "--workers", str(count), "--data", data, "--run", folder]
        gang = [
            subprocess.Popen(
                [
                    *common.taskset(None if core is None else [core]),
                    *common.trainer(*arguments, "--no-report"),
                ],
                env=common.environment(environment(rank, count, port)),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            for rank, core in enumerate(cores)
        ]
        try:
            codes = wait(gang)
        finally:
            for process in gang:
                common.kill(process)
        assert not any(codes), f"{arguments}: exit codes {codes}"
        return rate((Path(folder) / "metrics.jsonl").read_text(), case.batch)


def wait(gang: list[subprocess.Popen[bytes]]) -> list[int]:
    """Return the exit codes; raise where one takes too long."""
    end = time.monotonic() + LIMIT
    return [process.wait(max(0.0, end - time.monotonic())) for process in gang]


def rate(metrics: str, batch: int) -> float:
    """Return images per second of a run's lines of metrics, without its first chunk."""
    lines = [json.loads(line) for line in metrics.splitlines()]
    chunks = [line for line in lines if "images_per_second" in line]
    steps = [after["step"] - before["step"] for before, after in itertools.pairwise(chunks)]
    seconds: float = sum(
        count * batch / line["images_per_second"]
        for count, line in zip(steps, chunks[1:], strict=True)
    )
    images: int = sum(steps) * batch
    return images / seconds


@contextmanager
def peers(case: Case, data: str) -> Iterator[list[Side]]:
    """Start the two processes of DDP; none where PyTorch is not installed."""
    python = common.peer_python("torch")
    if not python:
        yield []
        return
    settings = {**settings_of(case.preset), "batch_size": case.batch}
    port = common.free_ports(1)
    gang: list[Side] = []
    with tempfile.TemporaryDirectory() as folder:
        command = peer_command(python, "torch", settings, data, Path(folder))
        for rank in range(2):
            env = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            env |= process.huge_pages(os.environ)
            env |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
            gang.append(Side(command, env=env))
        try:
            together(gang, case)
            yield gang
        finally:
            for side in gang:
                side.close()


def together(gang: list[Side], case: Case) -> float:
    """Have all ranks train and return the images per second of the slowest."""
    steps = case.steps * (CHUNKS - 1)
    for side in gang:
        side.send(do="train", steps=steps)
    seconds: float = max(side.receive()["seconds"] for side in gang)
    return steps * case.batch / seconds


if __name__ == "__main__":
    main()
