"""Observations of a run: words of its trainer, pods and events, and what is found in them."""

import json
from collections.abc import Sequence
from typing import Any

from k8s.diagnosis.cause import LONGEST, Cause, diagnose
from k8s.diagnosis.evidence import Observed
from tests.support.pods import NOW, Object, holds, job
from trainer.failure import Failure, Kind

OOM = "its worker was killed for lack of memory (limit 512 MiB, peak 511 MiB)"


OOM_REMEDY = "give it more memory or lower batch_size"


CREATING: Object = {"waiting": {"reason": "ContainerCreating"}}


def failure(kind: Kind, rank: int, message: str = "words", code: int = 1, **more: Any) -> str:
    """What the trainer leaves for Kubernetes."""
    return json.dumps(Failure(kind=kind, rank=rank, code=code, message=message, **more).record())


def asked(rank: int) -> str:
    return failure("stopped", rank, code=75)


def lost(rank: int) -> str:
    return failure("supervisor_lost", rank, code=75)


def out_of_memory(rank: int) -> str:
    return failure("out_of_memory", rank, OOM, remedy=OOM_REMEDY)


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def event(
    item: Object, reason: str, message: str, at: str = "14:00:03", type_: str = "Warning"
) -> Object:
    kind = "Pod" if "containers" in item["spec"] else "Job"
    names = {key: item["metadata"][key] for key in ("name", "namespace", "uid")}
    seen = f"2026-11-20T{at}Z"
    return {
        "involvedObject": {"kind": kind, **names},
        "type": type_,
        "reason": reason,
        "message": message,
        "firstTimestamp": seen,
        "lastTimestamp": seen,
        "count": 1,
    }


def look(item: Object | None, pods: Sequence[Object], *events: Object, **more: Any) -> Cause | None:
    """Diagnose, and check what holds for every answer."""
    now = more.pop("now", NOW)
    cause = diagnose(Observed(item, list(pods), list(events), **more, now=now))
    if cause:
        assert 0 < len(cause.message) <= LONGEST
        assert cause.message.isprintable()
    return cause


def unscheduled(words: str, at: str = "14:00:00") -> Object:
    condition = holds("PodScheduled", "Unschedulable", words, "False")
    return {**condition, "lastTransitionTime": f"2026-11-20T{at}Z"}


def refused(words: str, **more: Any) -> Object:
    return event(
        job(), "FailedCreate", f'Error creating: pods "mnist-1-" is forbidden: {words}', **more
    )


def running(at: str) -> Object:
    return {"running": {"startedAt": f"2026-11-20T{at}Z"}}


IMAGE = "registry.local:5000/team/trainer:1"


RPC = "rpc error: code = NotFound desc = failed to pull and unpack image "
RPC += f'"{IMAGE}": failed to resolve'


QUOTA = (
    "exceeded quota: compute, requested: requests.cpu=2,requests.memory=1Gi, "
    "used: requests.cpu=3,requests.memory=3Gi, limited: requests.cpu=4,requests.memory=3584Mi"
)


def suspended(**labels: str) -> Object:
    item = job(2, holds("Suspended", "JobSuspended", "Job suspended"))
    item["spec"]["suspend"] = True
    item["metadata"]["labels"] |= labels
    return item


def missing(rank: int, *absent: int) -> str:
    names = ", ".join(f"rank {each} (mnist-{each}.mnist:2222)" for each in absent)
    message = f"the gang of 4 did not meet within 300 s: missing {names}"
    remedy = "see why it did not come, or raise peer_deadline"
    return failure("peers_missing", rank, message, 69, remedy=remedy, missing=absent)


POLICY = (
    "Container trainer for pod team/mnist-1-aaaaa failed with exit code 65 matching FailJob rule"
)
