"""Seconds until a model reaches a test accuracy on MNIST, against two well-known examples.

    python -m benchmarks.time_to_accuracy --data URI [--rounds N]

Ours are runs from the command line that end with the accuracy; each target has a preset and,
where the preset goes further than needed, a shorter run of it. The peers are written after the
network and the settings of the Keras documentation's simple convnet and of PyTorch's MNIST
example; they see the test images after every epoch, outside of the clock. The table is made again
after every seed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import arrays, common
from benchmarks.common import ABSENT, Side, table

NEVER = float("inf")
RUNS: dict[float, tuple[str, ...]] = {
    0.92: ("--preset", "cnn", "--epochs", "0.25"),
    0.9783: ("--preset", "cnn", "--epochs", "0.55"),
    0.99: ("--preset", "cnn"),
    0.995: ("--preset", "cnn-best", "--epochs", "10"),
}
AUTHORS = ("--preset", "dnn-128-32")  # 15,000 steps; its author's took 3.3 hours
# A peer stops at its first epoch with ENOUGH, or at its last one as it is documented. Runs of
# peers, and of ours beyond ENOUGH, take minutes, and are made with one seed.
EPOCHS = {"keras": 15, "torch": 14}
NAMES = {"keras": "Keras example with fit", "torch": "PyTorch example"}
ENOUGH = 0.99
LIMIT = 3600.0  # seconds of one run


@dataclass(frozen=True)
class Reached:
    """Seconds of training and of wall time, NEVER where the accuracy was not reached."""

    train: float
    wall: float
    accuracy: float


def main() -> None:
    """Measure and print."""
    parser = common.options(main.__doc__, rounds=5)
    chosen = common.parse(parser)
    targets = dict(RUNS)
    if chosen.quick:
        chosen.rounds, targets = 1, {0.5: ("--preset", "cnn", "--steps", "20")}
    ours: dict[float, list[Reached]] = {target: [] for target in targets}
    peers: dict[str, list[dict[float, Reached]]] = {"keras": [], "torch": []}
    authors = []
    for seed in range(1, chosen.rounds + 1):
        for target, flags in targets.items():
            if target > ENOUGH and seed > 1:
                continue
            ours[target].append(run(chosen.data, seed, target, *flags))
        if not chosen.quick:
            authors.append(run(chosen.data, seed, 0.0, *AUTHORS))
        for kind, found in peers.items():
            if seed == 1 and (kind == "keras" or common.peer_python("torch")):
                found.append(peer(kind, seed, targets, chosen))
                print(f"{kind} seed {seed}: {found[-1]}", file=sys.stderr, flush=True)
        publish(chosen, seed, targets, ours, peers, authors)


def publish(
    chosen: argparse.Namespace,
    seeds: int,
    targets: Mapping[float, tuple[str, ...]],
    ours: dict[float, list[Reached]],
    peers: dict[str, list[dict[float, Reached]]],
    authors: list[Reached],
) -> None:
    """Print the tables of so many seeds."""
    about = f"Seconds to a test accuracy on MNIST, median (least to greatest) of {seeds} seeds."
    head = ["test accuracy", "ours", "training", "wall"]
    for name in NAMES.values():
        head += [f"{name}: training", "times ours"]
    rows = [row(target, " ".join(flags), ours[target], peers) for target, flags in targets.items()]
    body = [table(head, rows), explanation()]
    if authors:
        body.append(
            f"The 15,000 steps of `dnn-128-32` take {cell([r.train for r in authors])} s of "
            f"training, {cell([r.wall for r in authors])} s of wall time."
        )
    common.publish(chosen, "Time to accuracy", about, "\n\n".join(body))


def explanation() -> str:
    """Return what the columns are."""
    return (
        "Wall time is from the start of the command to its end, with importing TensorFlow, "
        f"evaluation, checkpoints and the report. Peers stop at {ENOUGH:.0%}, or after the number "
        f"of epochs in their documentation ({EPOCHS['keras']} and {EPOCHS['torch']}). Peers, and "
        f"our runs beyond {ENOUGH:.0%}, have one seed. If only some seeds reached the accuracy, "
        "the cell says how many."
    )


def row(
    target: float, flags: str, ours: list[Reached], peers: dict[str, list[dict[float, Reached]]]
) -> list[str]:
    """Return a line of the table."""
    train = [each.train for each in ours]
    line = [f"{target:.2%}", f"`{flags}`", cell(train), cell([each.wall for each in ours])]
    for kind in NAMES:
        tried = peers[kind]
        if not tried or target > ENOUGH:
            line += [ABSENT if not tried else "not tried"] * 2
            continue
        found = [each.get(target, Reached(NEVER, NEVER, 0.0)) for each in tried]
        seconds = [each.train for each in found]
        times = statistics.median(seconds) / statistics.median(train)
        line += [cell(seconds), f"{times:.1f}" if 0 < times < NEVER else ""]
    return line


def cell(seconds: list[float]) -> str:
    """Return median and range of seconds, of which some may be NEVER."""
    reached = [value for value in seconds if value < NEVER]
    if not reached:
        return f"never ({len(seconds)} seed{'s' * (len(seconds) > 1)})"
    median = statistics.median(seconds)
    text = f"{median:.1f}" if median < NEVER else "never"
    text += f" ({min(reached):.1f} to {max(reached):.1f})" if len(reached) > 1 else ""
    some = len(reached) < len(seconds) or len(seconds) == 1
    return f"{text}, {len(reached)} of {len(seconds)}" if some else text


def run(data: str, seed: int, target: float, *flags: str) -> Reached:
    """Train from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("train", *flags, "--seed", str(seed), "--data", data, "--run", folder)
        began = time.perf_counter()
        process = subprocess.Popen(
            common.trainer(*arguments),
            env=common.environment(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(LIMIT)
        finally:
            common.kill(process)
        wall = time.perf_counter() - began
        assert code == 0, f"{arguments}: exit code {code}"
        result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
    accuracy, seconds = result["test_accuracy"], result["train_seconds"]
    print(f"{' '.join(flags)}: {accuracy:.2%}, {seconds:.1f} s", file=sys.stderr, flush=True)
    reached = accuracy >= target
    return Reached(seconds if reached else NEVER, wall if reached else NEVER, accuracy)


def peer(
    kind: str, seed: int, targets: dict[float, tuple[str, ...]], chosen: argparse.Namespace
) -> dict[float, Reached]:
    """Train an example until its last epoch, or the greatest target; return what it reached."""
    epochs = EPOCHS[kind]
    rows = 2000 if chosen.quick else 60000
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), dict[float, Reached]()
        command = example_command(kind, seed, chosen.data, folder)
        outside, began = 0.0, time.perf_counter()
        with Side(command) as side:
            train = 0.0
            for _ in range(1 if chosen.quick else epochs):
                train += side.ask(do="epoch", rows=rows)["seconds"]
                answer = side.ask(do="score")
                outside += answer["seconds"]
                reached = Reached(train, time.perf_counter() - began - outside, answer["accuracy"])
                for target in targets:
                    if reached.accuracy >= target:
                        found.setdefault(target, reached)
                if reached.accuracy >= ENOUGH:
                    break
    return found


def example_command(kind: str, seed: int, data: str, folder: Path) -> list[str]:
    """Return the command of an example; see keras_example.py and torch_example.py."""
    if kind == "keras":
        return [sys.executable, "-m", "benchmarks.keras_example", str(seed), data]
    python = common.peer_python("torch")
    assert python
    return [python, "-m", "benchmarks.torch_example", str(seed), arrays.save(data, 0, folder)]


if __name__ == "__main__":
    main()
