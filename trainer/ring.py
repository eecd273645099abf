"""The sum of a vector over all workers, by TCP around a ring.

TensorFlow's collectives on CPUs go through gRPC, which takes 2 ms of a processor and 30 context
switches a sum on each worker, more than the arithmetic of a small model. This one takes a quarter.

The vector is cut into as many parts as there are workers. Part by part, the sums travel around the
ring, each worker adding its own (reduce-scatter); then the finished parts do (all-gather). Every
part is added up in one order by one chain of workers, so all get the same bits, run after run.
"""

import hmac
import itertools
import secrets
import select
import socket
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Gather = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]

TOKEN = 32  # bytes that a worker must know to be let in
CONNECT = 30.0  # seconds for the neighbours to be connected
# Seconds without an answer of a neighbour's machine after which it is taken for gone. A worker that
# stores something may not read for 150 s, but its machine answers.
SILENCE = 180


class RingError(Exception):
    """A neighbour is gone, or was never there."""


class Ring:
    """A worker's place in the ring.

    Args:
        rank: of this worker.
        hosts: of all workers, by rank.
        listen: address and port to listen on, 0 for a free one.
        gather: gives the rows of all workers, int64 [workers, n], for one's own [n].

    Attributes:
        error: why a sum failed, once one has.

    Raises:
        RingError: a neighbour is not reached.
    """

    def __init__(
        self, rank: int, hosts: Sequence[str], listen: tuple[str, int], gather: Gather
    ) -> None:
        self.error: RingError | None = None
        self._rank, self._count = rank, len(hosts)
        self._received = np.empty(0, np.float32)
        with _listen(listen) as server:
            token = np.frombuffer(secrets.token_bytes(TOKEN), np.int64)
            told = gather(np.array([server.getsockname()[1], *token], np.int64))
            right = (rank + 1) % self._count
            self._right = _call(hosts[right], int(told[right][0]), right)
            try:
                self._right.sendall(told[right][1:].tobytes())
                self._left = _accept(server, token.tobytes())
            except OSError as error:
                self._right.close()
                raise RingError(f"the ring did not close: {error.strerror or error}") from None
        for each in (self._left, self._right):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _limit_silence(each)
            each.setblocking(False)

    def sum(self, vector: Vector) -> Vector:
        """Return the sum of all workers' vectors, which have one length.

        Raises:
            RingError: a neighbour is gone.
        """
        try:
            return self._sum(vector)
        except OSError as error:
            self.error = RingError(f"the ring is broken: {error.strerror or error}")
            raise self.error from None

    def _sum(self, vector: Vector) -> Vector:
        count, rank = self._count, self._rank
        cuts = [len(vector) * part // count for part in range(count + 1)]
        total = vector.copy()
        parts = [total[a:b] for a, b in itertools.pairwise(cuts)]
        if len(self._received) < len(vector) // count + 1:
            self._received = np.empty(len(vector) // count + 1, np.float32)
        for turn in range(count - 1):
            mine, theirs = parts[(rank - turn) % count], parts[(rank - turn - 1) % count]
            received = self._received[: len(theirs)]
            self._exchange(mine, received)
            np.add(received, theirs, out=theirs)
        for turn in range(count - 1):
            mine, theirs = parts[(rank + 1 - turn) % count], parts[(rank - turn) % count]
            self._exchange(mine, theirs)
        return total

    def _exchange(self, mine: Vector, theirs: Vector) -> None:
        """Send to the right and receive from the left, both at once: neither may wait for room."""
        out, into = mine.view(np.uint8).data, theirs.view(np.uint8).data
        while out or into:
            moved = False
            if out:
                try:
                    out = out[self._right.send(out) :]
                    moved = True
                except BlockingIOError:
                    pass
            if into:
                try:
                    size = self._left.recv_into(into)
                    if not size:
                        raise ConnectionResetError("the worker before has left the ring")
                    into = into[size:]
                    moved = True
                except BlockingIOError:
                    pass
            if not moved:
                select.select([self._left] if into else [], [self._right] if out else [], [])

    def close(self) -> None:
        """Leave the ring."""
        self._left.close()
        self._right.close()


def _listen(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RingError(f"port {address[1]} cannot be listened on: {reason}") from None


def _limit_silence(connection: socket.socket) -> None:
    """Have the kernel end a connection over which nothing comes through any more.

    Nobody else would notice that packets are lost between two workers that both reach rank 0.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    settings = {"KEEPIDLE": SILENCE // 3, "KEEPINTVL": SILENCE // 9, "KEEPCNT": 6}
    settings["USER_TIMEOUT"] = SILENCE * 1000  # of what was sent; in ms
    for name, value in settings.items():
        if option := getattr(socket, f"TCP_{name}", None):  # macOS has not all of them
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _call(host: str, port: int, rank: int) -> socket.socket:
    """Return a connection to a worker, which listens already."""
    deadline = time.monotonic() + CONNECT
    while True:
        try:
            return socket.create_connection((host, port), max(0.001, deadline - time.monotonic()))
        except OSError as error:  # its name may be new to this node's DNS
            reason = error.strerror or str(error)
        if time.monotonic() + 0.1 > deadline:
            raise RingError(f"rank {rank} cannot be reached at {host}:{port}: {reason}")
        time.sleep(0.1)


def _accept(server: socket.socket, token: bytes) -> socket.socket:
    """Return the first caller that knows the token."""
    deadline = time.monotonic() + CONNECT
    while True:
        server.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            caller, _ = server.accept()
        except TimeoutError:
            port = server.getsockname()[1]
            raise TimeoutError(f"the worker before did not call port {port}") from None
        caller.settimeout(max(0.001, min(5.0, deadline - time.monotonic())))
        said = b""
        try:
            while len(said) < len(token) and (more := caller.recv(len(token) - len(said))):
                said += more
        except OSError:
            pass
        if hmac.compare_digest(said, token):
            return caller
        caller.close()
