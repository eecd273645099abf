"""How the supervisors of a gang start and restart their workers together.

Rank 0's supervisor calls the roll: it hears from each rank's supervisor whether its worker could
start, and when all could, tells all to start the next attempt. When one worker ends before its
time it tells the others to stop theirs at once, so nobody waits for TensorFlow to notice, and no
worker of an attempt meets one of another.

    here       a supervisor is connected              -> start      all are ready: attempt N
    ready      its worker could start                 -> leave      commit and end attempt N
    committed  a checkpoint of this step is stored    -> waiting    these ranks are missing
    stopping   it was asked to stop                   -> give_up    with the first cause
    ended      its worker ended, and why              -> dismissed  one that is gone may call again
    finished   its worker is done
    gone       its connection was lost

``RollCall`` is pure: events in, orders out. ``Host`` and ``Link`` carry them between machines as
JSON lines over TCP; a side that hears nothing for SILENCE seconds takes the other for lost.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.errors import ConfigError, DataError, UnavailableError

Event = dict[str, Any]
Order = tuple[int, Event]  # the rank it is for, and what to do

BEAT = 2.0  # seconds between two signs of life
SILENCE = 12.0  # seconds without one after which a connection is lost
MAX_LINE = 65_536  # bytes of one message; whoever sends more is no supervisor
FINAL = {ConfigError.exit_code, DataError.exit_code, UnavailableError.exit_code}


@dataclass(frozen=True)
class Cause:
    """Why a worker ended.

    Attributes:
        rank: of the worker.
        code: the exit code that says so to a scheduler.
        message: one line.
        consequence: whether it only followed another rank's.
        asked: whether somebody asked for it, which is no fault.
    """

    rank: int
    code: int
    message: str
    consequence: bool = False
    asked: bool = False


@dataclass
class Attempt:
    """One try of the whole gang, a line of attempts.jsonl.

    Attributes:
        number: counted from 1 by this roll call.
        start: when it began, seconds since the epoch.
        first_step: the newest committed step then, as far as known.
    """

    number: int
    start: float
    first_step: int
    causes: list[Cause] = field(default_factory=list)

    @property
    def first_cause(self) -> Cause | None:
        """What ended it, not what followed from that."""
        own = [cause for cause in self.causes if not cause.consequence]
        return next(iter(own or self.causes), None)


class RollCall:
    """The state of a gang as rank 0's supervisor knows it.

    Args:
        workers: how many there are.
        max_restarts: how many restarts in a row may bring no new committed step.
    """

    def __init__(self, workers: int, max_restarts: int) -> None:
        self._workers = workers
        self._max_restarts = max_restarts
        self._present: set[int] = set()
        self._ready: set[int] = set()
        self._finished: set[int] = set()
        self._at_work: set[int] = set()  # started, and not known to have ended
        self._running = False
        self._given_up = False
        self._attempt: Attempt | None = None
        self._number = 0
        self._step = 0
        self._barren = 0
        self.closed: list[dict[str, Any]] = []  # lines for attempts.jsonl; the reader empties it

    @property
    def all_finished(self) -> bool:
        """Whether nobody is left who has work."""
        return self._present <= self._finished and bool(self._finished)

    def missing(self) -> list[int]:
        """Return the ranks whose supervisors are not connected."""
        return sorted(set(range(self._workers)) - self._present - self._finished)

    def handle(self, rank: int, event: Event, now: float) -> list[Order]:
        """Take one rank's event, at ``now`` seconds since the epoch, and return what to do."""
        match event["event"]:
            case "here":
                self._present.add(rank)
                # The successor of one that was lost as it finished has that to hear of.
                self._finished.discard(rank)
                return self._tell_missing()
            case "ready":
                if rank not in self._at_work:  # else it said so before it heard of the start
                    self._ready.add(rank)
                return self._start(now)
            case "committed":
                self._step = max(self._step, int(event["step"]))
                return []
            case "stopping":
                asked = Cause(rank, 75, f"rank {rank} was asked to stop", asked=True)
                return self._note(asked)
            case "ended":
                self._at_work.discard(rank)
                return self._broken(Cause(**event["cause"]), now)
            case "finished":
                self._finished.add(rank)
                self._at_work.discard(rank)
                self._running = self._running and bool(self._at_work)
                if self.all_finished:
                    self.close(now)
                return self._start(now)
            case "gone":
                return self._lose(rank, now)
        raise AssertionError(event)

    def close(self, now: float) -> None:
        """End the attempt on paper, if there is one."""
        if self._attempt:
            self._close(now)

    def _tell_missing(self) -> list[Order]:
        waiting = {"order": "waiting", "missing": self.missing()}
        return [(rank, waiting) for rank in sorted(self._present)]

    def _lose(self, rank: int, now: float) -> list[Order]:
        self._present.discard(rank)
        self._ready.discard(rank)
        orders = []
        if rank in self._at_work:
            self._at_work.discard(rank)
            lost = Cause(rank, 75, f"rank {rank}: its supervisor was lost")
            orders = self._broken(lost, now)
        return [*orders, (rank, {"order": "dismissed"}), *self._tell_missing()]

    def _note(self, cause: Cause) -> list[Order]:
        if self._attempt and self._running:
            self._attempt.causes.append(cause)
        return []

    def _broken(self, cause: Cause, now: float) -> list[Order]:
        if self._attempt:
            self._attempt.causes.append(cause)
        if cause.code in FINAL and not self._given_up:
            return self._give_up(cause, now)
        if not self._running:
            return []
        self._running = False
        leave = {"order": "leave", "attempt": self._number}
        return [(rank, leave) for rank in sorted(self._present - self._finished)]

    def _start(self, now: float) -> list[Order]:
        """Start the next attempt if everybody is there who has not finished."""
        if self._given_up or self._running:
            return []
        if not self._ready or self._ready | self._finished != set(range(self._workers)):
            return []
        cause = None
        if self._attempt:
            cause, progress = self._close(now)
            fault = cause is not None and not cause.asked
            self._barren = 0 if progress else self._barren + fault
            if cause and self._barren > self._max_restarts:
                return self._give_up(cause, now)
        self._number += 1
        self._running = True
        self._attempt = Attempt(self._number, now, self._step)
        after = cause.message if cause else None
        start = {"order": "start", "attempt": self._number, "after": after}
        self._at_work, self._ready = self._ready, set()
        return [(rank, start) for rank in sorted(self._at_work)]

    def _close(self, now: float) -> tuple[Cause | None, bool]:
        """End the attempt on paper; return its first cause, and whether it brought a step."""
        attempt, self._attempt = self._attempt, None
        assert attempt
        cause = attempt.first_cause
        self.closed.append(
            {
                "attempt": attempt.number,
                "start": round(attempt.start, 3),
                "end": round(now, 3),
                "first_step": attempt.first_step,
                "last_step": self._step,
                "cause": asdict(cause) if cause else None,
                "others": [asdict(c) for c in attempt.causes if c is not cause],
            }
        )
        return cause, self._step > attempt.first_step

    def _give_up(self, cause: Cause, now: float) -> list[Order]:
        self.close(now)
        self._running, self._given_up = False, True
        order = {"order": "give_up", "cause": asdict(cause), "restarts": self._barren}
        return [(rank, order) for rank in sorted(self._present - self._finished)]


class Wire:
    """JSON objects, one a line, over a connection that must not be silent."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SILENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._file = connection.makefile("rb")
        self._sending = threading.Lock()

    def read(self) -> Event | None:
        """Return the next object, or None when the connection is lost or talks nonsense."""
        try:
            line = self._file.readline(MAX_LINE)
            value = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def send(self, value: Event) -> bool:
        """Send one object; return False if the connection is lost."""
        try:
            with self._sending:
                self.connection.sendall((json.dumps(value) + "\n").encode())
        except OSError:
            return False
        return True

    def beat(self) -> None:
        """Give signs of life from a thread of its own, as long as there is a connection."""

        def run() -> None:
            while self.send({"beat": True}):
                time.sleep(BEAT)

        threading.Thread(target=run, daemon=True).start()

    def drop(self) -> None:
        """End the connection, also for whoever reads from it now."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class Host:
    """Where the other ranks' supervisors connect.

    Args:
        address: host and port to listen on.
        workers: size of the gang.
        tell: called with a rank and its event, from a thread of its own.

    Attributes:
        hosts: the host of each rank that has connected, as its supervisor and this one see it;
            so workers find each other without names, which lag behind replaced pods.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self, address: tuple[str, int], workers: int, tell: Callable[[int, Event], object]
    ) -> None:
        self.hosts: dict[int, str] = {}
        self._workers, self._tell = workers, tell
        self._lock = threading.Lock()
        # A lost one stays until it is dismissed: the next must not get orders that are for it.
        self._wires: dict[int, Wire] = {}
        self._closed = threading.Event()
        self._server = socket.create_server(address)
        threading.Thread(target=self._accept, daemon=True).start()

    def send(self, rank: int, order: Event) -> None:
        """Send an order; to a rank that is lost it is no use and does no harm."""
        with self._lock:
            find = self._wires.pop if order["order"] == "dismissed" else self._wires.get
            wire = find(rank, None)
        if wire:
            wire.send(order)

    def close(self) -> None:
        """Listen no more and drop all connections."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            wires = list(self._wires.values())
        for wire in wires:
            wire.drop()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:  # also when too many files are open, which need not last
                self._closed.wait(0.2)
            else:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        wire = Wire(connection)
        match wire.read():
            case {
                "rank": int(rank),
                "workers": int(workers),
                "host": str(own),
                "leader": str(ours),
            }:
                refusal = self._admit(wire, rank, workers)
            case _:
                wire.drop()
                return
        if refusal:
            wire.send({"order": "refused", "why": refusal})
            wire.drop()
            return
        self.hosts |= {rank: own, 0: ours}
        self._tell(rank, {"event": "here"})
        wire.beat()
        while (event := wire.read()) is not None:
            if _is_sound(event):
                self._tell(rank, event)
        wire.drop()
        self._tell(rank, {"event": "gone"})

    def _admit(self, wire: Wire, rank: int, workers: int) -> str | None:
        """Take a connection in, or return why not."""
        if workers != self._workers or not 0 < rank < workers:
            return f"rank {rank} of {workers} workers called a gang of {self._workers}"
        with self._lock:
            if rank in self._wires:
                return f"another supervisor of rank {rank} is connected"
            self._wires[rank] = wire
        return None


def _is_sound(event: Event) -> bool:
    """Return whether an event from outside may be handled."""
    match event:
        case {"event": "ready" | "stopping" | "finished"} | {"event": "committed", "step": int()}:
            return True
        case {
            "event": "ended",
            "cause": {
                "rank": int(),
                "code": int(),
                "message": str(),
                "consequence": bool(),
                "asked": bool(),
                **rest,
            },
        }:
            return not rest
    return False


class Link:
    """A supervisor's connection to rank 0's; it connects again whenever it is lost.

    Args:
        address: host and port of rank 0's.
        rank: of this supervisor.
        workers: size of the gang.
        tell: called with every order, and with ``{"order": "connected"}`` and
            ``{"order": "lost"}``, from a thread of its own.

    Attributes:
        trouble: what the last try to connect ran into.
    """

    def __init__(
        self, address: tuple[str, int], rank: int, workers: int, tell: Callable[[Event], object]
    ) -> None:
        self.trouble = "not tried yet"
        self._address, self._rank, self._workers, self._tell = address, rank, workers, tell
        self._wire: Wire | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, event: Event) -> None:
        """Send an event, if there is a connection."""
        if wire := self._wire:
            wire.send(event)

    def close(self) -> None:
        """Leave."""
        self._closed.set()
        if wire := self._wire:
            wire.drop()

    def _run(self) -> None:
        while not self._closed.wait(0.2):
            try:
                connection = socket.create_connection(self._address, timeout=SILENCE)
            except OSError as error:
                self.trouble = error.strerror or str(error)
            else:
                self._converse(Wire(connection))

    def _greet(self, wire: Wire) -> Event | None:
        """Say who calls and return the first order, or None when the connection is lost."""
        try:
            own, leader = wire.connection.getsockname()[0], wire.connection.getpeername()[0]
        except OSError:
            return None
        hello = {"rank": self._rank, "workers": self._workers, "host": own, "leader": leader}
        wire.send(hello)
        return wire.read()

    def _converse(self, wire: Wire) -> None:
        order = self._greet(wire)
        if order is None or order.get("order") == "refused":
            self.trouble = str((order or {}).get("why", "no answer"))
            wire.drop()
            return
        self._wire = wire
        if self._closed.is_set():  # `close` may have come too early to see the connection
            wire.drop()
        self._tell({"order": "connected"})
        wire.beat()
        while order is not None:
            if "order" in order:
                self._tell(order)
            order = wire.read()
        self._wire = None
        wire.drop()
        self.trouble = "the connection was lost"
        self._tell({"order": "lost"})
