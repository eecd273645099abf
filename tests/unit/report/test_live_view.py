"""What the page of a run in progress is given."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.folders import attempt, metric_lines
from trainer.report import live_view, status
from trainer.report.live import Live
from trainer.report.live_view import Pod, Seen, view
from trainer.runs import run_folder
from trainer.storage.base import Storage, open_storage

KILLED = {"kind": "killed", "rank": 1, "code": 1, "message": "was killed by signal 9"}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """The folder of a run that has begun."""
    storage = open_storage(str(tmp_path))
    storage.create(run_folder.CONFIG, run_folder.pretty({"preset": "cnn", "epochs": 10.0}))
    return storage


NOTHING = Seen()


def seen_of(storage: Storage, seen: Seen = NOTHING) -> dict[str, Any]:
    live = Live(storage)
    live.look()
    shown = view(live, seen)
    json.dumps(shown, allow_nan=False)
    return shown


def put_ranks(storage: Storage, *states: str, **others: Any) -> None:
    found = {"attempt": 1, "ranks": states, "cause": None, "over": False, **others}
    storage.replace(run_folder.RANKS, run_folder.lines([found]))


@pytest.mark.parametrize(
    ("states", "others", "expected"),
    [
        (["loading", "missing"], {"attempt": 0}, ("starting", "")),
        (["training", "training"], {}, ("training", "")),
        (["training", "finished"], {}, ("training", "")),
        (
            ["training", "missing", "training"],
            {"members": [0, 2]},
            ("training", "with 2 of 3 workers"),
        ),
        (["starting", "missing", "training"], {"members": [0, 2]}, ("starting", "")),
        (
            ["leaving", "loading"],
            {"cause": KILLED},
            ("restarting", "rank 1: was killed by signal 9"),
        ),
        (["loading", "ready"], {"attempt": 2}, ("restarting", "")),
        (["missing", "missing"], {"over": True}, ("stopped", status.AGAIN)),
        (
            ["missing", "missing"],
            {"over": True, "cause": {"kind": "stopped", "rank": 0, "message": "asked"}},
            ("stopped", status.AGAIN),
        ),
        (
            ["missing", "missing"],
            {"over": True, "cause": {**KILLED, "remedy": "give it\nmore"}},
            ("failed", f"rank 1: was killed by signal 9; give it more. {status.AGAIN}"),
        ),
    ],
)
def test_the_state_of_a_run(
    storage: Storage, states: list[str], others: dict[str, Any], expected: tuple[str, str]
) -> None:
    put_ranks(storage, *states, **others)
    shown = seen_of(storage)
    assert (shown["state"], shown["words"]) == expected


def test_before_and_after_a_run(tmp_path: Path, storage: Storage) -> None:
    later = open_storage(str(tmp_path / "later"))
    assert (seen_of(later)["name"], seen_of(later)["state"]) == ("Run", "waiting")
    pending = Seen(phase="Pending", cause="no node has room")
    assert seen_of(later, pending)["words"] == "Pending: no node has room"
    assert seen_of(storage)["state"] == "starting"
    storage.create(run_folder.METRICS, run_folder.lines(metric_lines(100)))
    assert seen_of(storage)["state"] == "training"  # of a version without ranks.json
    storage.create(run_folder.RESULT, b"{}")
    assert seen_of(storage)["state"] == "finished"


def test_progress_and_the_time_left(storage: Storage) -> None:
    # 50 steps a second of training at first, 10 later; 10 epochs of 100 steps.
    lines = metric_lines(500)
    lines += [
        {**lines[0], "step": s, "epoch": s / 100, "train_seconds": 10 + (s - 500) / 10}
        for s in range(510, 801, 10)
    ]
    storage.create(run_folder.METRICS, run_folder.lines(lines))
    progress = seen_of(storage)["progress"]
    assert progress["words"] == "step 800 of 1,000"
    assert progress["share"] == 0.8
    assert progress["parts"][0] == "about 20s left"
    assert "validation accuracy 90.00%" in progress["parts"]


@pytest.mark.parametrize(
    ("stored", "newest", "expected"),
    [
        ({"steps": 600, "epochs": 5.0}, {"step": 10}, 600),
        ({"steps": 0, "epochs": 1.2}, {"step": 100, "epoch": 0.2327}, 516),
        ({"steps": 0, "epochs": 5.0}, {"step": 1, "epoch": 0.0}, 0),
        ({"epochs": 1e99}, {"step": 1, "epoch": 1e-4}, 10**15),
        ({"epochs": "5"}, {}, 0),
        ({"epochs": 5.0}, {"step": 100, "epoch": -1e-300}, 0),
        ({"epochs": -1e99, "steps": -5}, {"step": 100, "epoch": 1e-300}, 0),
        ({"steps": True}, {"step": None}, 0),
    ],
)
def test_the_steps_of_a_run_are_known_or_estimated(
    stored: dict[str, Any], newest: dict[str, Any], expected: int
) -> None:
    assert live_view.total_steps(stored, newest) == expected


def test_the_slowest_rank_is_marked(storage: Storage) -> None:
    put_ranks(storage, "training", "training", "training")
    line = {**metric_lines(10)[0], "compute_ms": [1.0, 3.5, 1.25], "wait_ms": [2.5, 0, 2.25]}
    storage.create(run_folder.METRICS, run_folder.lines([{**line, "sum_ms": 0.4}]))
    ranks = seen_of(storage)["ranks"]
    assert ranks["columns"] == ["rank", "state", "computing", "waiting"]
    assert [row["cells"] for row in ranks["rows"]] == [
        ["0", "training", "1.00 ms", "2.50 ms"],
        ["1", "training", "3.50 ms", "0.00 ms"],
        ["2", "training", "1.25 ms", "2.25 ms"],
    ]
    assert [row["slowest"] for row in ranks["rows"]] == [False, True, False]
    assert "0.40 ms" in ranks["words"]


def test_a_slow_rank_is_named_with_its_host(storage: Storage) -> None:
    line = {**metric_lines(10)[0], "compute_ms": [1.0, 3.5], "wait_ms": [2.5, 0]}
    slow = [{"rank": 1, "times": 3.5, "host": "host n7"}]
    storage.create(run_folder.METRICS, run_folder.lines([{**line, "slow": slow}]))
    words = seen_of(storage)["ranks"]["words"]
    assert words.endswith(" Rank 1 is slow: 3.5 times the median of the gang; host n7.")


def test_after_a_shrink_the_table_has_the_ranks_that_take_part(storage: Storage) -> None:
    put_ranks(storage, "training", "missing", "training", members=[0, 2])
    line = {**metric_lines(10)[0], "compute_ms": [1.0, 3.5], "wait_ms": [2.5, 0.5]}
    slow = [{"rank": 2, "times": 3.5, "host": "host n7"}]
    line |= {"slow": slow, "ranks": [0, 2]}
    storage.create(run_folder.METRICS, run_folder.lines([line]))
    ranks = seen_of(storage)["ranks"]
    assert [row["cells"] for row in ranks["rows"]] == [
        ["0", "training", "1.00 ms", "2.50 ms"],
        ["1", "missing", "0.00 ms", "0.00 ms"],
        ["2", "training", "3.50 ms", "0.50 ms"],
    ]
    assert [row["slowest"] for row in ranks["rows"]] == [False, False, True]
    assert " Rank 2 is slow: 3.5 times " in ranks["words"]


def test_of_many_ranks_those_are_shown_that_something_is_to_be_seen_of(storage: Storage) -> None:
    states = ["training"] * 1000
    states[777] = "missing"
    put_ranks(storage, *states)
    compute = [1.0] * 1000
    compute[500] = 9.0
    line = {**metric_lines(10)[0], "compute_ms": compute, "wait_ms": "what"}
    storage.create(run_folder.METRICS, run_folder.lines([line]))
    ranks = seen_of(storage)["ranks"]
    shown = [int(row["cells"][0]) for row in ranks["rows"]]
    assert len(shown) == live_view.MOST_ROWS
    assert {500, 777} < set(shown)
    assert ranks["words"].startswith("1,000 ranks, of which 32 are shown. ")


def test_pods_of_a_cluster_stand_beside_the_ranks(storage: Storage) -> None:
    pods = [Pod(1, "run-1-x", "Pending: no node\x1b[2J", "")]
    ranks = seen_of(storage, Seen("Starting", "", pods))["ranks"]
    assert ranks["columns"] == ["rank", "state", "pod", "in the cluster", "node"]
    assert [row["cells"] for row in ranks["rows"]] == [
        ["0", "", "", "no pod", ""],
        ["1", "", "run-1-x", "Pending: no node\ufffd[2J", ""],
    ]


def test_restarts_come_with_their_cause_the_newest_first(storage: Storage) -> None:
    lines = [
        attempt(1, 0, 300, "killed"),
        attempt(2, 300, 700, "\x1b[31m"),
        attempt(3, 700, 9, None),
    ]
    storage.create(run_folder.ATTEMPTS, run_folder.lines(lines))
    storage.create(run_folder.METRICS, run_folder.lines(metric_lines(1000)))
    put_ranks(storage, "training", attempt=4)
    shown = seen_of(storage)
    assert [row[1:] for row in shown["restarts"]] == [
        ["300 to 700", "rank 1: \ufffd[31m"],
        ["0 to 300", "rank 1: killed"],
    ]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", row[0]) for row in shown["restarts"])
    assert shown["charts"]["loss"]["marks"] == [9, 300, 700]


def test_charts_are_small_and_their_ticks_span_the_points(storage: Storage) -> None:
    lines = [
        {
            "step": s,
            "train_seconds": s / 9,
            "loss": 3 / s,
            "accuracy": 0.5,
            "images_per_second": 9e4,
        }
        for s in range(1, 20_001)
    ]
    storage.create(run_folder.METRICS, run_folder.lines(lines))
    live = Live(storage)
    while True:
        live.look()
        if not live.behind:
            break
    shown = view(live, Seen())
    assert len(json.dumps(shown)) < 60_000
    loss, speed = shown["charts"]["loss"], shown["charts"]["speed"]
    assert loss["x"] == [0, 20_000]
    assert loss["series"][0]["points"][0] == [1, 3]
    assert [text for _, text in loss["xTicks"]] == ["0", "5k", "10k", "15k", "20k"]
    assert (loss["yTicks"][0][1], loss["yTicks"][-1][1]) == ("0", "3")
    assert [text for _, text in speed["yTicks"]][-1] == "100k"
    assert loss["gist"].endswith("training: 0.00015 at step 20,000.")
    assert loss["last"] == {"training": "0.00015"}


def test_whatever_a_folder_holds_becomes_json(storage: Storage) -> None:
    values: list[Any] = [
        0,
        -1,
        1e99,
        1e-300,
        True,
        None,
        "x",
        "\ud800",
        [],
        {},
        [1, "a", None, 1e300],
        10**400,
    ]
    numbers = random.Random(5)
    names = ("loss", "accuracy", "epoch", "images_per_second", "compute_ms", "wait_ms", "sum_ms")
    for _ in range(300):
        live = Live(storage)
        live.stored = {
            name: numbers.choice(values) for name in ("preset", "model", "steps", "epochs")
        }
        for step in sorted(numbers.sample((0, 1, 5, 2**52, 2**53), 3)):
            line = {name: numbers.choice(values) for name in (*names, "time")}
            live._add({**line, "step": step, "train_seconds": numbers.choice((0, 1.5, 1e14))})
        json.dumps(view(live, NOTHING), allow_nan=False)
