"""A run that does not go well says so, why, and what to do about it."""

from typing import Any

import pytest

from tests.support.folders import attempt
from trainer import failure
from trainer.report import status
from trainer.runs.reader import Attempt


def ended(first: int, last: int, **cause: Any) -> Attempt:
    line = attempt(1, first, last, "loss became nan at step 12" if cause else None)
    if cause:
        line["cause"] |= cause
    return Attempt.model_validate(line)


def of(*attempts: Attempt, last_step: int = 0) -> status.Status:
    return status.of(result={}, attempts=attempts, last_step=last_step)


def test_a_failed_run_says_why_and_what_to_do() -> None:
    found = of(ended(0, 10, kind="config", code=2, remedy="lower learning_rate"), last_step=10)
    assert found.state == "failed"
    assert found.is_trouble
    assert found.why == (
        "Attempt 1 ended 2023-11-14 22:15:09 UTC, at step 10: rank 1: loss became nan at step 12."
    )
    assert found.remedy.startswith("Lower learning_rate. Change what this names")
    assert "needs a folder of its own" in found.remedy


@pytest.mark.parametrize("kind", [each for each in failure.KINDS if each != "resized"])
def test_every_kind_of_failure_has_a_state_and_a_remedy(kind: failure.Kind) -> None:
    code = next((c for c, k in failure.OF_EXIT_CODE.items() if k == kind), 1)
    found = of(ended(0, 10, kind=kind, code=code))
    final = code in failure.FINAL
    wanted = "stopped" if kind == "stopped" else "failed" if final else "interrupted"
    assert (found.state, found.is_trouble) == (wanted, True)
    assert found.remedy


def test_a_gang_that_changes_its_size_is_in_progress() -> None:
    found = of(ended(0, 10, kind="resized", rank=None, message="the gang grows"), last_step=10)
    assert (found.state, found.why) == ("in progress", "Step 10: the gang grows.")


def test_records_of_other_versions_are_failures_too() -> None:
    assert of(ended(0, 10, kind="eaten by a bear", code=2)).state == "failed"
    assert of(ended(0, 10, rank=None)).state == "interrupted"


def test_a_run_that_has_come_further_since_is_in_progress() -> None:
    lost = ended(0, 10, kind="killed")
    assert of(lost, last_step=10).state == "interrupted"
    assert of(lost, last_step=11).state == "in progress"
    # A command that fails before it knows of the steps of the one before.
    assert (
        of(ended(0, 50), ended(0, 0, kind="unavailable", code=69), last_step=50).state == "failed"
    )
    assert not of(last_step=50).is_trouble
    assert of(ended(0, 100), last_step=100).why == (
        "All steps are done; the result is not stored yet."
    )


def test_what_is_damaged_is_said() -> None:
    found = status.of(result={}, attempts="attempts.jsonl: damaged.", last_step=1)
    assert (found.state, "damaged" in found.why) == ("in progress", True)
    found = status.of(result="result.json: damaged.", attempts=(), last_step=1)
    assert (found.state, found.why) == ("finished", "result.json: damaged.")
    assert status.of(result={"steps": 1}, attempts="?", last_step=1) == status.Status("finished")
