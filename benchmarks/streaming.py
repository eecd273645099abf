"""What streaming shards costs beside images in memory, and whether more of them cost more.

    python -m benchmarks.streaming --data URI [--folder FOLDER] [--sizes N ...]

Digits are drawn by the program and put into FOLDER in shards, once; 8.1 million take 6.4 GB and
eight minutes. Runs of equally many steps over them, and over the data in memory, take turns.
Memory is the greatest of any process of a run.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import common
from benchmarks.common import Spread, ratios, table, take_turns
from benchmarks.workers import rate

SIZES = (600_000, 8_100_000)
SHARD = 126_563  # images, at most: 8.1 million in 64 shards
BATCH, CHUNK = 256, 250
HELD = "60,000 of MNIST, in memory"
STEPS = 5_000  # more than ten windows of shards
PRESET = "mlp-100"  # the fastest at this batch, which leaves least time to read
LIMIT = 900.0  # seconds of one command


@dataclass(frozen=True)
class Finished:
    """A run: images per second, microseconds of processor time an image, MiB at its peak."""

    rate: float
    cpu: float
    memory: float


def main() -> None:
    """Measure and print."""
    parser = common.options(main.__doc__, rounds=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--folder", type=Path, default=common.ROOT / "bucket" / "digits")
    chosen = common.parse(parser)
    sizes, steps = ((4_000,), 4 * CHUNK) if chosen.quick else (chosen.sizes, STEPS)
    sources = {HELD: chosen.data}
    sources |= {f"{size:,}": put(chosen.folder, size, chosen.quick) for size in sizes}
    runs: dict[str, list[Finished]] = {name: [] for name in sources}

    def work(name: str) -> float:
        runs[name].append(train(sources[name], steps))
        print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
        return runs[name][-1].rate

    rates = take_turns({name: partial(work, name) for name in sources}, chosen.rounds)
    rows = [
        [
            name,
            Spread.of(rates[name]).text(),
            ratios(rates[name], rates[HELD]).text(".2f"),
            Spread.of(each.cpu for each in found).text(".2f"),
            f"{max(each.memory for each in found):,.0f}",
        ]
        for name, found in runs.items()
    ]
    about = (
        f"`{PRESET}` at batch {BATCH}, {steps:,} steps, median (least to greatest) of "
        f"{chosen.rounds} runs of each in turns. Images/s leave out the first chunk; processor "
        "time is that of whole runs."
    )
    head = ["images", "images/s", "times those in memory", "CPU, us an image", "peak, MiB"]
    common.publish(chosen, "Streaming", about, table(head, rows))


def put(parent: Path, size: int, quick: bool) -> str:
    """Return the folder of so many digits in shards, which are drawn unless they are there."""
    folder = parent / str(size)
    if not (folder / "shards.json").exists():
        shards = 4 if quick else -(-size // SHARD)
        command = ["data", "put", "--from", "digits", "--samples", str(size)]
        command += ["--shards", str(shards), "--to", str(folder)]
        common.run(common.trainer(*command), LIMIT)
    return str(folder)


def train(data: str, steps: int) -> Finished:
    """Train from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--preset", PRESET, "--batch-size", str(BATCH), "--chunk-steps", str(CHUNK)]
        settings += ["--steps", str(steps), "--validation", "0", "--no-report"]
        command = common.trainer("train", *settings, "--data", data, "--run", folder)
        used = common.run(command, LIMIT)
        speed = rate((Path(folder) / "metrics.jsonl").read_text(), BATCH)
        images = json.loads((Path(folder) / "result.json").read_text())["steps"] * BATCH
    cpu = (used.ru_utime + used.ru_stime) / images
    return Finished(speed, cpu * 1e6, used.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
