"""SIGTERM at any moment of a run's life: exit 75, with the last finished chunk stored."""

import json
import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from tests.support import processes, series, warm
from tests.support.stores import Stores, proxied
from trainer.runs import checkpoint
from trainer.storage.base import open_storage
from trainer.testing.proxy import Fault

STOPS = series.length(2, 300)
STEPS = 400 if series.LONG else 200
SEED = series.seed("TRAINYARD_STOP_SEED")
BORN = 0.1  # seconds until Python runs our first line; before, SIGTERM ends any process
IMPORTS = 3.0  # seconds that TensorFlow takes to load


def job(data: Path, uri: str, workers: int) -> tuple[str, ...]:
    return (
        *("train", "--model", "tiny_models:noisy", "--workers", str(workers)),
        *("--steps", str(STEPS), "--chunk-steps", "20", "--checkpoint-steps", "100"),
        *("--validation", "400"),
        *("--log-format", "json", "--data", str(data), "--run", uri),
    )


@pytest.mark.early
def test_at_any_moment_the_last_finished_chunk_is_stored(digits: Path, stores: Stores) -> None:
    dice = random.Random(SEED)
    seconds: list[float] = []
    with proxied(stores("s3")) as store:
        # Slow uploads, so that many requests to stop fall into one.
        store.proxy.faults.append(Fault("slow", "write", times=10**9, seconds=0.1))
        env = store.environment
        life = cache(lambda workers: _life(job(digits, f"{store.uri}/{workers}", workers), env))
        number = 0
        while len(seconds) < STOPS:
            number += 1
            workers = dice.choice([1, 2] if series.LONG else [2])
            # A short series has one stop while TensorFlow is loaded, and others from then on.
            cold = series.LONG or number == 1
            ends = life(workers) if series.LONG or not cold else IMPORTS
            moment = dice.uniform(BORN, ends)
            name = f"stopped-{number}"
            running = processes.running if cold else warm.running
            with running(*job(digits, f"{store.uri}/{name}", workers), env=env) as trainer:
                time.sleep(moment)
                if trainer.poll() is not None:
                    continue  # it was over before
                asked = time.monotonic()
                trainer.send_signal(signal.SIGTERM)
                code, out, err = processes.finish(trainer, limit=60)
                took = time.monotonic() - asked
            replay = f"TRAINYARD_STOP_SEED={SEED}, run {number}, {moment:.2f} s: {err}"
            if code == 0 and '"test_accuracy"' in out:
                continue  # it ended by itself
            assert code == 75, replay
            assert err.count("\n") == 1, replay
            seconds.append(took)
            told = [json.loads(line) for line in out.splitlines()]
            finished = [line["step"] for line in told if "loss" in line]
            stored = sorted(checkpoint.steps(open_storage(f"{store.uri}/{name}")))
            # Equal, unless the leader ended before it could print what a follower had finished.
            assert stored[-1:] >= finished[-1:], replay
    seconds.sort()
    print(
        f"{len(seconds)} stops: median {seconds[len(seconds) // 2]:.2f} s, "
        f"99% {seconds[int(len(seconds) * 0.99)]:.2f} s, worst {seconds[-1]:.2f} s"
    )


def test_a_gang_leaves_one_record_of_its_end(digits: Path, tmp_path: Path) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    env = {"TRAINYARD_TERMINATION_LOG": str(message)}
    calm = ("--steps", "1000000", "--model", "tiny_models:calm")
    endless = (*job(digits, str(tmp_path / "a"), 2), *calm)
    with warm.running(*endless, env=env) as gang:
        assert gang.stdout
        assert any("loss" in line for line in iter(gang.stdout.readline, ""))
        gang.send_signal(signal.SIGTERM)
        code, out, err = processes.finish(gang)
    assert code == 75
    told = [json.loads(line) for line in out.splitlines()]
    record = json.loads(message.read_text())
    assert record["kind"] == "stopped"
    assert record["message"].startswith("stopped at step ")
    assert told[-1] == {
        "message": "ended with exit code 75",
        "event": "ended",
        "exit_code": 75,
        "failure": record,
    }
    assert sum("failure" in line for line in told) == 1
    assert err.count("\n") == 1
    code, out, _ = warm.run(*job(digits, str(tmp_path / "b"), 2), env=env)
    assert code == 0
    record = json.loads(message.read_text())
    assert (record["event"], record["steps"]) == ("finished", STEPS)
    assert "ended" not in [json.loads(line).get("event") for line in out.splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_is_a_record_too(tmp_path: Path, workers: int) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    env = {"TRAINYARD_TERMINATION_LOG": str(message)}
    arguments = job(tmp_path / "none", str(tmp_path / "run"), workers)
    code, out, err = warm.run(*arguments, env=env)
    last = json.loads(out)
    assert (code, last["exit_code"], last["failure"]["kind"]) == (65, 65, "data")
    assert last["failure"] == json.loads(message.read_text())
    assert last["failure"]["message"] in err


def _life(arguments: tuple[str, ...], env: dict[str, str]) -> float:
    began = time.monotonic()
    run = processes.run if series.LONG else warm.run
    code, _, err = run(*arguments, env=env)
    assert (code, err) == (0, "")
    return time.monotonic() - began


HANDLER = """
import os, signal, sys, threading
ran = []
def install():
    signal.signal(signal.SIGTERM, lambda *_: ran.append(True))
if sys.argv[1] == "before":
    install()
import tensorflow as tf
tf.distribute.MultiWorkerMirroredStrategy()
if sys.argv[1] == "after":
    install()
os.kill(os.getpid(), signal.SIGTERM)
threading.Event().wait(2)
print(len(ran), flush=True)
os._exit(0)
"""


@series.only_long  # as only another TensorFlow could change it
@pytest.mark.parametrize(("when", "ran"), [("before", "0"), ("after", "1")])
def test_tensorflow_takes_sigterm_for_itself(when: str, ran: str) -> None:
    """Why requests to stop come through a pipe: a handler would depend on who came first."""
    port = processes.free_ports(1)
    cluster = {"cluster": {"worker": [f"127.0.0.1:{port}"]}, "task": {"type": "worker", "index": 0}}
    done = subprocess.run(
        [sys.executable, "-c", HANDLER, when],
        env=processes.environment({"TF_CONFIG": json.dumps(cluster), "TF_CPP_MIN_LOG_LEVEL": "2"}),
        capture_output=True,
        text=True,
        timeout=processes.LIMIT,
        check=True,
    )
    assert done.stdout.strip() == ran
