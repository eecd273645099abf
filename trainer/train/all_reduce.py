"""The sum of a vector over all workers, by TCP around a ring.

TensorFlow's collectives on CPUs go through gRPC, which costs each worker 2 ms of a processor and 30
context switches per sum, more than the arithmetic of a small model. This one costs a quarter.

The vector is cut into as many parts as there are workers. The sums travel around the ring part by
part, and each worker adds its own (reduce-scatter); then the finished sums travel around it
(all-gather). Part p is ((x[p] + x[p+1]) + x[p+2]) + ..., where x[r] is rank r's vector and rank 0
follows the last: this order never changes, so all workers get the same bits, run after run.
"""

import contextlib
import hmac
import itertools
import secrets
import select
import selectors
import socket
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from trainer import sockets
from trainer.cluster_spec import Cluster
from trainer.errors import UnavailableError

Vector = npt.NDArray[np.float32]
Gather = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]

TOKEN = 32  # bytes that a worker must send to be accepted
CONNECT = 30.0  # seconds for the neighbours to be connected
FIRST_SUM = 45.0  # seconds; longer, so that a worker that cannot connect fails first
CALLERS = 32  # open connections that have not sent the token yet
PROOF = 5.0  # seconds that each has to send it
OPEN = "; open this port between all workers, or give --all-reduce tensorflow"
# Seconds without an answer from a neighbour's machine after which the neighbour counts as gone. A
# worker that stores something may not read for 150 s, but its machine answers.
SILENCE = 180


class RingError(Exception):
    """A neighbour is gone."""


class RingUnreachableError(RingError):
    """These workers cannot form a ring, and another try would fail in the same way."""


class RingAllReduce:
    """A worker's place in the ring.

    Args:
        rank: this worker's rank.
        hosts: the hosts of all workers, by rank.
        listen: address and port to listen on; 0 for a free port.
        gather: returns the rows of all workers, int64 [workers, n] by rank, given this one's [n].

    Attributes:
        error: why a sum failed, once one has.
        summing: whether a sum is in progress; it may wait for other workers.
        sums: when each sum was entered and left, ``time.perf_counter``; the reader empties it.

    Raises:
        RingError: a neighbour was lost.
        RingUnreachableError: a neighbour was not reached, or the first sum is wrong.
    """

    def __init__(
        self, rank: int, hosts: Sequence[str], listen: tuple[str, int], gather: Gather
    ) -> None:
        self.error: RingError | None = None
        self.summing = False
        self.sums: list[tuple[float, float]] = []
        self._rank, self._count = rank, len(hosts)
        self._received = np.empty(0, np.float32)
        self._deadline = float("inf")
        with _listen(listen) as server:
            token = np.frombuffer(secrets.token_bytes(TOKEN), np.int64)
            rows = gather(np.array([server.getsockname()[1], *token], np.int64))
            right = (rank + 1) % self._count
            self._right = _call(hosts[right], int(rows[right][0]), right)
            try:
                self._right.sendall(rows[right][1:].tobytes())
                self._left = _accept(server, token.tobytes(), (rank - 1) % self._count)
            except RingError:
                self._right.close()
                raise
            except OSError as error:
                self._right.close()
                raise RingError(f"the ring did not close: {error.strerror or error}") from None
        for each in (self._left, self._right):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _limit_silence(each)
            each.setblocking(False)
        try:
            self._prove()
        except RingError:
            self.close()
            raise

    def sum(self, vector: Vector) -> Vector:
        """Return the sum of all workers' vectors, float32 [n], n alike on all; n may be any.

        Raises:
            RingError: a neighbour is gone.
        """
        self.summing = True
        entered = time.perf_counter()
        try:
            total = self._sum(vector)
        except OSError as error:
            self.error = RingError(f"the ring is broken: {error.strerror or error}")
            raise self.error from None
        finally:
            self.summing = False
        self.sums.append((entered, time.perf_counter()))
        return total

    def share(self, mine: Vector) -> Vector:
        """Return what each worker gave, float32 of [workers, *the shape of ``mine``], by rank.

        Raises:
            RingError: a neighbour is gone.
        """
        rows = np.zeros((self._count, *mine.shape), np.float32)
        rows[self._rank] = mine
        return self.sum(rows.ravel()).reshape(rows.shape)

    def _prove(self) -> None:
        """Check a sum that every rank knows: with wrong neighbours only some parts add up.

        Raises:
            RingError: a neighbour is gone, or the sum takes too long.
            RingUnreachableError: the sum is wrong.
        """
        vector = np.zeros(self._count, np.float32)
        vector[self._rank] = self._rank + 1
        self._deadline = time.monotonic() + FIRST_SUM
        try:
            total = self.sum(vector)
        finally:
            self._deadline = float("inf")
        if not np.array_equal(total, np.arange(1, self._count + 1)):
            raise RingUnreachableError(
                f"the all-reduce's first sum is wrong ({total[:8].tolist()} ...); "
                "give --all-reduce tensorflow"
            )

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
        """Send to the right and receive from the left at once: neither can wait for the other."""
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
                self._wait(reading=bool(into), writing=bool(out))

    def _wait(self, *, reading: bool, writing: bool) -> None:
        poll = select.poll()  # select() takes no file above number 1,023
        if reading:
            poll.register(self._left, select.POLLIN)
        if writing:
            poll.register(self._right, select.POLLOUT)
        if self._deadline == float("inf"):
            poll.poll()
        elif not poll.poll(max(0.0, 1000 * (self._deadline - time.monotonic()))):
            raise TimeoutError(f"no first sum within {FIRST_SUM:g} s")

    def close(self) -> None:
        """Leave the ring."""
        self._left.close()
        self._right.close()


def join(cluster: Cluster, gather: Gather) -> RingAllReduce:
    """Connect to both neighbours and return the ring.

    Raises:
        RingError: a neighbour was lost meanwhile.
        UnavailableError: a neighbour was not reached, although it took part in the rendezvous:
            another try would fail in the same way.
    """
    try:
        return RingAllReduce(cluster.rank, cluster.hosts, cluster.ring_address, gather)
    except RingUnreachableError as error:
        raise UnavailableError(str(error)) from None


def _listen(address: tuple[str, int]) -> socket.socket:
    try:
        return sockets.listen(*address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RingUnreachableError(
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


def _call(host: str, port: int, rank: int) -> socket.socket:
    """Return a connection to a worker, which is already listening."""
    deadline = time.monotonic() + CONNECT
    while True:
        try:
            return socket.create_connection((host, port), max(0.001, deadline - time.monotonic()))
        except OSError as error:  # this node's DNS may not know its name yet
            reason = error.strerror or str(error)
        if time.monotonic() + 0.1 > deadline:
            where = sockets.endpoint(host, port)
            raise RingUnreachableError(f"rank {rank} cannot be reached at {where}: {reason}{OPEN}")
        time.sleep(0.1)


def _accept(server: socket.socket, token: bytes, rank: int) -> socket.socket:
    """Return the first caller that sends the token; no other caller can delay it."""
    deadline = time.monotonic() + CONNECT
    server.setblocking(False)
    with contextlib.closing(_Callers(server, token)) as door:
        while (left := deadline - time.monotonic()) > 0:
            if caller := door.look(min(0.5, left)):
                return caller
    port = server.getsockname()[1]
    raise RingUnreachableError(f"rank {rank} did not call port {port}{OPEN}")


class _Callers:
    """Callers that have not sent the token yet."""

    def __init__(self, server: socket.socket, token: bytes) -> None:
        self._server, self._token = server, token
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)
        self._said: dict[socket.socket, tuple[bytes, float]] = {}  # and until when; oldest first

    def look(self, seconds: float) -> socket.socket | None:
        """Wait so long for something to happen; return a caller that has sent the token."""
        now = time.monotonic()
        for late in [each for each, (_, until) in self._said.items() if until < now]:
            self._drop(late)
        for key, _ in self._selector.select(seconds):
            caller = key.fileobj
            assert isinstance(caller, socket.socket)
            if caller is self._server:
                self._let_in(now)
            elif caller in self._said and self._hear(caller):
                self._selector.unregister(caller)
                del self._said[caller]
                return caller
        return None

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

    def _hear(self, caller: socket.socket) -> bool:
        """Read from a caller; return whether it has sent the token."""
        said, until = self._said[caller]
        try:
            more = caller.recv(len(self._token) - len(said))
        except OSError:
            more = b""
        self._said[caller] = (said := said + more), until
        if hmac.compare_digest(said, self._token):
            return True
        if not more or len(said) == len(self._token):
            self._drop(caller)
        return False

    def _drop(self, caller: socket.socket) -> None:
        self._selector.unregister(caller)
        del self._said[caller]
        caller.close()
