"""Connections between the workers that add up together: one for each pair that exchanges.

A worker calls those of higher rank and is called by those of lower. A caller first sends the token
of whom it calls, which all workers learn from each other beforehand, and its own rank.
"""

import contextlib
import hmac
import secrets
import selectors
import socket
import sys
import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from trainer.common import sockets

Gather = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
Name = Callable[[int], int]

TOKEN = 32  # bytes that a worker must send to be accepted
HELLO = TOKEN + 8  # the token, and the caller's rank
CONNECT = 30.0  # seconds for all connections
CALLERS = 64  # open connections that have not sent the token yet; a gang of 1,024 has 20 a worker
PROOF = 5.0  # seconds that each has to send it
OPEN = "; open this port between all workers, or set all_reduce to tensorflow"
# Seconds without an answer from a peer's machine after which the peer counts as gone. A worker that
# stores something may not read for 150 s, but its machine answers.
SILENCE = 180

Sockets = dict[int, socket.socket]


class PeerGoneError(Exception):
    """A peer is gone."""


class UnreachableError(PeerGoneError):
    """These workers cannot connect, and another try would fail in the same way."""


def connect(
    rank: int,
    hosts: Sequence[str],
    listen: tuple[str, int],
    gather: Gather,
    peers: Collection[int],
    name: Name = int,
) -> Sockets:
    """Return this worker's connection to each of its peers, by rank; none blocks.

    Args:
        rank: this worker's rank.
        hosts: the hosts of all workers, by rank.
        listen: address and port to listen on; 0 for a free port.
        gather: returns the rows of all workers, int64 [workers, n] by rank, given this one's [n].
        peers: the ranks to be connected with; each of them has this one among its own.
        name: returns the number by which people know a rank.

    Raises:
        PeerGoneError: a peer was lost meanwhile.
        UnreachableError: a peer was not reached.
    """
    with _listen(listen) as server, contextlib.ExitStack() as opened:
        token = np.frombuffer(secrets.token_bytes(TOKEN), np.int64)
        rows = gather(np.array([server.getsockname()[1], *token], np.int64))
        found: Sockets = {}
        deadline = time.monotonic() + CONNECT
        try:
            for peer in sorted(each for each in peers if each > rank):
                row = rows[peer]
                found[peer] = _call(hosts[peer], int(row[0]), name(peer), deadline)
                opened.enter_context(contextlib.closing(found[peer]))
                found[peer].sendall(row[1:].tobytes() + np.int64(rank).tobytes())
            expected = {each for each in peers if each < rank}
            found |= _accept(server, token.tobytes(), expected, deadline, name)
            for each in found.values():
                opened.enter_context(contextlib.closing(each))
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _limit_silence(each)
                each.setblocking(False)
        except PeerGoneError:
            raise
        except OSError as error:
            raise PeerGoneError(
                f"a peer left while connecting: {error.strerror or error}"
            ) from None
        opened.pop_all()
        return found


def _listen(address: tuple[str, int]) -> socket.socket:
    try:
        return sockets.listen(*address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreachableError(
            f"port {address[1]} cannot be listened on: {reason}; free it or give another --port"
        ) from None


def _limit_silence(connection: socket.socket) -> None:
    """Have the kernel end a connection that no packet gets through.

    Nothing else would notice lost packets between two workers that both reach rank 0.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    settings = {"KEEPIDLE": SILENCE // 3, "KEEPINTVL": SILENCE // 9, "KEEPCNT": 6}
    settings["USER_TIMEOUT"] = SILENCE * 1000  # of what was sent; in ms
    for name, value in settings.items():
        if option := getattr(socket, f"TCP_{name}", None):  # macOS lacks some
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _call(host: str, port: int, rank: int, deadline: float) -> socket.socket:
    """Return a connection to a worker, which is already listening."""
    while True:
        try:
            return socket.create_connection((host, port), max(0.001, deadline - time.monotonic()))
        except OSError as error:  # this node's DNS may not know its name yet
            reason = error.strerror or str(error)
        if time.monotonic() + 0.1 > deadline:
            where = sockets.endpoint(host, port)
            raise UnreachableError(f"rank {rank} cannot be reached at {where}: {reason}{OPEN}")
        time.sleep(0.1)


def _accept(
    server: socket.socket, token: bytes, expected: set[int], deadline: float, name: Name
) -> Sockets:
    """Return the callers of the expected ranks; no other caller can delay them."""
    found: Sockets = {}
    server.setblocking(False)
    with contextlib.ExitStack() as opened, contextlib.closing(_Callers(server, token)) as door:
        while missing := expected - found.keys():
            left = deadline - time.monotonic()
            if left <= 0:
                port = server.getsockname()[1]
                raise UnreachableError(f"rank {name(min(missing))} did not call port {port}{OPEN}")
            for caller, rank in door.look(min(0.5, left)):
                opened.enter_context(contextlib.closing(caller))
                if rank in missing and rank not in found:
                    found[rank] = caller
                else:
                    caller.close()
        opened.pop_all()
    return found


class _Callers:
    """Callers that have not sent the token yet."""

    def __init__(self, server: socket.socket, token: bytes) -> None:
        self._server, self._token = server, token
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)
        self._said: dict[socket.socket, tuple[bytes, float]] = {}  # and until when; oldest first

    def look(self, seconds: float) -> list[tuple[socket.socket, int]]:
        """Wait so long for something to happen; return who has sent the token, and their ranks."""
        found = []
        now = time.monotonic()
        for late in [each for each, (_, until) in self._said.items() if until < now]:
            self._drop(late)
        for key, _ in self._selector.select(seconds):
            caller = key.fileobj
            assert isinstance(caller, socket.socket)
            if caller is self._server:
                self._let_in(now)
            elif caller in self._said and (rank := self._hear(caller)) is not None:
                self._selector.unregister(caller)
                del self._said[caller]
                found.append((caller, rank))
        return found

    def close(self) -> None:
        """Drop all callers."""
        for caller in list(self._said):
            self._drop(caller)
        self._selector.close()

    def _let_in(self, now: float) -> None:
        try:
            caller, _ = self._server.accept()
        except OSError:  # it has left, or too many files are open for now
            time.sleep(0.01)
            return
        if len(self._said) == CALLERS:
            self._drop(next(iter(self._said)))
        caller.setblocking(False)
        self._said[caller] = b"", now + PROOF
        self._selector.register(caller, selectors.EVENT_READ)

    def _hear(self, caller: socket.socket) -> int | None:
        """Read from a caller; return its rank once it has sent the token and that."""
        said, until = self._said[caller]
        try:
            more = caller.recv(HELLO - len(said))
        except OSError:
            more = b""
        self._said[caller] = (said := said + more), until
        proven = hmac.compare_digest(said[:TOKEN], self._token)
        if proven and len(said) == HELLO:
            return int.from_bytes(said[TOKEN:], sys.byteorder)
        if not more or (len(said) >= TOKEN and not proven):
            self._drop(caller)
        return None

    def _drop(self, caller: socket.socket) -> None:
        self._selector.unregister(caller)
        del self._said[caller]
        caller.close()
