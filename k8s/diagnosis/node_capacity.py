"""How many pods of a run the nodes have room for. Pure.

Counted by what pods request, node selectors and taints; affinities are left to the scheduler.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from k8s import quantity
from k8s.diagnosis.evidence import Object, dig, text

OVER = ("Succeeded", "Failed")  # phases of pods that no longer take room


def free(
    pod: Object, nodes: Sequence[Object], pods: Sequence[Object]
) -> dict[str, quantity.Amounts]:
    """Return what is free on each node that takes a pod of this spec.

    ``nodes`` and ``pods`` are all of the cluster.
    """
    rest = {
        text(node, "metadata", "name"): {
            name: quantity.parse(amount)
            for name, amount in (dig(node, "status", "allocatable") or {}).items()
        }
        for node in nodes
        if _takes(node, pod)
    }
    for each in pods:
        on = rest.get(text(each, "spec", "nodeName"))
        if on is not None and text(each, "status", "phase") not in OVER:
            for name, amount in quantity.asked(each["spec"]).items():
                on[name] = on.get(name, Decimal(0)) - amount
    return rest


def pods(asked: quantity.Amounts, amounts: quantity.Amounts) -> int:
    """Return how many pods that ask for so much go into what is free."""
    fits = (amounts.get(name, Decimal(0)) // each for name, each in asked.items() if each > 0)
    return max(0, int(min(fits)))


def _takes(node: Object, pod: Object) -> bool:
    labels = dig(node, "metadata", "labels") or {}
    wanted = (pod.get("nodeSelector") or {}).items()
    return (
        not dig(node, "spec", "unschedulable")
        and wanted <= labels.items()
        and not any(_untolerated(node, pod))
    )


def _untolerated(node: Object, pod: Object) -> Iterator[Object]:
    for taint in dig(node, "spec", "taints") or []:
        hard = taint.get("effect") in ("NoSchedule", "NoExecute")
        if hard and not any(_tolerates(each, taint) for each in pod.get("tolerations") or []):
            yield taint


def _tolerates(toleration: Object, taint: Object) -> bool:
    """Whether a pod may run in spite of a taint.

    https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
    """
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    same = toleration.get("key") == taint.get("key")
    return same and (toleration.get("value") or "") == (taint.get("value") or "")
