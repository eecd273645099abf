"""``cancel``: ask a run to store a checkpoint and stop."""

import argparse
from typing import Any

from k8s import manifest
from k8s.client.cluster import Cluster
from k8s.diagnosis import run_phase
from k8s.run import gather_evidence, which_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Ask a run, or all runs of a sweep, to store a checkpoint and stop. The command that "
        "started it resumes it."
    )
    which_run.add_run(parser, which_run.RUN_OR_SWEEP)


def run(options: argparse.Namespace) -> None:
    """Stop the run, or each run of the sweep."""
    cluster, name, _ = which_run.find(options)
    for job in which_run.jobs(cluster, name):
        _stop(cluster, job)


def _stop(cluster: Cluster, job: dict[str, Any]) -> None:
    """Suspend a run's Job, or remove it from its queue, which would start it again."""
    name = job["metadata"]["name"]
    state = run_phase.phase(job, gather_evidence.pods(cluster, job))
    again = "submit it again to resume from there"
    if manifest.SWEEP in job["metadata"]["labels"]:
        again = "the sweep's command resumes it from there"
    if state in run_phase.OVER:
        which_run.say(f"{name}: has finished; there is nothing to stop")
    elif state == "Suspended":
        which_run.say(f"{name}: is stopped already; {again}")
    elif ask(cluster, job):
        which_run.say(f"{name}: stores a checkpoint and leaves its queue; {again}")
    else:
        which_run.say(f"{name}: stores a checkpoint and stops; {again}")


def ask(cluster: Cluster, job: dict[str, Any]) -> bool:
    """Have a run store a checkpoint and stop; return whether its Job had to go from its queue."""
    queued = manifest.QUEUE in (job["metadata"].get("labels") or {})
    if queued:
        cluster.delete("Job", job["metadata"]["name"])
    else:
        cluster.patch("Job", job["metadata"]["name"], {"spec": {"suspend": True}})
    return queued
