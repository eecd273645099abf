"""What objects and log lines tell: phases, progress, durations."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from k8s import view


def job(conditions: dict[str, str] | None = None, *, suspend: bool = False, queue: str = "") -> Any:
    held = [{"type": t, "status": "True", "reason": r} for t, r in (conditions or {}).items()]
    return {
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {}},
        "spec": {"completions": 2, "suspend": suspend},
        "status": {"conditions": held},
    }


def pod(rank: int, phase: str, created: str = "2026-01-01T00:00:00Z", **state: Any) -> Any:
    return {
        "metadata": {
            "name": f"m-{rank}-{created}",
            "creationTimestamp": created,
            "labels": {"batch.kubernetes.io/job-completion-index": str(rank)},
        },
        "status": {"phase": phase, "containerStatuses": [{"state": state}] if state else []},
    }


@pytest.mark.parametrize(
    ("run", "pods", "phase"),
    [
        (job(), [], "Pending"),
        (job(), [pod(0, "Pending"), pod(1, "Pending")], "Pending"),
        (job(), [pod(0, "Running"), pod(1, "Pending")], "Starting"),
        (job(), [pod(0, "Running")], "Starting"),
        (job(), [pod(0, "Running"), pod(1, "Running")], "Running"),
        (job(), [pod(0, "Running"), pod(1, "Succeeded")], "Running"),
        (job(suspend=True), [], "Suspended"),
        (job(suspend=True, queue="a"), [], "Queued"),
        (job({"Complete": "CompletionsReached"}), [], "Succeeded"),
        (job({"Failed": "PodFailurePolicy"}), [], "Failed"),
        (job({"Failed": "DeadlineExceeded"}), [], "DeadlineExceeded"),
        (job({"FailureTarget": "PodFailurePolicy"}), [pod(0, "Running")], "Starting"),
    ],
)
def test_phase(run: Any, pods: list[Any], phase: str) -> None:
    assert view.phase(run, pods) == phase


def test_the_newest_pod_of_a_rank_counts() -> None:
    first, second = (
        pod(1, "Failed", "2026-01-01T00:00:00Z"),
        pod(1, "Running", "2026-01-01T00:01:00Z"),
    )
    pods = [second, pod(0, "Running"), first]
    assert view.current(pods)[1] is second
    assert view.by_rank(pods)[1] == [first, second]
    assert view.restarted_pods(pods) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45.4, "45s"), (60, "1m"), (192, "3m12s"), (7500, "2h5m"), (86400 * 3.2, "3d4h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert view.duration(seconds) == text


@pytest.mark.parametrize("line", ["{", '{"step": ', "[1]", "plain text", '"x"', "{}x"])
def test_a_line_that_is_no_object_is_a_message(line: str) -> None:
    assert view.as_text(view.parse_line(line)) == line


def step(number: int, **facts: Any) -> dict[str, Any]:
    return {"step": number, "total_steps": 1000, "loss": 0.5, "accuracy": 0.9, **facts}


def test_lines_are_told_as_on_a_laptop() -> None:
    line = json.dumps(step(100, images_per_second=4552.0))
    assert view.as_text(view.parse_line(line)) == (
        "step    100/1000  loss 0.5000  accuracy 90.00%  4,552 images/s"
    )
    assert view.as_text({"warning": "slow"}) == "warning: slow"
    assert "validation accuracy 99.00%" in view.as_text(
        {"step": 1, "validation_accuracy": 0.99, "validation_loss": 0.1}
    )
    assert view.as_text(step(1)).endswith("}")  # without its speed: shown as it is


def test_time_left_is_that_of_the_pace_since_the_last_restart() -> None:
    progress, start = view.Progress(), datetime(2026, 1, 1, tzinfo=UTC)

    def at(seconds: float, facts: dict[str, Any]) -> None:
        progress.take((start + timedelta(seconds=seconds)).isoformat(), facts)

    assert progress.seconds_left() is None
    at(10, step(100))
    assert progress.seconds_left() is None  # the first chunk took the compiling
    at(20, step(200))
    assert progress.seconds_left() == pytest.approx(80)
    at(21, {"warning": "rank 1: its worker was killed by SIGKILL; starting again"})
    assert (progress.restarts, progress.cause) == (1, "rank 1: its worker was killed by SIGKILL")
    assert progress.seconds_left() is None
    at(30, step(300))
    at(40, step(500))
    assert progress.seconds_left() == pytest.approx(25)
    assert progress.accuracy() == 0.9
    at(50, {"message": "test accuracy", "test_accuracy": 0.99})
    assert progress.accuracy() == 0.99
