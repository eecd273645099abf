"""Namespaces whose policies refuse what they were not asked about: doctor names them before."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.clusters import Space, kubectl, trained_here, weights

TRAIN = {"preset": "softmax", "steps": 200, "chunk_steps": 50}
PODS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
JOBS = {**PODS, "apiGroups": ["batch"], "resources": ["jobs"]}
USER = "object.spec.?securityContext.?runAsUser.orValue(0)"
POLICIES: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "users": (
        [PODS],
        f"{USER} >= 1000650000 && {USER} <= 1000659999",
        "runAsUser must be from 1000650000 to 1000659999",
    ),
    "team": (
        [JOBS],  # of two policies for one object the API server names one, either of them
        "'team' in object.metadata.?labels.orValue({})",
        "the label team must be there",
    ),
}


def policy(name: str, namespace: str) -> list[dict[str, Any]]:
    """A ValidatingAdmissionPolicy, and its binding to a namespace."""
    rules, expression, message = POLICIES[name]
    group = "admissionregistration.k8s.io/v1"
    metadata = {"name": f"{namespace}-{name}"}
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return [
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": metadata,
            "spec": {
                "matchConstraints": {"resourceRules": rules},
                "validations": [{"expression": expression, "message": message}],
            },
        },
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": metadata,
            "spec": {
                "policyName": metadata["name"],
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": here},
            },
        },
    ]


@pytest.fixture
def guarded(space: Space) -> Iterator[Space]:
    """A namespace that allows some users only, and demands a label."""
    items = yaml.safe_dump_all(each for name in POLICIES for each in policy(name, space.name))
    kubectl("apply", "-f", "-", stdin=items)
    try:
        yield space
    finally:
        kubectl("delete", "-f", "-", "--ignore-not-found", stdin=items)


@pytest.fixture
def given(space: Space) -> Iterator[Space]:
    """A namespace that gives pods a user, as OpenShift's restricted-v2 does, and takes no other."""
    group = "admissionregistration.k8s.io/v1"
    metadata = {"name": f"{space.name}-give"}
    context = "Object.spec.securityContext{runAsUser: 1000650000, fsGroup: 1000650000}"
    patch = f"Object{{spec: Object.spec{{securityContext: {context}}}}}"
    here = {"matchLabels": {"kubernetes.io/metadata.name": space.name}}
    spec = {
        "matchConstraints": {"resourceRules": [PODS]},
        "reinvocationPolicy": "Never",
        "matchConditions": [
            {"name": "no-user", "expression": "!has(object.spec.securityContext.runAsUser)"}
        ],
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": patch}}
        ],
    }
    binding = {"policyName": metadata["name"], "matchResources": {"namespaceSelector": here}}
    kind = "MutatingAdmissionPolicy"
    items = yaml.safe_dump_all(
        [
            {"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec},
            {"apiVersion": group, "kind": f"{kind}Binding", "metadata": metadata, "spec": binding},
            *policy("users", space.name),
        ]
    )
    kubectl("apply", "-f", "-", stdin=items)
    try:
        yield space
    finally:
        kubectl("delete", "-f", "-", "--ignore-not-found", stdin=items)


def said(space: Space, path: str) -> list[dict[str, str]]:
    return list(json.loads(space.k8s("doctor", path, "-o", "json").out))


def failed(space: Space, path: str) -> str:
    return "\n".join(each["text"] for each in said(space, path) if each["state"] == "failed")


def test_two_lines_more_train_where_users_are_given_and_a_label_is_demanded(
    guarded: Space,
) -> None:
    plain = {"train": TRAIN}
    path = guarded.run_file(**plain)
    words = [message for _, _, message in POLICIES.values()]
    # A policy counts some moments after it was created.
    guarded.until(lambda: all(each in failed(guarded, path) for each in words))
    assert guarded.k8s("submit", path).code == 2
    assert not guarded.objects("jobs")
    path = guarded.run_file(**plain, labels={"team": "vision"}, run_as_user=1000650000)
    assert failed(guarded, path) == ""
    assert {"check": "pods", "state": "ok", "text": "the API server would take them"} in said(
        guarded, path
    )
    done = guarded.k8s("submit", path)
    assert done.code == 0, done.out + done.err
    guarded.until(lambda: guarded.status(path)["phase"] == "Succeeded", 600)
    pods = guarded.objects("pods")
    assert {pod["spec"]["securityContext"]["runAsUser"] for pod in pods} == {1000650000}
    assert {pod["metadata"]["labels"]["team"] for pod in pods} == {"vision"}
    assert weights(guarded.stored(path).uri) == trained_here(TRAIN)


def test_a_run_takes_the_user_that_the_cluster_gives(given: Space) -> None:
    plain = {"train": TRAIN}
    given.until(lambda: "1000650000" in failed(given, given.run_file(**plain)))
    path = given.run_file(**plain, run_as_user="cluster")
    given.until(lambda: failed(given, path) == "")
    done = given.k8s("submit", path)
    assert done.code == 0, done.out + done.err
    who = "import os; print(os.getuid(), os.getgid(), *os.getgroups())"
    ask = ("exec", given.until(lambda: given.objects("pods") and given.pod_of(path, 1)), "--")
    ids = given.until(lambda: given.kubectl(*ask, "python", "-c", who, check=False))
    assert ids.split() == ["1000650000", "0", "0", "1000650000"]
    given.until(lambda: given.status(path)["phase"] == "Succeeded", 600)
    assert weights(given.stored(path).uri) == trained_here(TRAIN)
