"""What chaos prints of its runs."""

import pytest

from trainer.testing import outcome


@pytest.mark.parametrize(
    ("undisturbed", "line"),
    [
        (90.0, "effective training time 90%, 5.0 s a fault"),
        (112.0, "effective training time: not measurable, the undisturbed run was slower"),
    ],
)
def test_no_fault_makes_a_run_faster(undisturbed: float, line: str) -> None:
    found = outcome.Outcome(chunk_steps=20, runs=1, seconds=100, fault_free_seconds=undisturbed)
    found.faults["kill"] = 2
    assert line in outcome.as_text(found)
