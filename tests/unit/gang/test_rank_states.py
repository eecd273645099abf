"""ranks.json: who writes it, when, and where the store fails."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import wait_until
from trainer.errors import UnavailableError
from trainer.failure import Failure
from trainer.gang import rank_states
from trainer.gang.coordinator import Coordinator
from trainer.gang.rank_states import RankStates
from trainer.runs import reader, run_folder
from trainer.storage.base import Storage
from trainer.storage.local import LocalStorage

LIMIT = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_states, "EVERY", 0.05)


def test_the_object_follows_the_states_and_says_at_last_that_all_is_over(tmp_path: Path) -> None:
    states: dict[str, Any] = {"attempt": 0, "ranks": ["loading", "missing"], "cause": None}
    writer = RankStates(lambda: LocalStorage(str(tmp_path)), lambda: states)

    def stored() -> reader.Ranks | None:
        return reader.ranks(LocalStorage(str(tmp_path)))

    wait_until(lambda: stored(), LIMIT)
    killed = Failure(kind="killed", rank=1, code=1, message="was killed by signal 9")
    states |= {"attempt": 1, "ranks": ["leaving", "loading"], "cause": killed.record()}
    wait_until(lambda: (found := stored()) and found.attempt == 1, LIMIT)
    found = stored()
    assert found
    assert found.cause
    assert (found.cause.kind, found.cause.rank) == ("killed", 1)
    assert found.ranks == ("leaving", "loading")
    assert not found.over
    before = (tmp_path / run_folder.RANKS).stat().st_mtime_ns
    time.sleep(0.2)
    assert (tmp_path / run_folder.RANKS).stat().st_mtime_ns == before  # nothing has changed
    writer.close(LIMIT)
    found = stored()
    assert found
    assert found.over


def test_a_store_that_fails_is_tried_again_in_silence(tmp_path: Path) -> None:
    asked = threading.Semaphore(0)

    def open_store() -> Storage:
        asked.release()
        if not (tmp_path / "up").exists():
            raise UnavailableError("no credentials")
        return LocalStorage(str(tmp_path))

    writer = RankStates(open_store, lambda: {"attempt": 1, "ranks": ["training"], "cause": None})
    assert all(asked.acquire(timeout=LIMIT) for _ in range(3))
    (tmp_path / "up").touch()
    wait_until(lambda: (tmp_path / run_folder.RANKS).exists(), LIMIT)
    writer.close(LIMIT)
    assert json.loads((tmp_path / run_folder.RANKS).read_text())["over"]


def test_a_coordinator_says_what_each_rank_does() -> None:
    gang = Coordinator(2, 5)
    seen: list[tuple[int, list[str], str | None]] = []

    def take(rank: int, event: str, **others: Any) -> None:
        gang.handle(rank, {"event": event, **others}, 1e9)
        states = gang.states()
        cause = states["cause"]
        seen.append((states["attempt"], states["ranks"], cause and cause["kind"]))

    killed = Failure(kind="killed", rank=1, code=1, message="was killed by signal 9").record()
    left = Failure(kind="peer_lost", rank=0, code=75, message="left", consequence=True).record()
    take(0, "here")
    take(0, "ready")
    take(1, "here")
    take(1, "ready")
    take(0, "resumed", step=0)
    take(1, "resumed", step=0)
    take(1, "ended", failure=killed)
    take(0, "ended", failure=left)
    take(1, "ready")
    take(0, "ready")
    take(0, "resumed", step=5)
    take(1, "resumed", step=5)
    take(0, "finished")
    take(1, "finished")
    assert seen == [
        (0, ["loading", "missing"], None),
        (0, ["ready", "missing"], None),
        (0, ["ready", "loading"], None),
        (1, ["starting", "starting"], None),
        (1, ["training", "starting"], None),
        (1, ["training", "training"], None),
        (1, ["leaving", "loading"], "killed"),
        (1, ["loading", "loading"], "killed"),
        (1, ["loading", "ready"], "killed"),
        (2, ["starting", "starting"], "killed"),
        (2, ["training", "starting"], "killed"),
        (2, ["training", "training"], None),
        (2, ["finished", "training"], None),
        (2, ["finished", "finished"], None),
    ]
