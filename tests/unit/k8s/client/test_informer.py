"""Objects that are followed by one watch, and what is asked of the API server for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.client import cluster as clusters
from k8s.client import informer
from k8s.client.cluster import Cluster
from k8s.client.informer import Informer
from k8s.client.refusals import ForbiddenError
from tests.support.apiserver import ApiServer, Fault
from tests.support.processes import wait_until
from trainer.errors import UnavailableError, UserError

LABELS = "app=ours"


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Cluster:
    return Cluster(kubeconfig=api.kubeconfig(tmp_path / "config"), pause=0.01, deadline=1.0)


@pytest.fixture
def pods(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Informer]:
    monkeypatch.setattr(informer, "PAUSE", 0.02)
    found = Informer(cluster, "Pod", LABELS)
    yield found
    found.close()


def add(api: ApiServer, name: str, app: str = "ours", phase: str = "Pending") -> None:
    metadata = {"name": name, "labels": {"app": app}, "managedFields": [{"manager": "kubelet"}]}
    api.add({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"phase": phase}})


def phases(pods: Informer) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in pods.now()}


def test_what_happens_is_seen_with_one_list_and_one_watch(api: ApiServer, pods: Informer) -> None:
    add(api, "a")
    add(api, "another", app="theirs")
    wait_until(lambda: phases(pods) == {"a": "Pending"}, 10)
    api.objects["Pod", "default", "a"]["status"]["phase"] = "Running"
    add(api, "b")
    wait_until(lambda: phases(pods) == {"a": "Running", "b": "Pending"}, 10)
    del api.objects["Pod", "default", "a"]
    wait_until(lambda: phases(pods) == {"b": "Pending"}, 10)
    assert [len(api.sent(verb, "pods")) for verb in ("list", "watch")] == [1, 1]
    assert "managedFields" not in pods.now()[0]["metadata"]


def test_a_watch_that_ends_is_continued_without_a_list(
    api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "WATCH", 0.05)
    pods = Informer(cluster, "Pod", LABELS)
    wait_until(lambda: len(api.sent("watch", "pods")) > 3, 10)
    add(api, "a")
    wait_until(lambda: phases(pods) == {"a": "Pending"}, 10)
    pods.close()
    assert len(api.sent("list", "pods")) == 1


def test_what_the_server_has_forgotten_is_listed_again(api: ApiServer, pods: Informer) -> None:
    add(api, "a")
    wait_until(lambda: phases(pods) == {"a": "Pending"}, 10)
    del api.objects["Pod", "default", "a"]
    api.forgotten = 1_000_000
    wait_until(lambda: len(api.sent("list", "pods")) > 1, 10)
    api.forgotten = 0
    add(api, "b")
    wait_until(lambda: phases(pods) == {"b": "Pending"}, 10)


def trouble(pods: Informer) -> UserError | None:
    """Why nothing is seen at present."""
    try:
        pods.now()
    except UserError as error:
        return error
    return None


def test_a_server_that_does_not_answer_is_told_and_followed_again(
    api: ApiServer, pods: Informer
) -> None:
    assert pods.now() == []
    for verb in ("list", "watch"):
        api.faults.append(Fault("status", verb, "pods", status=503, times=1000))
    api.forgotten = 1_000_000
    wait_until(lambda: isinstance(trouble(pods), UnavailableError), 30)
    api.faults.clear()
    api.forgotten = 0
    add(api, "a")
    # The list that ends the trouble may come before the pod.
    wait_until(lambda: trouble(pods) is None and phases(pods) == {"a": "Pending"}, 30)


def test_who_may_not_watch_is_told(api: ApiServer, pods: Informer) -> None:
    api.denied = {("watch", "pods")}
    api.forgotten = 1_000_000
    wait_until(lambda: isinstance(trouble(pods), ForbiddenError), 30)
    assert "may not watch pods" in str(trouble(pods) or "may not watch pods")
