"""What a run's attempts say of its sizes."""

import pytest

from tests.support.folders import attempt
from trainer.runs import reader


@pytest.mark.parametrize(
    ("attempts", "now", "expected"),
    [
        ([], None, []),
        ([], 2, [(0, 2)]),
        ([(0, 100, 4), (100, 160, 3), (160, 300, 4)], None, [(0, 4), (100, 3), (160, 4)]),
        ([(0, 100, 4), (100, 160, 4)], 3, [(0, 4), (160, 3)]),  # a restart changes nothing
        ([(0, 100, 4), (100, 100, 3)], 4, [(0, 4)]),  # nor does an attempt without a step
        ([(0, 100, 4), (60, 200, 3)], None, [(0, 4), (60, 3)]),  # its last steps were lost
        ([(0, 100, 4), (0, 200, 3)], None, [(0, 3)]),
        ([(0, 100, None), (100, 200, 3)], None, [(100, 3)]),  # of an earlier version
    ],
)
def test_the_sizes_of_a_run_are_those_of_the_steps_that_count(
    attempts: list[tuple[int, int, int | None]],
    now: int | None,
    expected: list[tuple[int, int]],
) -> None:
    lines = [
        reader.Attempt.model_validate({**attempt(number, first, last, None), "workers": workers})
        for number, (first, last, workers) in enumerate(attempts, 1)
    ]
    assert reader.sizes(lines, now) == expected
