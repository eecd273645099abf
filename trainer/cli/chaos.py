"""``chaos``: training under injected faults."""

import argparse

from trainer.cli import shared
from trainer.testing import chaos
from trainer.testing.faults import KINDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Train on this machine, first undisturbed, then while processes are killed, frozen and "
        "stopped, and ports are occupied. With --store, requests to that store fail, too. Every "
        "run must end with the same weights."
    )
    for name, value, text in (
        ("--workers", 2, "Train with N worker processes"),
        ("--faults", 100, "Inject N faults"),
        ("--seed", 7, "Seed the choice of the faults"),
        ("--steps", 6000, "Train each run for N steps"),
        ("--chunk-steps", 20, "Make chunks of N steps, the most that a fault may cost"),
    ):
        parser.add_argument(
            name, type=int, default=value, metavar="N", help=f"{text} (default: {value})."
        )
    kinds = ", ".join(f"{kind} ({text})" for kind, text in KINDS.items())
    parser.add_argument(
        "--kinds",
        metavar="LIST",
        help=f"Inject these kinds of faults, separated by commas: {kinds} (default: all; without "
        "--store, all but store).",
    )
    parser.add_argument("--preset", metavar="TEXT", help="Train this preset (default: cnn).")
    parser.add_argument(
        "--model", metavar="TEXT", help="Train your own model, package.module:function."
    )
    parser.add_argument(
        "--data", metavar="URI", help="Read the dataset in this folder (default: drawn digits)."
    )
    parser.add_argument(
        "--store",
        metavar="URI",
        help="Write the runs to this bucket, reached by plain http through a proxy that makes "
        "requests fail, and delete them at the end (default: a temporary folder).",
    )
    shared.add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Train under faults and report how the runs ended."""
    given = {name: getattr(options, name) for name in ("preset", "model", "data")}
    settings = {name: value for name, value in given.items() if value is not None}
    settings |= {"steps": options.steps, "chunk_steps": options.chunk_steps}
    all_kinds = [kind for kind in KINDS if options.store or kind != "store"]
    kinds = options.kinds.split(",") if options.kinds else all_kinds
    chaos.chaos(
        settings,
        options.workers,
        options.faults,
        options.seed,
        kinds,
        store=options.store,
        as_json=options.json,
    )
