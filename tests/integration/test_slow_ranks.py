"""A rank that is held back is named, with its host, and again when it is as fast as the others."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from k8s.diagnosis.run_phase import Progress
from tests.support import processes, warm
from trainer.report import facts
from trainer.report.live import Live
from trainer.report.live_view import Seen, view
from trainer.storage.base import open_storage
from trainer.train.slow_ranks import CHUNKS


@contextlib.contextmanager
def held_back(pid: int, share: float = 0.15, period: float = 0.1) -> Iterator[None]:
    """Let a process run for only a share of the time, as cpulimit does."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep((1 - share) * period)
            os.kill(pid, signal.SIGCONT)
            time.sleep(share * period)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Log:
    """The lines of a run in progress, as JSON."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.lines: list[dict[str, Any]] = []
        self._out = process.stdout
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._out
        self.lines.extend(json.loads(line) for line in self._out)

    def events(self, name: str, ranks: list[int]) -> list[dict[str, Any]]:
        return [x for x in self.lines if x.get("event") == name and x.get("ranks") == ranks]

    def chunks(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "images_per_second" in line]

    def has(self, name: str, ranks: list[int]) -> Callable[[], bool]:
        return lambda: bool(self.events(name, ranks))


def job(data: Path, run: Path, workers: int, *flags: str) -> tuple[str, ...]:
    what = ("--model", "tiny_models:paced", "--workers", str(workers), "--steps", "1000000")
    some = ("--chunk-steps", "5", "--batch-size", "30", "--log-format", "json")
    return ("train", *what, *some, "--validation", "0", "--data", str(data), *flags, f"--run={run}")


def test_a_rank_that_is_held_back_is_named_and_so_is_its_recovery(
    digits: Path, tmp_path: Path
) -> None:
    with warm.running(*job(digits, tmp_path / "run", 2)) as gang:
        log = Log(gang)
        processes.wait_until(lambda: len(log.chunks()) > 2)
        worker = processes.workers(gang.pid)[1]
        with held_back(worker):
            before = len(log.chunks())
            processes.wait_until(log.has("slow", [1]), 120)
        warning = log.events("slow", [1])[0]
        named = log.lines[: log.lines.index(warning)]
        processes.wait_until(log.has("recovered", [1]), 120)
    # The chunk under way when it began is slow in part only, and others load this machine, too.
    assert len([x for x in named if "images_per_second" in x]) - before <= 2 * CHUNKS
    assert warning["warning"].startswith("rank 1 is slow: ")
    assert socket.gethostname() in warning["warning"]
    slow = [line for line in log.chunks() if [each["rank"] for each in line.get("slow", [])] == [1]]
    assert all(each["slow"][0]["times"] > 0 for each in slow)
    assert slow


def test_after_a_shrink_a_slow_rank_has_the_name_of_its_pod(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--min-workers=2", "--resize-after=0.5", "--checkpoint-steps=5")
    with warm.running(*job(digits, run, 3, *flags)) as gang:
        log = Log(gang)
        processes.wait_until(lambda: len(log.chunks()) > 2)
        os.kill(gang.pid, signal.SIGSTOP)  # so that it starts no supervisor again
        os.kill(processes.supervisors(gang.pid)[1], signal.SIGKILL)
        processes.wait_until(lambda: log.chunks()[-1].get("ranks") == [0, 2])
        with held_back(processes.workers(gang.pid)[2]):
            processes.wait_until(log.has("slow", [2]), 120)
            processes.wait_until(lambda: "slow" in (run / "metrics.jsonl").read_text())
    assert log.events("slow", [2])[0]["warning"].startswith("rank 2 is slow: ")

    progress, live = Progress(), Live(open_storage(str(run)))
    for line in log.chunks():  # as `status` reads it from rank 0's pod
        progress.take("", line)
        if "slow" in line:
            break
    live.look()
    work = facts.gather(str(run)).work
    assert work
    assert [line.partition(":")[0] for line in progress.slow()] == ["rank 2 is slow"]
    assert " Rank 2 is slow: " in view(live, Seen())["ranks"]["words"]
    assert [share.rank for share in work.shares] == [0, 2]
    assert {each.rank for each in work.slow} == {2}
