"""``delete``: remove a run from the cluster."""

import argparse

from k8s.run import which_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Remove a run from the cluster, or all runs of a sweep. Folders in the bucket stay."
    )
    which_run.add_run(parser, which_run.RUN_OR_SWEEP)


def run(options: argparse.Namespace) -> None:
    """Delete the Job of each run, which owns its other objects."""
    cluster, name, _ = which_run.find(options)
    for job in which_run.jobs(cluster, name):
        its_name = job["metadata"]["name"]
        cluster.delete("Job", its_name)
        which_run.say(f"{its_name}: removed from the cluster; what it stored in its folder stays")
