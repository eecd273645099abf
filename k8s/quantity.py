"""Kubernetes' quantities, and what is free on a node. Pure."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from trainer.text import size

Object = dict[str, Any]
Amounts = dict[str, Decimal]

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse(text: object) -> Decimal:
    """Return a quantity such as ``500m`` or ``2Gi`` as a number; 0 for what is none."""
    number, factor = str(text).strip(), Decimal(1)
    if number[-2:] in _BINARY:
        number, factor = number[:-2], Decimal(2 ** _BINARY[number[-2:]])
    elif number[-1:] in _DECIMAL:
        number, factor = number[:-1], Decimal(10) ** _DECIMAL[number[-1]]
    try:
        value = Decimal(number) * factor
    except ArithmeticError:  # no number, or one beyond all measure
        return Decimal(0)
    return value if value.is_finite() else Decimal(0)


def show(resource: str, amount: Decimal) -> str:
    """Return an amount of a resource for people: ``1.5``, ``512 MiB``, ``2 GiB``."""
    if not resource.endswith(("memory", "storage")) and "hugepages" not in resource:
        return f"{amount:,.2f}".rstrip("0").rstrip(".")
    return size(amount)


def asked(spec: Mapping[str, Any]) -> Amounts:
    """Return what a pod requests, by resource: its containers together, or one that goes before."""
    total: Amounts = {"pods": Decimal(1)}
    for container in spec.get("containers") or []:
        for resource, amount in _requests(container).items():
            total[resource] = total.get(resource, Decimal(0)) + amount
    for container in spec.get("initContainers") or []:
        for resource, amount in _requests(container).items():
            total[resource] = max(total.get(resource, Decimal(0)), amount)
    return total


def _requests(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    given = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: parse(amount) for resource, amount in given.items()}


def best_node(
    spec: Object, resources: Iterable[str], nodes: Iterable[Object], pods: Iterable[Object]
) -> tuple[str, Amounts] | None:
    """Return the node where a pod comes nearest to having what it asks for.

    Args:
        spec: of the pod.
        resources: those that count.
        nodes: to choose from; cordoned, tainted or not selected ones are left out.
        pods: all of the cluster.

    Returns:
        Its name and what is free there, or None if the pod may run on no node.
    """
    need, used = asked(spec), _used(pods)
    candidates = [
        (_name(node), _free(node, used.get(_name(node), {})))
        for node in nodes
        if _may_run(spec, node)
    ]
    wanted = [each for each in resources if need.get(each)]
    return max(
        candidates,
        key=lambda node: min(
            (node[1].get(each, Decimal(0)) / need[each] for each in wanted), default=Decimal(0)
        ),
        default=None,
    )


def _name(node: Object) -> str:
    return str((node.get("metadata") or {}).get("name"))


def _used(pods: Iterable[Object]) -> dict[str, Amounts]:
    used: dict[str, Amounts] = {}
    for pod in pods:
        spec = pod.get("spec") or {}
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            of_node = used.setdefault(str(spec.get("nodeName")), {})
            for resource, amount in asked(spec).items():
                of_node[resource] = of_node.get(resource, Decimal(0)) + amount
    return used


def _free(node: Object, used: Amounts) -> Amounts:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return {
        resource: parse(amount) - used.get(resource, Decimal(0))
        for resource, amount in allocatable.items()
    }


def _may_run(spec: Object, node: Object) -> bool:
    labels = (node.get("metadata") or {}).get("labels") or {}
    of_node = node.get("spec") or {}
    selected = (spec.get("nodeSelector") or {}).items() <= labels.items()
    taints = [t for t in of_node.get("taints") or [] if t.get("effect") != "PreferNoSchedule"]
    tolerated = all(_tolerated(taint, spec.get("tolerations") or []) for taint in taints)
    return selected and tolerated and not of_node.get("unschedulable")


def _tolerated(taint: Object, tolerations: Iterable[Object]) -> bool:
    return any(
        each.get("effect") in (None, "", taint.get("effect"))
        and (
            each.get("key") == taint.get("key")
            or (not each.get("key") and each.get("operator") == "Exists")
        )
        and (
            each.get("operator") == "Exists"
            or (each.get("value") or "") == (taint.get("value") or "")
        )
        for each in tolerations
    )
