"""What objects and log lines tell: phases, progress, durations."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from k8s.diagnosis import run_phase
from trainer.common.text import duration


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
        (job({"Complete": "CompletionsReached"}), [], "Ended"),
        (job({"Failed": "PodFailurePolicy"}), [], "Failed"),
        (job({"Failed": "DeadlineExceeded"}), [], "DeadlineExceeded"),
        (job({"FailureTarget": "PodFailurePolicy"}), [pod(0, "Running")], "Starting"),
    ],
)
def test_phase(run: Any, pods: list[Any], phase: str) -> None:
    assert run_phase.phase(run, pods, trains=True) == phase
    assert run_phase.phase(run, pods) == {"Running": "Starting"}.get(phase, phase)


RESTART = {
    "warning": "words",
    "event": "restarting",
    "failure": {"kind": "killed", "rank": 1, "code": 1, "message": "killed by SIGKILL"},
}
LAST = json.dumps({"message": "words", "event": "finished", "test_accuracy": 0.9922})


@pytest.mark.parametrize(
    ("line", "trains", "ended"),
    [
        ("train --config /etc/trainyard/config.yaml", False, False),  # what echo says
        ("", False, False),
        ("{}", False, False),
        ('{"message": null}', False, False),
        ('{"message": "started", "steps": "many"}', False, False),
        ('{"step": true, "loss": 1}', False, False),
        ('{"step": 1e3, "loss": 1}', False, False),
        ('{"warning": null}', False, False),
        ('{"warning": "disk", "level": 3}', False, False),
        ("warning: deprecated", False, False),
        ('{"warning": "slow store"}', True, False),
        (json.dumps(RESTART), True, False),
        ('{"event": "pulled", "message": "x"}', False, False),
        ('{"event": ["started"], "message": "x"}', False, False),
        ('{"test_accuracy": 1.0}', False, False),
        ('{"a":' * 100_000, False, False),
        ('{"step": 1' + "0" * 4000 + ', "loss": 1}', False, False),
        ("cnn: 516 steps in 1.20 epochs of 55,000 images (429.7 steps an epoch)", False, False),
        ('{"message": "words", "event": "started", "steps": 516}', True, False),
        ('{"message": "words", "event": "resumed", "step": 20}', True, False),
        ('{"step": 20, "total_steps": 516, "loss": 0.5}', True, False),
        ("step    100/516  loss 0.7995  accuracy 89.97%  19,210 images/s", False, False),
        ("test accuracy 99.22%  loss 0.1  200 steps in 7.0 s (14,000 images/s)", False, False),
        (LAST, True, True),
    ],
)
def test_only_a_trainer_s_json_shows_that_it_trains(line: str, trains: bool, ended: bool) -> None:
    progress = run_phase.Progress()
    progress.take("2026-01-01T00:00:00Z", run_phase.parse_line(line))
    assert (progress.trains, progress.ended) == (trains, ended)


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1", "1e400", "[]", '"x"', "null", "NaN"])
@pytest.mark.parametrize(
    "name",
    ["step", "total_steps", "loss", "accuracy", "images_per_second", "epoch", "training_loss"],
)
def test_figures_that_are_none_harm_nothing(name: str, value: str) -> None:
    progress = run_phase.Progress()
    for number in (1, 2):
        known = json.dumps({**step(number, images_per_second=1.0), name: 0})
        facts = run_phase.parse_line(known.replace(f'"{name}": 0', f'"{name}": {value}'))
        progress.take("" if number == 1 else "2026-01-01T00:00:00Z", facts)
        run_phase.as_text(facts)
        validated = {"validation_accuracy": 0.9, "validation_loss": 0.1, "training_accuracy": 0.9}
        run_phase.as_text({"epoch": 1.0, "training_loss": 0.1, **validated, **facts})
    assert duration(progress.seconds_left() or 0)
    assert f"{progress.accuracy() or 0:.2%}"


def ended(code: int, message: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message}}


def test_only_what_rank_0_left_when_it_ended_with_0_is_its_result() -> None:
    assert run_phase.left_result([pod(0, "Succeeded", **ended(0, LAST))])
    assert run_phase.left_result(
        [pod(0, "Failed", "2025", **ended(1, "")), pod(0, "", **ended(0, LAST))]
    )
    assert not run_phase.left_result([pod(1, "Succeeded", **ended(0, LAST))])
    assert not run_phase.left_result([pod(0, "Failed", **ended(1, LAST))])
    assert not run_phase.left_result([pod(0, "Succeeded", **ended(0, ""))])
    assert not run_phase.left_result([pod(0, "Succeeded", **ended(0, "test accuracy 99.22%"))])
    assert not run_phase.left_result([pod(0, "Succeeded"), pod(0, "Running")])
    assert not run_phase.left_result([])


def test_the_newest_pod_of_a_rank_counts() -> None:
    first, second = (
        pod(1, "Failed", "2026-01-01T00:00:00Z"),
        pod(1, "Running", "2026-01-01T00:01:00Z"),
    )
    pods = [second, pod(0, "Running"), first]
    assert run_phase.current(pods)[1] is second
    assert run_phase.by_rank(pods)[1] == [first, second]
    assert run_phase.restarted_pods(pods) == 1


@pytest.mark.parametrize("line", ["{", '{"step": ', "[1]", "plain text", '"x"', "{}x"])
def test_a_line_that_is_no_object_is_a_message(line: str) -> None:
    assert run_phase.as_text(run_phase.parse_line(line)) == line


def step(number: int, **facts: Any) -> dict[str, Any]:
    return {"step": number, "total_steps": 1000, "loss": 0.5, "accuracy": 0.9, **facts}


def test_lines_are_told_as_on_a_laptop() -> None:
    line = json.dumps(step(100, images_per_second=4552.0))
    assert run_phase.as_text(run_phase.parse_line(line)) == (
        "step    100/1000  loss 0.5000  accuracy 90.00%  4,552 images/s"
    )
    assert run_phase.as_text({"warning": "slow"}) == "warning: slow"
    assert "validation loss 0.1000  accuracy 99.00%" in run_phase.as_text(
        {"step": 1, "validation_accuracy": 0.99, "validation_loss": 0.1}
    )
    validated = {"validation_accuracy": 0.99, "validation_loss": 0.1, "epoch": 0.1}
    assert run_phase.as_text(step(100, **validated)).startswith("epoch 0.1/1  step    100/1000  ")
    assert run_phase.as_text(step(1)).endswith("}")  # without its speed: shown as it is


def test_time_left_is_that_of_the_pace_since_the_last_restart() -> None:
    progress, start = run_phase.Progress(), datetime(2026, 1, 1, tzinfo=UTC)

    def at(seconds: float, facts: dict[str, Any]) -> None:
        progress.take((start + timedelta(seconds=seconds)).isoformat(), facts)

    assert progress.seconds_left() is None
    at(10, step(100))
    assert progress.seconds_left() is None  # the first chunk took the compiling
    at(20, step(200))
    assert progress.seconds_left() == pytest.approx(80)
    at(21, RESTART)
    assert progress.failure
    assert (progress.restarts, progress.failure.kind, progress.failure.rank) == (1, "killed", 1)
    assert progress.seconds_left() is None
    at(30, step(300))
    at(40, step(500))
    assert progress.seconds_left() == pytest.approx(25)
    assert progress.accuracy() == 0.9
    at(50, {"message": "anything", "test_accuracy": 1.0})
    assert progress.accuracy() == 0.9
    at(50, json.loads(LAST))
    assert progress.accuracy() == 0.9922


def test_ranks_that_were_slow_in_the_last_chunk_are_named() -> None:
    progress = run_phase.Progress()
    slow = [{"rank": 3, "times": 2, "host": "host n7\x1b[1m"}]
    progress.take("", {"step": 10, "loss": 1.0, "slow": slow})
    assert progress.slow() == ["rank 3 is slow: 2.0 times the median of the gang; host n7\ufffd[1m"]
    progress.take("", {"step": 20, "loss": 1.0})
    assert progress.slow() == []
