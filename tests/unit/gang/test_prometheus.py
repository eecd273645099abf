"""Metrics for Prometheus: what is served, in the words of its own tools, and where."""

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import processes
from trainer import cluster_spec as clusters
from trainer import failure, worker_events
from trainer.config import TrainConfig, parse
from trainer.errors import UnavailableError
from trainer.gang import supervisor
from trainer.gang.prometheus import Exporter

RECORD = {"step": 40, "loss": 0.5, "accuracy": 0.75, "images_per_second": 3200.0, "epoch": 1.0}
PLAIN = clusters.Cluster(0, ("127.0.0.1:0",), local=True)


def config(**values: Any) -> TrainConfig:
    return parse(values)


@pytest.fixture
def port() -> int:
    return processes.free_ports(1)


@pytest.fixture
def exporter(port: int) -> Iterator[Exporter]:
    made = Exporter(config(metrics_port=port, run='gs://b/"odd"\n', batch_size=64), PLAIN)
    yield made
    made.close()


def served(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def values(text: str) -> dict[str, float]:
    """Return all values, by name and labels."""
    return {
        "".join(
            [sample.name, *(f" {k}={v}" for k, v in sorted(sample.labels.items()))]
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def tell(exporter: Exporter, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]) -> list[Any]:
    """Have a worker report a line of metrics.jsonl, and return the events that it takes."""
    events: list[Any] = []
    monkeypatch.setattr(worker_events, "tell_parent", lambda **event: events.append(event))
    worker_events.tell_metrics(record, 200)
    for event in events:
        exporter.take(event)
    return events


def test_the_newest_values_are_served(
    exporter: Exporter, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = values(served(port))
    assert "trainyard_loss" not in before
    assert before['trainyard_run_info folder=gs://b/"odd"\n preset=cnn workers=1'] == 1
    assert before["trainyard_restarts_total cause=killed"] == 0
    tell(exporter, monkeypatch, {**RECORD, "compute_ms": [1.5, 2.5], "wait_ms": [1.0, 0.0]})
    validation = {"step": 40, "validation_loss": 0.25, "validation_accuracy": 0.875}
    tell(exporter, monkeypatch, validation)
    exporter.restarted("killed")
    found = values(served(port))
    assert (
        found.items()
        >= {
            "trainyard_steps": 40.0,
            "trainyard_target_steps": 200.0,
            "trainyard_loss": 0.5,
            "trainyard_accuracy_ratio": 0.75,
            "trainyard_validation_loss": 0.25,
            "trainyard_validation_accuracy_ratio": 0.875,
            "trainyard_images_per_second": 3200.0,
            "trainyard_step_seconds": 0.02,
            "trainyard_rank_compute_seconds rank=0": 0.0015,
            "trainyard_rank_compute_seconds rank=1": 0.0025,
            "trainyard_rank_wait_seconds rank=0": 0.001,
            "trainyard_restarts_total cause=killed": 1.0,
            "trainyard_restarts_total cause=stalled": 0.0,
        }.items()
    )


def test_the_age_of_the_newest_checkpoint_grows_until_the_next(
    exporter: Exporter, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert 99 <= values(served(port))["trainyard_checkpoint_age_seconds"] <= 101
    exporter.take({"event": "committed", "step": 80})
    found = values(served(port))
    assert (found["trainyard_checkpoint_age_seconds"], found["trainyard_checkpoint_steps"]) == (
        0,
        80,
    )


def test_a_large_gangs_values_come_in_events_that_a_pipe_takes_whole(
    exporter: Exporter, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = [123456.789 + rank for rank in range(1024)]
    events = tell(exporter, monkeypatch, {**RECORD, "compute_ms": ranks, "wait_ms": ranks})
    assert max(len(str(event)) for event in events) < 4096
    found = values(served(port))
    assert len([name for name in found if name.startswith("trainyard_rank_compute")]) == 1024
    assert found["trainyard_rank_wait_seconds rank=1023"] == pytest.approx(ranks[-1] / 1e3)


def test_where_the_time_went_is_served_and_no_counter_falls(exporter: Exporter, port: int) -> None:
    assert not [name for name in values(served(port)) if "goodput" in name or "seconds_t" in name]
    lost = {"starting": 4.0, "restarting: killed": 2.5}
    exporter.take({"event": "goodput", "share": 0.5, "productive": 6.5, "lost": lost})
    lost = {"starting": 3.5, "repeating": 1.0}
    exporter.take({"event": "goodput", "share": 0.75, "productive": 6.0, "lost": lost})
    families = list(text_string_to_metric_families(served(port)))
    kinds = {family.name: family.type for family in families}
    assert kinds["trainyard_lost_seconds"] == kinds["trainyard_productive_seconds"] == "counter"
    found = values(served(port))
    assert {name: value for name, value in found.items() if name.endswith("_ratio")} == {
        "trainyard_goodput_ratio": 0.75
    }
    assert {name: value for name, value in found.items() if "seconds_total" in name} == {
        "trainyard_productive_seconds_total": 6.5,
        "trainyard_lost_seconds_total cause=starting": 4.0,
        "trainyard_lost_seconds_total cause=restarting: killed": 2.5,
        "trainyard_lost_seconds_total cause=repeating": 1.0,
    }


def test_each_attempt_has_values_of_its_own_ranks(
    exporter: Exporter, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(exporter, monkeypatch, {**RECORD, "compute_ms": [1, 2, 3], "wait_ms": [2, 1, 0]})
    exporter.take({"event": "joined"})
    assert not [name for name in values(served(port)) if "_rank_" in name]
    some = {**RECORD, "compute_ms": [1.5, 2.5], "wait_ms": [1.0, 0.0], "ranks": [0, 2]}
    tell(exporter, monkeypatch, some)
    found = {name: value for name, value in values(served(port)).items() if "_rank_" in name}
    assert found == {
        "trainyard_rank_compute_seconds rank=0": 0.0015,
        "trainyard_rank_compute_seconds rank=2": 0.0025,
        "trainyard_rank_wait_seconds rank=0": 0.001,
        "trainyard_rank_wait_seconds rank=2": 0.0,
    }


@pytest.mark.process
def test_prometheus_own_tool_finds_nothing_to_complain_of(
    exporter: Exporter, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    tell(exporter, monkeypatch, {**RECORD, "compute_ms": [1.5], "wait_ms": [0.0]})
    tell(exporter, monkeypatch, {"step": 40, "validation_loss": 0.2, "validation_accuracy": 0.9})
    exporter.take({"event": "committed", "step": 80})
    exporter.take({"event": "goodput", "share": 0.5, "productive": 2.5, "lost": {"storing": 2.5}})
    text = served(port)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_cause_has_a_series(exporter: Exporter, port: int) -> None:
    del exporter
    names = values(served(port))
    causes = {n.partition("=")[2] for n in names if n.startswith("trainyard_restarts_total")}
    assert causes == set(failure.KINDS)


def test_nothing_listens_unless_asked_and_on_rank_0_alone(port: int) -> None:
    assert supervisor._exporter(config(), PLAIN) is None
    other = clusters.Cluster(1, ("127.0.0.1:0",) * 2, local=True)
    assert supervisor._exporter(config(metrics_port=port, workers=2), other) is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("service", [clusters.LOCAL, "mnist"])
def test_a_gang_on_this_machine_is_seen_by_it_alone(port: int, workers: int, service: str) -> None:
    env = clusters.environment(0, workers, 4000) | {"TRAINYARD_SERVICE": service}
    cluster = clusters.from_environment(env)
    assert cluster
    exporter = Exporter(config(metrics_port=port), cluster)
    host = exporter._server.socket.getsockname()[0]
    exporter.close()
    assert (host in ("127.0.0.1", "::1")) is (service == clusters.LOCAL)
    assert (host in ("::", "0.0.0.0")) is (service == "mnist")


def test_a_port_that_is_taken_is_one_line(exporter: Exporter, port: int) -> None:
    del exporter
    with pytest.raises(UnavailableError) as caught:
        Exporter(config(metrics_port=port), PLAIN)
    assert str(caught.value) == (
        f"metrics_port: {port}: cannot listen there: Address already in use; give another port"
    )
