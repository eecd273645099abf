"""``list``: all runs in a namespace."""

import argparse

from k8s.commands import status, target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Show the phase and progress of all runs in the namespace; the runs of a sweep follow a "
        "line for the sweep."
    )
    target.add_cluster(parser)
    target.add_output(parser)


def run(options: argparse.Namespace) -> None:
    """Print the runs."""
    status.list_runs(options)
