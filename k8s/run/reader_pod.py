"""A short-lived pod that reads a folder on a claim, which it mounts as the run's pods do.

It is the only pod of a Job, so that nothing stays when this process is killed: the Job ends at its
deadline, and is removed soon after. The pod prints what is asked for into its log
(``trainer.storage.pack``), because that needs no right that following a run does not need.
"""

import json
import sys
import time
import uuid
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from k8s.client.cluster import Cluster
from k8s.client.refusals import ConflictError
from k8s.diagnosis import claims
from k8s.diagnosis.cause import Cause, diagnose
from k8s.diagnosis.evidence import Observed, container, dig, end, text
from k8s.manifest import INSTANCE, selector
from k8s.run import gather_evidence
from k8s.run_file import TAKEN
from trainer.common.text import printable
from trainer.errors import ConfigError, DataError, UnavailableError, UserError
from trainer.storage import pack

DEADLINE = 90  # seconds for a pod to be placed, to start and to read
KEPT = 60  # seconds that an ended Job stays if nobody deletes it
PAUSE = 0.3  # seconds between two requests for the pod
SAID_AFTER = 5.0  # seconds of waiting after which it is said why
CLAIM = "persistentVolumeClaim"
OVER = ("Succeeded", "Failed")  # phases of a pod

# By the kind of cause; any other may be gone at another try.
ERRORS: dict[str, type[UserError]] = {"Config": ConfigError, "Data": DataError}

Object = dict[str, Any]


def ask(cluster: Cluster, name: str, template: Object, path: str, wanted: pack.Wanted) -> pack.Pack:
    """Return what a pod, made from a run's template, finds in a folder; see ``pack.pack``.

    Raises:
        ConfigError: the pod cannot read the folder.
        UnavailableError: no pod has read it within DEADLINE.
    """
    pod = template["spec"]
    metadata = template.get("metadata") or {}
    job = _job(name, reader(pod, path, wanted, _node(cluster, name, pod)), metadata)
    its_name = job["metadata"]["name"]
    try:
        try:
            job = cluster.create(job)
        except ConflictError:  # the answer to an earlier try was lost: no other Job has this name
            job = cluster.get("Job", its_name) or job
        return pack.from_lines(_lines(cluster, name, path, job))
    finally:
        cluster.delete("Job", its_name)


def reader(pod: Object, path: str, wanted: pack.Wanted, node: str = "") -> Object:
    """Return the spec of the pod, made from that of the run's pods; on a node, empty for any.

    For ``wanted`` see ``pack.pack``.
    """
    its = deepcopy(pod)
    # Sidecars need what is missing here, and would outlive the reader.
    placed = ("affinity", "topologySpreadConstraints", "priorityClassName")
    for field in ("subdomain", "initContainers", *placed):
        its.pop(field, None)
    its["terminationGracePeriodSeconds"] = 1
    its["volumes"] = [each for each in its["volumes"] if {"emptyDir", CLAIM} & each.keys()]
    kept = {each["name"] for each in its["volumes"]}
    reads = container(its)
    its["containers"] = [reads]
    for field in ("args", "ports", "envFrom"):
        reads.pop(field, None)
    reads["command"] = ["python", "-m", "trainer.storage.pack", path, json.dumps(wanted)]
    reads["env"] = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108 - the pod's own
    reads["resources"] = {
        "requests": {"cpu": "100m", "memory": "256Mi"},
        "limits": {"cpu": "1", "memory": "256Mi"},  # a tenth takes ten seconds to start Python
    }
    reads["terminationMessagePolicy"] = "FallbackToLogsOnError"
    reads["volumeMounts"] = [
        {**each, "readOnly": True} for each in reads["volumeMounts"] if each["name"] in kept
    ]
    if node:
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        only = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        its["affinity"] = {"nodeAffinity": only}
    return its


def _job(name: str, pod: Object, metadata: Object) -> Object:
    """Return the Job of a reader; policies see the labels and annotations of the run's pods."""
    labels = {
        **{k: v for k, v in (metadata.get("labels") or {}).items() if not k.startswith(TAKEN)},
        "app.kubernetes.io/name": "trainyard-reader",  # which the run's policy lets in nowhere
        INSTANCE: name,
        "app.kubernetes.io/managed-by": "trainyard",
    }
    annotations = metadata.get("annotations") or {}
    its_name = f"{name[:40].rstrip('-')}-reader-{uuid.uuid4().hex[:8]}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": its_name, "labels": labels, "annotations": annotations},
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "activeDeadlineSeconds": DEADLINE,
            "ttlSecondsAfterFinished": KEPT,
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    }


def _node(cluster: Cluster, name: str, pod: Object) -> str:
    """Return the node of the run's pods if a claim can be mounted nowhere else now, or nothing."""
    nodes = [
        text(each, "spec", "nodeName")
        for each in cluster.list("Pod", labels=selector(name))
        if text(each, "status", "phase") not in OVER
    ]
    node = next(filter(None, nodes), "")
    names = [text(each, "persistentVolumeClaim", "claimName") for each in pod["volumes"]]
    found = [cluster.get("PersistentVolumeClaim", each) for each in names if node and each]
    alone = any(claims.one_node_only(claim, write=False) for claim in found if claim)
    return node if alone else ""


def _lines(cluster: Cluster, name: str, path: str, job: Object) -> list[str]:
    """Wait for the pod and return its log."""
    began, said = time.monotonic(), ""
    while True:
        pods = gather_evidence.pods(cluster, job)
        phase = text(pods[-1], "status", "phase") if pods else ""
        waited = time.monotonic() - began
        ended = end(pods[-1]) if pods else None  # its pod may stay, for the sake of a sidecar
        if ended and ended.code == 0:
            return [line for _, line in cluster.log(pods[-1]["metadata"]["name"])]
        failed = phase == "Failed" or ended is not None
        cause = _cause(cluster, job, pods) if failed or waited > SAID_AFTER else None
        why = cause.message if cause else "no reason is known"
        if failed:
            error = ERRORS.get(cause.kind if cause else "", UnavailableError)
            raise error(f"{path}: the pod that reads it from its claim failed: {why}")
        if waited > DEADLINE:
            raise UnavailableError(
                f"{path}: no pod has read it from its claim within {DEADLINE} s: {why}"
            )
        if cause and why != said:
            said = why
            sys.stderr.write(
                printable(f"{name}: waiting for a pod that reads {path}: {why}") + "\n"
            )
        time.sleep(PAUSE)


def _cause(cluster: Cluster, job: Object, pods: list[Object]) -> Cause | None:
    uids = [item["metadata"]["uid"] for item in (job, *pods)]
    events = [e for e in cluster.list("Event") if dig(e, "involvedObject", "uid") in uids]
    return diagnose(Observed(job, pods, events, now=datetime.now(UTC)))
