"""Which losses a gang on this machine survives, and which end it."""

import contextlib
import signal
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest

from trainer.config import parse
from trainer.errors import StoppedError
from trainer.failure import FailedError, Failure, Kind
from trainer.gang import local_gang, process
from trainer.gang.local_gang import Gang

STOPPED = StoppedError.exit_code
KILLED = -signal.SIGKILL


class Child:
    """A supervisor that ends by a word of the test, or when it is asked to stop."""

    def __init__(self, _: list[str], env: dict[str, str], tell: Any, **__: Any) -> None:
        self.rank, self._tell = int(env["JOB_COMPLETION_INDEX"]), tell
        self.process = SimpleNamespace(pid=0)
        self.said: list[str] = []
        self.over = self.closed = False

    def tell(self, **event: Any) -> None:
        self._tell(self, event)

    def end(self, code: int) -> None:
        if not self.over:
            self.over = True
            self.tell(event="exit", code=code)

    def say(self, word: str) -> None:
        self.said.append(word)
        if not self.over:
            asked = Failure(kind="stopped", rank=self.rank, code=STOPPED, message="stopped")
            self.tell(event="stopping", failure=asked.record())
            self.end(STOPPED)

    def signal(self, number: int) -> None:
        self.end(-number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_gang, "Child", Child)
    monkeypatch.setattr(process, "reap_orphans", lambda _: None)


class Case:
    """A gang of four, of which a rank that was lost is not started again unless asked."""

    def __init__(self, least: int, restarts: int = 0) -> None:
        settings = {"workers": 4, "min_workers": least, "max_restarts": restarts, "port": 30000}
        self.born: list[Child] = []
        self.stop = threading.Event()
        self.gang = Gang([], parse(settings))
        self.born += [self.child(rank) for rank in range(4)]

    def child(self, rank: int) -> Child:
        child: object = self.gang.ranks[rank].child
        assert isinstance(child, Child)
        return child

    def end(self, *ends: tuple[int, int]) -> None:
        """Have ranks end with these codes, in this order."""
        for rank, code in ends:
            self.born[rank].end(code)

    def outcome(self) -> tuple[int, int | None] | None:
        """Run to the end; return exit code and rank of the failure, None for success."""
        asked = self.stop.is_set()
        watchdog = threading.Timer(10, self.stop.set)  # it would wait for a rank for ever
        watchdog.start()
        try:
            self.gang.run(self.stop)
        except FailedError as error:
            return error.exit_code, error.failure.rank
        finally:
            watchdog.cancel()
            assert self.stop.is_set() is asked
            assert all(child.over and child.closed for child in self.born)
        return None


@pytest.mark.parametrize(
    ("least", "ends", "survives"),
    [
        (2, [(3, KILLED), (0, 0), (1, 0), (2, 0)], True),  # the last one
        (2, [(1, KILLED), (3, KILLED), (0, 0), (2, 0)], True),  # two are left
        (2, [(1, KILLED), (3, KILLED), (2, KILLED)], False),  # one is
        (4, [(2, KILLED)], False),
        (1, [(1, KILLED), (3, KILLED), (2, KILLED), (0, 0)], True),
        (1, [(0, KILLED)], False),  # nobody can stand in for rank 0
        (3, [(3, KILLED), (0, KILLED)], False),
        (0, [(3, KILLED)], False),
        (2, [(0, 0), (1, KILLED), (2, KILLED), (3, KILLED)], True),  # the run is finished
        (0, [(0, 0), (1, KILLED)], False),
        (2, [(3, 2)], False),  # that is no loss
        (2, [(3, 1)], False),
        (2, [(3, STOPPED)], False),  # nobody has asked it to
        (2, [(rank, 0) for rank in (3, 2, 1, 0)], True),
    ],
)
def test_what_a_gang_does_without(least: int, ends: list[tuple[int, int]], survives: bool) -> None:
    case = Case(least)
    case.end(*ends)
    assert (case.outcome() is None) is survives
    rest = set(range(4)) - {rank for rank, _ in ends}
    assert all(case.born[rank].said == ["stop"] for rank in rest)


def test_a_cause_outranks_who_was_lost_or_stopped_for_it() -> None:
    case = Case(2)
    case.end((1, KILLED), (2, KILLED))
    case.born[3].tell(failure=Failure(kind="data", rank=3, code=65, message="bad").record())
    case.end((3, 65))
    assert case.outcome() == (65, 3)


@pytest.mark.parametrize("asked", [False, True])
def test_a_supervisor_that_broke_outranks_who_stopped_for_it(asked: bool) -> None:
    case = Case(4)
    if asked:
        case.stop.set()
    case.end((1, 1))  # without a word
    assert case.outcome() == ((STOPPED, None) if asked else (1, 1))  # the request was to all


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [("config", 2, "bad"), ("stopped", STOPPED, "bad"), ("data", 65, "rank 1: bad")],
)
def test_an_error_in_the_settings_or_a_request_to_stop_is_no_ranks(
    kind: Kind, code: int, said: str
) -> None:
    case = Case(4)
    case.born[1].tell(failure=Failure(kind=kind, rank=1, code=code, message="bad").record())
    case.end((1, code))
    with pytest.raises(FailedError) as caught:
        case.gang.run(case.stop)
    assert (str(caught.value), caught.value.exit_code) == (said, code)


@pytest.mark.parametrize("least", [0, 1, 2, 4])
@pytest.mark.parametrize("ends", [[], [(1, KILLED)], [(0, KILLED)], [(1, KILLED), (2, KILLED)]])
def test_a_gang_that_is_asked_to_stop_starts_nobody_again(
    least: int, ends: list[tuple[int, int]]
) -> None:
    case = Case(least, restarts=9)
    case.stop.set()
    case.end(*ends)
    # Where the others may be missing, it is rank 0 that tells how the run has ended.
    found = case.outcome()
    assert found == ((1, 0) if least and (0, KILLED) in ends else (STOPPED, ANY))
    assert not case.gang.ranks


def test_a_lost_rank_is_started_again_until_it_was_lost_too_often() -> None:
    case = Case(2, restarts=1)
    first = case.born[1]
    first.end(KILLED)
    _take_all(case)
    second = case.child(1)
    assert second is not first
    first.tell(event="committed", step=7)  # what one that is gone has said does not count
    second.end(KILLED)
    _take_all(case)
    assert 1 not in case.gang.ranks
    case.end((0, 0), (2, 0), (3, 0))
    assert case.outcome() is None


def test_a_new_step_forgives_losses() -> None:
    case = Case(2, restarts=1)
    for _ in range(5):
        case.child(1).end(KILLED)
        case.born[0].tell(event="committed", step=7)
        _take_all(case)
    assert 1 in case.gang.ranks
    case.child(1).end(0)
    case.end((0, 0), (2, 0), (3, 0))
    assert case.outcome() is None


def _take_all(case: Case) -> None:
    while not case.gang._events.empty():
        case.gang._take(*case.gang._events.get(), stopping=False)


@pytest.mark.parametrize(
    ("taken", "kind", "settings", "gangs", "code"),
    [
        (0, "port_taken", {}, 1, None),
        (1, "port_taken", {}, 2, None),
        (2, "port_taken", {}, 3, None),
        (9, "port_taken", {}, 3, 69),
        (9, "port_taken", {"port": 30000}, 1, 69),  # the user's own
        (9, "unavailable", {}, 1, 69),
    ],
)
def test_a_gang_that_chose_a_port_which_is_taken_chooses_others(
    taken: int,
    kind: Kind,
    settings: dict[str, Any],
    gangs: int,
    code: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ports = []

    def start(arguments: list[str], env: dict[str, str], *told: Any, **names: Any) -> Child:
        child = Child(arguments, env, *told, **names)
        if child.rank == 0:
            ports.append(int(env["TRAINYARD_PORT"]))
        if len(ports) > taken:
            child.end(0)
        elif child.rank == 1:
            problem = Failure(kind=kind, rank=1, code=69, message="is taken", remedy="free it")
            child.tell(failure=problem.record())
            child.end(69)
        return child

    monkeypatch.setattr(local_gang, "Child", start)
    config = parse({"workers": 2, "log_format": "text", **settings})
    ends = pytest.raises(FailedError) if code else contextlib.nullcontext()
    with ends as caught:
        local_gang.run_gang([], config, threading.Event())
    if caught:
        assert (str(caught.value), caught.value.exit_code) == ("rank 1: is taken; free it", code)
    assert len(ports) == gangs
    assert len({*ports}) == len(ports)
    again = "warning: rank 1: is taken; starting again with other ports\n"
    assert capsys.readouterr().out == again * (gangs - 1)
