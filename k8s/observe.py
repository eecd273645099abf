"""Everything that a diagnosis needs, read from the cluster."""

import contextlib
import re
from datetime import UTC, datetime
from typing import Any

from k8s import manifest, view
from k8s.client import Cluster, ForbiddenError
from k8s.diagnose import Cause, Observed, diagnose

UID = "batch.kubernetes.io/controller-uid"


def pods(cluster: Cluster, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods of this Job, not those of an earlier one of its name."""
    return cluster.list("Pod", labels=f"{UID}={job['metadata']['uid']}")


def cause(
    cluster: Cluster,
    job: dict[str, Any],
    its_pods: list[dict[str, Any]],
    all_events: list[dict[str, Any]] | None = None,
) -> Cause | None:
    """Return what is wrong with a run, or None.

    Nodes and quotas are looked at only where that is wrong, and only if that is allowed.

    Args:
        cluster: where it is.
        job: of the run.
        its_pods: that are there, or were.
        all_events: of the namespace, where they have been read already.
    """
    now = datetime.now(UTC)
    if view.phase(job, its_pods) == "Succeeded":
        return None
    if all_events is None:
        all_events = cluster.list("Event")
    events = _events(all_events, job, its_pods)
    observed = Observed(job=job, pods=its_pods, events=events, now=now)
    found = diagnose(observed)
    queued = manifest.QUEUE in (job["metadata"].get("labels") or {})
    scarce = found is not None and found.kind in ("Unschedulable", "Quota")
    if not (queued or scarce):
        return found
    return diagnose(
        Observed(
            job=job,
            pods=its_pods,
            events=events,
            quotas=_allowed(cluster, "ResourceQuota"),
            nodes=_allowed(cluster, "Node"),
            node_pods=_allowed(cluster, "Pod", all_namespaces=True),
            workload=_workload(cluster, job),
            now=now,
        )
    )


def _events(
    events: list[dict[str, Any]], job: dict[str, Any], its_pods: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the events of the Job and its pods, also of those pods that are gone."""
    uids = {item["metadata"]["uid"] for item in [job, *its_pods]}
    created = job["metadata"]["creationTimestamp"]
    of_a_pod = re.compile(rf"{re.escape(job['metadata']['name'])}-\d+-[a-z0-9]{{5}}")

    def is_ours(event: dict[str, Any]) -> bool:
        about = event.get("involvedObject") or {}
        if about.get("uid") in uids:
            return True
        later = str(event["metadata"].get("creationTimestamp")) >= created
        named = of_a_pod.fullmatch(str(about.get("name")))
        return later and about.get("kind") == "Pod" and named is not None

    return [event for event in events if is_ours(event)]


def _allowed(cluster: Cluster, kind: str, **options: Any) -> list[dict[str, Any]]:
    with contextlib.suppress(ForbiddenError):
        return cluster.list(kind, **options)
    return []


def _workload(cluster: Cluster, job: dict[str, Any]) -> dict[str, Any] | None:
    if manifest.QUEUE not in (job["metadata"].get("labels") or {}):
        return None
    for workload in _allowed(cluster, "Workload"):
        owners = workload["metadata"].get("ownerReferences") or []
        if any(owner.get("uid") == job["metadata"]["uid"] for owner in owners):
            return workload
    return None
