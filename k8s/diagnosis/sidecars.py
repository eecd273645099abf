"""Sidecars: containers beside the trainer, which keep its pod after it has ended. Pure."""

from dataclasses import replace

from k8s.diagnosis.evidence import Object, Symptom, dig, end, text
from trainer.common.text import called

# https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
NATIVE = "make it an init container with restartPolicy: Always, which ends with the trainer"


def left(pod: Object) -> list[str]:
    """Return the containers that still run though the trainer has ended: they keep the pod.

    Not those of ``initContainers`` with ``restartPolicy: Always``: the kubelet ends them.
    """
    statuses = dig(pod, "status", "containerStatuses") or []
    running = [text(each, "name") for each in statuses if dig(each, "state", "running")]
    return running if end(pod) else []


def after_failure(symptom: Symptom, pod: Object) -> Symptom:
    """Say of a trainer that has failed whether its Job does not learn of it."""
    names = left(pod)
    if not symptom.ended or not names or dig(pod, "metadata", "deletionTimestamp"):
        return symptom
    keeps = f"{_keep(names)} its pod, so that the Job starts no other"
    return replace(symptom, what=f"{symptom.what}; {keeps}", remedy=f"{NATIVE}, or delete the pod")


def after_success(run: str, names: list[str]) -> str:
    """Say which sidecars keep the pods of a run that has finished."""
    return f"finished; {_keep(names)} the pods: {called('k8s')} delete {run} ends them; {NATIVE}"


def _keep(names: list[str]) -> str:
    return f"sidecar{'s' * (len(names) > 1)} {', '.join(names)} keep{'s' * (len(names) == 1)}"
