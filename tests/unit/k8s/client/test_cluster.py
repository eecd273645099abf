"""Objects of a cluster: created, read, listed, changed and deleted."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from k8s.client import cluster as client
from k8s.client.cluster import Cluster
from k8s.client.refusals import ClusterError, ForbiddenError
from tests.support.apiserver import ApiServer, Fault
from tests.support.clients import job, raised
from trainer.errors import UnavailableError

ROOT = Path(__file__).parents[4]


def config_map(name: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}


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


# The package


@pytest.mark.process
def test_the_package_is_loaded_when_a_cluster_is_opened() -> None:
    code = "import sys, k8s.client; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert not {"kubernetes", "urllib3", "yaml", "pydantic"} & set(done.stdout.split())
