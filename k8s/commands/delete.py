"""``delete``: remove a run from the cluster."""

import argparse

from k8s.commands import target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Remove a run from the cluster, or all runs of a sweep. Folders in the bucket stay."
    )
    target.add_run(parser, target.RUN_OR_SWEEP)


def run(options: argparse.Namespace) -> None:
    """Delete the Job of each run, which owns its other objects."""
    cluster, name, _ = target.find(options)
    for job in target.jobs(cluster, name):
        its_name = job["metadata"]["name"]
        cluster.delete("Job", its_name)
        target.say(f"{its_name}: removed from the cluster; its folder in the bucket stays")
