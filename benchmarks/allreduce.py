"""A side: one of several processes that add up vectors, by the means that the arguments name.

    python -m benchmarks.allreduce ours|bfloat16|tensorflow|torch|"round trip" RANK PORT [HOST ...]
    mpiexec -n N python -m benchmarks.allreduce mpi

``bfloat16`` is ours with gradients in that. Without hosts these are two on the loopback interface;
``round trip`` always is. ``mpi`` is all processes as one side: rank 0 takes the requests.

``torch`` and ``mpi`` run where nothing of the trainer is installed, so each imports what it needs
itself. Requests: {"floats", "repeats"}; answers: {"seconds"} of all repeats, and {"whole"}: whether
ours exchanged whole vectors.
"""

import contextlib
import functools
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import Answer, serve

Sums = Callable[[int, int], object]  # takes floats and repeats; ours returns ``whole``
# Of what a step sums: gradients, running statistics, loss, accuracy and the request to stop.
FLOATS = {"softmax": 7_853, "mlp-100": 79_513, "cnn": 80_685, "4 MB": 1_000_000}
PATIENCE = 60.0  # seconds for the other processes to be there
LOOPBACK = "127.0.0.1"


def ours(rank: int, port: int, hosts: Sequence[str], *, rounded: bool = False) -> Sums:
    """Return sums by the trainer's all-reduce."""
    import ml_dtypes
    import numpy as np

    from trainer.train.all_reduce import AllReduce

    def gather(own: Any) -> Any:
        everybody = b"".join(gathered(rank, port, hosts, own.tobytes()))
        return np.frombuffer(everybody, own.dtype).reshape(len(hosts), -1)

    listen = hosts[rank] if LOOPBACK in hosts else ""
    sent_as = ml_dtypes.bfloat16 if rounded else np.float32
    mine = AllReduce(rank, hosts, (listen, 0), gather, sent_as=sent_as)

    def sums(floats: int, repeats: int) -> bool:
        values = np.ones(floats + 3, np.float32)  # loss, accuracy and the request to stop, too
        for _ in range(repeats):
            values = mine.sum_step(floats, values)
            values /= len(hosts)
        return mine.sends_whole(values.nbytes)

    return sums


def tensorflow(rank: int, port: int, hosts: Sequence[str]) -> Sums:
    """Return sums by TensorFlow's collective, in a loop of the graph."""
    import tensorflow as tf

    from trainer.cluster_spec import Cluster
    from trainer.train.devices import keep_to_part, make_strategy

    addresses = tuple(f"{host}:{port + r}" for r, host in enumerate(hosts))
    cluster = Cluster(rank, addresses, local=LOOPBACK in hosts)
    tf.config.threading.set_intra_op_parallelism_threads(keep_to_part(cluster))
    strategy = make_strategy(cluster)

    def add(values: Any) -> Any:
        context = tf.distribute.get_replica_context()
        # A tensor that comes from outside has no device, which the strategy looks for.
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values)) / len(hosts)

    def loop(values: Any, repeats: Any) -> Any:
        return tf.while_loop(
            lambda i, _: i < repeats,
            lambda i, v: (i + 1, strategy.run(add, args=(v,))),
            (tf.constant(0), values),
        )[1]

    graph = tf.function(loop, autograph=False)
    return lambda floats, repeats: graph(tf.ones([floats]), tf.constant(repeats)).numpy()


def torch(rank: int, port: int, hosts: Sequence[str]) -> Sums:
    """Return sums by PyTorch's gloo."""
    os.environ |= {"MASTER_ADDR": hosts[0], "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo" if LOOPBACK in hosts else "eth0"}
    import torch as package
    from torch import distributed

    package.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=len(hosts))

    def sums(floats: int, repeats: int) -> None:
        values = package.ones(floats)
        for _ in range(repeats):
            distributed.all_reduce(values)
            values /= len(hosts)

    return sums


def serve_mpi() -> None:
    """Be one of the processes that mpiexec has started: rank 0 answers, the others sum with it."""
    import numpy as np
    from mpi4py import MPI

    world = MPI.COMM_WORLD

    def sums(floats: int, repeats: int) -> None:
        values, found = np.ones(floats, np.float32), np.empty(floats, np.float32)
        for _ in range(repeats):
            world.Allreduce(values, found)
            np.divide(found, world.size, values)

    def work(floats: int, repeats: int) -> Answer:
        world.bcast((floats, repeats))
        began = time.perf_counter()
        sums(floats, repeats)
        return {"seconds": time.perf_counter() - began}

    if world.rank == 0:
        serve(work)
        world.bcast(None)
        return
    while request := world.bcast(None):
        sums(*request)


def round_trip(rank: int, port: int, hosts: Sequence[str]) -> Sums:
    """Return what sends a byte and waits for it to come back."""
    del hosts
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


def gathered(rank: int, port: int, hosts: Sequence[str], own: bytes) -> list[bytes]:
    """Return what each rank gave, as many bytes each; rank 0 collects them."""
    size, count = len(own), len(hosts)
    if rank:
        with _called(hosts[0], port) as there:
            there.sendall(bytes([rank]) + own)
            everybody = there.recv(size * count, socket.MSG_WAITALL)
        return [everybody[size * r : size * (r + 1)] for r in range(count)]
    found = {0: own}
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("", port)))
        callers = [opened.enter_context(server.accept()[0]) for _ in range(count - 1)]
        for caller in callers:
            told = caller.recv(1 + size, socket.MSG_WAITALL)
            found[told[0]] = told[1:]
        rows = [found[r] for r in range(count)]
        for caller in callers:
            caller.sendall(b"".join(rows))
    return rows


def connected(rank: int, port: int) -> socket.socket:
    """Return a connection to the other of two processes."""
    if rank == 0:
        with socket.create_server((LOOPBACK, port)) as server:
            server.settimeout(PATIENCE)
            there = server.accept()[0]
    else:
        there = _called(LOOPBACK, port)
    there.settimeout(PATIENCE)
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return there


def _called(host: str, port: int) -> socket.socket:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection((host, port), PATIENCE)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


KINDS: dict[str, Callable[[int, int, Sequence[str]], Sums]] = {
    "ours": ours,
    "bfloat16": functools.partial(ours, rounded=True),
    "tensorflow": tensorflow,
    "torch": torch,
    "round trip": round_trip,
}


def main() -> None:
    """Be one of them."""
    if sys.argv[1:] == ["mpi"]:
        serve_mpi()
        return
    kind, rank, port, *hosts = sys.argv[1:]
    make = functools.cache(lambda: KINDS[kind](int(rank), int(port), hosts or [LOOPBACK] * 2))

    def work(floats: int, repeats: int) -> Answer:
        sums = make()
        began = time.perf_counter()
        whole = sums(floats, repeats)
        return {"seconds": time.perf_counter() - began, "whole": whole is True}

    serve(work)


if __name__ == "__main__":
    main()
