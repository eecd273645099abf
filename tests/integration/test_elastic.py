"""A gang whose size changes while it runs trains on the same batches, to the bits of its sizes."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes, series, warm
from trainer.runs import checkpoint
from trainer.storage.base import open_storage

CHUNK, ENDLESS = "20", "1000000"
WORKERS = 4 if series.LONG else 3


def job(data: Path, run: Path, workers: int, *flags: str, steps: str = ENDLESS) -> list[str]:
    settings = {
        **{"model": "tiny_models:calm", "workers": str(workers), "batch-size": "120"},
        **{"validation": "400", "eval-epochs": "0", "steps": steps, "chunk-steps": CHUNK},
        **{"checkpoint-steps": CHUNK, "keep-checkpoints": "9999"},
        **{"data": str(data), "run": str(run)},
    }
    return ["train", *(f"--{name}={value}" for name, value in settings.items()), *flags]


def steps_of(run: Path) -> list[int]:
    return checkpoint.steps(open_storage(str(run)))


def stored(run: Path, step: int) -> bytes:
    return (run / checkpoint.object_name(step)).read_bytes()


def attempts(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]


def members(run: Path) -> list[int]:
    """The ranks of the newest attempt, once all of them train."""
    found = json.loads((run / "ranks.json").read_text()) if (run / "ranks.json").exists() else {}
    ranks = found.get("members", [])
    return ranks if {found["ranks"][each] for each in ranks} == {"training"} else []


def wait_for_steps(run: Path, step: int) -> None:
    processes.wait_until(lambda: max(steps_of(run), default=0) >= step)


def stop(gang: Any) -> str:
    gang.send_signal(signal.SIGTERM)
    code, out, _ = processes.finish(gang, limit=90)
    assert code == 75
    return str(out)


def resumed_by_hand(
    data: Path, source: Path, run: Path, workers: int, first: int, last: int
) -> Path:
    """Train with so many workers from one checkpoint of another folder to some later step."""
    shutil.copytree(source, run)
    for step in steps_of(run):
        if step != first:
            (run / checkpoint.object_name(step)).unlink()
    with warm.running(*job(data, run, workers)):
        wait_for_steps(run, last)
    return run


def common(one: Path, other: Path, after: int) -> Iterable[int]:
    return [step for step in steps_of(one) if step > after and step in steps_of(other)]


@pytest.mark.early
def test_workers_that_get_fewer_and_more_again_end_as_if_resumed_by_hand_with_these_numbers(
    digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = ("--min-workers=2", "--resize-after=0.5")
    everybody = [*range(WORKERS)]
    with warm.running(*job(digits, run, WORKERS, *flags)) as gang:
        processes.wait_until(lambda: members(run) == everybody and steps_of(run))
        os.kill(gang.pid, signal.SIGSTOP)  # so that it starts no supervisor again
        os.kill(processes.supervisors(gang.pid)[1], signal.SIGKILL)
        processes.wait_until(lambda: members(run) == [0, *everybody[2:]])
        wait_for_steps(run, max(steps_of(run)) + 40)
        os.kill(gang.pid, signal.SIGCONT)
        processes.wait_until(lambda: members(run) == everybody)
        wait_for_steps(run, max(steps_of(run)) + 40)
        out = stop(gang)
    assert f"rank 1: its supervisor was lost; starting again with {WORKERS - 1} workers\n" in out
    assert f"the gang grows from {WORKERS - 1} to {WORKERS} workers\n" in out

    whole, fewer, last = attempts(run)[-3:]  # they need not all meet at once
    assert [each["workers"] for each in (whole, fewer, last)] == [
        WORKERS,
        WORKERS - 1,
        WORKERS,
    ]
    assert fewer["cause"]["kind"] == "resized"
    shrunk, grown, end = (each["last_step"] for each in (whole, fewer, last))
    assert [fewer["first_step"], last["first_step"]] == [shrunk, grown]  # no step was redone
    assert 0 < shrunk < grown < end

    some = grown if series.LONG else min(grown, shrunk + 3 * int(CHUNK))
    less = resumed_by_hand(digits, run, tmp_path / "less", WORKERS - 1, shrunk, some)
    more = resumed_by_hand(digits, run, tmp_path / "more", WORKERS, grown, end)
    for by_hand, after, until in ((less, shrunk, some), (more, grown, end)):
        shared = [step for step in common(run, by_hand, after) if step <= until]
        assert shared
        assert all(stored(run, step) == stored(by_hand, step) for step in shared)


@pytest.mark.early
def test_a_run_ends_without_a_rank_that_stays_away(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--min-workers=2", "--resize-after=1")
    with warm.running(*job(digits, run, 3, *flags, steps="500")) as gang:
        processes.wait_until(lambda: members(run) == [0, 1, 2] and steps_of(run))
        worker = processes.workers(gang.pid)[1]
        os.kill(processes.supervisors(gang.pid)[1], signal.SIGSTOP)
        with contextlib.suppress(ProcessLookupError):  # it may have left by itself
            os.kill(worker, signal.SIGKILL)
        code, _, _ = processes.finish(gang, limit=90)
    assert code == 0
    result = json.loads((run / "result.json").read_text())
    sizes = [(each["step"], each["workers"]) for each in result["sizes"]]
    (_, all_of_them), (left, fewer) = sizes[-2:]  # they need not all meet at once
    assert (sizes[0][0], all_of_them, fewer, result["workers"]) == (0, 3, 2, 2)
    assert [each["rank"] for each in result["ranks"]] == [0, 2]
    assert 0 < left < 500
    assert left % int(CHUNK) == 0
