"""``logs``: a run's logs, from its pods, or from its folder once they are gone."""

import argparse
import contextlib
import heapq
import itertools
import sys
from collections.abc import Iterator
from typing import Any

from k8s.client.cluster import Cluster
from k8s.client.refusals import ClusterError
from k8s.diagnosis import run_phase
from k8s.run import follow, gather_evidence, log_streams, which_run
from k8s.run.screen import Screen
from trainer.common.text import printable
from trainer.errors import ConfigError, UserError
from trainer.runs import logs
from trainer.storage.base import Storage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Print the logs of a run's pods, or those in its folder once the pods are gone."
    )
    which_run.add_run(parser, nargs="?")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="Print new lines until the run ends."
    )
    parser.add_argument("--rank", type=int, metavar="K", help="Print only the log of rank K.")
    parser.add_argument(
        "--previous",
        action="store_true",
        help="Print the logs of the pods before the current ones.",
    )
    which_run.add_folder(parser)


def run(options: argparse.Namespace) -> int:
    """Print the logs that the flags ask for."""
    _check(options)
    if options.folder:
        return _stored(options)
    cluster, name, spec = which_run.find(options)
    job = cluster.get("Job", name)
    if job is None and not (options.follow or options.previous):
        return _stored(options)
    job = which_run.job(cluster, name)
    workers = run_phase.workers(job)
    if options.rank is not None and options.rank >= workers:
        raise ConfigError(f"--rank {options.rank}: the run has ranks 0 to {workers - 1}")
    if options.follow:
        deadline = spec.start_deadline if spec else float("inf")
        return follow.follow(cluster, name, deadline, with_logs=True, rank=options.rank)
    pods = gather_evidence.pods(cluster, job)
    if options.rank is None and workers > log_streams.STREAMS:
        sys.stderr.write(f"{name}: {log_streams.not_all(workers)}\n")
    lines = from_pods(cluster, pods, options.rank, previous=options.previous)
    if show(lines, Screen(workers)):
        return 0
    if options.previous:
        raise ConfigError(
            f"--previous: no pod from before the current ones of {name} is there; leave it out, or "
            "give --folder with the run's folder, which keeps the logs of all pods"
        )
    words = _nothing_yet(cluster, job, pods, options.rank)
    if not words:
        return _stored(options)
    if any(map(run_phase.has_log, pods)):  # their node may have lost it
        with contextlib.suppress(UserError):
            return _stored(options)
    sys.stderr.write(f"{printable(f'{name}: {words}')}\n")
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.follow and (options.previous or options.folder):
        raise ConfigError("--follow: shows what comes; leave --previous and --folder out")
    if options.rank is not None and options.rank < 0:
        raise ConfigError(f"--rank {options.rank}: must be at least 0")


def _nothing_yet(
    cluster: Cluster, job: dict[str, Any], pods: list[dict[str, Any]], rank: int | None
) -> str:
    """Return why pods that are there, or are to come, have logged nothing; else an empty text."""
    phase = run_phase.phase(job, pods)
    its = [pod for number, pod in run_phase.current(pods).items() if rank in (None, number)]
    if any(map(run_phase.has_log, its)):
        if rank:
            return f"rank {rank} has logged nothing; the run's progress is in the log of rank 0"
        return "has logged nothing yet: it loads TensorFlow and its data"
    if phase not in ("Pending", "Starting", "Queued"):
        return ""  # an earlier pod may have stored its log
    found = gather_evidence.cause(gather_evidence.Around(cluster), job, pods, trains=False)
    return f"{phase}: no log yet{f': {found.message}' if found else ''}"


def _stored(options: argparse.Namespace) -> int:
    show_stored(which_run.folder(options)[0], options.rank, Screen(1))
    return 0


def from_pods(
    cluster: Cluster, pods: list[dict[str, Any]], rank: int | None, *, previous: bool
) -> Iterator[tuple[str, int, str]]:
    """Yield time, rank and text of the lines of ranks in the order of time.

    That is all ranks, but no more than ``log_streams.STREAMS``: a connection each; or one.
    """
    index = -2 if previous else -1
    streams = (
        _of_pod(cluster, number, of_rank[index]["metadata"]["name"])
        for number, of_rank in run_phase.by_rank(pods).items()
        if rank in (None, number) and len(of_rank) >= -index and run_phase.has_log(of_rank[index])
    )
    first = itertools.islice(streams, log_streams.STREAMS)
    yield from heapq.merge(*first, key=lambda line: line[0].rstrip("Z"))  # decimals differ


def _of_pod(cluster: Cluster, rank: int, pod: str) -> Iterator[tuple[str, int, str]]:
    try:
        for at, text in cluster.log(pod):
            if at:  # else the kubelet's own words, such as that the container is gone
                yield at, rank, text
    except ClusterError as error:
        if error.status != 404:  # else the pod has just gone
            raise


def show(lines: Iterator[tuple[str, int, str]], screen: Screen) -> bool:
    """Print lines and return whether there were any."""
    empty = True
    for _, rank, text in lines:
        empty = False
        facts = run_phase.parse_line(text)
        screen.ranked(rank, run_phase.as_text(facts), "yellow" if "warning" in facts else None)
    return not empty


def show_stored(folder: Storage, rank: int | None, screen: Screen) -> None:
    """Print what the supervisors stored of the logs.

    Raises:
        ConfigError: they stored none.
    """
    lines = (("", number, text) for number, text in logs.read(folder, rank))
    if not show(lines, screen):
        of_rank = "" if rank is None else f" of rank {rank}"
        if rank and next(logs.read(folder), None):
            raise ConfigError(
                f"{folder.uri}/logs: holds no logs{of_rank}, which has logged nothing; the run's "
                "progress is in the log of rank 0"
            )
        raise ConfigError(
            f"{folder.uri}/logs: holds no logs{of_rank}; the run may not have begun, or it was not "
            "in this folder"
        )
