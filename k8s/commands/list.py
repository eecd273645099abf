"""``list``: all runs in a namespace."""

import argparse

from k8s.commands import status
from k8s.run import which_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Show the phase and progress of all runs in the namespace; the runs of a sweep follow a "
        "line for the sweep."
    )
    which_run.add_cluster(parser)
    which_run.add_output(parser)


def run(options: argparse.Namespace) -> None:
    """Print the runs."""
    status.list_runs(options)
