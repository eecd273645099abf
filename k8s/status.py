"""The state of one run or of all of them."""

import contextlib
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from k8s import manifest, observe, view
from k8s.client import Cluster
from trainer.errors import UserError

TAIL = 1000  # lines of rank 0's log that progress is taken from


def summary(
    cluster: Cluster, job: dict[str, Any], events: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return what there is to know of a run, ready for JSON.

    Args:
        cluster: where it is.
        job: of the run.
        events: of the namespace, where they have been read already.
    """
    pods = observe.pods(cluster, job)
    phase = view.phase(job, pods)
    progress = _progress(cluster, pods)
    cause = observe.cause(cluster, job, pods, events)
    message = cause.message if cause else ""
    if not message and phase in ("Starting", "Running") and progress.cause:
        message = f"{progress.cause} (restarted)"
    now = datetime.now(UTC)
    return {
        "name": job["metadata"]["name"],
        "namespace": job["metadata"]["namespace"],
        "phase": phase,
        "step": progress.step or progress.result.get("steps"),
        "total_steps": progress.total or progress.result.get("steps"),
        "accuracy": progress.accuracy(),
        "seconds_left": progress.seconds_left() if phase == "Running" else None,
        "restarts": progress.restarts + view.restarted_pods(pods),
        "age_seconds": round(view.seconds_between(job["metadata"]["creationTimestamp"], now)),
        "cause": message,
        "cause_kind": cause.kind if cause else "",
        "ranks": [
            {
                "rank": rank,
                "pod": pod["metadata"]["name"],
                "state": view.pod_state(pod),
                "node": pod["spec"].get("nodeName", ""),
            }
            for rank, pod in view.current(pods).items()
        ],
    }


def _progress(cluster: Cluster, pods: list[dict[str, Any]]) -> view.Progress:
    progress = view.Progress()
    leader = view.current(pods).get(0)
    if leader is not None and view.has_log(leader):
        with contextlib.suppress(UserError):  # the pod is going
            for at, text in cluster.log(leader["metadata"]["name"], tail=TAIL):
                progress.take(at, view.parse_line(text))
    return progress


def all_runs(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the summaries of all runs in the namespace, newest first."""
    jobs = cluster.list("Job", labels=manifest.selector())
    jobs.sort(key=lambda job: str(job["metadata"]["creationTimestamp"]), reverse=True)
    events = cluster.list("Event") if jobs else []
    return [summary(cluster, job, events) for job in jobs]


def show_table(runs: list[dict[str, Any]], namespace: str) -> None:
    """Print one line for each run, and below it what is wrong with it."""
    console = Console(highlight=False, soft_wrap=True)
    if not runs:
        console.print(
            f"no runs in namespace {namespace}; --namespace gives another, make submit starts one"
        )
        return
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("NAME", "PHASE", "STEP", "ACCURACY", "RESTARTS", "AGE"):
        table.add_column(title, no_wrap=True)
    for run in runs:
        table.add_row(*_cells(run))
    console.print(table)
    for run in runs:
        if run["cause"]:
            console.print(Text(f"{run['name']}: {run['cause']}", "yellow"))


def show_run(run: dict[str, Any]) -> None:
    """Print one run with its ranks."""
    console = Console(highlight=False, soft_wrap=True)
    show_table([{**run, "cause": ""}], run["namespace"])
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("RANK", "POD", "STATE", "NODE"):
        table.add_column(title, no_wrap=True)
    for rank in run["ranks"]:
        table.add_row(str(rank["rank"]), rank["pod"], rank["state"], rank["node"])
    if run["ranks"]:
        console.print()
        console.print(table)
    if run["seconds_left"]:
        console.print(f"{view.duration(run['seconds_left'])} left")
    if run["cause"]:
        console.print(Text(run["cause"], "yellow"))


def _cells(run: dict[str, Any]) -> list[str]:
    step = f"{run['step']}/{run['total_steps']}" if run["step"] else "-"
    accuracy = f"{run['accuracy']:.2%}" if run["accuracy"] is not None else "-"
    age = view.duration(run["age_seconds"])
    return [run["name"], run["phase"], step, accuracy, str(run["restarts"]), age]
