"""A machine that computes wrong is found, and the run ends with the right weights all the same."""

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes, series, warm
from trainer.failure import BAD_MACHINE
from trainer.runs import checkpoint
from trainer.storage.base import open_storage

STEPS, CHUNK, EVERY = 300 if series.LONG else 200, 10, 40


def job(data: Path, run: Path, workers: int, model: str = "paced") -> tuple[str, ...]:
    return (
        *("train", "--model", f"tiny_models:{model}", "--workers", str(workers)),
        *("--validation", "0", "--batch-size", "30", "--steps", str(STEPS)),
        *("--chunk-steps", str(CHUNK), "--checkpoint-steps", str(EVERY)),
        *("--data", str(data), "--run", str(run)),
    )


def newest(run: Path) -> int:
    return max(checkpoint.steps(open_storage(str(run))), default=0)


def attempts(run: Path) -> list[dict[str, Any]]:
    path = run / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def flip(gang: "subprocess.Popen[str]", rank: int) -> None:
    Path(f"/proc/{processes.workers(gang.pid)[rank]}/fd/0").write_bytes(b"flip\n")


@contextlib.contextmanager
def flipped(
    data: Path, run: Path, workers: int, model: str = "paced"
) -> Iterator["subprocess.Popen[str]"]:
    """Train, and flip a bit of rank 1 after the first checkpoint."""
    with warm.running(*job(data, run, workers, model)) as gang:
        processes.wait_until(lambda: newest(run) > 0)
        flip(gang, 1)
        processes.wait_until(lambda: attempts(run))
        yield gang


@pytest.mark.parametrize(
    ("workers", "model"),
    [(2, "paced"), pytest.param(3, "paced", marks=series.only_long), (3, "twins")],
)
def test_a_flipped_bit_is_found_and_the_run_ends_with_the_undisturbed_weights(
    workers: int, model: str, digits: Path, tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    code, _, err = warm.run(*job(digits, whole, workers, model))
    assert (code, err) == (0, "")
    with flipped(digits, run, workers, model) as gang:
        code, out, _ = processes.finish(gang)
    assert code == 0
    results = [json.loads((each / "result.json").read_text()) for each in (whole, run)]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    first, second = attempts(run)
    cause = first["cause"]
    assert (cause["kind"], cause["rank"]) == ("corrupt", 1 if workers > 2 else None)
    assert second["first_step"] % EVERY == 0
    assert second["cause"] is None
    if workers == 2:
        assert "nobody knows whose are wrong" in out
        assert "rank 0: the weights" not in out
    else:
        assert f"rank 1: {cause['message']}" in out
        assert socket.gethostname() in cause["message"]


def test_a_rank_that_is_wrong_twice_ends_the_run_with_its_host(
    digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with flipped(digits, run, 3) as gang:
        resumed: Callable[[], object] = lambda: newest(run) > attempts(run)[0]["last_step"]  # noqa: E731
        processes.wait_until(resumed)
        flip(gang, 1)
        code, _, err = processes.finish(gang)
    assert code == BAD_MACHINE
    line = err.splitlines()[-1]
    assert line.startswith("trainer: rank 1: its weights at step ")
    assert socket.gethostname() in line
    assert "for the second time; have its memory and processor tested" in line
    assert newest(run) == attempts(run)[1]["last_step"] < STEPS


def test_a_gang_whose_ranks_agree_on_nan_has_diverged(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--optimizer", "sgd", "--learning-rate", "1e30")
    code, _, err = warm.run(*job(digits, run, 3, "noisy"), *flags)
    assert code == 2
    assert "loss became nan at step " in err.splitlines()[-1]
    assert "; lower learning_rate (1e+30)" in err.splitlines()[-1]
    assert [each["cause"]["kind"] for each in attempts(run)] == ["config"]
