"""Logs of containers, cut and resumed without a line twice or lost."""

import threading
from collections.abc import Iterator

import pytest

from k8s.client import cluster as client
from k8s.client import log_lines
from k8s.client.cluster import Cluster
from k8s.client.refusals import ClusterError
from tests.support.apiserver import ApiServer, Fault
from tests.support.clients import raised
from trainer.errors import UnavailableError

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
    api.push("p", "x" * (5 * log_lines.LONGEST_LINE))
    api.push("p", "after")
    *pieces, last = lines(cluster.log("p"))
    assert "".join(pieces) == "x" * (5 * log_lines.LONGEST_LINE)
    assert max(map(len, pieces)) < 1.2 * log_lines.LONGEST_LINE
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
