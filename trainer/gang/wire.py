"""Connections between the supervisors of a gang: JSON lines over TCP, for members only.

Members share a key (see gang_key.py). Both sides prove that they have it, and a proof that
somebody else sees cannot be used again:

    rank 0 -> member   {"nonce": S}
    member -> rank 0   {"nonce": M, rank, workers, host, leader, "proof": HMAC(key, S, M, ...)}
    rank 0 -> member   {"proof": HMAC(key, M, S), "refused": why or null}, then orders

A connection that has not proven it within PROOF seconds is dropped; STRANGERS of them, or a whole
gang, may be open at a time. What follows the proofs is neither encrypted nor signed: somebody who
sits between the two sides can read and change it. A side that receives nothing for SILENCE seconds
counts the other as lost.

``Host`` serves a whole gang on one thread; ``Link`` is a member's side.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import json
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from trainer.cluster_spec import MOST_WORKERS
from trainer.common import sockets
from trainer.common.text import one_line, printable
from trainer.common.untrusted_json import json_object
from trainer.errors import UserError
from trainer.gang.coordinator import is_order, is_sound
from trainer.gang.time_limits import BEAT, PROOF, SILENCE
from trainer.worker_events import Event

STRANGERS = 64  # connections that may be about to prove it; the oldest makes room
MAX_HELLO = 4096  # bytes that a stranger may say
MAX_LINE = 65_536  # bytes of a member's message
MAX_ORDER = 1 << 18  # bytes of an order: the addresses of 1,024 workers take 50 KB
MAX_UNSENT = 1 << 20  # bytes that wait for a member to read them
TICK = 0.2  # seconds between two looks at the clock
COMPLAINTS = 60.0  # seconds between two warnings of strangers


def proof(key: bytes, *facts: object) -> str:
    """Return what shows that one knows the key, in hexadecimal, for these facts alone."""
    return hmac.new(key, json.dumps(facts).encode(), hashlib.sha256).hexdigest()


def _same(shown: str, expected: str) -> bool:
    """Compare in constant time; what was shown may be any text that JSON holds."""
    return hmac.compare_digest(shown.encode(errors="replace"), expected.encode())


@dataclass(eq=False)
class _Caller:
    """One connection to the host; ``rank`` once it has proven to be of the gang."""

    connection: socket.socket
    address: str
    born: float
    nonce: str
    heard: float
    beaten: float
    rank: int | None = None
    refused: bool = False
    unread: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    broken: bool = False


class Host:
    """Where the other ranks' supervisors connect.

    Args:
        address: host and port to listen on.
        workers: size of the gang.
        may_grow: whether ranks beyond it may come.
        key: of the gang.
        tell: called with a rank and its event, from a thread of its own.
        warn: called there with a line about strangers, at most once in COMPLAINTS seconds.
        fail: called there with the defect by which that thread ended.

    Attributes:
        hosts: the host of each rank that has connected, as its supervisor and this one see it;
            so workers find each other without names, which lag behind replaced pods.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        address: tuple[str, int],
        workers: int,
        key: bytes,
        tell: Callable[[int, Event], object],
        warn: Callable[[str], object] = lambda _: None,
        fail: Callable[[Exception], object] = lambda _: None,
        *,
        may_grow: bool = False,
    ) -> None:
        self.hosts: dict[int, str] = {}
        self._workers, self._key, self._may_grow = workers, key, may_grow
        self._tell, self._warn, self._fail = tell, warn, fail
        self._places = max(STRANGERS, workers)
        self._lock = threading.Lock()
        # A lost one stays until it is dismissed: the next must not get orders that are for it.
        self._members: dict[int, _Caller] = {}
        self._callers: dict[socket.socket, _Caller] = {}  # the oldest first; the thread's own
        self._strangers, self._last_stranger, self._complained = 0, "", float("-inf")
        self._closed = threading.Event()
        self._server = sockets.listen(*address)
        self._server.setblocking(False)
        self._waking, self._wake = socket.socketpair()
        for end in (self._waking, self._wake):  # one byte wakes as well as many
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._waking, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, rank: int, order: Event) -> None:
        """Send an order; one to a lost rank is dropped."""
        with self._lock:
            find = self._members.pop if order["order"] == "dismissed" else self._members.get
            caller = find(rank, None)
            if caller:
                self._put(caller, order)
        if caller and caller.unsent:
            with contextlib.suppress(OSError):
                self._wake.send(b"x")

    def close(self) -> None:
        """Stop listening and drop all connections."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join(5)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._fail(error)
        finally:
            for caller in list(self._callers.values()):
                self._close(caller)
            for each in (self._server, self._waking, self._wake, self._selector):
                each.close()

    def _work(self) -> None:
        looked = 0.0
        while not self._closed.is_set():
            events = self._selector.select(TICK)
            now = time.monotonic()
            for key, mask in events:
                if key.fileobj is self._server:
                    self._accept(now)
                elif key.fileobj is self._waking:
                    self._waking.recv(4096)
                    self._await_room()
                elif caller := self._callers.get(key.fileobj):  # type: ignore[call-overload]
                    self._serve(caller, mask, now)
            if now - looked >= TICK:
                looked = now
                self._look(now)

    def _accept(self, now: float) -> None:
        try:
            connection, address = self._server.accept()
        except OSError:  # it has left, or too many files are open, which need not last
            time.sleep(0.01)
            return
        unproven = [each for each in self._callers.values() if each.rank is None]
        if len(unproven) >= self._places:
            self._drop(unproven[0])
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = _Caller(connection, address[0], now, secrets.token_hex(16), now, now)
        self._callers[connection] = caller
        self._selector.register(connection, selectors.EVENT_READ)
        with self._lock:
            self._put(caller, {"nonce": caller.nonce})

    def _put(self, caller: _Caller, value: Event) -> None:
        """Send as much as there is room for now; the lock is held."""
        caller.unsent += (json.dumps(value) + "\n").encode()
        self._push(caller)

    def _push(self, caller: _Caller) -> None:
        try:
            del caller.unsent[: caller.connection.send(caller.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            caller.broken = True
        caller.broken = caller.broken or len(caller.unsent) > MAX_UNSENT

    def _await_room(self) -> None:
        for caller in self._callers.values():
            if caller.unsent:
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                self._selector.modify(caller.connection, both)

    def _serve(self, caller: _Caller, mask: int, now: float) -> None:
        if mask & selectors.EVENT_WRITE:
            with self._lock:
                self._push(caller)
            if not caller.unsent:
                self._selector.modify(caller.connection, selectors.EVENT_READ)
        if mask & selectors.EVENT_READ:
            for line in self._lines(caller, now):
                if not self._hear(caller, line):
                    caller.broken = True
                    break
        if caller.broken:
            self._drop(caller)

    def _lines(self, caller: _Caller, now: float) -> Iterator[bytes]:
        """Yield the whole lines that have come; mark a connection that is broken."""
        try:
            data = caller.connection.recv(MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        caller.heard = now
        caller.unread += data
        while (end := caller.unread.find(b"\n")) >= 0 and not self._is_long(caller, end):
            line = bytes(caller.unread[:end])
            del caller.unread[: end + 1]
            yield line
        caller.broken = caller.broken or not data or self._is_long(caller, len(caller.unread))

    def _is_long(self, caller: _Caller, size: int) -> bool:
        return size > (MAX_HELLO if caller.rank is None else MAX_LINE)

    def _hear(self, caller: _Caller, line: bytes) -> bool:
        """Handle one message; return False for one that ends the connection."""
        value = json_object(line)
        if value is None:
            return False
        if caller.rank is None:
            return self._greet(caller, value)
        if is_sound(value, caller.rank):
            self._tell(caller.rank, value)
        return True

    def _greet(self, caller: _Caller, hello: Event) -> bool:
        """Admit a member; return whether it may stay."""
        match hello:
            case {
                "nonce": str(nonce),
                "rank": int(rank),
                "workers": int(workers),
                "host": str(own),
                "leader": str(ours),
                "proof": str(shown),
            }:
                facts = (caller.nonce, nonce, rank, workers, own, ours)
                if not _same(shown, proof(self._key, *facts)):
                    return False
            case _:
                return False
        with self._lock:
            refusal = self._refusal(rank, workers, own, ours)
            caller.refused = refusal is not None
            shown = proof(self._key, nonce, caller.nonce)
            self._put(caller, {"proof": shown, "refused": refusal})
            if caller.refused:
                return False
            self._members[rank] = caller
            caller.rank = rank
        self.hosts |= {rank: own, 0: ours}
        self._tell(rank, {"event": "here"})
        return True

    def _refusal(self, rank: int, workers: int, *hosts: str) -> str | None:
        """Return why a member cannot be admitted, if so."""
        same = workers == self._workers and rank < workers
        if not 0 < rank < MOST_WORKERS or not (same or self._may_grow):
            return f"rank {rank} of {workers} workers called a gang of {self._workers}"
        if rank in self._members:
            return f"another supervisor of rank {rank} is connected"
        try:
            for host in hosts:
                ipaddress.ip_address(host)
        except ValueError:
            return f"{printable(host)!r} is no address"
        return None

    def _look(self, now: float) -> None:
        """Send heartbeats, and drop callers that are silent or late."""
        for caller in list(self._callers.values()):
            if caller.rank is not None and now - caller.beaten >= BEAT:
                caller.beaten = now
                with self._lock:
                    self._put(caller, {"beat": True})
            late = caller.rank is None and now - caller.born > PROOF
            if late or caller.broken or now - caller.heard > SILENCE:
                self._drop(caller)
        self._await_room()
        if self._strangers and now - self._complained > COMPLAINTS:
            self._complained = now
            self._warn(
                f"connections to the rendezvous that did not prove to be of this gang: "
                f"{self._strangers}, the last from {self._last_stranger}"
            )
            self._strangers = 0

    def _drop(self, caller: _Caller) -> None:
        self._close(caller)
        if caller.rank is not None:
            self._tell(caller.rank, {"event": "gone"})
        elif not caller.refused:
            self._strangers += 1
            self._last_stranger = caller.address

    def _close(self, caller: _Caller) -> None:
        del self._callers[caller.connection]
        self._selector.unregister(caller.connection)
        with self._lock:  # `send` must not write to another file of this number
            with contextlib.suppress(OSError):
                caller.connection.shutdown(socket.SHUT_RDWR)
            caller.connection.close()


class Wire:
    """A member's end of its connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SILENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._file = connection.makefile("rb")
        self._sending = threading.Lock()

    def read(self) -> Event | None:
        """Return the next object, or None when the connection is lost or sends anything else."""
        try:
            line = self._file.readline(MAX_ORDER)
        except (OSError, ValueError):
            return None
        return json_object(line) if line.endswith(b"\n") else None

    def send(self, value: Event) -> bool:
        """Send one object; return False if the connection is lost."""
        try:
            with self._sending:
                self.connection.sendall((json.dumps(value) + "\n").encode())
        except OSError:
            return False
        return True

    def beat(self) -> None:
        """Send heartbeats from a thread of its own while there is a connection."""

        def run() -> None:
            while self.send({"beat": True}):
                time.sleep(BEAT)

        threading.Thread(target=run, daemon=True).start()

    def drop(self) -> None:
        """End the connection, also for whoever reads from it now."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class Link:
    """A supervisor's connection to rank 0's; it connects again whenever it is lost.

    Args:
        address: host and port of rank 0's.
        rank: of this supervisor.
        workers: size of the gang.
        key: returns the gang's key, or raises UserError; with True, not one that it knew before.
        tell: called with every order, and with ``{"order": "connected"}`` and
            ``{"order": "lost"}``, from a thread of its own.

    Attributes:
        trouble: what the last try to connect ran into.
    """

    def __init__(
        self,
        address: tuple[str, int],
        rank: int,
        workers: int,
        key: Callable[[bool], bytes],
        tell: Callable[[Event], object],
    ) -> None:
        self.trouble = "not tried yet"
        self._address, self._rank, self._workers, self._tell = address, rank, workers, tell
        self._key, self._key_doubted = key, False
        self._wire: Wire | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, event: Event) -> None:
        """Send an event, if there is a connection."""
        if wire := self._wire:
            wire.send(event)

    def close(self) -> None:
        """End the connection and make no other."""
        self._closed.set()
        if wire := self._wire:
            wire.drop()

    def _run(self) -> None:
        pause = 0.2
        while not self._closed.wait(pause):
            try:
                # Before the call: a store may take longer than the host waits for the proof.
                key = self._key(self._key_doubted)
                connection = socket.create_connection(self._address, timeout=SILENCE)
            except OSError as error:
                self.trouble, pause = error.strerror or str(error), 0.2
            except UserError as error:
                self.trouble, pause = self._unreached() or one_line(error), min(2.0, 2 * pause)
            else:
                pause = self._call(Wire(connection), key, pause)

    def _unreached(self) -> str | None:
        """Return why rank 0 cannot be reached, which says more than that its key is missing."""
        try:
            socket.create_connection(self._address, timeout=SILENCE).close()
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _call(self, wire: Wire, key: bytes, pause: float) -> float:
        """Take part until the connection is lost; return how long to wait before another try."""
        refused = self._greet(wire, key)
        if refused is None:
            self._converse(wire)
        else:
            self.trouble = refused
        wire.drop()
        return 0.2 if refused is None else min(2.0, 2 * pause)

    def _greet(self, wire: Wire, key: bytes) -> str | None:
        """Prove membership and check rank 0's proof; return what went wrong."""
        first = wire.read()
        if first is None:
            return "no answer"
        try:
            own, leader = wire.connection.getsockname()[0], wire.connection.getpeername()[0]
        except OSError as error:
            return error.strerror or str(error)
        nonce, theirs = secrets.token_hex(16), str(first.get("nonce"))
        facts = {"rank": self._rank, "workers": self._workers, "host": own, "leader": leader}
        wire.send({"nonce": nonce, **facts, "proof": proof(key, theirs, nonce, *facts.values())})
        answer = wire.read()
        self._key_doubted = answer is None
        if answer is None:
            return "rank 0 did not take this rank's key"
        if not _same(str(answer.get("proof")), proof(key, nonce, theirs)):
            self._key_doubted = True
            return "who answers there does not know the gang's key"
        return None if answer.get("refused") is None else printable(str(answer["refused"]))

    def _converse(self, wire: Wire) -> None:
        self._wire = wire
        if self._closed.is_set():  # `close` may have come too early to see the connection
            wire.drop()
        self._tell({"order": "connected"})
        wire.beat()
        while (order := wire.read()) is not None:
            if is_order(order, self._rank):
                self._tell(order)
        self._wire = None
        self.trouble = "the connection was lost"
        self._tell({"order": "lost"})
