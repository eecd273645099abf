"""The client against an API server that refuses, fails and falls silent as real ones do."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8s.client import cluster as client
from k8s.client import kubeconfig, log_stream
from k8s.client.cluster import Cluster
from k8s.client.refusals import ClusterError, ConflictError, ForbiddenError, InvalidError
from tests.support import certificates
from tests.support.apiserver import ApiServer, Fault
from trainer.errors import ConfigError, UnavailableError, UserError

ROOT = Path(__file__).parents[4]


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        yield api


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Cluster:
    return Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), pause=0.001)


def config_map(name: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}


def job(name: str = "m") -> dict[str, Any]:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"a": 1}}


E = TypeVar("E", bound=UserError)


def raised(error: type[E], call: Callable[[], object]) -> E:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return caught.value


# What requests do where nothing fails


def test_objects_are_created_read_changed_and_deleted(api: ApiServer, cluster: Cluster) -> None:
    assert cluster.version() == "v1.36.2"
    created = cluster.create(job())
    assert created == cluster.get("Job", "m") == api.objects["Job", "default", "m"]
    changed = cluster.patch("Job", "m", {"spec": {"a": None, "b": {"c": [None, 0]}}})
    assert changed["spec"] == {"b": {"c": [None, 0]}}
    assert cluster.delete("Job", "m")
    assert not cluster.delete("Job", "m")
    assert cluster.get("Job", "m") is None
    assert api.sent("delete", "jobs")[0].query == {"propagationPolicy": "Background"}


def test_a_dry_run_changes_nothing(cluster: Cluster) -> None:
    assert cluster.create(job(), dry_run=True)["spec"] == {"a": 1}
    assert cluster.get("Job", "m") is None


def test_each_kind_has_its_place(api: ApiServer, cluster: Cluster) -> None:
    api.kueue = ("v1beta2",)
    for kind, (version, _, namespaced) in client.KINDS.items():
        version += "/v1beta2" if version in client.OPTIONAL else ""
        made = cluster.create({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}})
        assert made["metadata"].get("namespace") == ("default" if namespaced else None)
        assert "x" in [item["metadata"]["name"] for item in cluster.list(kind)]


def test_an_object_goes_to_its_own_namespace(api: ApiServer, cluster: Cluster) -> None:
    api.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    there = config_map("a")
    there["metadata"]["namespace"] = "other"
    cluster.create(there)
    cluster.create(config_map("b"))
    assert cluster.get("ConfigMap", "a") is None
    assert [item["metadata"]["name"] for item in cluster.list("ConfigMap")] == ["b"]


def test_lists_take_selectors(api: ApiServer, cluster: Cluster) -> None:
    for name, labels in {"a": {"x/y": "1"}, "b": {"x/y": "2"}, "c": {}}.items():
        api.add(config_map(name, **labels))

    def names(labels: str) -> str:
        found = cluster.list("ConfigMap", labels=labels)
        return "".join(item["metadata"]["name"] for item in found)

    assert names("x/y=1") == "a"
    assert names("x/y in (1, 2),x/y!=2") == "a"
    assert names("!x/y") == "c"


def test_a_list_comes_in_pages_of_500(api: ApiServer, cluster: Cluster) -> None:
    for number in range(1100):
        api.add(config_map(f"{number:04}"))
    assert len({item["metadata"]["name"] for item in cluster.list("ConfigMap")}) == 1100
    assert [request.query["limit"] for request in api.requests] == ["500"] * 3


def test_a_list_whose_pages_are_gone_starts_again(api: ApiServer, cluster: Cluster) -> None:
    for number in range(1100):
        api.add(config_map(f"{number:04}"))
    api.faults = [
        Fault("status", "list", skip=1, status=410, effect=lambda: api.add(config_map("x")))
    ]
    names = [item["metadata"]["name"] for item in cluster.list("ConfigMap")]
    assert len(names) == len(set(names)) == 1101
    assert len(api.requests) == 3


def test_a_list_that_is_gone_from_the_start_is_refused(api: ApiServer, cluster: Cluster) -> None:
    api.faults = [Fault("status", "list", times=9, status=410)]
    assert raised(ClusterError, lambda: cluster.list("Pod")).status == 410


def test_a_cluster_without_kueue_has_no_queues(api: ApiServer, cluster: Cluster) -> None:
    assert cluster.list("LocalQueue") == cluster.list("Workload") == []
    assert cluster.get("LocalQueue", "q") is None
    api.kueue = ("v1beta2",)
    api.denied = {("list", "localqueues")}
    raised(ForbiddenError, lambda: cluster.list("LocalQueue"))


@pytest.mark.parametrize(
    ("served", "used"),
    [
        (("v1beta1",), "v1beta1"),  # Kueue before 0.15
        (("v1beta1", "v1beta2"), "v1beta2"),
        (("v1beta2", "v1beta1"), "v1beta2"),
        (("v1beta2",), "v1beta2"),  # from 0.20 on
        (("v1", "v1beta2"), "v1beta2"),
        (("v2",), "v2"),  # of a time to come: what is read here may well be there still
    ],
)
def test_kueue_is_asked_in_a_version_that_it_serves(
    served: tuple[str, ...], used: str, api: ApiServer, cluster: Cluster
) -> None:
    api.kueue = served
    queue = {"apiVersion": f"kueue.x-k8s.io/{used}", "kind": "LocalQueue"}
    api.add({**queue, "metadata": {"name": "q"}})
    assert cluster.get("LocalQueue", "q")
    assert [item["metadata"]["name"] for item in cluster.list("LocalQueue")] == ["q"]
    assert cluster.list("Workload") == []
    asked = [r.version for r in api.requests if r.resource in ("localqueues", "workloads")]
    assert asked == [f"kueue.x-k8s.io/{used}"] * 3
    assert len(api.sent("get", "/apis/kueue.x-k8s.io")) == 1


def test_an_answer_about_versions_that_is_none_is_a_group_that_is_not_there(
    api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "act", lambda request: {"kind": "Odd", "resource": request.resource})
    assert cluster.list("Workload") == []
    assert cluster.get("LocalQueue", "q") is None


@pytest.mark.long
def test_a_server_that_asks_for_no_pause_is_not_flooded(api: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), pause=0.001, deadline=2.0)
    api.faults = [Fault("status", "get", "jobs", status=429, times=10**6, retry_after=0)]
    began = time.monotonic()
    raised(UnavailableError, lambda: cluster.get("Job", "m"))
    assert len(api.requests) <= (time.monotonic() - began) / client.SHORTEST + 1


def test_remarks_on_created_objects_are_kept(api: ApiServer, cluster: Cluster) -> None:
    text = r'would violate PodSecurity "restricted:latest": a \ b (container "c" must set x)'
    api.warnings = [text, "unknown field"]
    cluster.create(job(), dry_run=True)
    assert cluster.warnings == [text, "unknown field"]
    api.warnings = ["again"]
    cluster.create(job())
    assert cluster.warnings[2:] == ["again"]


def test_can_asks_for_one_permission(api: ApiServer, cluster: Cluster) -> None:
    api.denied = {("get", "pods/log")}
    assert cluster.can("get", "pods")
    assert not cluster.can("get", "pods", subresource="log")
    assert cluster.can("create", "jobs", group="batch")
    asked = [request.body["spec"]["resourceAttributes"] for request in api.requests]
    assert [a["namespace"] for a in asked] == ["default", "default", "default"]
    assert [a["group"] for a in asked] == ["", "", "batch"]


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


# Tokens


PLUGIN = """#!{python}
import json, pathlib
count = pathlib.Path({count!r})
count.write_text(count.read_text() + "x" if count.exists() else "x")
token = ["", "old", "new"][len(count.read_text())]
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                  "status": {{"token": token, "expirationTimestamp": "2020-01-01T00:00:00Z"}}}}))
"""


def plugin(tmp_path: Path, script: str = PLUGIN) -> dict[str, Any]:
    """A kubeconfig's user whose credential plugin is a script; its calls are counted in a file."""
    path = tmp_path / "plugin"
    path.write_text(script.format(python=sys.executable, count=str(tmp_path / "count")))
    path.chmod(0o755)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(path),
            "interactiveMode": "Never",
        }
    }


@pytest.mark.process
def test_an_expired_token_is_renewed_once(api: ApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path / "config", user=plugin(tmp_path))
    cluster = Cluster(kubeconfig=path, pause=0.001)
    api.token = "old"
    cluster.create(job())
    cluster.list("Pod")
    assert len((tmp_path / "count").read_text()) == 1
    api.token = "new"
    api.push("p", "line")
    assert [line for _, line in cluster.log("p")] == ["line"]
    assert cluster.get("Job", "m") is not None
    assert [request.token for request in api.requests] == ["old"] * 3 + ["new"] * 2
    assert len((tmp_path / "count").read_text()) == 2


def test_a_token_written_into_the_kubeconfig_is_found(api: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"))
    api.token = "another"
    api.kubeconfig(tmp_path / "config", user={"token": "another"})
    assert cluster.version()


def test_expired_credentials_ask_for_a_login(api: ApiServer, cluster: Cluster) -> None:
    api.token = "another"
    error = raised(ConfigError, lambda: cluster.list("Pod"))
    assert "context test" in str(error)
    assert "log in again" in str(error)
    assert len(api.requests) == 2


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho the session is over >&2; exit 3\n", "the session is over"),
        ("#!/bin/sh\necho no json\n", "failed to decode"),
        ("#!/nowhere\n", "No such file"),
    ],
)
def test_a_failing_credential_plugin_is_quoted(
    api: ApiServer, tmp_path: Path, capfd: pytest.CaptureFixture[str], script: str, said: str
) -> None:
    path = api.kubeconfig(tmp_path / "config", user=plugin(tmp_path, script))
    error = raised(ConfigError, lambda: Cluster(kubeconfig=path))
    assert said in str(error)
    assert "context test" in str(error)
    assert capfd.readouterr() == ("", "")


# Failures that a retry may fix


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_waited_out(api: ApiServer, cluster: Cluster, status: int) -> None:
    api.faults = [Fault("status", status=status, times=3)]
    cluster.create(job())
    assert len(api.requests) == 4


@pytest.mark.long
@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=429, retry_after=1),
        Fault("status", status=500, reason="ServerTimeout", details={"retryAfterSeconds": 1}),
    ],
)
def test_the_server_says_when_to_come_back(api: ApiServer, cluster: Cluster, fault: Fault) -> None:
    api.faults = [fault]
    start = time.monotonic()
    cluster.version()
    assert time.monotonic() - start >= 1


def test_who_is_sent_away_for_long_gives_up_at_once(api: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), deadline=100)
    api.faults = [Fault("status", status=429, retry_after=101, message="too many requests")]
    error = raised(UnavailableError, cluster.version)
    assert f"{api.url} (context test): 429: too many requests" in str(error)
    assert len(api.requests) == 1


@pytest.mark.long
def test_a_lasting_failure_ends_at_the_deadline(api: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), deadline=1, pause=0.02)
    api.faults = [Fault("status", times=1000, status=500, message="etcdserver: request timed out")]
    assert "etcdserver: request timed out" in str(raised(UnavailableError, cluster.version))
    assert 2 < len(api.requests) < 20


@pytest.mark.parametrize("verb", ["get", "list", "create", "patch", "delete"])
def test_a_connection_cut_before_the_request_took_effect(
    api: ApiServer, cluster: Cluster, verb: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: cluster.get("Job", "m"),
        "list": lambda: cluster.list("Job"),
        "create": lambda: cluster.create(job("new")),
        "patch": lambda: cluster.patch("Job", "m", {"spec": {"a": 2}}),
        "delete": lambda: cluster.delete("Job", "m"),
    }
    api.add(job())
    api.faults = [Fault("cut-before", verb, times=2)]
    assert calls[verb]()
    assert len(api.requests) == 3


def test_a_create_whose_answer_is_lost_is_a_conflict(api: ApiServer, cluster: Cluster) -> None:
    api.faults = [Fault("cut-after", "create")]
    raised(ConflictError, lambda: cluster.create(job()))
    assert cluster.get("Job", "m") is not None


def test_a_patch_whose_answer_is_lost_is_repeated(api: ApiServer, cluster: Cluster) -> None:
    api.add(job())
    api.faults = [Fault("cut-after", "patch")]
    assert cluster.patch("Job", "m", {"spec": {"a": 2}})["spec"] == {"a": 2}


def test_a_deletion_whose_answer_is_lost_is_done(api: ApiServer, cluster: Cluster) -> None:
    api.add(job())
    api.faults = [Fault("cut-after", "delete")]
    cluster.delete("Job", "m")
    assert cluster.get("Job", "m") is None


def test_a_server_that_does_not_answer_is_given_up(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ", 0.05)
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), deadline=0.3, pause=0.01)
    api.faults = [Fault("slow", times=1000, seconds=0.5)]
    assert "did not answer in time" in str(raised(UnavailableError, cluster.version))
    assert len(api.requests) > 1


def test_a_server_that_refuses_connections_is_named(tmp_path: Path) -> None:
    with ApiServer() as api:
        cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), deadline=0.05)
    error = raised(UnavailableError, cluster.version)
    assert str(error) == (
        f"{api.url} (context test): Connection refused; is it the right context, and the network "
        "up?"
    )


def test_a_name_that_does_not_resolve_is_named(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    path = api.kubeconfig(tmp_path / "config", cluster={"server": "https://nowhere.invalid"})
    cluster = Cluster(kubeconfig=path, deadline=0.01)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert str(raised(UnavailableError, cluster.version)).startswith(
        "https://nowhere.invalid (context test): its name cannot be resolved; "
    )


def test_an_answer_of_another_program_is_quoted(api: ApiServer, cluster: Cluster) -> None:
    api.faults = [Fault("status", status=403, reason="Blocked", message="by the proxy")]
    assert "is a proxy in the way" in str(raised(ForbiddenError, cluster.version))


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a self-signed certificate of 127.0.0.1."""
    return certificates.self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(certificate: Path) -> Iterator[ApiServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ApiServer(tls=context) as api:
        yield api


def test_a_server_of_an_unknown_authority_is_refused(secure: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=secure.kubeconfig(tmp_path / "config"))
    error = raised(ConfigError, cluster.version)
    assert "TLS: certificate verify failed: self-signed certificate; check" in str(error)
    assert not secure.requests


def test_https_to_a_plain_server_is_refused(api: ApiServer, tmp_path: Path) -> None:
    server = {"server": api.url.replace("http:", "https:")}
    cluster = Cluster(kubeconfig=api.kubeconfig(tmp_path / "config", cluster=server))
    assert ": TLS: " in str(raised(ConfigError, cluster.version))


def test_a_pod_uses_its_service_account(
    secure: ApiServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("old")
    (tmp_path / "namespace").write_text("mine\n")
    (tmp_path / "ca.crt").write_bytes(certificate.read_bytes())
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", secure.url.rpartition(":")[2])
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", tmp_path)
    package = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{package}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{package}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    cluster = Cluster()
    assert (cluster.context, cluster.namespace) == ("in-cluster", "mine")
    assert cluster.server == secure.url
    (tmp_path / "token").write_text("new")
    secure.token = "new"
    assert cluster.version()


# Kubeconfigs


def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "nothing")
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBECONFIG", path)
    assert f"kubeconfig {path}: not there" in str(raised(ConfigError, Cluster))
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "kubeconfig ~/.kube/config: not there" in str(raised(ConfigError, Cluster))
    error = raised(ConfigError, lambda: Cluster(kubeconfig=path))
    assert str(error).startswith(f"kubeconfig {path}: No such file or directory; ")


def test_an_unknown_context_names_the_nearest(api: ApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path / "config", context="production")
    error = raised(ConfigError, lambda: Cluster(kubeconfig=path, context="prodution"))
    assert str(error) == (
        f"kubeconfig {path}: no context 'prodution'; did you mean production? "
        "(there are production)"
    )


def test_no_current_context(api: ApiServer, tmp_path: Path) -> None:
    path = Path(api.kubeconfig(tmp_path / "config"))
    content = yaml.safe_load(path.read_text())
    del content["current-context"]
    path.write_text(yaml.safe_dump(content))
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(path)))
    assert "no current context; give --context with one of test" in str(error)
    assert Cluster(kubeconfig=str(path), context="test").version()


@pytest.mark.parametrize(
    "content", ["{", "a\n", "contexts: 3", "contexts: [3]", "contexts: [{name: a}]", "\x00"]
)
def test_what_is_no_kubeconfig(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(path)))
    assert str(error).startswith(f"kubeconfig {path}: not a kubeconfig; ")


@pytest.mark.parametrize("part", ["clusters", "users"])
def test_a_context_that_leads_nowhere(api: ApiServer, tmp_path: Path, part: str) -> None:
    path = Path(api.kubeconfig(tmp_path / "config"))
    content = yaml.safe_load(path.read_text())
    content[part] = [{"name": {"clusters": "x", "users": "u"}[part], "user": 3}]
    path.write_text(yaml.safe_dump(content))
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(path)))
    assert str(error).startswith(f"kubeconfig {path}, context test: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_kubeconfig(api: ApiServer, tmp_path: Path) -> None:
    path = Path(api.kubeconfig(tmp_path / "config"))
    path.chmod(0)
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(path)))
    assert "Permission denied" in str(error)


def test_a_folder_is_no_kubeconfig(tmp_path: Path) -> None:
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(tmp_path)))
    assert "Is a directory" in str(error)


def test_the_namespace_is_the_given_one_or_the_contexts(api: ApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path / "config", namespace="theirs")
    assert Cluster(kubeconfig=path).namespace == "theirs"
    assert Cluster(kubeconfig=path, namespace="mine").namespace == "mine"
    assert Cluster(kubeconfig=api.kubeconfig(tmp_path / "config")).namespace == "default"


def test_of_several_kubeconfigs_the_first_names_the_context(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        api.kubeconfig(tmp_path / "a", context="first", namespace="one"),
        str(tmp_path / "missing"),
        api.kubeconfig(tmp_path / "b", context="second", namespace="two"),
    ]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(paths))
    cluster = Cluster()
    assert (cluster.context, cluster.namespace) == ("first", "one")
    assert Cluster(context="second").namespace == "two"
    assert cluster.version()


# Logs


def lines(entries: Iterator[tuple[str, str]]) -> list[str]:
    return [line for _, line in entries]


def test_a_log_comes_with_its_times(api: ApiServer, cluster: Cluster) -> None:
    stamps = [api.push("p", line) for line in ("a b", "", "ü")]
    assert list(cluster.log("p")) == list(zip(stamps, ["a b", "", "ü"], strict=True))
    assert lines(cluster.log("p", tail=1)) == ["ü"]
    assert lines(cluster.log("p", tail=0)) == []
    assert api.requests[0].query["container"] == "trainer"


def test_a_follower_sees_lines_as_they_are_written(api: ApiServer, cluster: Cluster) -> None:
    api.push("p", "0")
    log = cluster.log("p", follow=True)
    assert next(log)[1] == "0"
    for number in range(1, 4):
        api.push("p", str(number))
        assert next(log)[1] == str(number)
    api.end("p")
    assert list(log) == []


def test_a_log_goes_on_after_the_last_line_received(api: ApiServer, cluster: Cluster) -> None:
    second = "2026-11-20T10:00:00"
    stamps = [f"{second}Z", f"{second}.49Z", f"{second}.50Z", f"{second}.500000001Z"]
    for stamp in stamps:
        api.push("p", stamp, stamp)
    for number, stamp in enumerate(stamps):
        assert lines(cluster.log("p", since=stamp)) == stamps[number + 1 :]
    assert lines(cluster.log("p", since="2026-11-20T12:00:00.5+02:00")) == stamps[3:]


def test_a_stream_cut_again_and_again_loses_nothing(api: ApiServer, cluster: Cluster) -> None:
    written = [f"line {number}" for number in range(30)]
    writer = threading.Thread(target=lambda: [api.push("p", line) for line in written])
    api.push("p", "first")
    api.faults = [Fault("cut-log", lines=number) for number in (3, 0, 7, 20)]
    received: list[str] = []
    since: str | None = None
    writer.start()
    while len(received) < 31:
        for stamp, line in cluster.log("p", follow=True, since=since):
            received.append(line)
            since = stamp
            if len(received) == 31:
                break
    writer.join()
    assert received == ["first", *written]
    assert len(api.requests) >= 5


def test_a_line_without_an_end_comes_in_pieces(api: ApiServer, cluster: Cluster) -> None:
    api.push("p", "x" * (5 * log_stream.LONGEST_LINE))
    api.push("p", "after")
    *pieces, last = lines(cluster.log("p"))
    assert "".join(pieces) == "x" * (5 * log_stream.LONGEST_LINE)
    assert max(map(len, pieces)) < 1.2 * log_stream.LONGEST_LINE
    assert last == "after"


def test_a_cut_log_that_nobody_follows_is_an_error(api: ApiServer, cluster: Cluster) -> None:
    for line in "abc":
        api.push("p", line)
    api.faults = [Fault("cut-log", lines=2)]
    received: list[str] = []
    error = raised(UnavailableError, lambda: received.extend(line for _, line in cluster.log("p")))
    assert received == ["a", "b"]
    assert "the log of p was cut off" in str(error)


def test_a_silent_log_ends_its_follower(
    api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ", 0.1)
    api.logs["p"] = []
    assert list(cluster.log("p", follow=True)) == []
    api.push("p", "a")
    assert lines(cluster.log("p", follow=True)) == ["a"]
    assert len(api.requests) == 2


def test_a_container_not_started_has_no_lines(api: ApiServer, cluster: Cluster) -> None:
    api.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})
    assert list(cluster.log("p", follow=True)) == []
    assert raised(ClusterError, lambda: list(cluster.log("q"))).status == 404


def test_what_the_kubelet_adds_to_a_log_has_the_time_before(
    api: ApiServer, cluster: Cluster
) -> None:
    stamp = api.push("p", "a")
    api.push("p", "to retrieve container logs for containerd://1", "unable")
    assert list(cluster.log("p"))[1] == (
        stamp,
        "unable to retrieve container logs for containerd://1",
    )


# The package


@pytest.mark.process
def test_the_package_is_loaded_when_a_cluster_is_opened() -> None:
    code = "import sys, k8s.client; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert not {"kubernetes", "urllib3", "yaml", "pydantic"} & set(done.stdout.split())
