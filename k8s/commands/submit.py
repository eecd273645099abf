"""Start a run, ask it to stop, and remove it."""

import time
from collections.abc import Callable
from typing import Any

from k8s import manifest, spec
from k8s.client.cluster import Cluster, ConflictError
from k8s.diagnosis import run_phase
from k8s.spec import RunSpec
from trainer.errors import ConfigError, UnavailableError, UserError

LEFTOVERS = 60.0  # seconds for what an earlier run of this name left to go; pods have 40 to stop
PAUSE = 0.5  # seconds between two looks at it

Say = Callable[[str], object]


def submit(cluster: Cluster, run: RunSpec, say: Say) -> None:
    """Start a run, or go on with it if it is there and was asked to stop.

    The Job is created suspended, and lifted when all that its pods need is there and owned by it,
    so that nothing is left behind when it goes.

    Args:
        cluster: to submit to.
        run: checked by ``doctor``.
        say: told what happens.

    Raises:
        ConfigError: another run of this name is there.
        UnavailableError: what is left of an earlier one does not go.
        ClusterError: the API server refused an object; none is left behind.
    """
    *companions, wanted = manifest.objects(run)
    job = cluster.get("Job", run.name)
    if job is None:
        _await_leftovers(cluster, run.name, say)
        wanted["spec"]["suspend"] = True
        try:
            job, ours = cluster.create(wanted), True
        except ConflictError:  # the answer to an earlier try was lost, or somebody was faster
            job, ours = cluster.get("Job", run.name), False
        if job is None:
            raise UnavailableError(f"{run.name}: was deleted while it was submitted; try again")
        _check_same(cluster, job, run)
        try:
            _create_companions(cluster, companions, job, say)
        except UserError:
            if ours:
                cluster.delete("Job", run.name)
            raise
        _lift(cluster, job, run)
        names = ", ".join(item["kind"] for item in [*companions, wanted])
        say(f"created {names} {run.name} in namespace {cluster.namespace}")
        return
    _check_same(cluster, job, run)
    state = run_phase.phase(job, [])
    if state in ("Suspended", "Queued"):  # also one whose submitting was broken off
        _create_companions(cluster, companions, job, say)
    if state == "Suspended":
        _lift(cluster, job, run)
        say(f"{run.name}: goes on from its last checkpoint")
    elif state in run_phase.OVER:
        over = "" if state == "Ended" else f" ({state})"
        say(
            f"{run.name}: is over{over}; to run it again, or to go on from its last "
            f"checkpoint, first: python -m k8s delete {run.name}{cluster.flags}"
        )
    else:
        say(f"{run.name}: runs already")


def _check_same(cluster: Cluster, job: dict[str, Any], run: RunSpec) -> None:
    there = (job["metadata"].get("annotations") or {}).get(manifest.RUN_FILE, "")
    remedy = f"give another name, or first: python -m k8s delete {run.name}{cluster.flags}"
    try:
        differing = spec.difference(there, run.canonical())
    except ValueError:
        raise ConfigError(
            f"{run.name}: a Job of this name is there that was not submitted from a run file; "
            "give another name"
        ) from None
    if differing:
        raise ConfigError(
            f"{run.name}: is submitted with other settings: {', '.join(differing)}; {remedy}"
        )


def _await_leftovers(cluster: Cluster, name: str, say: Say) -> None:
    """Wait for pods of an earlier run of this name: they would answer to its peers' names."""
    until, told = time.monotonic() + LEFTOVERS, False
    while pods := cluster.list("Pod", labels=manifest.selector(name)):
        if time.monotonic() > until:
            pod = pods[0]["metadata"]["name"]
            raise UnavailableError(
                f"{name}: pod {pod} of an earlier run is still there after {LEFTOVERS:g} s; if its "
                f"node is lost: kubectl delete pod {pod} --force --namespace {cluster.namespace}"
            )
        if not told:
            say(f"{name}: waiting for {len(pods)} pods of an earlier run to end")
            told = True
        time.sleep(PAUSE)


def _create_companions(
    cluster: Cluster, items: list[dict[str, Any]], job: dict[str, Any], say: Say
) -> None:
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "blockOwnerDeletion": False,
        "controller": True,
    }
    for item in items:
        item["metadata"]["ownerReferences"] = [owner]
        until, told = time.monotonic() + LEFTOVERS, False
        while not _create(cluster, item):
            if time.monotonic() > until:
                raise ConfigError(
                    f"{item['kind']} {item['metadata']['name']} is there and not this run's; "
                    "give the run another name"
                )
            if not told:
                say(f"waiting for an earlier {item['kind']} of this name to go")
                told = True
            time.sleep(PAUSE)


def _create(cluster: Cluster, item: dict[str, Any]) -> bool:
    """Create an object, or see that it is ours; False while another one has the name."""
    try:
        cluster.create(item)
    except ConflictError:
        there = cluster.get(item["kind"], item["metadata"]["name"])
        owners = (there or {}).get("metadata", {}).get("ownerReferences") or []
        uid = item["metadata"]["ownerReferences"][0]["uid"]
        return any(owner.get("uid") == uid for owner in owners)
    return True


def _lift(cluster: Cluster, job: dict[str, Any], run: RunSpec) -> None:
    if run.queue is None:
        cluster.patch("Job", job["metadata"]["name"], {"spec": {"suspend": False}})


def find(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return a run's Job.

    Raises:
        ConfigError: there is none, or a Job that is no run.
    """
    job = cluster.get("Job", name)
    if job is None:
        raise ConfigError(
            f"{name}: no such run in namespace {cluster.namespace}; see python -m k8s list, or "
            "give --namespace"
        )
    labels = job["metadata"].get("labels") or {}
    if labels.get("app.kubernetes.io/name") != "trainyard":
        raise ConfigError(f"{name}: this Job is no run; leave it to whoever made it")
    return job


def cancel(cluster: Cluster, name: str, say: Say) -> None:
    """Ask a run to store a checkpoint and stop.

    A run in a queue is removed instead, as its queue would start it again.

    Raises:
        ConfigError: there is no such run.
    """
    job = find(cluster, name)
    state = run_phase.phase(job, [])
    again = "submit it again to go on from there"
    if state in run_phase.OVER:
        say(f"{name}: is over; nothing to stop")
    elif state == "Suspended":
        say(f"{name}: is stopped already; {again}")
    elif manifest.QUEUE in (job["metadata"].get("labels") or {}):
        cluster.delete("Job", name)
        say(f"{name}: stores a checkpoint and leaves its queue; {again}")
    else:
        cluster.patch("Job", name, {"spec": {"suspend": True}})
        say(f"{name}: stores a checkpoint and stops; {again}")


def delete(cluster: Cluster, name: str, say: Say) -> None:
    """Remove a run from the cluster; its folder stays.

    Raises:
        ConfigError: there is no such run.
    """
    find(cluster, name)
    cluster.delete("Job", name)
    say(f"{name}: removed from the cluster; its folder in the bucket stays")
