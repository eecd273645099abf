"""Why a pod does not get the claims that it mounts. Pure."""

import re

from k8s.diagnosis.evidence import (
    SETTLING,
    Object,
    Observed,
    Symptom,
    condition,
    dig,
    seen,
    since,
    text,
)

# What the scheduler says of a claim without a volume.
UNBOUND = r"unbound immediate PersistentVolumeClaims|find available persistent volumes to bind"


def claim(pod: Object, observed: Observed) -> Symptom | None:
    """A claim is missing, has no volume, or is mounted on another node."""
    namespace = text(pod, "metadata", "namespace") or "default"
    scheduled = condition(pod, "PodScheduled", "False")
    at = text(scheduled, "lastTransitionTime") or text(pod, "metadata", "creationTimestamp")
    if scheduled and observed.age(at) >= SETTLING:
        words = text(scheduled, "message")
        if missing := re.search(r'persistentvolumeclaim "([^"]+)" not found', words):
            remedy = f"create it in namespace {namespace}, or correct volumes"
            return Symptom("MissingReference", f"claim {missing[1]} is not there", remedy, at)
        if re.search(UNBOUND, words):
            names = " ".join(_claims(pod))
            what = f"no volume is bound to its claim ({names.replace(' ', ', ')})"
            remedy = f"see why: kubectl --namespace {namespace} describe pvc {names}"
            return Symptom("Unbound", what, remedy, at)
        if "ReadWriteOncePod" in words:
            what = "another pod has its ReadWriteOncePod claim"
            return Symptom("Unschedulable", what, "wait for that pod to end, or delete it", at)
    attached = observed.events_of(pod, "FailedAttachVolume")
    if attached and not scheduled and text(pod, "status", "phase") == "Pending":
        words = text(attached[-1], "message")
        if "Multi-Attach" in words:
            what = f"a pod on another node has its ReadWriteOnce claim: {words}"
            remedy = "wait for that pod to end, or keep all workers together with one_node: true"
            return Symptom("Start", what, remedy, since(pod) or seen(attached[-1]))
    return None


def _claims(pod: Object) -> list[str]:
    volumes = dig(pod, "spec", "volumes") or []
    found = (text(each, "persistentVolumeClaim", "claimName") for each in volumes)
    return [name for name in found if name]
