"""The sum of a vector over all workers, by TCP.

TensorFlow's collectives on CPUs go through gRPC, which costs each worker 2 ms of a processor and 30
context switches per sum, more than the arithmetic of a small model. This one costs a quarter.

Scattered: the vector is cut into as many blocks as there are workers. In ceil(log2 N) exchanges
each worker gets the sum of the block of its rank (reduce-scatter), and in as many more the blocks
of the others (all-gather); it sends 2 (N - 1) / N of the vector, for any N. The exchanges are those
of Traeff, "Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms", arXiv 2410.14234.

Whole: if N is a power of two, pairs may exchange and add their whole vectors instead (recursive
doubling). That takes half as many exchanges, with log2 N times the vector sent: faster for short
vectors and for networks with a long delay. The workers time some exchanges as they meet, to choose.

Both add in the same order, which is always the same for one N: all workers get the same bits, run
after run.

Gradients can travel in bfloat16, half the bytes. Each worker rounds its own, adds two rounded
vectors in float32, and rounds their sum before the next exchange, the last sum too. So both ways
still give the same bits, and a sum is off by at most 1 + ceil(log2 N) roundings of a bfloat16.
"""

import math
import select
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.cluster_spec import Cluster
from trainer.errors import UnavailableError
from trainer.train import peer_connections
from trainer.train.peer_connections import Gather, Name, PeerGoneError, UnreachableError

Vector = npt.NDArray[np.float32]

FIRST_SUM = 45.0  # seconds; longer than CONNECT, so that who cannot connect fails first
LOSS = -3  # place in a step's vector; accuracy and the request to stop come after it
TIMED = 3  # sums whose quickest is taken
TIMED_FLOATS = 65_536  # of the longer ones


def rounds(count: int) -> list[tuple[int, int]]:
    """Return the exchanges of a gang that scatters: blocks held before, and after.

    In each, rank r sends the blocks that it holds beyond the second number to rank r + that number.
    """
    found = []
    while count > 1:
        found.append((count, count - count // 2))
        count -= count // 2
    return found


class AllReduce:
    """A worker's part in the sums of its gang.

    Args:
        rank: this worker's rank.
        hosts: the hosts of all workers, by rank.
        listen: address and port to listen on; 0 for a free port.
        gather: returns the rows of all workers, int64 [workers, n] by rank, given this one's [n].
        name: returns the number by which people know a rank.
        sent_as: the type in which gradients travel, float32 or bfloat16.

    Attributes:
        error: why a sum failed, once one has.
        summing: whether a sum is in progress; it may wait for other workers.
        flip: whether the next step's sum gets a wrong bit, on this rank alone, see ``chaos``.
        sums: when each sum was entered and left, ``time.perf_counter``; the reader empties it.

    Raises:
        PeerGoneError: a peer was lost.
        UnreachableError: a peer was not reached, or the first sum is wrong.
    """

    def __init__(
        self,
        rank: int,
        hosts: Sequence[str],
        listen: tuple[str, int],
        gather: Gather,
        name: Name = int,
        sent_as: npt.DTypeLike = np.float32,
    ) -> None:
        self.error: PeerGoneError | None = None
        self.summing = self.flip = False
        self.sums: list[tuple[float, float]] = []
        self._rank, self._count = rank, len(hosts)
        self._sent_as = np.dtype(sent_as)
        self._rounds = rounds(self._count)
        self._received = np.empty(0, np.float32)
        self._deadline = float("inf")
        # Bytes that take as long as an exchange of none; with 0, no vector is sent whole.
        self._hop_bytes = math.inf if self._count == 2 else 0.0
        skips = [kept for _, kept in self._rounds]
        peers = {(rank + sign * skip) % self._count for skip in skips for sign in (-1, 1)}
        self._sockets = peer_connections.connect(rank, hosts, listen, gather, peers, name)
        try:
            self._deadline = time.monotonic() + FIRST_SUM
            self._prove()
            if self._count > 2 and self._count.bit_count() == 1:
                self._hop_bytes = self._measured()
        except PeerGoneError:
            self.close()
            raise
        finally:
            self._deadline = float("inf")
        self.sums.clear()

    def sum_step(self, gradients: int, vector: Vector) -> Vector:
        """Return ``sum`` of what ``Loop`` sums in a step, its first so many numbers ``sent_as``.

        With a loss that is not finite come gradients that would make all weights NaN on all ranks.
        They become 0 instead, so that ranks whose weights were wrong before still differ.
        """
        exact = self._sent_as == vector.dtype
        total = self._timed(self._added if exact else partial(self._rounded, gradients), vector)
        if self.flip:
            self.flip = False
            flip_bit(total)
        if not math.isfinite(total[LOSS]):
            total[:LOSS] = 0
        return total

    def sum(self, vector: Vector) -> Vector:
        """Return the sum of all workers' vectors, float32 [n], n alike on all; n may be any.

        Raises:
            PeerGoneError: a peer is gone.
        """
        return self._timed(self._added, vector)

    def sends_whole(self, size: int) -> bool:
        """Return whether a vector of so many bytes is exchanged as a whole; all agree."""
        hops = len(self._rounds)
        more = hops - 2 * (self._count - 1) / self._count  # times the vector, beside the other way
        return size * more < hops * self._hop_bytes if more else self._hop_bytes > 0

    def share(self, mine: Vector) -> Vector:
        """Return what each worker gave, float32 of [workers, *the shape of ``mine``], by rank.

        Raises:
            PeerGoneError: a peer is gone.
        """
        rows = np.zeros((self._count, *mine.shape), np.float32)
        rows[self._rank] = mine
        return self.sum(rows.ravel()).reshape(rows.shape)

    def gather(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return ``share`` of numbers of any kind, bit for bit: two of their bytes a float32.

        Raises:
            PeerGoneError: a peer is gone.
        """
        pieces = values.ravel().view(np.uint16).astype(np.float32)
        rows = self.share(pieces).astype(np.uint16).view(values.dtype)
        return rows.reshape(self._count, *values.shape)

    def close(self) -> None:
        """Leave the gang."""
        for each in self._sockets.values():
            each.close()

    def _timed(self, way: Callable[[Vector], Vector], vector: Vector) -> Vector:
        self.summing = True
        entered = time.perf_counter()
        try:
            total = way(vector)
        except OSError as error:
            self.error = PeerGoneError(f"a sum broke off: {error.strerror or error}")
            raise self.error from None
        finally:
            self.summing = False
        self.sums.append((entered, time.perf_counter()))
        return total

    def _prove(self) -> None:
        """Check a sum that every rank knows: with wrong peers only some blocks add up.

        Raises:
            PeerGoneError: a peer is gone, or the sum takes too long.
            UnreachableError: the sum is wrong.
        """
        vector = np.zeros(self._count, np.float32)
        vector[self._rank] = self._rank + 1
        total = self._timed(self._scattered, vector)
        if not np.array_equal(total, np.arange(1, self._count + 1)):
            raise UnreachableError(
                f"the all-reduce's first sum is wrong ({total[:8].tolist()} ...); "
                "set all_reduce to tensorflow"
            )

    def _measured(self) -> float:
        """Return the bytes that take as long as an exchange of none, in the median of all ranks."""
        seconds = []
        for size in (1, TIMED_FLOATS):
            vector = np.zeros(size, np.float32)
            self.sums.clear()
            for _ in range(TIMED):
                self._timed(self._whole, vector)
            seconds.append(min(left - entered for entered, left in self.sums))
        short, longer = seconds
        each = 4 * (TIMED_FLOATS - 1) * short / max(longer - short, 1e-9)
        return float(np.median(self.share(np.array([each], np.float32))))

    def _rounded(self, gradients: int, vector: Vector) -> Vector:
        """Return the sum of vectors of which so many numbers are rounded, and the rest exact."""
        rounded = self._added(vector[:gradients].astype(self._sent_as))
        return np.concatenate([rounded, self._added(vector[gradients:])], dtype=np.float32)

    def _added(self, vector: Vector) -> Vector:
        way = self._whole if self.sends_whole(vector.nbytes) else self._scattered
        return way(vector)

    def _whole(self, vector: Vector) -> Vector:
        total, received = vector, self._room(vector)
        for _, skip in self._rounds:
            peer = self._rank ^ skip
            self._exchange(peer, total, peer, received)
            total = total + received
        return total

    def _scattered(self, vector: Vector) -> Vector:
        count, rank, size = self._count, self._rank, len(vector)
        cuts = [size * block // count for block in range(2 * count + 1)]
        at = [cuts[rank + place] - cuts[rank] for place in range(count + 1)]
        # The blocks from the one of this rank on, as peers exchange ranges of them.
        turned = np.concatenate((vector[cuts[rank] :], vector[: cuts[rank]]))
        for held, kept in self._rounds:
            mine, theirs = turned[at[kept] : at[held]], turned[: at[held - kept]]
            received = self._room(theirs)
            self._exchange(rank + kept, mine, rank - kept, received)
            np.add(theirs, received, out=theirs)
        for held, kept in reversed(self._rounds):
            mine, theirs = turned[: at[held - kept]], turned[at[kept] : at[held]]
            self._exchange(rank - kept, mine, rank + kept, theirs)
        start = size - cuts[rank]
        return np.concatenate((turned[start:], turned[:start]))

    def _room(self, template: Vector) -> Vector:
        if self._received.nbytes < template.nbytes:
            self._received = np.empty(len(template), np.float32)
        return self._received.view(template.dtype)[: len(template)]

    def _exchange(self, to: int, mine: Vector, source: int, theirs: Vector) -> None:
        """Send to one peer and receive from another at once: neither can wait for the other."""
        receiver, sender = self._sockets[to % self._count], self._sockets[source % self._count]
        out, into = mine.view(np.uint8).data, theirs.view(np.uint8).data
        while out or into:
            moved = False
            if out:
                try:
                    out = out[receiver.send(out) :]
                    moved = True
                except BlockingIOError:
                    pass
            if into:
                try:
                    size = sender.recv_into(into)
                    if not size:
                        raise ConnectionResetError("a peer has left")
                    into = into[size:]
                    moved = True
                except BlockingIOError:
                    pass
            if not moved:
                self._wait(receiver if out else None, sender if into else None)

    def _wait(self, receiver: socket.socket | None, sender: socket.socket | None) -> None:
        poll = select.poll()  # select() takes no file above number 1,023
        if receiver is not None and receiver is sender:
            poll.register(receiver, select.POLLIN | select.POLLOUT)
        else:
            for each, event in ((receiver, select.POLLOUT), (sender, select.POLLIN)):
                if each is not None:
                    poll.register(each, event)
        if self._deadline == float("inf"):
            poll.poll()
        elif not poll.poll(max(0.0, 1000 * (self._deadline - time.monotonic()))):
            raise TimeoutError(f"no first sum within {FIRST_SUM:g} s")


def flip_bit(total: Vector) -> None:
    """Double or halve the largest gradient of a step's sum, by one bit of its exponent."""
    gradients = total[:LOSS]
    gradients.view(np.uint32)[np.abs(gradients).argmax()] ^= np.uint32(1 << 23)


def join(cluster: Cluster, gather: Gather, sent_as: npt.DTypeLike = np.float32) -> AllReduce:
    """Connect to the peers and return this worker's part, see ``AllReduce``.

    Raises:
        PeerGoneError: a peer was lost meanwhile.
        UnavailableError: a peer was not reached, although it took part in the rendezvous:
            another try would fail in the same way.
    """
    try:
        address = cluster.all_reduce_address
        return AllReduce(cluster.rank, cluster.hosts, address, gather, cluster.name, sent_as)
    except UnreachableError as error:
        raise UnavailableError(str(error)) from None
