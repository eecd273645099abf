"""``chaos``: training under injected faults."""

import argparse

from trainer.cli import shared
from trainer.testing import chaos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Train on this machine, first undisturbed, then while processes are killed, frozen and "
        "stopped, ports are occupied and the store fails. Every run must end with the same weights."
    )
    for name, value, text in (
        ("--workers", 2, "worker processes in the gang"),
        ("--faults", 100, "faults to inject"),
        ("--seed", 7, "seed of the faults"),
        ("--steps", 6000, "steps of each run"),
        ("--chunk-steps", 20, "steps of a chunk, the most that a fault may cost"),
    ):
        parser.add_argument(
            name, type=int, default=value, metavar="N", help=f"{text} (default: {value})"
        )
    kinds = ", ".join(f"{kind} ({text})" for kind, text in chaos.KINDS.items())
    parser.add_argument(
        "--kinds",
        default=",".join(chaos.KINDS),
        metavar="LIST",
        help=f"kinds of faults to inject, with commas: {kinds} (default: all)",
    )
    parser.add_argument("--preset", metavar="TEXT", help="model to train (default: cnn)")
    parser.add_argument("--model", metavar="TEXT", help="your own model, package.module:function")
    parser.add_argument(
        "--data", metavar="URI", help="folder of the dataset (default: digits are drawn)"
    )
    shared.add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Train under faults and report how the runs ended."""
    given = {name: getattr(options, name) for name in ("preset", "model", "data")}
    settings = {name: value for name, value in given.items() if value is not None}
    settings |= {"steps": options.steps, "chunk_steps": options.chunk_steps}
    chaos.chaos(
        settings,
        options.workers,
        options.faults,
        options.seed,
        options.kinds.split(","),
        as_json=options.json,
    )
