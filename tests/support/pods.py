"""A run's Job and pods in the shape that the API server gives them."""

from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]

NOW = datetime(2026, 11, 20, 14, 10, 0, tzinfo=UTC)
INDEX = "batch.kubernetes.io/job-completion-index"
RUNNING: Object = {"running": {"startedAt": "2026-11-20T14:00:05Z"}}


def job(workers: int = 4, *conditions: Object, **status: Any) -> Object:
    """A Job of that many ranks; status and conditions as the controller writes them."""
    spec = {
        "completionMode": "Indexed",
        "completions": workers,
        "parallelism": workers,
        "suspend": False,
        "activeDeadlineSeconds": 3600,
        "template": {"spec": pod()["spec"]},
    }
    metadata = {
        "name": "mnist",
        "namespace": "team",
        "uid": "j",
        "creationTimestamp": "2026-11-20T14:00:00Z",
        "labels": {"app.kubernetes.io/name": "trainyard"},
    }
    return {"metadata": metadata, "spec": spec, "status": {"conditions": [*conditions], **status}}


def holds(kind: str, reason: str, message: str = "", status: str = "True") -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-20T14:05:00Z",
    }


def pod(
    rank: int = 0,
    state: Object | None = None,
    *conditions: Object,
    phase: str = "",
    born: str = "14:00:00",
    suffix: str = "aaaaa",
    status: Object | None = None,
    **metadata: Any,
) -> Object:
    """A pod of a rank whose trainer is in this state."""
    state = RUNNING if state is None else state
    code = state.get("terminated", {}).get("exitCode")
    guess = "Running" if "running" in state else "Pending"
    guess = guess if code is None else "Failed" if code else "Succeeded"
    born = f"2026-11-20T{born}Z"
    resources = {"cpu": "2", "memory": "512Mi"}
    container = {
        "name": "trainer",
        "image": "registry.local:5000/team/trainer:1",
        "resources": {"requests": resources, "limits": resources},
    }
    return {
        "metadata": {
            "name": f"mnist-{rank}-{suffix}",
            "namespace": "team",
            "uid": f"{rank}{suffix}",
            "creationTimestamp": born,
            "labels": {INDEX: str(rank), "batch.kubernetes.io/job-name": "mnist"},
            "annotations": {INDEX: str(rank)},
            **metadata,
        },
        "spec": {"nodeName": "node-a", "containers": [container]},
        "status": {
            "phase": phase or guess,
            "startTime": born,
            "conditions": [*conditions],
            "containerStatuses": [{"name": "trainer", "state": state}],
            **(status or {}),
        },
    }


def ended(code: int, message: str = "", at: str = "14:02:11", reason: str = "") -> Object:
    reason = reason or ("Error" if code else "Completed")
    state = {"exitCode": code, "reason": reason, "finishedAt": f"2026-11-20T{at}Z"}
    return {"terminated": {**state, **({"message": message} if message else {})}}
