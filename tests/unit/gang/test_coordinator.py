"""The rendezvous: gangs simulated in every order of events."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import series
from trainer.failure import BAD_MACHINE, FINAL, Failure, parse
from trainer.gang.coordinator import Coordinator, Order, is_sound
from trainer.gang.elastic import Elastic
from trainer.gang.time_limits import SETTLE
from trainer.worker_events import Event

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
    """A supervisor and its worker; does what trainer/gang/supervisor.py does."""

    rank: int
    state: str  # up, down, away for longer, or done
    line: Line | None = None
    met: bool = False
    told_ready: bool = False
    attempt: int | None = None  # of the worker that runs
    leaving: bool = False
    stopping: bool = False
    may_finish: bool = False


class Account:
    """What must hold, by the events that a rendezvous was given and what it answered."""

    def __init__(self, max_restarts: int, elastic: Elastic | None) -> None:
        self.max_restarts, self.elastic, self.resizing = max_restarts, elastic, False
        self.number = self.closed = self.step = self.first_step = self.restarts_without_progress = 0
        self.at_work: set[int] = set()
        self.running = False
        self.failures: list[Failure] = []

    def take(self, rank: int, event: Event) -> None:
        name = event["event"]
        if name == "committed":
            self.step = max(self.step, event["step"])
        elif name == "stopping" and self.running and rank in self.at_work:
            self.failures.append(Failure(kind="stopped", rank=rank, code=75, message=""))
        elif name == "ended" and self._is_late(rank, event):
            pass
        elif name == "ended" or (name == "gone" and rank in self.at_work):
            gone = Failure(kind="supervisor_lost", rank=rank, code=75, message="")
            self.failures.append(parse(event.get("failure")) or gone)
            self.running = False
        if name in ("ended", "finished", "gone"):
            self.at_work.discard(rank)
            self.running = self.running and bool(self.at_work)

    def _is_late(self, rank: int, event: Event) -> bool:
        """Whether a worker has ended whose rank the others have left behind."""
        left = self.elastic is not None and self.running and rank not in self.at_work
        return left and event["failure"]["code"] not in FINAL

    def check(self, event: Event, orders: list[Order], closed: list[dict[str, Any]]) -> None:
        for line in closed:
            self._check_line(line)
        given = {order["order"] for _, order in orders}
        if "resize" in given:
            assert [rank for rank, _ in orders] == [0]
            assert self.running
            assert not self.resizing
            self.resizing = True
            self.failures.append(Failure(kind="resized", code=75, message=""))
        if event["event"] == "ended" and event["failure"]["code"] in FINAL:
            assert given == {"give_up"}
        elif "give_up" in given:
            assert self.restarts_without_progress == self.max_restarts + 1
        elif "start" in given:
            self.number += 1
            starts = [(rank, order) for rank, order in orders if order["order"] == "start"]
            assert {order["attempt"] for _, order in starts} == {self.number}
            assert self.restarts_without_progress <= self.max_restarts
            assert self.closed == self.number - 1
            assert not self.at_work
            self.first_step, self.running, self.failures = self.step, True, []
            self.at_work, self.resizing = {rank for rank, _ in starts}, False
            self._check_members(starts)

    def _check_members(self, starts: list[Order]) -> None:
        [members] = {tuple(order["members"]) for _, order in starts}
        assert members == tuple(sorted({0, *members}))
        assert self.at_work <= {*members}
        assert self.elastic is None or self.elastic.least <= len(members)
        assert self.elastic is None or self.elastic.batch_size % len(members) == 0

    def _check_line(self, line: dict[str, Any]) -> None:
        self.closed += 1
        assert line["attempt"] == self.closed == self.number
        assert (line["first_step"], line["last_step"]) == (self.first_step, self.step)
        own = [each for each in self.failures if not each.consequence]
        first = next(iter(own or self.failures), None)
        written = line["cause"] and {**line["cause"], "message": ""}
        assert written == (first and first.but(message="").record())
        assert len(line["others"]) == max(0, len(self.failures) - 1)
        fault = first is not None and (first.kind != "stopped" or first.consequence)
        fault = fault and not self.resizing
        self.restarts_without_progress = (
            0 if self.step > self.first_step else self.restarts_without_progress + fault
        )


class World:
    """A gang whose messages, workers and faults come in an order that only the seed decides."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.max_restarts = self.random.randint(0, 12)
        self.workers = self.random.randint(1, 5)
        self.members = [Member(rank, "down") for rank in range(self.workers)]
        self.elastic: Elastic | None = None
        if self.workers > 1 and self.random.random() < 0.6:
            least = self.random.randint(1, self.workers)
            batch = 60 if self.workers == 5 else self.random.choice((12, 60))  # 5 cannot share 12
            self.elastic = Elastic(least, batch, patience=10.0)
        self.now = 0.0
        self.step = 0
        self.stored = False  # the result of the run
        self.complete = False  # all may finish
        self.over = False
        self._rise(self.members[0])

    def _hear(self, rank: int, event: Event) -> None:
        self.account.take(rank, event)
        orders = self.rendezvous.handle(rank, event, self.now)
        starting = [self.members[to] for to, order in orders if order["order"] == "start"]
        assert all(member.attempt is None for member in starting), "a worker still runs"
        assert self.elastic or not starting or all(m.attempt is None for m in self.members)
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
        if self.members[0].state == "done" and self.rendezvous.all_finished:
            self.rendezvous.close(self.now)
            self._check(event, [])
            assert self.account.closed == self.account.number
            assert not self.account.at_work
            self.over = True

    def _check(self, event: Event, orders: list[Order]) -> None:
        self.account.check(event, orders, self.rendezvous.closed)
        self.rendezvous.closed.clear()

    def _hear_next(self) -> None:
        self._hear(*self.inbox.popleft())

    def _carry(self, rank: int, line: Line) -> None:
        line.gone = not line.up
        self.inbox.append((rank, line.up.popleft() if line.up else {"event": "gone"}))

    def _rise(self, member: Member) -> None:
        self.members[member.rank] = Member(member.rank, "up")
        if member.rank == 0 and self.stored:
            self.over = True  # it finds the result
        elif member.rank == 0:
            self.rendezvous = Coordinator(self.workers, self.max_restarts, self.elastic)
            self.account = Account(self.max_restarts, self.elastic)
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
        elif order["order"] in ("leave", "resize") and member.attempt == order["attempt"]:
            member.leaving = True

    def _obey_next(self, member: Member, line: Line) -> None:
        self._obey(member, line.down.popleft())

    def _say_ready(self, member: Member) -> None:
        member.told_ready = True
        self._tell(member, {"event": "ready"})

    def _lose(self, member: Member) -> None:
        member.line, member.met, member.told_ready = None, False, False
        member.leaving = member.attempt is not None

    def _tick(self, seconds: float) -> None:
        self.now += seconds
        if self.members[0].state != "down":
            self._hear(0, {"event": "tick"})

    def _scale_up(self) -> None:
        self.members.append(Member(len(self.members), "down"))

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
            kind = self.random.choice(("stopped", "peer_lost")) if code == 75 else "crashed"
            failure = {"kind": kind, "rank": member.rank, "code": code, "message": "words"}
            failure["consequence"] = consequence
            self._tell(member, {"event": "ended", "failure": failure})

    def _finish(self, member: Member) -> None:
        member.attempt, member.state = None, "done"
        self._tell(member, {"event": "finished"})
        if member.rank:  # one may be lost before it has left
            self._exit(member, self.random.choice(("done", "done", "down")))

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
        if self.elastic:
            if len(self.members) < 6:
                yield (self._scale_up,)
            if member.rank and member.state in ("down", "away"):
                yield setattr, member, "state", "away" if member.state == "down" else "down"
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
        """Whether one attempt runs, with all that are not done or as many as can take part."""
        there = [member for member in self.members if member.state not in ("done", "away")]
        attempts = [member.attempt for member in there if member.attempt is not None]
        size = len(self.elastic.members([m.rank for m in there]) if self.elastic else there)
        return len({*attempts}) == 1 and len(attempts) == size

    def is_too_small(self) -> bool:
        """Whether too many are away."""
        there = [member.rank for member in self.members if member.state != "away"]
        return self.elastic is not None and not self.elastic.members(there)

    def live(self, moves: int, share_of_faults: float) -> None:
        """Make random moves until nothing can happen, or so many were made."""
        for _ in range(moves):
            faulty = self.random.random() < share_of_faults
            choice = list(self.faults() if faulty else self.moves())
            resting = not (choice or share_of_faults)
            if self.elastic and not self.over and (resting or self.random.random() < 0.1):
                self._tick(self.random.choice((0.1, 3.0, 11.0, 11.0)[resting * 2 :]))
                choice = list(self.moves())
            if self.over or not (choice or share_of_faults):
                return
            if choice:
                call, *arguments = self.random.choice(choice)
                call(*arguments)
        assert share_of_faults, "it never comes to rest"


def test_a_gang_under_faults_is_sound_at_every_message_and_meets_when_they_cease() -> None:
    for seed in range(series.length(300, 20_000)):
        world = World(seed)
        world.live(world.random.randint(0, 600), world.random.choice((0.01, 0.05, 0.2)))
        world.live(3000, 0.0)
        assert world.over or world.stored or world.together() or world.is_too_small(), (
            f"seed {seed}: the gang does not meet"
        )
        for member in world.members:
            member.state = "down" if member.state == "away" else member.state
        world.stored = world.complete = True
        world.live(3000, 0.0)
        assert world.over, f"seed {seed}: the gang does not finish"


def orders(rendezvous: Coordinator, *events: tuple[int, str]) -> list[Order]:
    """The last orders, without the ones that name missing ranks."""
    given: list[Order] = []
    for rank, name in events:
        lost = Failure(kind="peer_lost", rank=rank, code=75, message="", consequence=True)
        given = rendezvous.handle(rank, {"event": name, "failure": lost.record()}, 0.0)
    return [(rank, order) for rank, order in given if order["order"] != "waiting"]


def started(max_restarts: int = 0) -> Coordinator:
    rendezvous = Coordinator(2, max_restarts)
    given = orders(rendezvous, (0, "here"), (1, "here"), (0, "ready"), (1, "ready"))
    start = {"order": "start", "attempt": 1, "after": None, "members": [0, 1]}
    assert given == [(r, start) for r in (0, 1)]
    return rendezvous


def test_who_was_ready_twice_before_a_start_is_not_ready_after_it() -> None:
    rendezvous = started()
    assert [rank for rank, _ in orders(rendezvous, (0, "ended"))] == [0, 1]
    rendezvous.handle(0, {"event": "committed", "step": 1}, 0.0)
    assert orders(rendezvous, (0, "ready"), (1, "ready")) == []
    assert [rank for rank, _ in orders(rendezvous, (1, "ended"), (1, "ready"))] == [0, 1]


def test_a_supervisor_lost_as_it_finished_gets_a_start_for_its_successor() -> None:
    rendezvous = started(max_restarts=1)
    assert orders(rendezvous, (1, "finished"), (1, "gone"), (1, "here"), (1, "ready")) == []
    late = [rank for rank, _ in orders(rendezvous, (0, "finished"))]
    assert (late, rendezvous.all_finished) == ([1], False)
    ((rank, order),) = orders(rendezvous, (1, "ended"), (1, "ready"))
    assert (rank, order["order"], rendezvous.all_finished) == (1, "start", False)
    assert (orders(rendezvous, (1, "finished")), rendezvous.all_finished) == ([], True)
    assert [line["cause"] is None for line in rendezvous.closed] == [True, False, True]


def test_who_waits_for_a_start_is_not_forgotten_when_the_others_break() -> None:
    rendezvous = started(max_restarts=1)
    orders(rendezvous, (1, "finished"), (1, "gone"), (1, "here"), (1, "ready"), (0, "ended"))
    assert [rank for rank, _ in orders(rendezvous, (0, "ready"))] == [0, 1]


@pytest.mark.parametrize("code", [1, *sorted(FINAL)])
def test_what_follows_a_give_up_starts_nothing_and_gives_up_no_second_time(code: int) -> None:
    rendezvous = started()
    causes = [Failure(rank=rank, code=code, message="words").record() for rank in (0, 1)]
    given = [
        order
        for rank, name in ((0, "ended"), (0, "ready"), (1, "ended"), (1, "ready"), (0, "ready"))
        for _, order in rendezvous.handle(rank, {"event": name, "failure": causes[rank]}, 0.0)
        if order["order"] != "leave"
    ]
    assert given == [{"order": "give_up", "cause": causes[0], "restarts": int(code == 1)}] * 2
    assert len(rendezvous.closed) == 1


def test_a_lost_supervisor_is_the_cause_even_if_what_followed_is_told_before() -> None:
    rendezvous = started()
    orders(rendezvous, (0, "ended"), (1, "gone"))
    rendezvous.close(0.0)
    (line,) = rendezvous.closed
    assert line["cause"]["message"] == "its supervisor was lost"
    assert (line["cause"]["kind"], line["cause"]["rank"]) == ("supervisor_lost", 1)
    assert [other["rank"] for other in line["others"]] == [0]


def test_a_lost_supervisor_may_call_again_once_it_is_dismissed() -> None:
    rendezvous = started()
    assert orders(rendezvous, (1, "gone")) == [
        (0, {"order": "leave", "attempt": 1}),
        (1, {"order": "dismissed"}),
    ]
    assert rendezvous.missing() == [1]


def test_a_gang_of_a_thousand_is_told_few_times_who_is_missing() -> None:
    workers = 1024
    rendezvous = Coordinator(workers, 3)
    told = [rendezvous.handle(rank, {"event": "here"}, 0.0) for rank in range(workers)]
    assert sum(map(len, told)) < 12 * workers
    assert {
        rank for rank, order in told[-1] if order == {"order": "waiting", "missing": []}
    } == set(range(workers))
    started = [order for rank in range(workers) for order in orders(rendezvous, (rank, "ready"))]
    assert [rank for rank, _ in started] == list(range(workers))


def test_rank_0_knows_who_is_missing_however_many_are() -> None:
    rendezvous = Coordinator(20, 3)
    known: list[int] = []
    for rank in range(11):
        for to, order in rendezvous.handle(rank, {"event": "here"}, 0.0):
            known = order["missing"] if to == 0 else known
        assert known == list(range(rank + 1, 20))
    for to, order in rendezvous.handle(5, {"event": "gone"}, 0.0):
        known = order["missing"] if to == 0 and order["order"] == "waiting" else known
    assert known == [5, *range(11, 20)]


@pytest.mark.parametrize("late", [False, True])
def test_an_attempt_begins_at_the_step_that_its_workers_resume(late: bool) -> None:
    coordinator = Coordinator(2, 3)
    for name in ("here", "ready"):
        for rank in (0, 1):
            coordinator.handle(rank, {"event": name}, 0.0)
    for rank, (name, step) in enumerate([("resumed", 4250), ("committed", 4270)]):
        coordinator.handle(rank, {"event": name, "step": step}, 1.0)
    if late:  # the other rank's report comes after a commit
        coordinator.handle(1, {"event": "resumed", "step": 4250}, 1.0)
    coordinator.close(2.0)
    [line] = coordinator.closed
    assert (line["first_step"], line["last_step"]) == (4250, 4270)


def test_a_resumed_step_is_no_progress() -> None:
    coordinator = Coordinator(1, 0)
    orders: list[Order] = []
    for event in (
        {"event": "here"},
        {"event": "ready"},
        {"event": "resumed", "step": 50},
        {"event": "ended", "failure": Failure(kind="killed", rank=0, code=1, message="").record()},
        {"event": "ready"},
    ):
        orders += coordinator.handle(0, event, 0.0)
    assert orders[-1][1]["order"] == "give_up"


def elastic_gang(workers: int = 4, max_restarts: int = 3) -> Coordinator:
    """A gang that trains with all of its workers."""
    gang = Coordinator(workers, max_restarts, Elastic(least=2, batch_size=12, patience=10.0))
    for name in ("here", "ready"):
        for rank in range(workers):
            given = orders(gang, (rank, name))
    assert [order["members"] for _, order in given] == [[*range(workers)]] * workers
    return gang


def lose(gang: Coordinator, rank: int, of: int) -> None:
    """Lose a supervisor; the other workers leave the attempt and are ready."""
    orders(gang, (rank, "gone"))
    for other in range(of):
        if other != rank:
            orders(gang, (other, "ended"), (other, "ready"))


def later(gang: Coordinator, seconds: float) -> list[Order]:
    """The orders so many seconds after the beginning, without the ones that name missing ranks."""
    given = gang.handle(0, {"event": "tick"}, seconds)
    return [(rank, order) for rank, order in given if order["order"] != "waiting"]


def test_a_gang_waits_for_a_lost_rank_then_trains_without_and_grows_when_it_is_back() -> None:
    gang = elastic_gang()
    lose(gang, 1, of=4)
    assert later(gang, 9.9) == []
    started = later(gang, 10.0)
    assert [rank for rank, _ in started] == [0, 2, 3]
    assert all(order["members"] == [0, 2, 3] for _, order in started)
    assert (gang.states()["ranks"][1], gang.states()["members"]) == ("missing", [0, 2, 3])
    assert orders(gang, (1, "here"), (1, "ready")) == []
    assert later(gang, SETTLE - 0.1) == []  # others may come at the same time
    assert later(gang, SETTLE) == [(0, {"order": "resize", "attempt": 2})]
    assert later(gang, SETTLE + 1) == []  # it is asked once
    for rank in (0, 2, 3):
        grown = orders(gang, (rank, "ended"), (rank, "ready"))
    assert [order["members"] for _, order in grown] == [[0, 1, 2, 3]] * 4
    lost, resized = gang.closed
    assert [each["workers"] for each in gang.closed] == [4, 3]
    assert (lost["cause"]["kind"], resized["cause"]["kind"]) == ("supervisor_lost", "resized")
    assert resized["cause"]["message"] == "the gang grows from 3 to 4 workers"


def test_who_cannot_share_the_batch_waits_and_is_not_waited_for_at_the_end() -> None:
    gang = elastic_gang(workers=6)
    lose(gang, 1, of=6)
    assert [rank for rank, _ in later(gang, 10.0)] == [0, 2, 3, 4]  # 12 images are no 5 shares
    assert gang.states()["ranks"] == ["starting", "missing", *["starting"] * 3, "ready"]
    orders(gang, *((rank, "finished") for rank in (2, 3, 4)))
    assert not gang.all_finished
    assert orders(gang, (0, "finished")) == []
    assert gang.all_finished


def test_fewer_than_the_fewest_wait() -> None:
    gang = elastic_gang(workers=3)
    orders(gang, (1, "gone"), (2, "gone"), (0, "ended"), (0, "ready"))
    assert later(gang, 1e6) == []
    assert gang.missing() == [1, 2]


def test_a_worker_that_was_left_behind_ends_nothing_when_its_supervisor_is_back() -> None:
    gang = elastic_gang()
    lose(gang, 3, of=4)
    assert [rank for rank, _ in later(gang, 10.0)] == [0, 1, 2]
    assert orders(gang, (3, "here"), (3, "stopping")) == []
    assert orders(gang, (3, "ended")) == []
    assert orders(gang, (3, "ready")) == []
    assert later(gang, SETTLE) == [(0, {"order": "resize", "attempt": 2})]
    gang.close(11.0)
    assert [line["cause"]["kind"] for line in gang.closed] == ["supervisor_lost", "resized"]
    assert gang.closed[-1]["others"] == []


def test_a_rank_that_the_gang_did_not_have_makes_it_larger() -> None:
    gang = elastic_gang(workers=2)
    for rank in (3, 2):  # the last one may come first, and then the others are waited for
        assert orders(gang, (rank, "here"), (rank, "ready")) == []
    assert later(gang, SETTLE) == [(0, {"order": "resize", "attempt": 1})]
    for rank in (0, 1):
        given = orders(gang, (rank, "ended"), (rank, "ready"))
    assert [order["members"] for _, order in given] == [[0, 1, 2, 3]] * 4


def test_growing_is_no_restart_without_progress() -> None:
    gang = elastic_gang(workers=2, max_restarts=0)
    for rank in (2, 3):
        assert orders(gang, (rank, "here"), (rank, "ready")) == []
        assert [order["order"] for _, order in later(gang, SETTLE)] == ["resize"]
        for other in range(rank):
            given = orders(gang, (other, "ended"), (other, "ready"))
        assert {order["order"] for _, order in given} == {"start"}


def test_nobody_who_waits_for_its_turn_is_told_that_ranks_are_missing() -> None:
    gang = elastic_gang()
    orders(gang, (3, "gone"), *((rank, "ended") for rank in range(3)))
    told = [gang.handle(rank, {"event": "ready"}, 0.0) for rank in range(3)]
    told.append(gang.handle(0, {"event": "tick"}, 10.0))
    told.append(gang.handle(3, {"event": "here"}, 11.0))
    waiting = [order for given in told for _, order in given if order["order"] == "waiting"]
    assert [order["missing"] for order in waiting] == [[]] * len(waiting)


def wrong_weights(rank: int | None) -> Event:
    found = Failure(kind="corrupt", rank=rank, code=1, message="its weights are wrong")
    return {"event": "ended", "failure": found.record()}


def left(rank: int) -> Event:
    found = Failure(kind="peer_lost", rank=rank, code=75, message="left", consequence=True)
    return {"event": "ended", "failure": found.record()}


def rendezvous_of(ranks: int) -> Coordinator:
    found = Coordinator(ranks, 5)
    for name in ("here", "ready"):
        for rank in range(ranks):
            found.handle(rank, {"event": name}, 0.0)
    return found


def orders_after(rendezvous: Coordinator, rank: int, event: Event, ranks: int) -> set[str]:
    orders = rendezvous.handle(rank, event, 0.0)
    for each in range(ranks):
        orders += [] if each == rank else rendezvous.handle(each, left(each), 0.0)
        orders += rendezvous.handle(each, {"event": "ready"}, 0.0)
    return {order["order"] for _, order in orders}


def test_a_rank_whose_weights_are_wrong_twice_ends_the_gang() -> None:
    gang = rendezvous_of(3)
    assert orders_after(gang, 1, wrong_weights(1), 3) == {"leave", "start"}
    assert orders_after(gang, 2, wrong_weights(2), 3) == {"leave", "start"}
    orders = gang.handle(1, wrong_weights(1), 0.0)
    assert [(to, order["order"]) for to, order in orders] == [(r, "give_up") for r in range(3)]
    cause = parse(orders[0][1]["cause"])
    assert cause
    assert (cause.kind, cause.rank, cause.code) == ("corrupt", 1, BAD_MACHINE)
    assert cause.message.endswith("for the second time")


def test_where_nobody_knows_whose_weights_are_wrong_nobody_is_blamed() -> None:
    gang = rendezvous_of(2)
    assert is_sound(wrong_weights(None), 0)
    assert not is_sound(wrong_weights(1), 0)
    for _ in range(4):
        assert orders_after(gang, 0, wrong_weights(None), 2) == {"leave", "start"}
    assert gang.closed[0]["cause"]["rank"] is None
