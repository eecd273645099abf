"""Everything that a diagnosis needs, read from the cluster."""

import contextlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from k8s import manifest
from k8s.client.cluster import Cluster
from k8s.client.refusals import ForbiddenError
from k8s.commands import result
from k8s.diagnosis import evidence, run_phase
from k8s.diagnosis.cause import Cause, diagnose
from k8s.diagnosis.evidence import Observed
from k8s.diagnosis.pod_failures import NATIVE, sidecar_names
from k8s.diagnosis.policies import UNREACHED
from trainer.errors import UnavailableError, UserError
from trainer.text import one_line, printable

LONGEST_NOTE = 1000  # characters
UID = "batch.kubernetes.io/controller-uid"


def pods(cluster: Cluster, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods of this Job, not those of an earlier one of its name."""
    return cluster.list("Pod", labels=f"{UID}={job['metadata']['uid']}")


def cause(
    cluster: Cluster,
    job: dict[str, Any],
    its_pods: list[dict[str, Any]],
    all_events: list[dict[str, Any]] | None = None,
    *,
    trains: bool,
) -> Cause | None:
    """Return what is wrong with a run whose Job is not complete, or None.

    Quotas, queues and policies are read only if the first diagnosis needs them, and if the user
    may.
    """
    now = datetime.now(UTC)
    if all_events is None:
        all_events = cluster.list("Event")
    events = _events(all_events, job, its_pods)
    namespace = None
    with contextlib.suppress(ForbiddenError):
        namespace = cluster.get("Namespace", cluster.namespace)
    observed = Observed(
        job=job, pods=its_pods, events=events, namespace=namespace, trains=trains, now=now
    )
    found = diagnose(observed)
    if found and found.kind in UNREACHED:
        return diagnose(replace(observed, policies=_allowed(cluster, "NetworkPolicy")))
    queued = manifest.QUEUE in (job["metadata"].get("labels") or {})
    if not queued and (found is None or found.kind != "Quota"):
        return found
    quotas, workload = _allowed(cluster, "ResourceQuota"), _workload(cluster, job)
    return diagnose(replace(observed, quotas=quotas, workload=workload))


def outcome(
    cluster: Cluster,
    job: dict[str, Any],
    its_pods: list[dict[str, Any]],
    phase: str,
    progress: run_phase.Progress,
    all_events: list[dict[str, Any]] | None = None,
) -> tuple[str, Cause | None]:
    """Return how a run in a phase of ``run_phase.OVER`` ended, and what is to be said of it.

    The first who asks writes it into the Job, for those who look with kubectl: the pods may not.

    Succeeded   its result is stored, whatever became of its Job
    Failed      it left none
    Unproven    the folder cannot be seen from here, and nothing else shows it
    DeadlineExceeded
    """
    phase, found = _outcome(cluster, job, its_pods, phase, progress, all_events)
    annotations = job["metadata"].get("annotations") or {}
    if phase != "Unproven" and manifest.ENDED not in annotations:
        words = printable(f"{phase}: {found.message}" if found else phase)[:LONGEST_NOTE]
        note = {"metadata": {"annotations": {manifest.ENDED: words}}}
        with contextlib.suppress(UserError):  # this user may only look
            cluster.patch("Job", job["metadata"]["name"], note)
    return phase, found


def _outcome(
    cluster: Cluster,
    job: dict[str, Any],
    its_pods: list[dict[str, Any]],
    phase: str,
    progress: run_phase.Progress,
    all_events: list[dict[str, Any]] | None,
) -> tuple[str, Cause | None]:
    if phase == "Ended":
        phase, found = _proven(cluster, job, its_pods, logged=progress.ended)
        kept = {name for pod in its_pods for name in evidence.sidecars(pod)}
        return phase, _kept(job, sorted(kept)) if kept and not found else found
    # A Job that reaches its deadline removes its pods, and with them the mark that rank 0 left.
    late = phase == "DeadlineExceeded"
    if run_phase.left_result(its_pods) or (late and result.is_stored(cluster, job)):
        what = "finished, and its result is stored; its Job failed after that"
        failed = evidence.condition(job, "Failed")
        why = evidence.text(failed, "message") or evidence.text(failed, "reason")
        return "Succeeded", Cause("Sidecar", f"{what}: {evidence.shorten(why, 150)}", final=True)
    return phase, cause(cluster, job, its_pods, all_events, trains=progress.trains)


def _kept(job: dict[str, Any], names: list[str]) -> Cause:
    ends = f"python -m k8s delete {job['metadata']['name']} ends them; {NATIVE}"
    return Cause("Sidecar", f"finished; {sidecar_names(names)} the pods: {ends}", final=True)


def _proven(
    cluster: Cluster, job: dict[str, Any], its_pods: list[dict[str, Any]], *, logged: bool
) -> tuple[str, Cause | None]:
    """Return how a run ended whose trainers all ended with 0."""
    name = job["metadata"]["name"]
    image = evidence.container(job["spec"]["template"]["spec"]).get("image")
    try:
        result.prove(cluster, job, its_pods, logged=logged)
    except UnavailableError as error:
        message = (
            f"every pod ended with 0, but whether there is a result is not seen from here: {error}"
        )
        return "Unproven", Cause("NoResult", message, final=True)
    except UserError as error:
        message = (
            f"every pod ended with 0 but left no result: {one_line(error)}; see whether image "
            f"{image} is the trainer's, and python -m k8s logs {name}"
        )
        return "Failed", Cause("NoResult", message, final=True)
    return "Succeeded", None


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


def _allowed(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    with contextlib.suppress(ForbiddenError):
        return cluster.list(kind)
    return []


def _workload(cluster: Cluster, job: dict[str, Any]) -> dict[str, Any] | None:
    if manifest.QUEUE not in (job["metadata"].get("labels") or {}):
        return None
    for workload in _allowed(cluster, "Workload"):
        owners = workload["metadata"].get("ownerReferences") or []
        if any(owner.get("uid") == job["metadata"]["uid"] for owner in owners):
            return workload
    return None
