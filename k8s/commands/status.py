"""``status``: the phase, progress and first cause of one run, or of all."""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from k8s import manifest
from k8s.client.cluster import Cluster
from k8s.client.refusals import ForbiddenError
from k8s.diagnosis import run_phase
from k8s.run import gather_evidence, run_store, stored_result, which_run
from k8s.run_file import RunSpec
from trainer.common.text import duration, one_line, printable
from trainer.errors import ConfigError, UserError
from trainer.runs import goodput

TAIL = 1000  # lines of rank 0's log that show its progress
LOG = 5.0  # seconds for them: the API server waits 30 for a kubelet that is away
# For the logs of all runs: lines together, of each at least, and how many are read at once.
LINES, LEAST, AT_ONCE = 20_000, 20, 16
FIRST = 1 << 20  # bytes from a log's beginning in which a trainer has spoken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Show a run's phase, its progress and the first cause of what is wrong with it; without "
        "RUN, show all runs in the namespace."
    )
    which_run.add_run(parser, nargs="?")
    which_run.add_output(parser)


def run(options: argparse.Namespace) -> None:
    """Print the state of one run, or of all."""
    if options.run is None:
        list_runs(options)
        return
    cluster, name, spec = which_run.find(options)
    job = cluster.get("Job", name)
    if job is None and spec:
        values = _of_folder(cluster, spec)
    else:
        values = look(cluster, which_run.job(cluster, name))
    if options.output == "json":
        which_run.print_json(values)
    else:
        show_run(values)


def _of_folder(cluster: Cluster, spec: RunSpec) -> dict[str, Any]:
    """Return what the folder of a run says of it once it is gone from the cluster.

    Raises:
        ConfigError: it holds no result.
    """
    on_claim = spec.run_uri.startswith("/")
    try:
        folder = run_store.on_claim(cluster, spec) if on_claim else run_store.of_spec(spec)
        found = stored_result.read(folder, spec.config)
    except UserError as error:
        raise ConfigError(
            f"{which_run.no_such_run(cluster, spec.name)}; {one_line(error)}"
        ) from None
    return {
        "name": spec.name,
        "namespace": cluster.namespace,
        "phase": "Succeeded",
        "step": found.get("steps"),
        "total_steps": found.get("steps"),
        "accuracy": run_phase.Progress(result=found).accuracy(),
        "goodput": _goodput(found),
        "seconds_left": None,
        "restarts": None,
        "age_seconds": None,
        "cause": f"gone from the cluster; its result is in {spec.run_uri}",
        "cause_kind": "Gone",
        "slow": [],
        "ranks": [],
    }


def list_runs(options: argparse.Namespace) -> None:
    """Print the state of all runs."""
    cluster = which_run.cluster(options)
    runs = all_runs(cluster)
    if not runs:
        _check_namespace(cluster)
    if options.output == "json":
        which_run.print_json(runs)
    else:
        show_table(runs, cluster.namespace)


def _check_namespace(cluster: Cluster) -> None:
    """Check that the namespace is there, where it may be read.

    Raises:
        ConfigError: it is not.
    """
    with contextlib.suppress(ForbiddenError):
        if cluster.get("Namespace", cluster.namespace) is None:
            raise ConfigError(
                f"no namespace {cluster.namespace} at {cluster.server}; give another with "
                "--namespace or --context"
            )


def look(
    cluster: Cluster, job: dict[str, Any], pods: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the summary of one run; its pods are read where they are not given."""
    pods = gather_evidence.pods(cluster, job) if pods is None else pods
    return summary(gather_evidence.Around(cluster), job, pods, _progress(cluster, pods))


def summary(
    around: gather_evidence.Around,
    job: dict[str, Any],
    pods: list[dict[str, Any]],
    progress: run_phase.Progress,
) -> dict[str, Any]:
    """Return all that is known about a run, ready for JSON."""
    phase = run_phase.phase(job, pods, trains=progress.trains)
    if phase in run_phase.OVER:
        phase, cause = gather_evidence.outcome(around, job, pods, phase, progress)
    else:
        cause = gather_evidence.cause(around, job, pods, trains=progress.trains)
    if phase == "Suspended" and not pods:
        progress.step, progress.total = run_store.newest_step(around.cluster, job)
    message = cause.message if cause else ""
    if not message and phase in ("Starting", "Running") and progress.failure:
        message = f"{progress.failure.sentence(run_phase.workers(job))} (restarted)"
    now = datetime.now(UTC)
    return {
        "name": job["metadata"]["name"],
        "namespace": job["metadata"]["namespace"],
        "sweep": (job["metadata"].get("labels") or {}).get(manifest.SWEEP, ""),
        "phase": phase,
        "step": progress.step or progress.result.get("steps"),
        "total_steps": progress.total or progress.result.get("steps"),
        "accuracy": progress.accuracy(),
        "goodput": _goodput(progress.result),
        "seconds_left": progress.seconds_left() if phase == "Running" else None,
        "restarts": progress.restarts + run_phase.restarted_pods(pods),
        "age_seconds": round(run_phase.seconds_between(job["metadata"]["creationTimestamp"], now)),
        "cause": message,
        "cause_kind": cause.kind if cause else "",
        "slow": progress.slow() if phase == "Running" else [],
        "ranks": [
            {
                "rank": rank,
                "pod": pod["metadata"]["name"],
                "state": run_phase.pod_state(pod),
                "node": pod["spec"].get("nodeName", ""),
            }
            for rank, pod in run_phase.current(pods).items()
        ],
    }


def _goodput(result: dict[str, Any]) -> float | None:
    found = goodput.parse(result)
    return round(found.share, 4) if found else None


def _progress(
    cluster: Cluster, pods: list[dict[str, Any]], tail: int = TAIL, seconds: float = LOG
) -> run_phase.Progress:
    """Return how far a run is, by the last lines of rank 0's log; nothing after these seconds."""
    progress = run_phase.Progress()
    leader = run_phase.current(pods).get(0)
    if leader is not None and run_phase.has_log(leader) and seconds > 0:
        name = leader["metadata"]["name"]
        with contextlib.suppress(UserError):  # the pod is going
            for at, text in cluster.log(name, tail=tail, deadline=seconds):
                progress.take(at, run_phase.parse_line(text))
            if not progress.trains:  # a model may print a lot, but the trainer spoke first
                lines = cluster.log(name, most=FIRST, deadline=seconds)
                progress.trains = any(
                    run_phase.is_report(run_phase.parse_line(t)) for _, t in lines
                )
    return progress


def all_runs(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the summaries of all runs in the namespace, newest first.

    A run that has ended left its figures in its pod; only the logs of the others are read.
    """
    jobs = cluster.list("Job", labels=manifest.selector())
    jobs.sort(key=lambda job: str(job["metadata"]["creationTimestamp"]), reverse=True)
    of_job = gather_evidence.pods_by_job(cluster) if jobs else {}
    pods = [of_job.get(job["metadata"]["uid"], []) for job in jobs]
    left = [run_phase.left_result(its) for its in pods]
    tail = max(LEAST, min(TAIL, LINES // max(1, left.count({}))))
    until = time.monotonic() + LOG

    def progress(its: list[dict[str, Any]], result: dict[str, Any]) -> run_phase.Progress:
        if not result:
            return _progress(cluster, its, tail, until - time.monotonic())
        found = run_phase.Progress()
        found.take("", result)
        return found

    around = gather_evidence.Around(cluster)
    with ThreadPoolExecutor(AT_ONCE) as pool:  # for answers of kubelets and stores
        found = pool.map(progress, pods, left)
        return list(pool.map(partial(summary, around), jobs, pods, found))


def with_sweeps(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs in their order, with those of a sweep together below a line for it."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        lines.setdefault(run["sweep"] or f"/{run['name']}", []).append(run)
    found: list[dict[str, Any]] = []
    for sweep, its in lines.items():
        if sweep.startswith("/"):
            found += its
            continue
        phases = Counter(run["phase"] for run in its)
        line = {
            "name": sweep,
            "phase": ", ".join(f"{count} {phase}" for phase, count in phases.items()),
            "step": None,
            "total_steps": None,
            "accuracy": max((a for run in its if (a := run["accuracy"]) is not None), default=None),
            "restarts": sum(run["restarts"] for run in its),
            "age_seconds": max(run["age_seconds"] for run in its),
        }
        found += [line, *({**run, "name": f"  {run['name']}"} for run in its)]
    return found


def show_table(runs: list[dict[str, Any]], namespace: str) -> None:
    """Print one line for each run, and below the table what is wrong with each."""
    console = Console(highlight=False, soft_wrap=True)
    if not runs:
        hint = "--namespace gives another, make submit starts one"
        console.print(_text(f"no runs in namespace {namespace}; {hint}"))
        return
    titles = ("NAME", "PHASE", "STEP", "ACCURACY", "RESTARTS", "AGE")
    console.print(_table(titles, map(_cells, with_sweeps(runs))))
    for run in runs:
        if run["cause"]:
            console.print(_text(f"{run['name']}: {run['cause']}", "yellow"))


def show_run(run: dict[str, Any]) -> None:
    """Print one run with its ranks."""
    console = Console(highlight=False, soft_wrap=True)
    show_table([{**run, "cause": "", "sweep": ""}], run["namespace"])
    if run["ranks"]:
        rows = [[str(r["rank"]), r["pod"], r["state"], r["node"]] for r in run["ranks"]]
        console.print()
        console.print(_table(("RANK", "POD", "STATE", "NODE"), rows))
    if run["goodput"] is not None:
        console.print(f"goodput {run['goodput']:.1%}")
    if run["seconds_left"]:
        console.print(f"{duration(run['seconds_left'])} left")
    for line in (*run["slow"], run["cause"]):
        if line:
            console.print(_text(line, "yellow"))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for title in titles:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _text(words: str, style: str = "") -> Text:
    """Return text in which neither a terminal nor rich finds anything to obey."""
    return Text(printable(words), style)


def _cells(run: dict[str, Any]) -> list[str]:
    of = f"/{run['total_steps']}" if run["total_steps"] else ""
    step = f"{run['step']}{of}" if run["step"] else "-"
    accuracy = f"{run['accuracy']:.2%}" if run["accuracy"] is not None else "-"
    age = "-" if run["age_seconds"] is None else duration(run["age_seconds"])
    restarts = "-" if run["restarts"] is None else str(run["restarts"])
    return [run["name"], run["phase"], step, accuracy, restarts, age]
