"""``render``: the objects of a run file."""

import argparse
import sys

from k8s import manifest
from k8s.commands import target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Print the Kubernetes objects that submitting a run file creates."
    target.add_run_file(parser)
    target.add_output(parser, "yaml")


def run(options: argparse.Namespace) -> None:
    """Print the objects."""
    items = manifest.objects(target.read(options))
    if options.output == "json":
        target.print_json({"apiVersion": "v1", "kind": "List", "items": items})
    else:
        sys.stdout.write(manifest.as_yaml(items))
