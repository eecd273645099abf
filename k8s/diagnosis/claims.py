"""What a PersistentVolumeClaim allows, as the API server gives it. Pure.

Access modes: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#access-modes
"""

from collections.abc import Sequence

from k8s.diagnosis.evidence import Object, dig, seen, text
from k8s.run_file import RunSpec
from k8s.volumes import written

# Reasons of events of a claim that is bound when the first pod is placed.
WAITS = ("WaitForFirstConsumer", "WaitForPodScheduled")


def modes(claim: Object) -> tuple[str, ...]:
    """Return the access modes that a claim asks for."""
    return tuple(dig(claim, "spec", "accessModes") or ())


def bound(claim: Object) -> bool:
    """Whether a volume belongs to the claim."""
    return text(claim, "status", "phase") == "Bound"


def one_node_only(claim: Object, *, write: bool) -> bool:
    """Whether only pods on one node at a time can mount a claim, to write to it or to read."""
    return not {"ReadWriteMany", *(() if write else ("ReadOnlyMany",))} & set(modes(claim))


def fault(claim: Object, spec: RunSpec) -> str | None:
    """Return what keeps the pods of a run from mounting a claim all at once, with the remedy."""
    name, allowed = text(claim, "metadata", "name"), modes(claim)
    write = written(name, spec.volumes)
    if dig(claim, "metadata", "deletionTimestamp"):
        return f"{name}: the claim is being deleted; wait until it is gone, and create it again"
    if text(claim, "status", "phase") == "Lost":
        return f"{name}: the claim's volume is gone; create the claim again"
    if write and set(allowed) == {"ReadOnlyMany"}:
        return f"{name}: the claim is ReadOnlyMany; give read_only: true"
    if spec.workers == 1 or not one_node_only(claim, write=write):
        return None
    if set(allowed) == {"ReadWriteOncePod"}:
        return (
            f"{name}: the claim is ReadWriteOncePod, for one pod, and the run has {spec.workers} "
            "workers; take a ReadWriteMany claim, or one worker"
        )
    if spec.one_node:
        return None
    return (
        f"{name}: the claim is {' and '.join(allowed)}, for one node at a time, and {spec.workers} "
        "workers may be on several; give one_node: true, or take a ReadWriteMany claim"
    )


def waiting(claim: Object, events: Sequence[Object]) -> tuple[str, str]:
    """Return reason and message of the last event about a claim that is not bound."""
    uid = text(claim, "metadata", "uid")
    about = [each for each in events if uid and dig(each, "involvedObject", "uid") == uid]
    last = max(about, key=seen, default=None)
    return text(last, "reason"), text(last, "message") or "no reason is known yet"
