"""A store that fails: training continues while it can, and nothing is stored twice or torn."""

import contextlib
import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support import processes, series, shared, warm
from tests.support.stores import KINDS, Proxied, Server, Stores, opened, proxied
from trainer.runs import checkpoint
from trainer.storage.base import open_storage
from trainer.testing.proxy import Answer, Fault, Kind, Proxy, Request, Verb, verb_of

OUTAGE = series.length(1, 60)  # seconds that the store is down
STEPS = 800 if series.LONG else 400
EVENTS = ("--tensorboard", "on")  # more objects that a store may fail at
LIMIT = processes.LIMIT + 5 * OUTAGE  # the longer it is down, the more steps there are


def job(data: Path | str, uri: str, steps: int) -> tuple[str, ...]:
    return (
        *("train", "--model", "tiny_models:noisy", "--workers", "2", "--steps", str(steps)),
        *("--validation", "400", "--chunk-steps", "20", "--checkpoint-steps", "20"),
        *("--log-format", "json", "--data", str(data), "--run", uri),
    )


class Counting(Proxy):
    """Counts how often each checkpoint was written."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.writes: Counter[str] = Counter()

    def forward(self, request: Request) -> Answer:
        """Have the store answer."""
        answer = super().forward(request)
        where = unquote(request.target) + request.body[:1000].decode(errors="replace")
        name = re.search(rf"{checkpoint.PREFIX}[-.\w]+", where)
        if name and verb_of(request.method, request.target) == "write" and answer.status < 300:
            self.writes[name[0]] += 1
        return answer


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Return a function that gives the weights of an undisturbed run of so many steps."""

    def weights(steps: int) -> str:
        def train(run: Path) -> None:
            code, _, err = warm.run(*job(digits, str(run), steps), limit=LIMIT)
            assert (code, err) == (0, "")

        run = shared.once(tmp_path_factory, f"undisturbed-{steps}-steps", train)
        return _weights((run / "result.json").read_bytes())

    return weights


def _weights(result: bytes) -> str:
    digest: str = json.loads(result)["weights_sha256"]
    return digest


@contextlib.contextmanager
def counting(server: Server) -> Iterator[tuple[Proxied, Counting]]:
    with proxied(server, Counting) as store:
        assert isinstance(store.proxy, Counting)
        yield store, store.proxy


def test_training_goes_on_while_the_store_is_down(
    digits: Path, undisturbed: Callable[[int], str], stores: Stores
) -> None:
    steps = 300 + OUTAGE * 500 if series.LONG else STEPS
    with counting(stores("s3")) as (store, proxy):
        with warm.running(*job(digits, store.uri, steps), env=store.environment) as trainer:
            told: list[dict[str, Any]] = []
            assert trainer.stdout is not None
            lines = trainer.stdout
            threading.Thread(
                target=lambda: told.extend(json.loads(line) for line in lines), daemon=True
            ).start()
            processes.wait_until(lambda: len(checkpoint.steps(store.around)) > 1)
            proxy.stop()
            before = len(told)
            time.sleep(OUTAGE)
            processes.wait_until(lambda: len([x for x in told[before:] if "loss" in x]) > 2)
            proxy.start()
            assert trainer.wait(LIMIT) == 0
        attempts = store.around.read("attempts.jsonl").decode().splitlines()
        assert [json.loads(line)["cause"] for line in attempts] == [None]
        assert set(proxy.writes.values()) == {1}
        assert _weights(store.around.read("result.json")) == undisturbed(steps)


FLAKY: list[tuple[Kind, Verb]] = [
    ("error", "write"),
    ("lose", "write"),
    ("reset", "write"),
    ("error", "list"),
    ("cut", "read"),
    ("lose", "delete"),
    ("error", "delete"),
    ("corrupt", "read"),
    ("slow", "write"),
]


@pytest.mark.parametrize("kind", ["az", "s3", "gs"][: series.length(1, 3)])
def test_a_flaky_store_costs_nothing(
    digits: Path, undisturbed: Callable[[int], str], stores: Stores, kind: str
) -> None:
    with counting(stores(kind)) as (store, proxy):
        with warm.running(
            *job(digits, store.uri, STEPS), *EVENTS, env=store.environment
        ) as trainer:
            for fault, verb in FLAKY * 2:
                status = 429 if verb == "delete" else 503
                proxy.faults.append(Fault(fault, verb, status=status, seconds=0.3))
                time.sleep(0.2)
            code, _, err = processes.finish(trainer)
        assert (code, err) == (0, "")
        # An answer that was lost is asked for again, and the object is there once all the same.
        assert set(proxy.writes.values()) == {1}
        for step in checkpoint.steps(store.around):
            checkpoint.decode(store.around.read(checkpoint.object_name(step)), "it")
        assert _weights(store.around.read("result.json")) == undisturbed(STEPS)


# In a short series gs:// is left to test_tensorboard.py, which kills and resumes a run there.
@pytest.mark.early
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "gs" or series.length(0, 1)])
def test_a_run_killed_and_resumed_in_any_store_ends_as_in_a_folder(
    digits: Path, undisturbed: Callable[[int], str], stores: Stores, kind: str
) -> None:
    server = stores(kind)
    with opened(server) as folder:
        run, env = open_storage(f"{folder.uri}/run"), server.environment
        source = f"{folder.uri}/data"
        code, _, err = warm.run("data", "put", "--from", str(digits), "--to", source, env=env)
        assert (code, err) == (0, "")
        arguments = (*job(source, run.uri, STEPS), *EVENTS, "--report")
        with warm.running(*arguments, env=env):
            processes.wait_until(lambda: len(checkpoint.steps(run)) > 1)
        assert "result.json" not in [entry.name for entry in run.list()]
        code, out, err = warm.run(*arguments, env=env)
        assert (code, err) == (0, "")
        assert _weights(run.read("result.json")) == undisturbed(STEPS)
        assert b"</html>" in run.read("report.html")
        code, out, err = warm.run("report", "--run", run.uri, "--text", env=env)
        assert (code, err) == (0, "")
        assert "test accuracy" in out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a disk of 16 MiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)],
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


@pytest.mark.early
def test_a_full_disk_ends_in_69_and_the_run_goes_on_once_there_is_room(
    digits: Path, undisturbed: Callable[[int], str], small_disk: Path
) -> None:
    run, filler = small_disk / "run", small_disk / "filler"
    arguments = job(digits, str(run), STEPS)
    with warm.running(*arguments) as trainer:
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
    code, _, err = warm.run(*arguments)
    assert (code, err) == (0, "")
    assert _weights((run / "result.json").read_bytes()) == undisturbed(STEPS)
