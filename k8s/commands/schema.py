"""``schema``: the JSON Schema of run files."""

import argparse

from k8s import run_file
from k8s.run import which_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no flags."""
    parser.description = "Print the JSON Schema of run files, with which editors check them."


def run(_: argparse.Namespace) -> None:
    """Print the schema."""
    which_run.print_json(run_file.schema())
