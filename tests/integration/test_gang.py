"""A broken gang ends within seconds and says why; a killed run comes back bit by bit."""

import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from tests import processes
from trainer.cluster import environment

# How often the run is killed; the figures in the documentation are from 20.
KILLS = int(os.environ.get("TRAINYARD_KILLS", "1"))


def job(data: Path, run: Path, workers: int, steps: int = 300) -> tuple[str, ...]:
    return (
        *("train", "--model", "tests.tiny:noisy", "--workers", str(workers)),
        *("--validation", "400", "--steps", str(steps), "--chunk-steps", "20"),
        *("--checkpoint-steps", "40", "--data", str(data), "--run", str(run)),
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(
    workers: int, digits: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    code, _, err = processes.run(*job(digits, tmp_path / "whole", workers))
    seconds = time.monotonic() - began
    assert (code, err) == (0, "")
    whole = json.loads((tmp_path / "whole" / "result.json").read_text())
    seed = int(os.environ.get("TRAINYARD_KILL_SEED", "0"))
    moments = random.Random(seed)
    for attempt in range(KILLS):
        run = tmp_path / str(attempt)
        with processes.running(*job(digits, run, workers)):
            time.sleep(moments.uniform(0.2, 1.0) * seconds)
        code, _, err = processes.run(*job(digits, run, workers))
        assert (code, err) == (0, "")
        result = json.loads((run / "result.json").read_text())
        assert result["weights_sha256"] == whole["weights_sha256"], (seed, attempt)
        assert result["test_loss"] == whole["test_loss"]
        shutil.rmtree(run)


def test_a_killed_worker_ends_the_gang_with_its_rank_and_signal(
    digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with processes.running(*job(digits, run, workers=2, steps=1_000_000)) as gang:
        processes.wait_until(lambda: (run / "metrics.jsonl").exists())
        os.kill(processes.workers(gang.pid)[1], signal.SIGKILL)
        code, _, err = processes.finish(gang, limit=60)
    assert code == 1
    assert err.startswith("trainer: rank 1: its worker was killed by SIGKILL")
    assert err.count("\n") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_asked_to_stop_the_last_chunk_is_committed_and_the_next_run_goes_on(
    workers: int, digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = job(digits, run, workers, steps=1_000_000)
    with processes.running(*arguments) as trainer:
        processes.wait_until(lambda: (run / "metrics.jsonl").exists())
        trainer.send_signal(signal.SIGTERM)
        code, _, err = processes.finish(trainer, limit=90)
    assert code == 75
    assert err.count("\n") == 1
    stopped_at = int(err.partition("stopped at step ")[2].split()[0])
    newest = max(entry.name for entry in (run / "checkpoints").iterdir())
    assert newest == f"step-{stopped_at:08d}.safetensors"
    with processes.running(*arguments) as trainer:
        assert trainer.stdout is not None
        lines = iter(trainer.stdout.readline, "")
        assert any(line == f"resuming at step {stopped_at}\n" for line in lines)


def test_a_missing_peer_is_named_at_the_deadline(digits: Path, tmp_path: Path) -> None:
    port = free_port()
    code, _, err = processes.run(
        *job(digits, tmp_path / "run", workers=1),
        *("--peer-deadline", "6"),
        env=environment(rank=1, workers=2, port=port),
    )
    assert code == 69
    assert err == (
        "trainer: rank 1: the gang of 2 did not meet within 6 s: missing rank 0 "
        f"(127.0.0.1:{port}); see what became of it, or raise --peer-deadline\n"
    )


def test_a_taken_port_is_refused_before_anybody_waits(digits: Path, tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port + 1)):
        code, _, err = processes.run(*job(digits, tmp_path / "run", workers=2), "--port", str(port))
    assert code == 69
    assert err == (
        f"trainer: rank 1: port {port + 1} cannot be listened on (Address already in use); "
        "free it or give another --port\n"
    )


def test_no_process_outlives_the_gang(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with processes.running(*job(digits, run, workers=2, steps=1_000_000)) as gang:
        processes.wait_until(lambda: (run / "metrics.jsonl").exists())
        below = processes.descendants(gang.pid)
        os.kill(gang.pid, signal.SIGKILL)
        processes.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 90)


def free_port() -> int:
    """Return a port that is free, as is the next one, below the range for outgoing calls."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")
