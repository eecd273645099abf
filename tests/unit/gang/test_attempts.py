"""attempts.jsonl: its lines, and stores that fail."""

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest

from trainer.errors import UnavailableError
from trainer.gang.attempts import AttemptLog
from trainer.runs import run_folder
from trainer.storage.base import Storage
from trainer.storage.local import LocalStorage

LIMIT = 20.0  # seconds after which something that should happen did not


class Faulty(LocalStorage):
    """A folder that fails a given number of times, or waits until it is released."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.faults = 0
        self.open = threading.Event()
        self.open.set()

    def replace(self, name: str, data: bytes) -> None:
        assert self.open.wait(LIMIT)
        if self.faults:
            self.faults -= 1
            raise UnavailableError(os.strerror(errno.ENOSPC))
        super().replace(name, data)


def lines(folder: Path) -> list[str]:
    return (folder / run_folder.ATTEMPTS).read_text().splitlines()


def test_a_log_counts_on_and_keeps_what_was_there(tmp_path: Path) -> None:
    older = ['{"attempt": 1, "cause": null}', "not even JSON"]
    (tmp_path / run_folder.ATTEMPTS).write_text("\n".join(older))  # its last line is not ended
    for last in (4, 6):
        log = AttemptLog(lambda: LocalStorage(str(tmp_path)), pytest.fail)
        for cause in ("a", "b\u2028c"):
            log.add({"attempt": 1, "cause": cause})
        log.close(LIMIT)
        written = lines(tmp_path)
        assert written[:2] == older
        assert [json.loads(line)["attempt"] for line in written[2:]] == list(range(3, last + 1))
        assert json.loads(written[-1])["cause"] == "b\u2028c"


def test_a_log_warns_of_a_store_that_fails_and_writes_the_next(tmp_path: Path) -> None:
    store = Faulty(tmp_path)
    warnings: list[str] = []
    opened: list[threading.Thread] = []

    def open_store() -> Storage:
        opened.append(threading.current_thread())
        if len(opened) == 1:
            raise UnavailableError("no credentials")
        return store

    store.faults = 1
    log = AttemptLog(open_store, warnings.append)
    for cause in "abcd":
        log.add({"attempt": 9, "cause": cause})
    log.close(LIMIT)
    assert warnings == [
        "attempts.jsonl not written: no credentials",
        "attempts.jsonl not written: No space left on device",
    ]
    assert [json.loads(line) for line in lines(tmp_path)] == [
        {"attempt": 1, "cause": "c"},
        {"attempt": 2, "cause": "d"},
    ]
    assert threading.current_thread() not in opened


def test_closing_a_log_waits_but_not_for_ever(tmp_path: Path) -> None:
    store = Faulty(tmp_path)
    store.open.clear()
    log = AttemptLog(lambda: store, pytest.fail)
    log.add({"cause": "a"})
    start = time.monotonic()
    log.close(0.2)
    assert 0.2 <= time.monotonic() - start < LIMIT / 2
    assert not (tmp_path / run_folder.ATTEMPTS).exists()
    store.open.set()
    log.close(LIMIT)
    assert len(lines(tmp_path)) == 1
