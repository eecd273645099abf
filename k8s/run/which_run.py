"""The run that a verb is for, given by its run file or its name; and the flags that say so."""

import argparse
import json
import sys
from typing import Any

from k8s import manifest, run_file
from k8s.client.cluster import Cluster
from k8s.run import run_store
from k8s.run_file import RunSpec
from trainer.common.text import called, printable
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.storage.base import Storage

RUN_OR_SWEEP = "Find the run by its run file or its name, or the runs of a sweep by its name."


def add_run(
    parser: argparse.ArgumentParser,
    text: str = "Find the run by its run file or its name.",
    *,
    nargs: Any = None,
) -> None:
    """Declare RUN, and the cluster that it is in."""
    parser.add_argument("run", metavar="RUN", nargs=nargs, help=text)
    add_cluster(parser)


def add_run_file(parser: argparse.ArgumentParser) -> None:
    """Declare RUN of verbs that need a run file, and its cluster."""
    add_run(parser, "Read this run file.")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that choose a cluster and a namespace."""
    parser.add_argument("--context", help="Use this context of kubectl (default: the current one).")
    parser.add_argument(
        "-n",
        "--namespace",
        help="Use this namespace (default: the run file's, or the context's).",
    )


def add_output(parser: argparse.ArgumentParser, other: str = "text") -> None:
    """Declare --output."""
    parser.add_argument(
        "-o",
        "--output",
        choices=(other, "json"),
        default=other,
        help=f"Print this format (default: {other}).",
    )


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of verbs that read a run's folder."""
    parser.add_argument("--folder", metavar="URI", help="Read this folder instead of RUN's.")
    parser.add_argument(
        "--storage-endpoint", metavar="URL", help="Reach the store at this address from here."
    )


def is_file(run: str) -> bool:
    """Whether RUN is a run file, not a run's name."""
    return "/" in run or run.endswith((".yaml", ".yml"))


def read(options: argparse.Namespace) -> RunSpec:
    """Read RUN, which must be a run file.

    Raises:
        ConfigError: it cannot be read, or breaks a rule.
    """
    spec = run_file.read(options.run, namespace=options.namespace)
    try:
        manifest.objects(spec)  # raises what is wrong with its patches
    except ConfigError as error:
        raise ConfigError(f"{options.run}: {error}") from None
    return spec


def cluster(options: argparse.Namespace, run: RunSpec | None = None) -> Cluster:
    """Return the cluster that the flags, or else a run file, name."""
    return Cluster(options.context, options.namespace or (run.namespace if run else None))


def find(options: argparse.Namespace) -> tuple[Cluster, str, RunSpec | None]:
    """Return cluster and name of a run, and its run file if that is given.

    Raises:
        ConfigError: RUN is missing, or its run file cannot be read.
    """
    if not options.run:
        raise ConfigError("RUN is missing: give a run file or a run's name")
    if is_file(options.run):
        run = read(options)
        return cluster(options, run), run.name, run
    return cluster(options), options.run, None


def job(there: Cluster, name: str) -> dict[str, Any]:
    """Return a run's Job.

    Raises:
        ConfigError: there is none, or a Job that is no run.
    """
    found = there.get("Job", name)
    if found is None:
        raise ConfigError(no_such_run(there, name))
    labels = found["metadata"].get("labels") or {}
    if labels.get("app.kubernetes.io/name") != "trainyard":
        raise ConfigError(f"{name}: this Job is no run; leave it to whoever made it")
    return found


def jobs(there: Cluster, name: str) -> list[dict[str, Any]]:
    """Return a run's Job; where no run has this name, the Jobs of the sweep that has it.

    Raises:
        ConfigError: there is neither, or a Job that is no run.
    """
    if there.get("Job", name) is None:
        runs = there.list("Job", labels=manifest.selector())
        labels = [run["metadata"].get("labels") or {} for run in runs]
        its = [
            run for run, its in zip(runs, labels, strict=True) if its.get(manifest.SWEEP) == name
        ]
        if its:
            return sorted(its, key=lambda run: str(run["metadata"]["name"]))
    return [job(there, name)]


def no_such_run(there: Cluster, name: str) -> str:
    """Say that a run is not in the cluster."""
    where = f"no such run in namespace {there.namespace}"
    return f"{name}: {where}; see {called('k8s')} list, or give --namespace"


def folder(options: argparse.Namespace) -> tuple[Storage, TrainConfig | None]:
    """Return a run's folder and settings; with --folder there are no settings.

    Raises:
        ConfigError: nothing names a folder, or the run is not in the cluster.
    """
    run_store.use(options.storage_endpoint)
    if options.folder:
        return run_store.open_folder(options.folder, {}), None
    if not options.run:
        raise ConfigError("RUN is missing: give a run file, a run's name, or --folder URI")
    if is_file(options.run):
        run = read(options)
        if run.run_uri.startswith("/"):
            return run_store.on_claim(cluster(options, run), run), run.config
        return run_store.of_spec(run), run.config
    there = cluster(options)
    found = there.get("Job", options.run)
    if found is None:
        raise ConfigError(
            f"{options.run}: no such run in namespace {there.namespace}; if it is gone from the "
            "cluster, give its run file instead of its name, or --folder URI"
        )
    return run_store.of_job(there, found)


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()


def print_json(values: Any) -> None:
    """Print values as JSON, in which all that is not ASCII is escaped."""
    sys.stdout.write(json.dumps(values, indent=2) + "\n")
    sys.stdout.flush()
