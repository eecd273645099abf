"""``sweep``: the runs of a sweep file."""

import argparse
import sys

from trainer.cli import shared
from trainer.gang import process, sweep, sweep_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Train the runs that a sweep file describes, one after the other, and compare them. "
        "The same command skips finished runs and resumes an interrupted one."
    )
    parser.add_argument(
        "file", metavar="FILE", help="Read this sweep file, such as docs/sweep.yaml."
    )
    parser.add_argument("--plan", action="store_true", help="Print the runs and train none.")


def run(options: argparse.Namespace) -> None:
    """Train the runs, or print the plan."""
    stop = process.stop_event()
    wanted = sweep_file.read(options.file)
    if options.plan:
        sys.stdout.write(sweep.as_text(sweep_file.plan(wanted)))
    else:
        sweep.execute(wanted, stop, shared.width())
