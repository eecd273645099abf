"""A side: one of two processes that add up vectors, by the means that the arguments name.

    python -m benchmarks.allreduce ring|tensorflow|torch|sockets|"round trip" RANK PORT

``torch`` runs where nothing of the trainer is installed, so each imports what it needs itself.
Requests: {"floats", "repeats"}; answers: {"seconds"} of all repeats.
"""

import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import Answer, serve

Sums = Callable[[int, int], object]  # takes floats and repeats
# Of what a step sums: gradients, running statistics, loss, accuracy and the request to stop.
FLOATS = {"softmax": 7_853, "mlp-100": 79_513, "cnn": 80_685, "4 MB": 1_000_000}
PATIENCE = 60.0  # seconds for the other process to be there


def ring(rank: int, port: int) -> Sums:
    """Return sums by the trainer's ring."""
    import numpy as np

    from trainer.train.all_reduce import RingAllReduce

    there = connected(rank, port)

    def gather(own: Any) -> Any:
        there.sendall(own.tobytes())
        other = np.frombuffer(there.recv(own.nbytes, socket.MSG_WAITALL), own.dtype)
        return np.stack([own, other] if rank == 0 else [other, own])

    mine = RingAllReduce(rank, ("127.0.0.1",) * 2, ("127.0.0.1", 0), gather)

    def sums(floats: int, repeats: int) -> None:
        values = np.ones(floats, np.float32)
        for _ in range(repeats):
            values = mine.sum(values)
            values /= 2

    return sums


def tensorflow(rank: int, port: int) -> Sums:
    """Return sums by TensorFlow's collective, in a loop of the graph."""
    import tensorflow as tf

    from trainer.cluster_spec import Cluster
    from trainer.train.devices import keep_to_part, make_strategy

    addresses = tuple(f"127.0.0.1:{port + r}" for r in range(2))
    cluster = Cluster(rank, addresses, local=True)
    tf.config.threading.set_intra_op_parallelism_threads(keep_to_part(cluster))
    strategy = make_strategy(cluster)

    def add(values: Any) -> Any:
        context = tf.distribute.get_replica_context()
        # A tensor that comes from outside has no device, which the strategy looks for.
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values)) / 2

    def loop(values: Any, repeats: Any) -> Any:
        return tf.while_loop(
            lambda i, _: i < repeats,
            lambda i, v: (i + 1, strategy.run(add, args=(v,))),
            (tf.constant(0), values),
        )[1]

    graph = tf.function(loop, autograph=False)
    return lambda floats, repeats: graph(tf.ones([floats]), tf.constant(repeats)).numpy()


def torch(rank: int, port: int) -> Sums:
    """Return sums by PyTorch's gloo."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    import torch as package
    from torch import distributed

    package.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)

    def sums(floats: int, repeats: int) -> None:
        values = package.ones(floats)
        for _ in range(repeats):
            distributed.all_reduce(values)
            values /= 2

    return sums


def sockets(rank: int, port: int) -> Sums:
    """Return what moves the bytes of a sum: half the vector each way, twice."""
    there = connected(rank, port)

    def sums(floats: int, repeats: int) -> None:
        half = bytearray(max(1, floats * 4 // 2))
        into = bytearray(len(half))
        for _ in range(2 * repeats):
            exchange(there, half, into)

    return sums


def round_trip(rank: int, port: int) -> Sums:
    """Return what sends a byte and waits for it to come back."""
    there = connected(rank, port)

    def sums(floats: int, repeats: int) -> None:
        del floats
        for _ in range(repeats):
            for sends in (rank == 0, rank == 1):
                if sends:
                    there.sendall(b".")
                else:
                    there.recv(1)

    return sums


def connected(rank: int, port: int) -> socket.socket:
    """Return a connection to the other process."""
    if rank == 0:
        with socket.create_server(("127.0.0.1", port)) as server:
            server.settimeout(PATIENCE)
            there = server.accept()[0]
    else:
        there = _called(port)
    there.settimeout(PATIENCE)
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return there


def _called(port: int) -> socket.socket:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), PATIENCE)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def exchange(there: socket.socket, ours: bytearray, theirs: bytearray) -> None:
    """Send and receive at once: the kernel's buffers need not hold either."""
    thread = None
    if len(ours) > 2**17:  # less than the kernel's buffers hold
        thread = threading.Thread(target=there.sendall, args=(ours,))
        thread.start()
    else:
        there.sendall(ours)
    view = memoryview(theirs)
    while view:
        view = view[there.recv_into(view) :]
    if thread:
        thread.join()


KINDS: dict[str, Callable[[int, int], Sums]] = {
    "ring": ring,
    "tensorflow": tensorflow,
    "torch": torch,
    "sockets": sockets,
    "round trip": round_trip,
}


def main() -> None:
    """Be one of the two."""
    kind, rank, port = sys.argv[1:]
    make = functools.cache(lambda: KINDS[kind](int(rank), int(port)))

    def work(floats: int, repeats: int) -> Answer:
        sums = make()
        began = time.perf_counter()
        sums(floats, repeats)
        return {"seconds": time.perf_counter() - began}

    serve(work)


if __name__ == "__main__":
    main()
