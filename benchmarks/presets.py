"""Train every preset on MNIST and write the table of docs/presets.md.

    python -m benchmarks.presets --data URI [--only NAME ...]

Each figure is read from the result.json of a run in a process of its own. Cheap presets run with
three seeds and show the median, the others with one.
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

DEAR = {"cnn-best"}  # one seed
TABLE = Path(__file__).parent.parent / "docs" / "presets.md"


def main() -> None:
    """Run the presets, print the table, and write it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", required=True, help="URI of MNIST's four files")
    parser.add_argument("--only", nargs="*", choices=list(PRESETS), default=list(PRESETS))
    options = parser.parse_args()
    rows, versions = [], {}
    for name in options.only:
        seeds = (1,) if name in DEAR else (1, 2, 3)
        results = [train(name, seed, options.data) for seed in seeds]
        versions = results[0]["versions"]
        rows.append(row(name, results))
        print(rows[-1], flush=True)
    if options.only == list(PRESETS):
        TABLE.write_text(page(rows, versions))
        print(f"written to {TABLE}")


def train(preset: str, seed: int, data: str) -> dict[str, Any]:
    """Train one preset and return its result."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--preset", preset, "--seed", str(seed), "--data", data, "--run", folder)
        subprocess.run(
            [sys.executable, "-m", "trainer", "train", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
        return result


def row(name: str, results: list[dict[str, Any]]) -> str:
    """Return one line of the table."""
    preset = PRESETS[name]
    accuracies = [result["test_accuracy"] for result in results]
    seconds = statistics.median(result["train_seconds"] for result in results)
    spread = f" ({min(accuracies):.2%} to {max(accuracies):.2%})" if len(results) > 1 else ""
    source = f"{preset.accuracy:.2%}" + ("" if preset.source else " (goal)")
    return (
        f"| `{name}` | {preset.summary} | {source} | "
        f"{statistics.median(accuracies):.2%}{spread} | {seconds:.1f} |"
    )


def page(rows: list[str], versions: dict[str, str]) -> str:
    """Return docs/presets.md."""
    cores = len(os.sched_getaffinity(0))
    return "\n".join(
        [
            "# Presets",
            "",
            "Made by `make presets`: test accuracy on MNIST, median (and range) of three seeds,",
            f"one for {', '.join(sorted(DEAR))}. Seconds are those of the training loop, tracing",
            "and compiling included, loading and evaluation not.",
            "",
            f"Measured on {cores} cores ({platform.machine()}), "
            f"TensorFlow {versions['tensorflow']}, Python {versions['python']}.",
            "",
            "| preset | model | source's accuracy | ours | seconds |",
            "|---|---|---|---|---|",
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
