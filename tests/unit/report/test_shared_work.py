"""The panel of a gang: the parts of its steps."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import folders
from trainer.report import facts, run_page, shared_work
from trainer.runs import run_folder
from trainer.storage.base import open_storage

START = 1.7e9


def line(step: int, at: float, **more: Any) -> dict[str, Any]:
    """A chunk that ended so many seconds after START; ten steps take one."""
    return {"step": step, "train_seconds": step / 10, "time": START + at, **more}


PARTS = {"compute_ms": [2.0, 3.0], "wait_ms": [1.5, 0.5], "sum_ms": 0.5}
STEPS = [[[2.0, 1.0], [4.0, 0.5]], [[1.0, 2.0], [3.0, 1.5]]]


def test_the_parts_are_means_of_the_newest_size_of_the_gang() -> None:
    three = {"compute_ms": [9.0] * 3, "wait_ms": [9.0] * 3, "sum_ms": 9.0}
    more = {"compute_ms": [4.0, 3.0], "wait_ms": [0.5, 1.5], "sum_ms": 1.5}
    lines = [line(10, 1, **three), line(20, 2, **PARTS, steps_ms=STEPS), line(30, 3, **more)]
    work = shared_work.of_run({"batch_size": 128}, lines)
    assert work is not None
    assert [share.parts for share in work.shares] == [(3.0, 1.0, 1.0), (3.0, 1.0, 1.0)]
    assert (work.batch, work.longest, len(work.steps)) == (128, 5.0, 2)


def test_ranks_are_those_of_the_newest_members_of_the_gang() -> None:
    others = {"compute_ms": [9.0, 9.0], "wait_ms": [9.0, 9.0], "sum_ms": 9.0}
    before = line(10, 1, **others, steps_ms=[[[9.0, 9.0]]] * 2, ranks=[0, 1])
    lines = [before, line(20, 2, **PARTS, ranks=[0, 2])]
    work = shared_work.of_run({}, lines)
    assert work is not None
    shares = [(share.rank, share.parts) for share in work.shares]
    assert shares == [(0, (2.0, 1.5, 0.5)), (2, (3.0, 0.5, 0.5))]
    assert work.steps == ()
    work = shared_work.of_run({}, [*lines, line(30, 3, **PARTS, steps_ms=STEPS, ranks=[0, 2])])
    assert work is not None
    assert re.findall(r">(rank \d)<", work.timeline) == ["rank 0", "rank 2"]


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"compute_ms": [1.0], "wait_ms": [1.0], "sum_ms": 1.0},
        PARTS | {"wait_ms": [1.0]},
        PARTS | {"sum_ms": "<b>"},
        PARTS | {"compute_ms": [1.0, float("nan")]},
        PARTS | {"compute_ms": [1.0, -1.0]},
        PARTS | {"compute_ms": {"0": 1}},
        {"compute_ms": [1.0] * 2000, "wait_ms": [1.0] * 2000, "sum_ms": 1.0},
    ],
)
def test_lines_that_hold_no_measurement_make_no_panel(parts: dict[str, Any]) -> None:
    assert shared_work.of_run({}, [line(10, 1, **parts)]) is None


@pytest.mark.parametrize(
    "steps", [7, [1, 2], [[[1, 2]]], [[[1, 2]], [[1]]], [[], []], [[["x", 1]], [[1, 1]]]]
)
def test_steps_that_are_none_are_not_drawn(steps: Any) -> None:
    work = shared_work.of_run({}, [line(10, 1, **PARTS, steps_ms=steps)])
    assert work is not None
    assert (work.steps, work.timeline) == ((), "")


def test_the_timeline_draws_each_part_as_long_as_it_took() -> None:
    drawing = shared_work.timeline([[(2.0, 3.0)], [(4.0, 1.0)]], [0, 2])
    bars = re.findall(r'<rect x="([\d.]+)" y="(\d+)" width="([\d.]+)"', drawing)
    widths = [float(width) for _, _, width in bars]
    unit = widths[0] / 2
    assert [round(width / unit, 2) for width in widths] == [2, 2, 1, 4, 0, 1]
    assert float(bars[1][0]) == pytest.approx(float(bars[0][0]) + widths[0], abs=0.2)


def test_sums_end_together_though_each_rank_has_a_clock_of_its_own() -> None:
    drawing = shared_work.timeline([[(2.0, 1.0), (3.0, 1.0)], [(4.0, 1.0), (3.0, 1.0)]], [0, 1])
    bars = re.findall(r'<rect x="([\d.]+)" y="(\d+)" width="([\d.]+)"', drawing)
    ends = {rank: [float(x) + float(w) for x, y, w in bars if y == rank] for rank in ("4", "38")}
    assert ends["4"][2::3] == pytest.approx(ends["38"][2::3], abs=0.2)
    assert min(float(x) for x, _, _ in bars) == 52  # where 0 is


@pytest.mark.process  # draws the charts
def test_a_gang_s_report_has_the_panel_and_another_one_none(tmp_path: Path) -> None:
    run = folders.make_run(tmp_path)
    assert b'id="work"' not in run_page.as_page(facts.gather(str(run)))
    storage = open_storage(str(run))
    lines = [line(10, 3, **PARTS, steps_ms=STEPS), line(20, 4, **PARTS), line(30, 10, **PARTS)]
    storage.replace(run_folder.METRICS, run_folder.lines(lines))
    page = run_page.as_page(facts.gather(str(run))).decode()
    assert "batch of 128 images = 2 &times; 64" in page
    assert "<td>2.00</td><td>1.50</td><td>0.50</td>" in page


def slow(rank: Any, times: Any = 2.04) -> dict[str, Any]:
    return {"rank": rank, "times": times, "host": "host n7,\nXeon\x1b[1m"}


def test_stretches_of_steps_in_which_a_rank_was_slow_are_told() -> None:
    named = [[], [slow(1)], [slow(1), slow(0)], [slow(0)], [], [slow(1)]]
    lines = [line(10 * n, n, **PARTS, slow=each) for n, each in enumerate(named, 1)]
    found = shared_work.slow_stretches([*lines, {"step": 60, "validation_loss": 1.0}])
    steps = [(each.rank, each.first, each.last) for each in found]
    assert steps == [(1, 10, 30), (0, 20, 40), (1, 50, 60)]
    assert found[0].words == "2.0 times the median of the gang; host n7, Xeon\ufffd[1m"


@pytest.mark.parametrize(
    "value",
    [
        *(None, 7, [7], [{}], [slow("1")], [slow(1, "2")], [{**slow(1), "host": None}]),
        *([slow(-1)], [slow(1024)], [slow(10**400)]),
        *([slow(1, -1)], [slow(1, 10**400)], [slow(1, float("inf"))], [slow(1, float("nan"))]),
    ],
)
def test_what_is_no_slow_rank_is_passed_over(value: Any) -> None:
    assert shared_work.slow_stretches([line(10, 1, **PARTS, slow=value)]) == ()
