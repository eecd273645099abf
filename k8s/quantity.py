"""Kubernetes' quantities. Pure."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from trainer.text import size

Amounts = dict[str, Decimal]

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse(text: object) -> Decimal:
    """Return a quantity such as ``500m`` or ``2Gi`` as a number; 0 if it is none."""
    number, factor = str(text).strip(), Decimal(1)
    if number[-2:] in _BINARY:
        number, factor = number[:-2], Decimal(2 ** _BINARY[number[-2:]])
    elif number[-1:] in _DECIMAL:
        number, factor = number[:-1], Decimal(10) ** _DECIMAL[number[-1]]
    try:
        value = Decimal(number) * factor
    except ArithmeticError:  # no number, or one too large
        return Decimal(0)
    return value if value.is_finite() else Decimal(0)


def show(resource: str, amount: Decimal) -> str:
    """Return an amount of a resource for people: ``45m``, ``1.5``, ``512 MiB``, ``2 GiB``."""
    if not resource.endswith(("memory", "storage")) and "hugepages" not in resource:
        if 0 < amount < 1:
            return f"{math.ceil(1000 * amount)}m"  # as Kubernetes rounds it
        return f"{amount:,.3f}".rstrip("0").rstrip(".")
    return size(amount)


def asked(spec: Mapping[str, Any]) -> Amounts:
    """Return what a pod requests, by resource: its containers' sum, or an init container's.

    An init container that restarts always runs beside those that come after it:
    https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers
    """
    total: Amounts = {"pods": Decimal(1)}
    beside: Amounts = {}
    alone: list[Amounts] = []
    for container in spec.get("initContainers") or []:
        its = _requests(container)
        if container.get("restartPolicy") == "Always":
            beside = _sum(beside, its)
        else:
            alone.append(_sum(beside, its))
    for container in spec.get("containers") or []:
        total = _sum(total, _requests(container))
    total = _sum(total, beside)
    for its in alone:
        total |= {each: max(total.get(each, amount), amount) for each, amount in its.items()}
    return total


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return one | {each: one.get(each, Decimal(0)) + amount for each, amount in other.items()}


def _requests(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    given = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: parse(amount) for resource, amount in given.items()}
