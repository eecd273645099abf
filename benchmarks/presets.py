"""Train every preset on MNIST and write the table of docs/presets.md.

    python -m benchmarks.presets --data URI [--only NAME ...]

Each figure is read from the result.json of a run in a process of its own. Every preset runs as it
is, and cheap ones with three more seeds as well.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainer.presets import PRESETS

DEAR = {"cnn-best"}  # run as it is only
SEEDS = (11, 12, 13)
TABLE = Path(__file__).parent.parent / "docs" / "presets.md"


def main() -> None:
    """Run the presets, print the table, and write it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", required=True, help="URI of MNIST's four files")
    parser.add_argument("--only", nargs="*", choices=list(PRESETS), default=list(PRESETS))
    options = parser.parse_args()
    rows, versions = [], {}
    for name in options.only:
        result = train(name, options.data)
        more = [train(name, options.data, "--seed", str(s)) for s in SEEDS if name not in DEAR]
        versions = result["versions"]
        rows.append(row(name, result, more))
        print(rows[-1], flush=True)
    if options.only == list(PRESETS):
        TABLE.write_text(page(rows, versions))
        print(f"written to {TABLE}")


def train(preset: str, data: str, *flags: str) -> dict[str, Any]:
    """Train one preset and return its result."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--preset", preset, "--data", data, "--run", folder, *flags)
        subprocess.run(
            [sys.executable, "-m", "trainer", "train", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
        return result


def row(name: str, result: dict[str, Any], more: list[dict[str, Any]]) -> str:
    """Return one line of the table."""
    preset = PRESETS[name]
    accuracies = [each["test_accuracy"] for each in more]
    median = f"{statistics.median(accuracies):.2%}" if more else ""
    spread = f"{median} ({min(accuracies):.2%} to {max(accuracies):.2%})" if more else ""
    seconds = statistics.median(each["train_seconds"] for each in (result, *more))
    source = f"{preset.accuracy:.2%}" + ("" if preset.source else " (goal)")
    return (
        f"| `{name}` | {preset.summary} | {source} | {result['test_accuracy']:.2%} | "
        f"{spread} | {seconds:.1f} |"
    )


def page(rows: list[str], versions: dict[str, str]) -> str:
    """Return docs/presets.md."""
    cores = len(os.sched_getaffinity(0))
    return "\n".join(
        [
            "# Presets",
            "",
            "`make presets` writes this page. It shows the test accuracy on MNIST of each preset",
            "with its own seed, and the median (and range) with seeds "
            f"{', '.join(map(str, SEEDS))}.",
            "A source's figure is that of one run; if most of our runs are below it, the preset's",
            "seed is one whose run reaches it. Seconds are training time, including tracing and",
            "compiling, but not loading and evaluation.",
            "",
            f"Measured on {cores} cores ({platform.machine()}), "
            f"TensorFlow {versions['tensorflow']}, Python {versions['python']}.",
            "",
            "| preset | model | source | ours | ours, other seeds | seconds |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Sources:",
            "",
            *(f"- `{name}`: {preset.source}" for name, preset in PRESETS.items() if preset.source),
            "",
        ]
    )


if __name__ == "__main__":
    main()
