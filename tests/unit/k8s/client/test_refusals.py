"""What an API server refuses becomes one line that says what to do."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8s.client.cluster import Cluster
from k8s.client.refusals import (
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    refused,
)
from tests.support.apiserver import ApiServer, Fault
from tests.support.clients import job, raised
from trainer.errors import UserError

# Refusals


def test_a_missing_permission_is_named(api: ApiServer, cluster: Cluster) -> None:
    api.denied = {("create", "jobs"), ("list", "namespaces"), ("get", "pods/log")}
    error = raised(ForbiddenError, lambda: cluster.create(job()))
    assert (error.status, error.reason, error.exit_code) == (403, "Forbidden", 2)
    assert str(error) == (
        "jane may not create jobs.batch in namespace default; "
        "have the Role of infra/ bound to this user"
    )
    assert str(raised(ForbiddenError, lambda: cluster.list("Namespace"))) == (
        "jane may not list namespaces in the whole cluster; "
        "have a ClusterRole with it bound to this user"
    )
    assert "get pods/log" in str(raised(ForbiddenError, lambda: list(cluster.log("p"))))


def test_a_user_without_credentials_is_told_so(api: ApiServer, cluster: Cluster) -> None:
    text = 'version is forbidden: User "system:anonymous" cannot get path "/version"'
    api.faults = [Fault("status", status=403, message=text)]
    assert "log in" in str(raised(ForbiddenError, cluster.version))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (
            'pods "m-0" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot',
            "pod-security.kubernetes.io/enforce",
        ),
        (
            'jobs.batch "m" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, '
            "used: count/jobs.batch=10, limited: count/jobs.batch=10",
            "ask for less",
        ),
        ('pods "m" is forbidden: failed quota: q: must specify cpu for: trainer', "resources"),
        (
            'jobs.batch "m" is forbidden: unable to create new content in namespace x because '
            "it is being terminated",
            "wait until the namespace is gone",
        ),
        ('jobs.batch "m" is forbidden: no such luck', "ask the cluster's administrator"),
    ],
)
def test_a_refused_admission_is_no_missing_permission(
    api: ApiServer, cluster: Cluster, text: str, remedy: str
) -> None:
    api.faults = [Fault("status", "create", "jobs", status=403, message=text)]
    error = raised(InvalidError, lambda: cluster.create(job()))
    assert str(error).startswith(f"{text}; ")
    assert remedy in str(error).removeprefix(text)
    assert (error.status, error.exit_code) == (403, 2)


def test_a_missing_namespace_is_told_from_a_missing_object(api: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), namespace="nowhere")
    error = raised(InvalidError, lambda: cluster.create(job()))
    assert error.status == 404
    assert "has no namespace nowhere; create it" in str(error)
    error_of_patch = raised(ClusterError, lambda: cluster.patch("Job", "m", {}))
    assert error_of_patch.status == 404
    assert 'jobs.batch "m" not found' in str(error_of_patch)


def test_a_taken_name_is_a_conflict(cluster: Cluster) -> None:
    cluster.create(job())
    error = raised(ConflictError, lambda: cluster.create(job()))
    assert (error.status, error.reason) == (409, "AlreadyExists")
    assert 'jobs.batch "m" already exists' in str(error)


def test_an_outdated_patch_is_a_conflict(api: ApiServer, cluster: Cluster) -> None:
    cluster.create(job())
    patch = {"metadata": {"resourceVersion": "0"}}
    assert raised(ConflictError, lambda: cluster.patch("Job", "m", patch)).reason == "Conflict"
    assert len(api.sent("patch", "jobs")) == 1


def test_a_lost_race_for_a_quota_is_run_again(api: ApiServer, cluster: Cluster) -> None:
    text = 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified'
    api.faults = [Fault("status", "create", "jobs", status=409, message=text, times=2)]
    assert cluster.create(job())["metadata"]["uid"]


def test_an_invalid_object_names_its_fields(api: ApiServer, cluster: Cluster) -> None:
    causes = [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.image"},
        {"reason": "FieldValueInvalid", "message": "Invalid value: 0: too\nfew", "field": "spec.n"},
    ]
    details = {"name": "m", "group": "batch", "kind": "Job", "causes": causes}
    api.faults = [Fault("status", status=422, message="[a, b]", details=details)]
    error = raised(InvalidError, lambda: cluster.create(job(), dry_run=True))
    assert error.status == 422
    assert str(error) == (
        "Job m is invalid: spec.image: Required value; spec.n: Invalid value: 0: too few"
    )


def test_an_object_that_cannot_be_parsed_is_invalid(api: ApiServer, cluster: Cluster) -> None:
    text = 'Job in version "v1" cannot be handled as a Job: json: cannot unmarshal string'
    api.faults = [Fault("status", status=400, message=text)]
    assert text in str(raised(InvalidError, lambda: cluster.create(job())))


def test_a_server_that_wants_tls_is_named() -> None:
    words = b"Client sent an HTTP request to an HTTPS server.\n"
    response = SimpleNamespace(status=400, data=words, headers={}, reason="Bad Request")
    error = raised(InvalidError, lambda: refused(response, "GET", "http://a:1 (context c)"))
    assert str(error) == (
        "http://a:1 (context c): Client sent an HTTP request to an HTTPS server; write https:// in "
        "the kubeconfig's server"
    )


@pytest.mark.parametrize(("header", "wait"), [("7", 7.0), ("²", None), ("soon", None)])
def test_a_server_may_say_when_to_try_again(header: str, wait: float | None) -> None:
    headers = {"Retry-After": header}
    response = SimpleNamespace(status=503, data=b"{}", headers=headers, reason="busy")
    assert refused(response, "GET", "here")[1] == wait


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    status=st.sampled_from([400, 401, 402, 403, 404, 405, 409, 410, 413, 415, 422, 451]),
    message=st.text(max_size=50),
    reason=st.sampled_from(["Forbidden", "Expired", "Odd"]),
    details=st.sampled_from([{}, {"kind": "namespaces"}, {"causes": [{}]}, {"causes": None}]),
)
def test_every_refusal_is_one_line(
    api: ApiServer,
    cluster: Cluster,
    status: int,
    message: str,
    reason: str,
    details: dict[str, Any],
) -> None:
    api.faults = [Fault("status", status=status, message=message, reason=reason, details=details)]
    calls: list[Callable[[], object]] = [
        lambda: cluster.create(job()),
        lambda: cluster.patch("Job", "m", {}),
    ]
    for call in calls:
        api.faults[0].times = 2  # the second one is for the request with a renewed token
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value).strip()
        assert len(str(caught.value).splitlines()) == 1
