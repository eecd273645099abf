"""A run's folder that is looked at while it changes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.folders import attempt, make_run, metric_lines
from trainer.report.live import Curve, Live
from trainer.runs import run_folder, tensorboard_format, tensorboard_writer
from trainer.storage.base import Storage, open_storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """The folder of a run that has begun."""
    folder = make_run(tmp_path)
    for name in ("result.json", "metrics.jsonl", "attempts.jsonl"):
        (folder / name).unlink()
    return run_folder.open_folder(str(folder))


def test_a_curve_of_any_length_takes_little_room() -> None:
    curve = Curve(most=100)
    numbers = random.Random(1)
    total = 0.0
    for step in range(1, 10_001):
        total += (value := numbers.random())
        curve.add(step, value)
        points = curve.points
        assert len(points) <= 102
        assert points[-1] == (step, value)
    steps = [x for x, _ in points]
    assert steps[0] == 1
    assert steps == sorted(set(steps))
    middle = points[1:-1]
    assert sum(y for _, y in middle) / len(middle) == pytest.approx(total / 10_000, abs=0.02)


def test_a_short_curve_is_exact_and_goes_forward_only() -> None:
    curve = Curve()
    for x, y in ((1, 5.0), (2, 4.0), (2, 9.0), (1, 9.0), (3, 3.0)):
        curve.add(x, y)
    assert curve.points == ((1, 5.0), (2, 4.0), (3, 3.0))


def test_a_run_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    live = Live(open_storage(str(tmp_path / "runs/later")))
    seen = []
    for _ in range(2):
        live.look()
        seen.append((live.stored is None, live.finished))
        if len(seen) == 1:
            make_run(tmp_path / "runs").rename(tmp_path / "runs/later")
    assert seen == [(True, False), (False, True)]


def test_each_look_adds_what_is_new(storage: Storage) -> None:
    live, lines = Live(storage), metric_lines(1000)
    for end in (0, 1, 30, len(lines)):
        if end:
            storage.replace(run_folder.METRICS, run_folder.lines(lines[:end]))
        live.look()
        expected = tuple((line["step"], line["loss"]) for line in lines[:end] if "loss" in line)
        assert (live.curves["loss"].points if end else ()) == expected
    assert live.newest == lines[-2]
    assert not live.finished
    storage.replace(run_folder.RESULT, b"{}")
    live.look()
    assert live.finished


def test_steps_that_are_done_again_take_the_place_of_those_before(storage: Storage) -> None:
    live, lines = Live(storage), metric_lines(1000)
    storage.replace(run_folder.METRICS, run_folder.lines(lines))
    live.look()
    again = [{**line, "loss": 7.0} for line in metric_lines(500)]
    storage.replace(run_folder.METRICS, run_folder.lines(again))
    storage.replace(run_folder.ATTEMPTS, run_folder.lines([attempt(1, 0, 400, "killed")]))
    live.look()
    assert {y for _, y in live.curves["loss"].points} == {7.0}
    assert live.curves["loss"].points[-1][0] == 500
    assert [each.ended_by for each in live.attempts] == ["rank 1: killed"]


def test_what_somebody_wrote_there_is_left_out_and_named(storage: Storage) -> None:
    live = Live(storage)
    names = {f"name{n}": 1.0 for n in range(1000)}
    lines = [
        b"not even JSON",
        b"[1]",
        b'{"step": -1, "loss": 1}',
        b'{"step": 1, "loss": NaN, "accuracy": "<b>"}',
        json.dumps({"step": 2, "loss": 0.5, **names}).encode(),
    ]
    storage.replace(run_folder.METRICS, b"\n".join(lines) + b"\n")
    storage.replace(run_folder.ATTEMPTS, b"{")
    storage.replace(run_folder.RANKS, b'{"attempt": "x"}')
    storage.replace(tensorboard_writer.step_name(tensorboard_writer.VALIDATION, 2), b"\xff" * 100)
    live.look()
    assert {name: curve.points for name, curve in live.curves.items()} == {"loss": ((2.0, 0.5),)}
    assert set(live.faults) == {run_folder.ATTEMPTS, run_folder.RANKS}
    assert all(fault.count("\n") == 0 for fault in live.faults.values())
    storage.replace(run_folder.METRICS, storage.read(run_folder.METRICS) + validated(3))
    live.look()
    assert set(live.faults) == {run_folder.ATTEMPTS, run_folder.RANKS, tensorboard_writer.PREFIX}
    for name in (run_folder.ATTEMPTS, run_folder.RANKS):
        storage.delete(name)
    storage.replace(tensorboard_writer.step_name(tensorboard_writer.VALIDATION, 2), b"")
    live.look()
    assert live.faults == {}


def validated(step: int) -> bytes:
    return run_folder.lines([{"step": step, "validation_accuracy": 0.9, "validation_loss": 0.3}])


def test_the_pictures_of_the_newest_validation_are_found(storage: Storage) -> None:
    live = Live(storage)

    def put(step: int, picture: bytes) -> None:
        values: list[Any] = [
            tensorboard_format.image("confusion matrix", picture),
            tensorboard_format.scalar("loss", 1.0),
        ]
        data = tensorboard_format.steps({step: values}, {step: 1e9})
        storage.replace(tensorboard_writer.step_name(tensorboard_writer.VALIDATION, step + 5), data)

    metrics = b""
    for step in (8, 100, 1000):
        metrics += validated(step)
        storage.replace(run_folder.METRICS, metrics)
        live.look()  # before its pictures are there
        put(step, picture := b"\x89PNG" + bytes(20) + b"%d" % step)
        storage.replace("events/validation/events.out.tfevents.x", b"of something else")
        live.look()
        assert live.pictures == {"confusion matrix": picture}
        assert live.pictured == step
