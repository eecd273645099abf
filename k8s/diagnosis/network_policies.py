"""The NetworkPolicies that limit what a run's pods reach. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from k8s.diagnosis.evidence import Object, Observed, Symptom, dig, text

UNREACHED = ("Store", "Peers", "NoTrainer")  # kinds of symptoms that a policy may be behind
NEEDS = "DNS, the store and each other (ports 2222 to 2224)"


def suspect(symptom: Symptom, observed: Observed) -> Symptom:
    """Name in the remedy the policies that may have kept a pod from what it did not reach."""
    if symptom.kind not in UNREACHED:
        return symptom
    names = limiting(observed)
    if not names:
        return symptom
    policies = f"NetworkPolic{'y' if len(names) == 1 else 'ies'} {', '.join(names[:3])}"
    limits = f"{policies} limit{'s' * (len(names) == 1)} what its pods reach"
    return replace(symptom, remedy=f"{limits}: let them reach {NEEDS}")


def limiting(observed: Observed) -> list[str]:
    """Return the policies that limit what the run's pods may reach, by name.

    Those that limit who may reach the pods do not matter: the run's own policy lets its pods in,
    and policies add up.
    """
    labels = dig(observed.job, "spec", "template", "metadata", "labels") or {}
    return sorted(
        text(each, "metadata", "name")
        for each in observed.policies
        if _limits_egress(each) and _selects(dig(each, "spec", "podSelector") or {}, labels)
    )


def _limits_egress(policy: Object) -> bool:
    # https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/
    types = dig(policy, "spec", "policyTypes")
    return "Egress" in types if types else dig(policy, "spec", "egress") is not None


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    wanted = (selector.get("matchLabels") or {}).items()
    rules = selector.get("matchExpressions") or []
    return wanted <= labels.items() and all(_holds(rule, labels) for rule in rules)


def _holds(rule: Object, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(str(rule.get("key"))), rule.get("values") or []
    match rule.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None
