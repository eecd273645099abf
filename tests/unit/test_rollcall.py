"""The roll call: gangs simulated in every order of events, and its connections over loopback."""

import contextlib
import json
import os
import random
import resource
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from tests.processes import wait_until
from trainer import rollcall
from trainer.rollcall import FINAL, MAX_LINE, Cause, Event, Host, Link, Order, RollCall

LIMIT = 20.0  # seconds after which something that should happen did not
Move = tuple[Any, ...]  # what to call, and its arguments


@dataclass(eq=False)
class Line:
    """A connection: what is under way in it, and whether it is lost."""

    up: deque[Event] = field(default_factory=deque)
    down: deque[Event] = field(default_factory=deque)
    cut: bool = False
    gone: bool = False  # and its host has said so


@dataclass(eq=False)
class Member:
    """A supervisor and its worker; does what trainer/supervisor.py does."""

    rank: int
    state: str  # up, down, or done
    line: Line | None = None
    met: bool = False
    told_ready: bool = False
    attempt: int | None = None  # of the worker that runs
    leaving: bool = False
    stopping: bool = False
    may_finish: bool = False


class Account:
    """What must hold, by the events that a roll call was given and what it answered."""

    def __init__(self, max_restarts: int) -> None:
        self.max_restarts = max_restarts
        self.number = self.closed = self.step = self.first_step = self.barren = 0
        self.at_work: set[int] = set()
        self.running = False
        self.causes: list[Cause] = []

    def take(self, rank: int, event: Event) -> None:
        name = event["event"]
        if name == "committed":
            self.step = max(self.step, event["step"])
        elif name == "stopping" and self.running:
            self.causes.append(Cause(rank, 75, "", asked=True))
        elif name == "ended" or (name == "gone" and rank in self.at_work):
            self.causes.append(
                Cause(**event.get("cause", {"rank": rank, "code": 75, "message": ""}))
            )
            self.running = False
        if name in ("ended", "finished", "gone"):
            self.at_work.discard(rank)
            self.running = self.running and bool(self.at_work)

    def check(self, event: Event, orders: list[Order], closed: list[dict[str, Any]]) -> None:
        for line in closed:
            self._check_line(line)
        given = {order["order"] for _, order in orders}
        if event["event"] == "ended" and event["cause"]["code"] in FINAL:
            assert given == {"give_up"}
        elif "give_up" in given:
            assert self.barren == self.max_restarts + 1
        elif "start" in given:
            self.number += 1
            assert {order["attempt"] for _, order in orders} == {self.number}
            assert self.barren <= self.max_restarts
            assert self.closed == self.number - 1
            assert not self.at_work
            self.first_step, self.running, self.causes = self.step, True, []
            self.at_work = {rank for rank, _ in orders}

    def _check_line(self, line: dict[str, Any]) -> None:
        self.closed += 1
        assert line["attempt"] == self.closed == self.number
        assert (line["first_step"], line["last_step"]) == (self.first_step, self.step)
        first = next(iter([c for c in self.causes if not c.consequence] or self.causes), None)
        told = line["cause"] and {**line["cause"], "message": ""}
        assert told == (first and {**asdict(first), "message": ""})
        assert len(line["others"]) == max(0, len(self.causes) - 1)
        fault = first is not None and not first.asked
        self.barren = 0 if self.step > self.first_step else self.barren + fault


class World:
    """A gang whose messages, workers and faults come in an order that only the seed decides."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.max_restarts = self.random.randint(0, 12)
        self.members = [Member(rank, "down") for rank in range(self.random.randint(1, 5))]
        self.step = 0
        self.stored = False  # the result of the run
        self.complete = False  # all may finish
        self.over = False
        self._rise(self.members[0])

    # Rank 0's supervisor.

    def _hear(self, rank: int, event: Event) -> None:
        self.account.take(rank, event)
        orders = self.roll_call.handle(rank, event, 0.0)
        if any(order["order"] == "start" for _, order in orders):
            assert all(m.attempt is None for m in self.members), "a worker still runs"
        self._check(event, orders)
        for to, order in sorted(orders, key=lambda each: -each[0]):
            if order["order"] == "give_up":
                self.over = True
            elif order["order"] == "dismissed":
                del self.wires[to]
            elif to == 0:
                self._obey(self.members[0], order)
            elif not self.wires[to].cut:
                self.wires[to].down.append(order)
        if self.members[0].state == "done" and self.roll_call.all_finished:
            self.roll_call.close(0.0)
            self._check(event, [])
            assert self.account.closed == self.account.number
            assert not self.account.at_work
            self.over = True

    def _check(self, event: Event, orders: list[Order]) -> None:
        self.account.check(event, orders, self.roll_call.closed)
        self.roll_call.closed.clear()

    def _hear_next(self) -> None:
        self._hear(*self.inbox.popleft())

    def _carry(self, rank: int, line: Line) -> None:
        line.gone = not line.up
        self.inbox.append((rank, line.up.popleft() if line.up else {"event": "gone"}))

    # Any supervisor.

    def _rise(self, member: Member) -> None:
        self.members[member.rank] = Member(member.rank, "up")
        if member.rank == 0 and self.stored:
            self.over = True  # it finds the result
        elif member.rank == 0:
            self.roll_call = RollCall(len(self.members), self.max_restarts)
            self.account = Account(self.max_restarts)
            self.inbox: deque[tuple[int, Event]] = deque()
            self.wires: dict[int, Line] = {}
            self._hear(0, {"event": "here"})

    def _call(self, member: Member) -> None:
        member.line = self.wires[member.rank] = Line()
        self.inbox.append((member.rank, {"event": "here"}))

    def _tell(self, member: Member, event: Event) -> None:
        if member.rank == 0:
            self._hear(0, event)
        elif member.line and not member.line.cut:
            member.line.up.append(event)

    def _obey(self, member: Member, order: Event) -> None:
        member.met = True
        if order["order"] == "start" and member.attempt is None:
            member.attempt, member.told_ready = order["attempt"], False
        elif order["order"] == "leave" and member.attempt == order["attempt"]:
            member.leaving = True

    def _obey_next(self, member: Member, line: Line) -> None:
        self._obey(member, line.down.popleft())

    def _say_ready(self, member: Member) -> None:
        member.told_ready = True
        self._tell(member, {"event": "ready"})

    def _lose(self, member: Member) -> None:
        member.line, member.met, member.told_ready = None, False, False
        member.leaving = member.attempt is not None

    def _stop(self, member: Member) -> None:
        member.stopping = True
        self._tell(member, {"event": "stopping"})
        if member.attempt is None:
            self._exit(member, "down")

    def _exit(self, member: Member, state: str) -> None:
        member.state, member.attempt = state, None
        for line in [member.line] if member.rank else self.wires.values():
            if line:
                line.cut = True
        member.line = None

    # Workers.

    def _commit(self, member: Member) -> None:
        self.step += self.random.random() < 0.3
        self._tell(member, {"event": "committed", "step": self.step})

    def _end(self, member: Member, code: int, consequence: bool) -> None:
        if code == 75 and self.random.random() < 0.3:
            self._commit(member)
        member.attempt, member.leaving = None, False
        if member.stopping:
            self._exit(member, "down")
        else:
            cause = Cause(member.rank, code, "words", consequence)
            self._tell(member, {"event": "ended", "cause": asdict(cause)})

    def _finish(self, member: Member) -> None:
        member.attempt, member.state = None, "done"
        self._tell(member, {"event": "finished"})
        if member.rank:  # one may be lost before it has left
            self._exit(member, self.random.choice(("done", "done", "down")))

    # What may happen next.

    def moves(self) -> Iterator[Move]:
        """All but faults and the progress of training."""
        hosted = self.members[0].state != "down"
        for rank, line in self.wires.items() if hosted else ():
            if line.up or (line.cut and not line.gone):
                yield self._carry, rank, line
        if self.inbox and hosted:
            yield (self._hear_next,)
        for member in self.members:
            if member.state == "down":
                yield self._rise, member
            elif member.state == "up":
                yield from self._moves_of(member)
                if member.rank and hosted and not member.line and member.rank not in self.wires:
                    yield self._call, member

    def _moves_of(self, member: Member) -> Iterator[Move]:
        if member.line and member.line.down:
            yield self._obey_next, member, member.line
        elif member.line and member.line.cut:
            yield self._lose, member
        if member.attempt is None:
            if member.met and not member.told_ready:
                yield self._say_ready, member
        elif member.leaving or member.stopping:
            yield self._end, member, 75, True
        elif (self.complete or member.may_finish) and not (member.line and member.line.cut):
            yield self._finish, member

    def faults(self) -> Iterator[Move]:
        """All else, for one member."""
        member = self.random.choice(self.members)
        if member.state == "up":
            yield self._exit, member, "down"  # lost with its worker
            yield self._stop, member
            if member.attempt is None:
                yield setattr, member, "told_ready", False  # its forkserver was lost
            else:
                own = 1 if self.random.random() < 0.98 else self.random.choice(sorted(FINAL))
                yield self._end, member, own, False
                yield self._end, member, 75, True
                yield from [(self._commit, member)] * 3
        if member.line and not member.line.cut:
            yield self._cut, member.line
        if member.attempt and self.random.random() < 0.3 and (self.stored or self.together()):
            self.stored = True
            yield setattr, member, "may_finish", True

    def _cut(self, line: Line) -> None:
        line.cut = True
        for queue in (line.up, line.down):
            for _ in range(self.random.randint(0, len(queue))):
                queue.pop()

    def together(self) -> bool:
        """Whether one attempt runs, with all that are not done."""
        attempts = {m.attempt for m in self.members if m.state != "done"}
        return len(attempts) == 1 and None not in attempts

    def live(self, moves: int, share_of_faults: float) -> None:
        """Make random moves until nothing can happen, or so many were made."""
        for _ in range(moves):
            faulty = self.random.random() < share_of_faults
            choice = list(self.faults() if faulty else self.moves())
            if self.over or not (choice or share_of_faults):
                return
            if choice:
                call, *arguments = self.random.choice(choice)
                call(*arguments)
        assert share_of_faults, "it never comes to rest"


def test_a_gang_under_faults_is_sound_at_every_message_and_meets_when_they_cease() -> None:
    for seed in range(1000):
        world = World(seed)
        world.live(world.random.randint(0, 600), world.random.choice((0.01, 0.05, 0.2)))
        world.live(3000, 0.0)
        assert world.over or world.stored or world.together(), (
            f"seed {seed}: the gang does not meet"
        )
        world.stored = world.complete = True
        world.live(3000, 0.0)
        assert world.over, f"seed {seed}: the gang does not finish"


def orders(roll_call: RollCall, *events: tuple[int, str]) -> list[Order]:
    """The last orders but those that tell who is missing."""
    given: list[Order] = []
    for rank, name in events:
        cause = asdict(Cause(rank, 75, "lost a peer", consequence=True))
        given = roll_call.handle(rank, {"event": name, "cause": cause}, 0.0)
    return [(rank, order) for rank, order in given if order["order"] != "waiting"]


def started(max_restarts: int = 0) -> RollCall:
    roll_call = RollCall(2, max_restarts)
    given = orders(roll_call, (0, "here"), (1, "here"), (0, "ready"), (1, "ready"))
    assert given == [(r, {"order": "start", "attempt": 1, "after": None}) for r in (0, 1)]
    return roll_call


def test_who_was_ready_twice_before_a_start_is_not_ready_after_it() -> None:
    roll_call = started()
    assert [rank for rank, _ in orders(roll_call, (0, "ended"))] == [0, 1]
    roll_call.handle(0, {"event": "committed", "step": 1}, 0.0)
    assert orders(roll_call, (0, "ready"), (1, "ready")) == []
    assert [rank for rank, _ in orders(roll_call, (1, "ended"), (1, "ready"))] == [0, 1]


def test_a_supervisor_lost_as_it_finished_gets_a_start_for_its_successor() -> None:
    roll_call = started(max_restarts=1)
    assert orders(roll_call, (1, "finished"), (1, "gone"), (1, "here"), (1, "ready")) == []
    late = [rank for rank, _ in orders(roll_call, (0, "finished"))]
    assert (late, roll_call.all_finished) == ([1], False)
    ((rank, order),) = orders(roll_call, (1, "ended"), (1, "ready"))
    assert (rank, order["order"], roll_call.all_finished) == (1, "start", False)
    assert (orders(roll_call, (1, "finished")), roll_call.all_finished) == ([], True)
    assert [line["cause"] is None for line in roll_call.closed] == [True, False, True]


def test_who_waits_for_a_start_is_not_forgotten_when_the_others_break() -> None:
    roll_call = started(max_restarts=1)
    orders(roll_call, (1, "finished"), (1, "gone"), (1, "here"), (1, "ready"), (0, "ended"))
    assert [rank for rank, _ in orders(roll_call, (0, "ready"))] == [0, 1]


@pytest.mark.parametrize("code", [1, *sorted(FINAL)])
def test_what_follows_a_give_up_starts_nothing_and_gives_up_no_second_time(code: int) -> None:
    roll_call = started()
    causes = [asdict(Cause(rank, code, "words")) for rank in (0, 1)]
    given = [
        order
        for rank, name in ((0, "ended"), (0, "ready"), (1, "ended"), (1, "ready"), (0, "ready"))
        for _, order in roll_call.handle(rank, {"event": name, "cause": causes[rank]}, 0.0)
        if order["order"] != "leave"
    ]
    assert given == [{"order": "give_up", "cause": causes[0], "restarts": int(code == 1)}] * 2
    assert len(roll_call.closed) == 1


def test_a_lost_supervisor_is_the_cause_even_if_what_followed_is_told_before() -> None:
    roll_call = started()
    orders(roll_call, (0, "ended"), (1, "gone"))
    roll_call.close(0.0)
    (line,) = roll_call.closed
    assert line["cause"]["message"] == "rank 1: its supervisor was lost"
    assert [other["rank"] for other in line["others"]] == [0]


def test_a_lost_supervisor_may_call_again_once_it_is_dismissed() -> None:
    roll_call = started()
    assert orders(roll_call, (1, "gone")) == [
        (0, {"order": "leave", "attempt": 1}),
        (1, {"order": "dismissed"}),
    ]
    assert roll_call.missing() == [1]


class Leader:
    """Rank 0's supervisor without a worker: a host and the roll call that it asks."""

    def __init__(self, port: int, workers: int = 3) -> None:
        self.roll_call = RollCall(workers, 3)
        self.heard: SimpleQueue[tuple[int, Event]] = SimpleQueue()
        self._one_at_a_time = threading.Lock()
        self.host = Host(("127.0.0.1", port), workers, self.hear)
        self.roll_call.handle(0, {"event": "here"}, 0.0)

    def hear(self, rank: int, event: Event) -> None:
        with self._one_at_a_time:
            for to, order in self.roll_call.handle(rank, event, 0.0):
                self.host.send(to, order)
        self.heard.put((rank, event))


class Caller:
    """A supervisor of another rank, of which every byte can be chosen."""

    def __init__(self, port: int, *lines: Any, rank: Any = 1, workers: Any = 3) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self._file = self.socket.makefile("rb")
        hello = {"rank": rank, "workers": workers, "host": "127.0.0.1", "leader": "127.0.0.1"}
        self.say(*lines or [hello])

    def say(self, *lines: Any) -> None:
        """Send bytes, or anything else as JSON."""
        for line in lines:
            data = line if isinstance(line, bytes) else (json.dumps(line) + "\n").encode()
            with contextlib.suppress(OSError):
                self.socket.sendall(data)

    def order(self) -> Event | None:
        """The next order, or None when the connection is lost."""
        with contextlib.suppress(ConnectionError):
            for line in self._file:
                if "order" in (order := dict(json.loads(line))):
                    return order
        return None

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def port() -> int:
    """A free port below those that outgoing calls get."""
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
        assert caller.order() == {"order": "refused", "why": why}
        assert caller.order() is None
    assert leader.heard.empty()


def test_a_rank_has_one_supervisor_at_a_time(leader: Leader, port: int) -> None:
    with contextlib.closing(Caller(port)) as first:
        assert first.order() == {"order": "waiting", "missing": [2]}
        with contextlib.closing(Caller(port)) as second:
            refusal = {"order": "refused", "why": "another supervisor of rank 1 is connected"}
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
    host = Host(("127.0.0.1", port), 2, lambda *what: heard.put(what))
    Caller(port, workers=2).close()
    assert [heard.get(timeout=LIMIT)[1]["event"] for _ in "ab"] == ["here", "gone"]
    for answer in ("refused", "start"):
        with contextlib.closing(Caller(port, workers=2)) as caller:
            if answer == "start":
                assert heard.get(timeout=LIMIT) == (1, {"event": "here"})
            host.send(1, {"order": "start"})
            order = caller.order()
            assert order
            assert order["order"] == answer
        host.send(1, {"order": "dismissed"})
    host.close()


CAUSE = asdict(Cause(1, 1, "words"))
HELLO = {"rank": 1, "workers": 3, "host": "a", "leader": "b"}
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
GARBAGE += [HELLO | {"rank": "1"}, HELLO | {"rank": 1.0}, HELLO | {"host": None}]
UNSOUND: list[Event] = [{"event": event} for event in (1, "here", "gone", "committed", "ended")]
UNSOUND += [{"event": "committed", "step": step} for step in ("7", 7.0, None)]
UNSOUND += [
    {"event": "ended", "cause": cause}
    for cause in (
        "words",
        {**CAUSE, "code": "1"},
        {**CAUSE, "message": None},
        {**CAUSE, "asked": 0},
        {**CAUSE, "more": 1},
        {key: value for key, value in CAUSE.items() if key != "consequence"},
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
        caller.say(*UNSOUND, {"event": "ended", "cause": CAUSE}, {"event": "committed", "step": 7})
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
        second.sendall(b'{"rank": 1, "workers": 3, "host": "a", "leader": "b"}\n')
        assert leader.heard.get(timeout=LIMIT) == (1, {"event": "here"})


def test_silence_is_found_and_a_beat_is_no_silence(
    leader: Leader, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollcall, "SILENCE", 2.0)
    monkeypatch.setattr(rollcall, "BEAT", 0.1)
    told: SimpleQueue[Event] = SimpleQueue()
    link = Link(("127.0.0.1", port), 2, 3, told.put)
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
    monkeypatch.setattr(rollcall, "SILENCE", 1.0)
    monkeypatch.setattr(rollcall, "BEAT", 0.1)
    told: SimpleQueue[Event] = SimpleQueue()
    with socket.create_server(("127.0.0.1", port)) as silent:
        link = Link(("127.0.0.1", port), 1, 2, told.put)
        connection, _ = silent.accept()
        connection.sendall(b'{"order": "waiting", "missing": []}\n')
        assert [told.get(timeout=LIMIT)["order"] for _ in "abc"] == ["connected", "waiting", "lost"]
        connection.close()
    wait_until(lambda: link.trouble == "Connection refused", LIMIT)
    for _ in "ab":
        leader = Leader(port, workers=2)
        assert [told.get(timeout=LIMIT)["order"] for _ in "ab"] == ["connected", "waiting"]
        leader.hear(0, {"event": "ready"})
        link.send({"event": "ready"})
        assert told.get(timeout=LIMIT) == {"order": "start", "attempt": 1, "after": None}
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
        link = Link(("127.0.0.1", port), 1, 2, told.put)
        first, _ = server.accept()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        server.settimeout(LIMIT)
        second, _ = server.accept()
        second.sendall(b'{"order": "waiting", "missing": []}\n')
        assert told.get(timeout=LIMIT) == {"order": "connected"}
        link.close()
        second.close()


def test_a_link_closed_while_it_connects_leaves_no_connection(port: int) -> None:
    told: SimpleQueue[Event] = SimpleQueue()
    with socket.create_server(("127.0.0.1", port)) as server:
        link = Link(("127.0.0.1", port), 1, 2, told.put)
        connection, _ = server.accept()
        connection.settimeout(LIMIT)
        with contextlib.closing(connection), connection.makefile("rb") as file:
            assert file.readline()
            link.close()
            connection.sendall(b'{"order": "waiting", "missing": []}\n')
            assert file.read() == b""


def test_connections_leave_no_thread_and_no_file(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollcall, "BEAT", 0.1)

    def held() -> Iterator[int]:
        yield threading.active_count()
        yield len(list(Path("/proc/self/fd").iterdir()))

    before = list(held())
    leader = Leader(port, workers=26)
    told: SimpleQueue[Event] = SimpleQueue()
    for _ in "ab":
        links = [Link(("127.0.0.1", port), rank, 26, told.put) for rank in range(1, 26)]
        wait_until(lambda: not leader.roll_call.missing(), LIMIT)
        for link in links:
            link.close()
        wait_until(lambda: len(leader.roll_call.missing()) == 25, LIMIT)
    leader.host.close()
    links.clear()
    wait_until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)), LIMIT)
