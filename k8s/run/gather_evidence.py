"""Everything that a diagnosis needs, read from the cluster."""

import contextlib
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from k8s import manifest
from k8s.client.cluster import Cluster
from k8s.client.refusals import ForbiddenError
from k8s.diagnosis import evidence, run_phase, sidecars
from k8s.diagnosis.cause import Cause, diagnose
from k8s.diagnosis.evidence import Observed
from k8s.diagnosis.network_policies import UNREACHED
from k8s.run import stored_result
from trainer.common.text import called, one_line, printable
from trainer.errors import UnavailableError, UserError

LONGEST_NOTE = 1000  # characters
NOTES = 16  # Jobs that one look writes to at most: of many, the next looks write to the others
UID = "batch.kubernetes.io/controller-uid"
# Events of pods that do well, a half of all; the diagnosis reads none of them.
USUAL = ",".join(f"reason!={each}" for each in ("Scheduled", "Created", "Killing", "Completed"))
POD = re.compile(r"-\d+-[a-z0-9]{5}$")  # what a Job's controller puts behind its name


class Around:
    """What a namespace holds around its runs; each kind is read once, when it is first needed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._found: dict[str, Any] = {}
        self._notes = 0
        self._lock = threading.RLock()

    def namespace(self) -> dict[str, Any] | None:
        """Return the Namespace, None where it may not be read."""
        with contextlib.suppress(ForbiddenError):
            name = self.cluster.namespace
            read = partial(self.cluster.get, "Namespace", name)
            found: dict[str, Any] | None = self._once("Namespace", read)
            return found
        return None

    def allowed(self, kind: str) -> list[dict[str, Any]]:
        """Return the objects of a kind, none where they may not be listed."""
        with contextlib.suppress(ForbiddenError):
            return list(self._once(kind, partial(self.cluster.list, kind)))
        return []

    def events(self, job: dict[str, Any], its_pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the events of a run: its warnings, and where it has any, the others too.

        A healthy gang has thousands of others.
        """
        found: list[dict[str, Any]] = []
        for fields in ("type=Warning", f"type!=Warning,{USUAL}"):
            by_run = self._once(fields, partial(_by_run, self.cluster, fields))
            found += _of_run(by_run[job["metadata"]["name"]], job, its_pods)
            if not found:
                break
        return found

    def note(self, job: dict[str, Any], annotations: dict[str, str]) -> None:
        """Write annotations into a run's Job, if that is allowed and was not done too often."""
        with self._lock:
            self._notes += 1
            if self._notes > NOTES:
                return
        with contextlib.suppress(UserError):  # this user may only look
            body = {"metadata": {"annotations": annotations}}
            self.cluster.patch("Job", job["metadata"]["name"], body)

    def _once(self, key: str, read: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._found:
                self._found[key] = read()
            return self._found[key]


def _by_run(cluster: Cluster, fields: str) -> dict[str, list[dict[str, Any]]]:
    """Return events by the name of the run that they are about: of its Job, or of a pod of it."""
    found = defaultdict(list)
    for event in cluster.list("Event", fields=fields):
        about = event.get("involvedObject") or {}
        name = str(about.get("name"))
        found[POD.sub("", name) if about.get("kind") == "Pod" else name].append(event)
    return found


def pods(cluster: Cluster, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods of this Job, not those of an earlier one of its name."""
    return cluster.list("Pod", labels=owner(job))


def pods_by_job(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    """Return the pods of all runs in the namespace by the uid of their Job."""
    found = defaultdict(list)
    for pod in cluster.list("Pod", labels=manifest.selector()):
        found[(pod["metadata"].get("labels") or {}).get(UID, "")].append(pod)
    return found


def owner(job: dict[str, Any]) -> str:
    """Return the label selector of a Job's pods."""
    return f"{UID}={job['metadata']['uid']}"


def cause(
    around: Around, job: dict[str, Any], its_pods: list[dict[str, Any]], *, trains: bool
) -> Cause | None:
    """Return what is wrong with a run whose Job is not complete, or None.

    Quotas, queues and policies are read only if the first diagnosis needs them, and if the user
    may.
    """
    observed = Observed(
        job=job,
        pods=its_pods,
        events=around.events(job, its_pods),
        namespace=around.namespace(),
        trains=trains,
        now=datetime.now(UTC),
    )
    found = diagnose(observed)
    if found and found.kind in UNREACHED:
        return diagnose(replace(observed, policies=around.allowed("NetworkPolicy")))
    queued = manifest.QUEUE in (job["metadata"].get("labels") or {})
    if not queued and (found is None or found.kind != "Quota"):
        return found
    quotas, workload = around.allowed("ResourceQuota"), _workload(around, job)
    return diagnose(replace(observed, quotas=quotas, workload=workload))


def outcome(
    around: Around,
    job: dict[str, Any],
    its_pods: list[dict[str, Any]],
    phase: str,
    progress: run_phase.Progress,
) -> tuple[str, Cause | None]:
    """Return how a run in a phase of ``run_phase.OVER`` ended, and what is to be said of it.

    The first who asks writes it into the Job, for those who look with kubectl: the pods may not.

    Succeeded   its result is stored, whatever became of its Job
    Failed      it left none
    Unproven    the folder cannot be seen from here, and nothing else shows it
    DeadlineExceeded
    """
    if phase == "Ended":
        phase, found = _proven(around.cluster, job, its_pods, logged=progress.ended)
        kept = {name for pod in its_pods for name in sidecars.left(pod)}
        if kept and not found:
            words = sidecars.after_success(job["metadata"]["name"], sorted(kept))
            found = Cause("Sidecar", words, final=True)
    # A Job that reaches its deadline removes its pods, and with them the mark that rank 0 left.
    elif run_phase.left_result(its_pods) or (
        phase == "DeadlineExceeded" and stored_result.is_stored(around.cluster, job)
    ):
        phase, found = "Succeeded", _failed_late(job)
    else:
        found = cause(around, job, its_pods, trains=progress.trains)
    annotations = job["metadata"].get("annotations") or {}
    if phase != "Unproven" and manifest.ENDED not in annotations:
        words = printable(f"{phase}: {found.message}" if found else phase)[:LONGEST_NOTE]
        around.note(job, {manifest.ENDED: words})
    return phase, found


def _failed_late(job: dict[str, Any]) -> Cause:
    what = "finished, and its result is stored; its Job failed after that"
    failed = evidence.condition(job, "Failed")
    why = evidence.text(failed, "message") or evidence.text(failed, "reason")
    return Cause("Sidecar", f"{what}: {evidence.shorten(why, 150)}", final=True)


def _proven(
    cluster: Cluster, job: dict[str, Any], its_pods: list[dict[str, Any]], *, logged: bool
) -> tuple[str, Cause | None]:
    """Return how a run ended whose trainers all ended with 0."""
    name = job["metadata"]["name"]
    image = evidence.container(job["spec"]["template"]["spec"]).get("image")
    try:
        stored_result.prove(cluster, job, its_pods, logged=logged)
    except UnavailableError as error:
        message = (
            f"every pod ended with 0, but whether there is a result is not seen from here: {error}"
        )
        return "Unproven", Cause("NoResult", message, final=True)
    except UserError as error:
        message = (
            f"every pod ended with 0 but left no result: {one_line(error)}; see whether image "
            f"{image} is the trainer's, and {called('k8s')} logs {name}"
        )
        return "Failed", Cause("NoResult", message, final=True)
    return "Succeeded", None


def _of_run(
    events: list[dict[str, Any]], job: dict[str, Any], its_pods: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return, of events about its name, those of this Job and its pods, also of pods gone since."""
    uids = {item["metadata"]["uid"] for item in [job, *its_pods]}
    created = job["metadata"]["creationTimestamp"]

    def is_ours(event: dict[str, Any]) -> bool:
        about = event.get("involvedObject") or {}
        if about.get("uid") in uids:
            return True
        later = str(event["metadata"].get("creationTimestamp")) >= created
        return later and about.get("kind") == "Pod"

    return [event for event in events if is_ours(event)]


def _workload(around: Around, job: dict[str, Any]) -> dict[str, Any] | None:
    if manifest.QUEUE not in (job["metadata"].get("labels") or {}):
        return None
    for workload in around.allowed("Workload"):
        owners = workload["metadata"].get("ownerReferences") or []
        if any(owner.get("uid") == job["metadata"]["uid"] for owner in owners):
            return workload
    return None
