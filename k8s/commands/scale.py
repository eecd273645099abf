"""``scale``: change the number of a run's workers while it trains."""

import argparse
import json
from typing import Any

from k8s import manifest, run_file
from k8s.client.cluster import Cluster
from k8s.client.refusals import InvalidError
from k8s.diagnosis import run_phase
from k8s.run import gather_evidence, which_run
from k8s.run_file import RunSpec
from trainer.cluster_spec import MOST_WORKERS
from trainer.common.text import called
from trainer.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Change the number of a run's workers while it trains, on the same batches. Its run file "
        "must set train.min_workers."
    )
    which_run.add_run(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", required=True, help="Train with N workers from now on."
    )


def run(options: argparse.Namespace) -> None:
    """Give the run's Job another number of pods.

    Raises:
        ConfigError: there is no such run, or it cannot have this size.
    """
    cluster, name, _ = which_run.find(options)
    job = which_run.job(cluster, name)
    check(cluster, job, options.workers)
    before, after = run_phase.workers(job), options.workers
    if run_phase.phase(job, gather_evidence.pods(cluster, job)) in run_phase.OVER:
        which_run.say(f"{name}: has finished; there is nothing to scale")
    elif before == after:
        which_run.say(f"{name}: has {after} workers already")
    else:
        resize(cluster, name, after)
        which_run.say(
            f"{name}: goes from {before} to {after} workers after a chunk of steps; next: "
            f"{called('k8s')} status {name}{cluster.flags}"
        )


def resize(cluster: Cluster, name: str, workers: int) -> None:
    """Have a run's Job keep so many pods.

    Raises:
        ConfigError: the API server is older than Kubernetes 1.31.
    """
    try:
        cluster.patch("Job", name, {"spec": {"completions": workers, "parallelism": workers}})
    except InvalidError as error:
        raise ConfigError(
            f"{name}: {error}; before Kubernetes 1.31 a Job keeps its size: cancel, delete and "
            "submit it with other workers, and it resumes from its last checkpoint"
        ) from None


def check(cluster: Cluster, job: dict[str, Any], workers: int) -> RunSpec:
    """Return a run's file with so many workers.

    Raises:
        ConfigError: the run cannot have them.
    """
    name, metadata = job["metadata"]["name"], job["metadata"]
    try:
        values = json.loads((metadata.get("annotations") or {})[manifest.RUN_FILE])
    except (KeyError, ValueError):
        raise ConfigError(f"{name}: was not submitted from a run file; it keeps its size") from None
    old = run_file.parse(values, name)
    resubmit = f"{called('k8s')} delete {name}{cluster.flags}, then submit it with"
    if not old.config.min_workers:
        raise ConfigError(
            f"{name}: train.min_workers is not set, so its size is fixed; {resubmit} it, and it "
            "resumes from its last checkpoint"
        )
    if manifest.QUEUE in (metadata.get("labels") or {}):
        raise ConfigError(
            f"{name}: its queue has admitted it with so many pods as it has; {resubmit} other "
            "workers, and it resumes from its last checkpoint"
        )
    batch, devices = old.config.batch_size, max(1, old.resources.gpus)
    most, least = MOST_WORKERS, max(2, old.config.min_workers)
    fitting = [each for each in range(least, most + 1) if batch % (each * devices) == 0]
    if workers not in fitting:
        near = [each for each in fitting if each < workers][-1:]
        near += [each for each in fitting if each > workers][:1]
        raise ConfigError(
            f"{name}: --workers {workers}: must be from {least} to {most} and split batch_size "
            f"{batch} evenly between the workers' devices; give {' or '.join(map(str, near))}"
        )
    return run_file.parse({**values, "workers": workers}, name)
