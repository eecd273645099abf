"""The connections of a rendezvous over loopback: members, strangers, silence and losses."""

import contextlib
import json
import os
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.processes import wait_until
from trainer.common import sockets
from trainer.errors import DataError
from trainer.failure import Failure
from trainer.gang import wire
from trainer.gang.coordinator import Coordinator, is_order
from trainer.gang.wire import MAX_LINE, Host, Link, proof
from trainer.worker_events import Event

pytestmark = pytest.mark.long

LIMIT = 20.0  # seconds after which something that should happen did not
KEY = b"k" * 64


def key(again: bool) -> bytes:
    del again
    return KEY


def hello(
    nonce: str, rank: Any = 1, workers: Any = 3, key: bytes = KEY, host: str = "127.0.0.1"
) -> dict[str, Any]:
    """What a member says first."""
    facts = {"rank": rank, "workers": workers, "host": host, "leader": "127.0.0.1"}
    return {"nonce": "mine", **facts, "proof": proof(key, nonce, "mine", *facts.values())}


def welcome(connection: socket.socket, key: bytes = KEY, refused: str | None = None) -> None:
    """Do rank 0's part of the proofs."""
    connection.sendall(b'{"nonce": "theirs"}\n')
    with connection.makefile("rb") as file:
        said = json.loads(file.readline())
    facts = [said[name] for name in ("rank", "workers", "host", "leader")]
    assert said["proof"] == proof(KEY, "theirs", said["nonce"], *facts)
    answer = {"proof": proof(key, said["nonce"], "theirs"), "refused": refused}
    connection.sendall((json.dumps(answer) + "\n").encode())


class Leader:
    """Rank 0's supervisor without a worker: a host and the rendezvous that it asks."""

    def __init__(self, port: int, workers: int = 3) -> None:
        self.rendezvous = Coordinator(workers, 3)
        self._addresses = ["a:1"] * workers
        self.heard: SimpleQueue[tuple[int, Event]] = SimpleQueue()
        self._one_at_a_time = threading.Lock()
        self.warned: SimpleQueue[str] = SimpleQueue()
        self.host = Host(("127.0.0.1", port), workers, KEY, self.hear, self.warned.put)
        self.rendezvous.handle(0, {"event": "here"}, 0.0)

    def hear(self, rank: int, event: Event) -> None:
        with self._one_at_a_time:
            for to, order in self.rendezvous.handle(rank, event, 0.0):
                self.host.send(
                    to, {**order, "addresses": self._addresses} if "attempt" in order else order
                )
        self.heard.put((rank, event))


class Caller:
    """A supervisor of another rank, of which every byte can be chosen."""

    def __init__(
        self, port: int, *lines: Any, rank: Any = 1, workers: Any = 3, key: bytes = KEY
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self._file = self.socket.makefile("rb")
        nonce = json.loads(self._file.readline())["nonce"]
        self.say(*lines or [hello(nonce, rank, workers, key)])

    def say(self, *lines: Any) -> None:
        """Send bytes, or anything else as JSON."""
        for line in lines:
            data = line if isinstance(line, bytes) else (json.dumps(line) + "\n").encode()
            with contextlib.suppress(OSError):
                self.socket.sendall(data)

    def order(self) -> Event | None:
        """The next order, or why there will be none, or None when the connection is lost."""
        with contextlib.suppress(ConnectionError):
            for line in self._file:
                order = dict(json.loads(line))
                if "order" in order or order.get("refused"):
                    return {key: value for key, value in order.items() if key != "proof"}
        return None

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def port() -> int:
    """A free port below the range of outgoing calls."""
    for number in random.sample(range(20_000, 32_768), 1000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", number)):
            return number
    raise AssertionError("no free port")


@pytest.fixture
def leader(port: int) -> Iterator[Leader]:
    leader = Leader(port)
    yield leader
    leader.host.close()


@pytest.mark.parametrize(("rank", "workers"), [(1, 4), (1, 2), (0, 3), (-1, 3), (3, 3)])
def test_a_rank_that_is_not_of_the_gang_is_refused(
    leader: Leader, port: int, rank: int, workers: int
) -> None:
    with contextlib.closing(Caller(port, rank=rank, workers=workers)) as caller:
        why = f"rank {rank} of {workers} workers called a gang of 3"
        assert caller.order() == {"refused": why}
        assert caller.order() is None
    assert leader.heard.empty()


def test_a_gang_that_may_grow_takes_ranks_beyond_its_own(port: int) -> None:
    heard: SimpleQueue[tuple[int, Event]] = SimpleQueue()
    host = Host(("127.0.0.1", port), 2, KEY, lambda *what: heard.put(what), may_grow=True)
    for rank, workers in ((1023, 1024), (1, 2)):
        with contextlib.closing(Caller(port, rank=rank, workers=workers)):
            assert heard.get(timeout=LIMIT) == (rank, {"event": "here"})
        assert heard.get(timeout=LIMIT) == (rank, {"event": "gone"})
    for rank in (0, 1024):
        with contextlib.closing(Caller(port, rank=rank, workers=1025)) as caller:
            why = f"rank {rank} of 1025 workers called a gang of 2"
            assert caller.order() == {"refused": why}
    host.close()


def test_a_rank_has_one_supervisor_at_a_time(leader: Leader, port: int) -> None:
    with contextlib.closing(Caller(port)) as first:
        assert first.order() == {"order": "waiting", "missing": [2]}
        with contextlib.closing(Caller(port)) as second:
            refusal = {"refused": "another supervisor of rank 1 is connected"}
            assert [second.order(), second.order()] == [refusal, None]
        leader.host.send(1, {"order": "leave", "attempt": 1})
        assert first.order() == {"order": "leave", "attempt": 1}
    assert [leader.heard.get(timeout=LIMIT)[1] for _ in "ab"] == [
        {"event": "here"},
        {"event": "gone"},
    ]
    with contextlib.closing(Caller(port)) as third:
        assert third.order() == {"order": "waiting", "missing": [2]}


def test_a_lost_connection_keeps_its_place_until_its_loss_is_dealt_with(port: int) -> None:
    heard: SimpleQueue[tuple[int, Event]] = SimpleQueue()
    host = Host(("127.0.0.1", port), 2, KEY, lambda *what: heard.put(what))
    Caller(port, workers=2).close()
    assert [heard.get(timeout=LIMIT)[1]["event"] for _ in "ab"] == ["here", "gone"]
    for answer in ("refused", "start"):
        with contextlib.closing(Caller(port, workers=2)) as caller:
            if answer == "start":
                assert heard.get(timeout=LIMIT) == (1, {"event": "here"})
            host.send(1, {"order": "start"})
            order = caller.order()
            assert order
            assert answer in (order.get("order"), *order)
        host.send(1, {"order": "dismissed"})
    host.close()


FAILURE = Failure(rank=1, code=1, message="words").record()
GARBAGE: list[Any] = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\n",
    b"\xff\xfe\n",
    b'{"rank": 1',
    [],
    None,
    "rank",
    {},
]
GARBAGE += [b"x" * (MAX_LINE + 1), b"[" * (MAX_LINE - 1) + b"\n", {"rank": 1, "workers": 3}]
GARBAGE += [{"event": "ended", "failure": FAILURE}, {"event": "committed", "step": 7}]
UNSOUND: list[Event] = [{"event": event} for event in (1, "here", "gone", "committed", "ended")]
UNSOUND += [{"event": "committed", "step": step} for step in ("7", 7.0, None, -1, 10**18)]
UNSOUND += [
    {"event": "ended", "failure": record}
    for record in (
        "words",
        {**FAILURE, "code": "1"},
        {**FAILURE, "rank": 2},
        {**FAILURE, "message": None},
        {**FAILURE, "consequence": 0},
        {**FAILURE, "rank": None},
        {key: value for key, value in FAILURE.items() if key != "message"},
    )
]


def test_garbage_reaches_nobody_and_breaks_nothing(leader: Leader, port: int) -> None:
    for line in GARBAGE:
        with contextlib.closing(Caller(port, line)) as caller:
            with contextlib.suppress(OSError):  # it was dropped at once
                caller.socket.shutdown(socket.SHUT_WR)
            assert caller.order() is None
    assert leader.heard.empty()
    with contextlib.closing(Caller(port)) as caller:
        caller.say(
            *UNSOUND, {"event": "ended", "failure": FAILURE}, {"event": "committed", "step": 7}
        )
        caller.say({"event": "finished", "more": "y" * MAX_LINE})
        told = [leader.heard.get(timeout=LIMIT)[1] for _ in range(4)]
        assert [event["event"] for event in told] == ["here", "ended", "committed", "gone"]


def test_a_host_that_had_too_many_files_open_takes_calls_again(leader: Leader, port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The first call is for the file that is reserved while the host waits for one.
    with socket.socket() as first, socket.socket() as second:
        unused = os.dup(0)
        os.close(unused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused, hard))
        try:
            for client in (first, second):
                client.settimeout(LIMIT)
                client.connect(("127.0.0.1", port))
            time.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with second.makefile("rb") as file:
            nonce = json.loads(file.readline())["nonce"]
        second.sendall((json.dumps(hello(nonce)) + "\n").encode())
        assert leader.heard.get(timeout=LIMIT) == (1, {"event": "here"})


def test_who_does_not_know_the_key_is_no_member(leader: Leader, port: int) -> None:
    with contextlib.closing(Caller(port, key=b"another")) as guesser:
        assert guesser.order() is None
    with contextlib.closing(Caller(port)) as member:
        assert member.order()
        assert leader.heard.get(timeout=LIMIT) == (1, {"event": "here"})
    assert leader.heard.get(timeout=LIMIT) == (1, {"event": "gone"})
    seen = hello("a nonce that rank 0 gave to another connection")
    for changed in ({}, {"rank": 2}, {"nonce": "other"}, {"proof": ""}, {"proof": "\u00e9\ud800"}):
        with contextlib.closing(Caller(port, {**seen, **changed})) as replayer:
            assert replayer.order() is None
    assert leader.heard.empty()
    warning = leader.warned.get(timeout=LIMIT)
    assert "did not prove to be of this gang" in warning
    assert "127.0.0.1" in warning


def test_what_a_member_proves_holds_for_all_that_it_says(leader: Leader, port: int) -> None:
    with contextlib.closing(Caller(port, b"{}\n")) as caller:
        assert caller.order() is None
    connection = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
    with contextlib.closing(connection), connection.makefile("rb") as file:
        said = hello(json.loads(file.readline())["nonce"])
        connection.sendall((json.dumps({**said, "rank": 2}) + "\n").encode())
        assert file.read() == b""
    assert leader.heard.empty()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(["nonce", "rank", "workers", "host", "leader", "proof", "event", "order"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES), min_size=4, max_size=4))
def test_nothing_that_a_stranger_says_reaches_the_gang(values: list[Event]) -> None:
    heard: list[Any] = []
    host = Host(("127.0.0.1", 0), 3, KEY, lambda *what: heard.append(what))
    port = host._server.getsockname()[1]
    for value in values:
        with contextlib.closing(Caller(port, value)) as caller:
            assert caller.order() is None
    assert host._thread.is_alive()
    host.close()
    assert heard == []


def test_strangers_keep_nobody_out_and_take_little(leader: Leader, port: int) -> None:
    """Two thousand connections that say a byte now and then, and a member among them."""
    before = threading.active_count()
    held: list[socket.socket] = []
    try:
        for turn in range(2000):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=LIMIT))
            with contextlib.suppress(OSError):
                held[-1].sendall(b"{")
            if len(held) > 300:
                held.pop(0).close()
            if turn in (500, 1900):
                with contextlib.closing(Caller(port)) as member:
                    assert member.order()
                assert [leader.heard.get(timeout=LIMIT)[1]["event"] for _ in "ab"] == [
                    "here",
                    "gone",
                ]
        assert threading.active_count() == before
        assert len(leader.host._callers) <= wire.STRANGERS + 1
    finally:
        for each in held:
            each.close()


def test_a_stranger_in_place_of_rank_0_is_not_obeyed(port: int) -> None:
    told: SimpleQueue[Event] = SimpleQueue()
    asked: list[bool] = []

    def doubted(again: bool) -> bytes:
        asked.append(again)
        return KEY

    with socket.create_server(("127.0.0.1", port)) as stranger:
        link = Link(("127.0.0.1", port), 1, 2, doubted, told.put)
        for _ in "ab":
            connection, _ = stranger.accept()
            with connection:
                welcome(connection, b"another")
                connection.sendall(b'{"order": "waiting", "missing": []}\n')
        link.close()
    assert told.empty()
    assert asked == [False, True]  # rank 0 may have been replaced, and have another key now
    assert link.trouble == "who answers there does not know the gang's key"


def test_a_member_that_is_refused_is_no_stranger(leader: Leader, port: int) -> None:
    told: SimpleQueue[Event] = SimpleQueue()
    with contextlib.closing(Caller(port)):
        link = Link(("127.0.0.1", port), 1, 3, key, told.put)
        why = "another supervisor of rank 1 is connected"
        wait_until(lambda: link.trouble == why, LIMIT)
        link.close()
    assert told.empty()
    assert leader.host._strangers == 0
    assert leader.warned.empty()


def test_a_store_that_is_slow_with_the_key_keeps_nobody_out(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PROOF", 0.3)
    asked: list[bool] = []

    def slowly(again: bool) -> bytes:
        asked.append(again)
        time.sleep(0.6)
        return KEY

    leader, told = Leader(port, workers=2), SimpleQueue[Event]()
    link = Link(("127.0.0.1", port), 1, 2, slowly, told.put)
    assert told.get(timeout=LIMIT) == {"order": "connected"}
    assert asked == [False]
    link.close()
    leader.host.close()


@pytest.mark.usefixtures("leader")
def test_a_key_that_is_not_there_yet_is_asked_for_again(port: int) -> None:
    told: SimpleQueue[Event] = SimpleQueue()
    absent = [True]

    def sometimes(again: bool) -> bytes:
        if absent:
            raise DataError("run/gang.key: not there")
        return key(again)

    link = Link(("127.0.0.1", port), 1, 3, sometimes, told.put)
    wait_until(lambda: link.trouble == "run/gang.key: not there", LIMIT)
    absent.clear()
    assert told.get(timeout=LIMIT) == {"order": "connected"}
    link.close()


def test_a_defect_of_the_hosts_thread_is_told_and_its_members_hear_of_it(port: int) -> None:
    failed: SimpleQueue[Exception] = SimpleQueue()

    def break_down(*_: Any) -> None:
        raise ZeroDivisionError

    host = Host(("127.0.0.1", port), 3, KEY, break_down, fail=failed.put)
    with contextlib.closing(Caller(port)) as caller:
        assert isinstance(failed.get(timeout=LIMIT), ZeroDivisionError)
        assert caller.order() is None
    host._thread.join(LIMIT)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    host.close()


START = {
    "order": "start",
    "attempt": 1,
    "after": None,
    "members": [0, 3, 5],
    "addresses": ["a:1"] * 3,
}


@pytest.mark.parametrize(
    "order",
    [
        {"order": "waiting", "missing": [1024]},
        {"order": "waiting", "missing": [-1]},
        {"order": "waiting", "missing": [True]},
        {"order": "start", "attempt": 1, "after": None, "addresses": ["a:1"] * 3},
        {**START, "addresses": ["a:1", "b:1"]},
        {**START, "after": 7},
        {**START, "members": [0, 1, 2]},
        {**START, "members": [0, 3, 1024]},
        {**START, "members": [0, 3, "1"]},
        {"order": "leave"},
        {"order": "give_up", "cause": {}, "restarts": 1},
        {"order": "connected"},
    ],
)
def test_an_order_that_cannot_be_obeyed_is_none(order: Event) -> None:
    assert not is_order(order, 3)
    assert is_order(START, 3)
    assert not is_order(START, 1)


@pytest.fixture
def many_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    sockets.allow_many_files()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("many_files")
def test_the_largest_gang_meets_and_starts_again_with_one_thread(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SILENCE", 10 * LIMIT)  # these members give no signs of life
    monkeypatch.setattr(wire, "PROOF", 10 * LIMIT)
    workers, failing = 1024, 711
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 3 * workers:
        pytest.skip("the hard limit on open files is below 3,072")
    before = threading.active_count()
    leader = Leader(port, workers)
    callers = [Caller(port, rank=rank, workers=workers) for rank in range(1, workers)]
    wait_until(lambda: not leader.rendezvous.missing(), 10 * LIMIT)
    assert threading.active_count() <= before + 1

    def told(order: str) -> list[Event]:
        found = []
        for caller in callers:
            while (its := caller.order()) and its["order"] != order:
                pass
            found.append(its or {})
        return found

    def start() -> set[int]:
        leader.hear(0, {"event": "ready"})
        for caller in callers:
            caller.say({"event": "ready"})
        return {order["attempt"] for order in told("start")}

    assert start() == {1}
    failure = Failure(kind="killed", rank=failing, code=1, message="it fell")
    callers[failing - 1].say({"event": "ended", "failure": failure.record()})
    assert {order["attempt"] for order in told("leave")} == {1}
    left = failure.but(rank=0, consequence=True, code=75).record()
    leader.hear(0, {"event": "ended", "failure": left})
    for rank, caller in enumerate(callers, 1):
        if rank != failing:
            caller.say({"event": "ended", "failure": {**left, "rank": rank}})
    assert start() == {2}
    assert leader.rendezvous.closed[0]["cause"]["rank"] == failing
    assert threading.active_count() <= before + 1
    for caller in callers:
        caller.close()
    leader.host.close()


def test_who_does_not_read_is_dropped(leader: Leader, port: int) -> None:
    with contextlib.closing(Caller(port)) as caller:
        assert caller.order()
        big = {"order": "waiting", "missing": [], "more": "x" * 100_000}
        for _ in range(200):
            leader.host.send(1, big)
        assert [leader.heard.get(timeout=LIMIT)[1]["event"] for _ in "ab"] == ["here", "gone"]


def test_silence_is_found_and_a_beat_is_no_silence(
    leader: Leader, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SILENCE", 2.0)
    monkeypatch.setattr(wire, "BEAT", 0.1)
    told: SimpleQueue[Event] = SimpleQueue()
    link = Link(("127.0.0.1", port), 2, 3, key, told.put)
    with contextlib.closing(Caller(port, rank=1)):
        heard = [leader.heard.get(timeout=LIMIT) for _ in "abc"]
        assert heard[2] == (1, {"event": "gone"})
        with pytest.raises(Empty):
            leader.heard.get(timeout=1.5)
    while not told.empty():
        assert told.get() != {"order": "lost"}
    link.close()


def test_a_link_hears_of_silence_and_connects_again(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SILENCE", 1.0)
    monkeypatch.setattr(wire, "BEAT", 0.1)
    told: SimpleQueue[Event] = SimpleQueue()
    with socket.create_server(("127.0.0.1", port)) as silent:
        link = Link(("127.0.0.1", port), 1, 2, key, told.put)
        connection, _ = silent.accept()
        welcome(connection)
        connection.sendall(b'{"order": "waiting", "missing": []}\n')
        assert [told.get(timeout=LIMIT)["order"] for _ in "abc"] == ["connected", "waiting", "lost"]
        connection.close()
    wait_until(lambda: link.trouble == "Connection refused", LIMIT)
    for _ in "ab":
        leader = Leader(port, workers=2)
        assert [told.get(timeout=LIMIT)["order"] for _ in "ab"] == ["connected", "waiting"]
        leader.hear(0, {"event": "ready"})
        link.send({"event": "ready"})
        start = {**START, "members": [0, 1], "addresses": ["a:1"] * 2}
        assert told.get(timeout=LIMIT) == start
        leader.host.close()
        assert told.get(timeout=LIMIT) == {"order": "lost"}
    link.close()


def test_a_link_outlives_a_connection_that_is_reset_at_once(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection

    def connect_slowly(*arguments: Any, **options: Any) -> socket.socket:
        connection = connect(*arguments, **options)
        time.sleep(0.1)
        return connection

    monkeypatch.setattr(socket, "create_connection", connect_slowly)
    told: SimpleQueue[Event] = SimpleQueue()
    with socket.create_server(("127.0.0.1", port)) as server:
        link = Link(("127.0.0.1", port), 1, 2, key, told.put)
        first, _ = server.accept()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        server.settimeout(LIMIT)
        second, _ = server.accept()
        welcome(second)
        assert told.get(timeout=LIMIT) == {"order": "connected"}
        link.close()
        second.close()


def test_a_link_closed_while_it_connects_leaves_no_connection(port: int) -> None:
    told: SimpleQueue[Event] = SimpleQueue()
    with socket.create_server(("127.0.0.1", port)) as server:
        link = Link(("127.0.0.1", port), 1, 2, key, told.put)
        connection, _ = server.accept()
        connection.settimeout(LIMIT)
        with contextlib.closing(connection), connection.makefile("rb") as file:
            link.close()
            welcome(connection)
            assert file.read() == b""


def test_connections_leave_no_thread_and_no_file(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "BEAT", 0.1)

    def held() -> Iterator[int]:
        yield threading.active_count()
        yield len(list(Path("/proc/self/fd").iterdir()))

    before = list(held())
    leader = Leader(port, workers=26)
    told: SimpleQueue[Event] = SimpleQueue()
    for _ in "ab":
        links = [Link(("127.0.0.1", port), rank, 26, key, told.put) for rank in range(1, 26)]
        wait_until(lambda: not leader.rendezvous.missing(), LIMIT)
        for link in links:
            link.close()
        wait_until(lambda: len(leader.rendezvous.missing()) == 25, LIMIT)
    leader.host.close()
    links.clear()
    wait_until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)), LIMIT)
