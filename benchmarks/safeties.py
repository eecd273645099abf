"""What each safety costs: stretches of one run with it and without, in turns.

    python -m benchmarks.safeties --data URI [--preset NAME]

A machine's speed changes by a quarter from run to run, so both sides of a pair are stretches of
the same run, next to each other. Seconds of CPU time a chunk, of all threads, stand beside the
wall time: they do not see whether other programs take the cores, only what has to be done.
The supervisor is a process around the run; for it whole runs take turns.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Spread, table, take_turns
from trainer import presets, progress
from trainer.cluster_spec import ALONE
from trainer.config import TrainConfig
from trainer.data import dataset
from trainer.gang import process
from trainer.runs import checkpoint, run_folder, tensorboard_writer
from trainer.storage.base import open_storage
from trainer.train.devices import set_threads
from trainer.train.run import Run
from trainer.train.state import TrainState
from trainer.train.trainer import Trainer

STRETCH = 6  # chunks; the first still has the other side's last checkpoint on its way
NEVER = 10**9  # steps between checkpoints
LIMIT = 900.0  # seconds of one run
UNSIGNED = hashlib.sha256()  # what stands in for a digest that costs nothing


@dataclasses.dataclass(frozen=True)
class Guards:
    """Which safeties are on."""

    checkpoint_steps: int = NEVER
    digest: bool = True
    metrics: bool = False
    tensorboard: str = "off"


EVERY_CHUNK = Guards(checkpoint_steps=1)
BARE = Guards()
USUAL = Guards(checkpoint_steps=500, metrics=True, tensorboard="on")
# A safety, a stretch with it, and one without.
PAIRS: dict[str, tuple[Guards, Guards]] = {
    "checkpoints, one every chunk": (EVERY_CHUNK, BARE),
    "their SHA-256": (EVERY_CHUNK, dataclasses.replace(EVERY_CHUNK, digest=False)),
    "metrics": (dataclasses.replace(EVERY_CHUNK, metrics=True), EVERY_CHUNK),
    "TensorBoard": (
        dataclasses.replace(EVERY_CHUNK, metrics=True, tensorboard="on"),
        dataclasses.replace(EVERY_CHUNK, metrics=True),
    ),
    "TensorBoard with histograms": (
        dataclasses.replace(EVERY_CHUNK, metrics=True, tensorboard="histograms"),
        dataclasses.replace(EVERY_CHUNK, metrics=True),
    ),
    "all of these, as they are by default": (USUAL, BARE),
    "all, with a checkpoint and histograms every chunk": (
        Guards(checkpoint_steps=1, metrics=True, tensorboard="histograms"),
        BARE,
    ),
}


class Silent(progress.Reporter):
    """A reporter that only lets warnings through."""

    def warn(self, message: str, **_: Any) -> None:
        """See Reporter."""
        print(message, file=sys.stderr)


class Stretches(Trainer):
    """A trainer that turns safeties on and off while it trains, and notes how long it took.

    Attributes:
        plan: the safeties of each stretch to come, in order.
        wall: seconds a chunk of each stretch, without its first chunk.
        cpu: seconds of CPU time a chunk, likewise.
    """

    plan: list[Guards]

    def start(self, plan: list[Guards]) -> None:
        """Train through a plan."""
        self.plan, self._chunks, self._begun = plan, 0, (0.0, 0.0)
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self._unsigned = b""
        # One log a mode; each knows what it has written itself.
        logs: dict[str, tensorboard_writer.EventLog | None] = {"off": None}
        for mode in ("on", "histograms"):
            config = self.run.config.model_copy(update={"tensorboard": mode})
            storage = open_storage(f"{self.run.storage.uri}/{mode}")
            log = tensorboard_writer.EventLog(
                storage, config, self.run.total, 0, self.run.reporter.warn
            )
            log.wants_graph = False  # it is written once a run
            logs[mode] = log
        self._logs = logs
        self.train(threading.Event(), time.time())

    def _run_chunk(self, at: TrainState, stop: threading.Event) -> bool:
        place, stretch = self._chunks % STRETCH, self._chunks // STRETCH
        now = (time.perf_counter(), cpu_seconds())
        if place == 1:
            self._begun = now
        if place == 0:
            if stretch:
                # From the end of the first chunk to here, with what follows each of the others.
                self.wall.append((now[0] - self._begun[0]) / (STRETCH - 1))
                self.cpu.append((now[1] - self._begun[1]) / (STRETCH - 1))
            self._turn(self.plan[min(stretch, len(self.plan) - 1)])
            at.records.clear()  # they are written again every time; few runs have so many chunks
            at.reported = 0
        self._chunks += 1
        stopping = super()._run_chunk(at, stop)
        if not self._guards.metrics:
            at.records.clear()
        return stopping

    def _turn(self, guards: Guards) -> None:
        self.saver.uploader.finish(lambda: None)  # an upload in progress uses what changes here
        self._guards = guards
        config = self.run.config.model_copy(update={"checkpoint_steps": guards.checkpoint_steps})
        self.saver.run = dataclasses.replace(self.run, config=config)
        self.saver.events = self._logs[guards.tensorboard]
        checkpoint.hashlib = hashlib if guards.digest else _Unsigned  # type: ignore[assignment, attr-defined]


class _Unsigned:
    """Stands in for hashlib where checkpoints go without a digest."""

    @staticmethod
    def sha256(data: bytes) -> "hashlib._Hash":
        """Return the digest of nothing."""
        del data
        return UNSIGNED


def cpu_seconds() -> float:
    """Return what all threads of this process have used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    huge = process.huge_pages(os.environ)
    if not huge.items() <= os.environ.items():  # a worker has it from its start, and so has this
        os.execve(sys.executable, sys.orig_argv, os.environ | huge)
    parser = common.options(main.__doc__, rounds=12)
    parser.add_argument("--preset", default="cnn", choices=list(presets.PRESETS))
    parser.add_argument("--in-process", metavar="FOLDER", help=argparse.SUPPRESS)
    chosen = common.parse(parser)
    if chosen.in_process:
        in_process(chosen)
        return
    rows = stretches(chosen)
    rows.append(supervisor(chosen))
    about = (
        f"What each safety adds to `{chosen.preset}`, which trains {chunk_steps(chosen)} steps a "
        f"chunk: median (middle half) of {chosen.rounds} pairs of adjacent stretches in one run, "
        f"{STRETCH - 1} chunks each."
    )
    head = ["safety", "ms a chunk with", "without", "wall time", "CPU ms with", "without", "CPU"]
    body = [
        table(head, rows),
        "Wall time and CPU are what the safety adds, by pair. TensorBoard's events are written at "
        f"most every {tensorboard_writer.EVERY:g} s, so not every chunk pays for them. The "
        "supervisor's line compares whole runs with it and without; its wall time leaves out the "
        "first chunk, and its CPU is that of all processes of the run.",
    ]
    common.publish(chosen, "The cost of each safety", about, "\n\n".join(body))


def chunk_steps(chosen: argparse.Namespace) -> int:
    """Return the steps of a chunk."""
    steps: int = presets.configure({}, {"preset": chosen.preset}).chunk_steps
    return 3 if chosen.quick else steps


def configured(chosen: argparse.Namespace, folder: str, chunks: int) -> TrainConfig:
    """Return the configuration of a run of so many chunks that does nothing but train."""
    chunk = chunk_steps(chosen)
    settings = {"preset": chosen.preset, "data": chosen.data, "run": folder, "eval_epochs": 0}
    settings |= {"chunk_steps": chunk, "steps": chunks * chunk, "checkpoint_steps": NEVER}
    return presets.configure(settings, {"tensorboard": "off", "report": False})


def plan(rounds: int) -> tuple[list[Guards], list[tuple[str, bool]]]:
    """Return the stretches of a run, and which safety each is of and on which side.

    Within a pair of rounds a safety is on, off, off, on, so that neither side is always the
    later. The first stretch has the compiling and belongs to none.
    """
    guards, labels = [BARE], [("", False)]
    for number in range(rounds):
        for name, sides in PAIRS.items():
            for on in ((True, False), (False, True))[number % 2]:
                guards.append(sides[0] if on else sides[1])
                labels.append((name, on))
    return guards, labels


def stretches(chosen: argparse.Namespace) -> list[list[str]]:
    """Return the lines of the safeties inside of a run."""
    guards, labels = plan(chosen.rounds)
    with tempfile.TemporaryDirectory() as folder:
        config = configured(chosen, folder, (len(guards) + 1) * STRETCH)
        data, storage = dataset.load(chosen.data, config.validation), open_storage(folder)
        set_threads(config, ALONE, data)
        digest = run_folder.claim(storage, config, data.sha256)
        trainer = Stretches(Run(config, ALONE, data, storage, digest, Silent()))
        trainer.start(guards)
    rows = []
    for name in PAIRS:
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for label, *times in zip(labels, trainer.wall, trainer.cpu, strict=False):
            if label[0] == name:
                found[label[1]].append((times[0] * 1e3, times[1] * 1e3))
        with_, without = ([list(t) for t in zip(*found[on], strict=True)] for on in (True, False))
        rows.append(line(name, with_, without))
    return rows


def line(name: str, with_: list[list[float]], without: list[list[float]]) -> list[str]:
    """Return a line of the table from milliseconds [wall, CPU] of each round."""
    cells = [name]
    for on, off in zip(with_, without, strict=True):
        added = [a / b - 1 for a, b in zip(on, off, strict=True)]
        cells += [f"{Spread.of(on).median:.1f}", f"{Spread.of(off).median:.1f}"]
        cells.append(Spread.middle(added).text("+.1%"))
    return cells


def supervisor(chosen: argparse.Namespace) -> list[str]:
    """Return the line of the supervisor: runs under it against runs without."""
    rounds = 2 if chosen.quick else max(3, chosen.rounds // 4)
    times: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}

    def work(side: str) -> Callable[[], float]:
        def once() -> float:
            times[side].append(whole_run(chosen, supervised=side == "with"))
            return times[side][-1][0]

        return once

    take_turns({side: work(side) for side in times}, rounds)
    with_, without = ([list(t) for t in zip(*times[s], strict=True)] for s in ("with", "without"))
    return line("supervisor", with_, without)


def whole_run(chosen: argparse.Namespace, *, supervised: bool) -> tuple[float, float]:
    """Return milliseconds a chunk: of wall time without the first chunk, and of CPU time."""
    chunks = 3 if chosen.quick else 20
    with tempfile.TemporaryDirectory() as folder:
        config = configured(chosen, folder, chunks)
        if supervised:
            named = config.model_dump(exclude_defaults=True).items()
            flags = [t for k, v in named for t in flag(k, v)]
            command = common.trainer("train", *flags)
        else:
            command = [sys.executable, "-m", "benchmarks.safeties", "--preset", chosen.preset]
            command += ["--data", chosen.data, "--in-process", folder]
            command += ["--quick"] * chosen.quick
        used = common.run(command, LIMIT)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(each) for each in lines]
    seconds = [each["train_seconds"] for each in records if "images_per_second" in each]
    wall = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    return wall * 1e3, (used.ru_utime + used.ru_stime) / len(seconds) * 1e3


def flag(name: str, value: Any) -> list[str]:
    """Return a setting as arguments."""
    text = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [text if value else f"--no-{text[2:]}"]
    return [text, str(value)]


def in_process(chosen: argparse.Namespace) -> None:
    """Do what a run does, in this process alone."""
    config = configured(chosen, chosen.in_process, 3 if chosen.quick else 20)
    data, storage = dataset.load(config.data, config.validation), open_storage(config.run)
    digest = run_folder.claim(storage, config, data.sha256, data.input_shape, data.classes)
    set_threads(config, ALONE, data)
    trainer = Trainer(Run(config, ALONE, data, storage, digest, Silent()))
    trainer.train(threading.Event(), time.time())


if __name__ == "__main__":
    main()
