"""NetworkPolicies that keep a run's pods from what they need, and those that do not."""

from typing import Any

import pytest

from tests.support.causes import failure, look, missing
from tests.support.pods import ended, job, pod

LABELS = {"app.kubernetes.io/name": "trainyard", "app.kubernetes.io/instance": "mnist"}
STORE = failure("unavailable", 0, "cannot list gs://bucket/mnist: no good answer", code=69)


def policy(name: str, **spec: Any) -> Any:
    return {"metadata": {"name": name}, "spec": {"podSelector": {}, **spec}}


DENY = policy("deny-all", policyTypes=["Ingress", "Egress"])


def cause(message: str, *policies: Any, code: int = 69) -> Any:
    run = job(2)
    run["spec"]["template"]["metadata"] = {"labels": LABELS}
    return look(run, [pod(0, ended(code, message)), pod(1)], policies=policies)


@pytest.mark.parametrize("message", [STORE, missing(0, 1)])
def test_a_policy_that_limits_what_pods_reach_is_named(message: str) -> None:
    found = cause(message, DENY)
    assert "NetworkPolicy deny-all limits what its pods reach" in found.message
    assert "DNS, the store and each other (ports 2222 to 2224)" in found.message
    assert "NetworkPolic" not in cause(message).message
    both = cause(message, DENY, policy("a", egress=[]))
    assert "NetworkPolicies a, deny-all limit what its pods reach" in both.message


def test_other_failures_are_no_policy_s() -> None:
    assert "NetworkPolicy" not in cause(failure("data", 0, "torn", code=65), DENY, code=65).message


def rule(operator: str, key: str = "team", *values: str) -> Any:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": [*values]}]}


NAME = "app.kubernetes.io/name"


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"policyTypes": ["Ingress"]}, False),
        ({"ingress": []}, False),
        ({"egress": [{"ports": [{"port": 53}]}]}, True),
        ({"policyTypes": ["Egress"], "podSelector": {"matchLabels": LABELS}}, True),
        ({"policyTypes": ["Egress"], "podSelector": {"matchLabels": {"app": "web"}}}, False),
        ({"policyTypes": ["Egress"], "podSelector": rule("DoesNotExist")}, True),
        ({"policyTypes": ["Egress"], "podSelector": rule("Exists")}, False),
        ({"policyTypes": ["Egress"], "podSelector": rule("NotIn", "team", "a")}, True),
        ({"policyTypes": ["Egress"], "podSelector": rule("In", NAME, "trainyard", "x")}, True),
        ({"policyTypes": ["Egress"], "podSelector": rule("NotIn", NAME, "trainyard")}, False),
        ({"policyTypes": ["Egress"], "podSelector": rule("Exists", NAME)}, True),
        ({"policyTypes": ["Egress"], "podSelector": rule("DoesNotExist", NAME)}, False),
    ],
)
def test_what_a_policy_selects_and_limits(spec: Any, named: bool) -> None:
    assert ("NetworkPolicy some limits" in cause(STORE, policy("some", **spec)).message) == named
