"""A store that fails: training continues while it can, and nothing is stored twice or torn."""

import contextlib
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes, series, shared
from trainer.runs import checkpoint
from trainer.testing.gcs_server import Fault, GCSServer, StoredObject, Verb

OUTAGE = series.length(2, 60)  # seconds that the store is down
STEPS = 1500
LIMIT = processes.LIMIT + 5 * OUTAGE  # the longer it is down, the more steps there are


def job(data: Path, uri: str, steps: int) -> tuple[str, ...]:
    return (
        *("train", "--model", "tests.support.tiny:noisy", "--workers", "2", "--steps", str(steps)),
        *("--validation", "400", "--chunk-steps", "20", "--checkpoint-steps", "20"),
        *("--log-format", "json", "--data", str(data), "--run", uri),
    )


class Counting(GCSServer):
    """Counts how often each object was written."""

    def __init__(self, *buckets: str) -> None:
        super().__init__(*buckets)
        self.writes: Counter[str] = Counter()

    def put(self, bucket: str, name: str, *rest: Any, **more: Any) -> StoredObject:
        """Write an object."""
        stored = super().put(bucket, name, *rest, **more)
        self.writes[name] += 1
        return stored

    def checkpoints(self) -> list[StoredObject]:
        """Return all checkpoints of the run."""
        return [
            o for n, o in self.page("bucket", {})[0] if n.startswith(f"run/{checkpoint.PREFIX}")
        ]


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Return a function that gives the weights of an undisturbed run of so many steps."""

    def weights(steps: int) -> str:
        def train(run: Path) -> None:
            code, _, err = processes.run(*job(digits, str(run), steps), limit=LIMIT)
            assert (code, err) == (0, "")

        run = shared.once(tmp_path_factory, f"undisturbed-{steps}-steps", train)
        return _weights((run / "result.json").read_bytes())

    return weights


def _weights(result: bytes) -> str:
    digest: str = json.loads(result)["weights_sha256"]
    return digest


def test_training_goes_on_while_the_store_is_down(
    digits: Path, undisturbed: Callable[[int], str]
) -> None:
    steps = max(STEPS, 500 + OUTAGE * 500)
    with Counting("bucket") as server:
        env = {"STORAGE_EMULATOR_HOST": server.url}
        with processes.running(*job(digits, "gs://bucket/run", steps), env=env) as trainer:
            told: list[dict[str, Any]] = []
            assert trainer.stdout is not None
            lines = trainer.stdout
            threading.Thread(
                target=lambda: told.extend(json.loads(line) for line in lines), daemon=True
            ).start()
            processes.wait_until(lambda: len(server.checkpoints()) > 1)
            server.stop()
            before = len(told)
            time.sleep(OUTAGE)
            assert len([line for line in told[before:] if "loss" in line]) > 2
            server.start()
            assert trainer.wait(LIMIT) == 0
        result = server.get("bucket", "run/result.json", {}).data
        attempts = server.get("bucket", "run/attempts.jsonl", {}).data.decode().splitlines()
        assert [json.loads(line)["cause"] for line in attempts] == [None]
        written = {n: c for n, c in server.writes.items() if checkpoint.PREFIX in n}
        assert set(written.values()) == {1}
    assert _weights(result) == undisturbed(steps)


def test_a_flaky_store_costs_nothing(digits: Path, undisturbed: Callable[[int], str]) -> None:
    flaky: list[tuple[str, Verb]] = [
        ("error", "insert"),
        ("lose", "insert"),
        ("error", "list"),
        ("cut", "media"),
        ("lose", "delete"),
        ("error", "delete"),
        ("corrupt", "media"),
        ("slow", "insert"),
    ]
    with Counting("bucket") as server:
        env = {"STORAGE_EMULATOR_HOST": server.url}
        with processes.running(*job(digits, "gs://bucket/run", STEPS), env=env) as trainer:
            for kind, verb in flaky * 2:
                server.faults.append(Fault(kind, verb, seconds=0.3))  # type: ignore[arg-type]
                time.sleep(0.2)
            code, _, err = processes.finish(trainer)
        assert (code, err) == (0, "")
        result = server.get("bucket", "run/result.json", {}).data
        # An answer that was lost is asked for again, and the object is there once all the same.
        written = {n: c for n, c in server.writes.items() if checkpoint.PREFIX in n}
        assert set(written.values()) == {1}
        for stored in server.checkpoints():
            checkpoint.decode(stored.data, "it")
    assert _weights(result) == undisturbed(STEPS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a disk of 4 MiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("needs root and mount: no small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_ends_in_69_and_the_run_goes_on_once_there_is_room(
    digits: Path, undisturbed: Callable[[int], str], small_disk: Path
) -> None:
    run, filler = small_disk / "run", small_disk / "filler"
    arguments = job(digits, str(run), STEPS)
    with processes.running(*arguments) as trainer:
        processes.wait_until(lambda: (run / "checkpoints").exists())
        _fill(filler)
        code, out, err = processes.finish(trainer)
    assert code == 69
    assert "No space left on device; check the disk and its free space" in err
    assert err.count("\n") == 1
    told = [json.loads(line) for line in out.splitlines()]
    assert any(line.get("step") == STEPS for line in told)  # it trained to the end all the same
    assert any("trying again with the next checkpoint" in line.get("warning", "") for line in told)
    for path in (run / "checkpoints").glob("step-*"):
        checkpoint.decode(path.read_bytes(), str(path))
    filler.unlink()
    code, _, err = processes.run(*arguments)
    assert (code, err) == (0, "")
    assert _weights((run / "result.json").read_bytes()) == undisturbed(STEPS)
