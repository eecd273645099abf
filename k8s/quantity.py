"""Kubernetes' quantities. Pure."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from trainer.common.text import size

Amounts = dict[str, Decimal]

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_FACTORS = {unit: Decimal(1000) ** power for power, unit in enumerate(" kMGTPE") if power}
_FACTORS |= {unit: Decimal(1000) ** -power for power, unit in enumerate(" mun") if power}
_FACTORS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate(" KMGTPE") if power}
_QUANTITY = re.compile(
    r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?)([KMGTPE]i|[numkMGTPE])?"
)


def parse(text: object) -> Decimal:
    """Return a quantity such as ``500m`` or ``2Gi`` as a number; 0 if it is none."""
    parts = _QUANTITY.fullmatch(str(text).strip())
    if parts is None or (parts[2] and "e" in parts[1].lower()):
        return Decimal(0)
    return Decimal(parts[1]) * (_FACTORS[parts[2]] if parts[2] else 1)


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


def limited(spec: Mapping[str, Any]) -> Amounts:
    """Return the sum of the limits of a pod's containers, by resource."""
    total: Amounts = {}
    for container in spec.get("containers") or []:
        limits = (container.get("resources") or {}).get("limits") or {}
        total = _sum(total, {name: parse(amount) for name, amount in limits.items()})
    return total


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return one | {each: one.get(each, Decimal(0)) + amount for each, amount in other.items()}


def _requests(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    given = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: parse(amount) for resource, amount in given.items()}
