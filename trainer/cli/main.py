"""The commands, their errors and exit codes."""

import argparse
import os
import sys
from collections.abc import Sequence

from trainer import worker_events
from trainer.common.command_line import Program
from trainer.errors import UserError
from trainer.gang import process

COMMANDS = {
    name: (f"trainer.cli.{name}", text)
    for name, text in {
        "train": "Train a model, or resume an interrupted run.",
        "evaluate": "Measure a run's model on test images.",
        "report": "Write a page with a run's curves, errors and settings.",
        "predict": "Classify your own pictures of digits.",
        "export": "Write a run's model for other programs.",
        "compare": "Show how runs differ in settings and results.",
        "sweep": "Train a grid or random search, and compare its runs.",
        "watch": "Show a run on a page while it trains.",
        "tensorboard": "Serve runs with TensorBoard.",
        "check": "Build your own model without training it.",
        "data": "Put a dataset where runs can read it, or show one.",
        "chaos": "Train under injected faults, and compare the weights.",
    }.items()
}
PROGRAM = Program(
    name="trainer",
    description="Train image classifiers on MNIST-format data.",
    epilog="exit codes: 0 done, 2 bad arguments or configuration, 65 bad data, "
    "69 storage or peers not reached, 71 a machine gives wrong results, 75 stopped (run again to "
    "resume), 1 anything else",
    commands=COMMANDS,
)


def main(arguments: Sequence[str] | None = None, program: Program = PROGRAM) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def prepare(options: argparse.Namespace) -> None:
        options.arguments = given
        if options.command not in ("train", "sweep"):  # which take requests to stop themselves
            process.default_signals()

    def tell(error: UserError) -> bool:
        from trainer import failure  # not before it is needed: --help is quick

        found = failure.of(error)
        told = worker_events.tell_parent(failure=found.record())
        # If a gang's first process is gone, all ranks stop at the same time; rank 0 says so.
        of_gang = worker_events.STATUS_FD in os.environ
        return told or (of_gang and found.kind == "stopped" and bool(found.rank))

    return program.run(given, prepare, tell)
