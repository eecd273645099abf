"""The report of a finished run: whatever becomes of it, the run is done."""

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from trainer import progress
from trainer.failure import Failure
from trainer.gang import report_process
from trainer.runs import run_folder
from trainer.storage.local import LocalStorage

pytestmark = pytest.mark.process
GONE = Failure(kind="data", code=65, message="data: gone", remedy="give it").record()


class Told(progress.Reporter):
    """A reporter that keeps what it gets."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, message: str, **facts: Any) -> None:
        del facts
        self.said.append(message)

    def warn(self, message: str, **_: Any) -> None:
        self.warned.append(message)

    def step(self, record: Mapping[str, Any], total: int) -> None:
        del record, total
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have this shell script stand for the interpreter that makes the report."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def outcome(folder: Path, stop: threading.Event | None = None) -> Told:
    told = Told()
    report_process.write_report(str(folder), told, stop or threading.Event())
    return told


def test_where_the_report_is_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/called')
    told = outcome(tmp_path / "run")
    assert told.said == [f"report in {tmp_path}/run/report.html"]
    assert told.warned == []
    assert (tmp_path / "called").read_text() == f"-P -m trainer report --run {tmp_path}/run\n"


def test_one_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "exit 1")
    LocalStorage(str(tmp_path / "run")).create(run_folder.REPORT, b"mine")
    assert outcome(tmp_path / "run").said == [f"report in {tmp_path}/run/report.html"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            f"echo noise; echo '{json.dumps({'failure': GONE})}' "
            "> /proc/self/fd/$TRAINYARD_STATUS_FD; exit 65",
            "data: gone; give it",
        ),
        ("echo noise; echo words >&2; exit 1", "words"),
        ("kill -9 $$", "killed by signal 9"),
        ("exit 1", "failed"),
    ],
)
def test_a_failing_report_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    program(tmp_path, monkeypatch, script)
    told = outcome(tmp_path / "run")
    assert told.said == []
    uri = tmp_path / "run"
    assert told.warned == [f"no report: {reason}; python -m trainer report --run {uri} makes it"]


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; sleep 600")
    monkeypatch.setattr(report_process, "LIMIT", 1.0)
    told = outcome(tmp_path / "run")
    assert "it was not done within 1 s" in told.warned[0]
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_asked_to_stop_it_leaves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, f"touch {tmp_path}/started; sleep 600")
    monkeypatch.setattr(report_process, "LIMIT", 600.0)
    stop = threading.Event()
    told = Told()
    waiting = threading.Thread(
        target=report_process.write_report, args=(str(tmp_path / "run"), told, stop), daemon=True
    )
    waiting.start()
    processes.wait_until((tmp_path / "started").exists)
    stop.set()
    waiting.join(60)
    assert not waiting.is_alive()
    assert (told.said, told.warned) == ([], [])
