"""``delete``: remove a run from the cluster."""

import argparse

from k8s.commands import target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Remove a run from the cluster. Its folder in the bucket stays."
    target.add_run(parser)


def run(options: argparse.Namespace) -> None:
    """Delete the run's Job, which owns its other objects.

    Raises:
        ConfigError: there is no such run.
    """
    cluster, name, _ = target.find(options)
    target.job(cluster, name)
    cluster.delete("Job", name)
    target.say(f"{name}: removed from the cluster; its folder in the bucket stays")
