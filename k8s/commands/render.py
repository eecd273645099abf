"""``render``: the objects of a run file."""

import argparse
import sys

from k8s import manifest
from k8s.run import which_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Print the Kubernetes objects that submitting a run file creates."
    which_run.add_run_file(parser)
    which_run.add_output(parser, "yaml")


def run(options: argparse.Namespace) -> None:
    """Print the objects."""
    items = manifest.objects(which_run.read(options))
    if options.output == "json":
        which_run.print_json({"apiVersion": "v1", "kind": "List", "items": items})
    else:
        sys.stdout.write(manifest.as_yaml(items))
