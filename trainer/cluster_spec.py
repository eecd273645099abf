"""Who is in the gang: rank, worker count and addresses, from the environment.

Pure, except that it asks for this machine's loopback address.

The contract is that of a Kubernetes Indexed Job with a headless Service of the Job's name:

    JOB_COMPLETION_INDEX   rank of this worker, set by Kubernetes
    TRAINYARD_WORKERS      number of workers
    TRAINYARD_SERVICE      name of the Service; worker r answers at SERVICE-r.SERVICE
    TRAINYARD_PORT         port every worker listens on, default 2222; rank 0's supervisor
                           listens on the next one, and the workers' all-reduce on the one after

With the service ``localhost`` all workers share one machine, rank r listens on port + r, and
rank 0's supervisor on port + number of workers; the all-reduce takes free ports.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.common import sockets
from trainer.common.text import shortened
from trainer.errors import ConfigError

DEFAULT_PORT = 2222
MOST_WORKERS = 1024
LOCAL = "localhost"
INDEX = "JOB_COMPLETION_INDEX"
_REMEDY = f"outside of a Job, unset {INDEX}"  # left over from one, or of another program


@dataclass(frozen=True)
class Cluster:
    """A gang as one of its workers sees it.

    Attributes:
        rank: of this worker, from 0.
        addresses: host:port of each worker, by rank, an IPv6 address in brackets.
        local: whether all workers share this machine.
        rendezvous: host:port where rank 0's supervisor accepts the others.
        service: the headless Service's name, LOCAL outside of a cluster.
        members: where only some ranks take part, these, by which people know them: the workers
            count from 0 in their order. Else empty.
    """

    rank: int
    addresses: tuple[str, ...]
    local: bool
    rendezvous: str = ""
    service: str = LOCAL
    members: tuple[int, ...] = ()

    @property
    def workers(self) -> int:
        """Number of workers, the world size."""
        return len(self.addresses)

    def name(self, rank: int) -> int:
        """Return the number by which people know the worker that this one knows as ``rank``."""
        return self.members[rank] if self.members else rank

    def part(self, cores: Sequence[int]) -> list[int]:
        """Return this worker's share of a machine's cores, at least one.

        Shares do not overlap and differ by one core at most, unless there are more workers than
        cores.
        """
        if len(cores) < self.workers:
            return [cores[self.rank % len(cores)]]
        first, after = (len(cores) * r // self.workers for r in (self.rank, self.rank + 1))
        return list(cores[first:after])

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host of each worker, by rank."""
        return tuple(sockets.split_endpoint(address)[0] for address in self.addresses)

    @property
    def all_reduce_address(self) -> tuple[str, int]:
        """Address on which this worker is called by others to add up with; port 0: any."""
        # The port of a pod is known ahead, for its NetworkPolicy.
        port = sockets.split_endpoint(self.addresses[self.rank])[1] + 2
        return (self.hosts[self.rank], 0) if self.local else ("", port)

    def address(self, rank: int) -> str:
        """Return the host:port of a worker, also of one that the gang did not have at first."""
        if rank < self.workers:
            return self.addresses[rank]
        port = sockets.split_endpoint(self.addresses[0])[1]
        return f"{self.service}-{rank}.{self.service}:{port}"

    def seen_at(self, hosts: Mapping[int, str], ranks: Sequence[int]) -> list[str]:
        """Return addresses of workers on the hosts from which they have called rank 0.

        Hosts are by rank; a worker whose host is not there keeps its address.
        """
        named = ((rank, *sockets.split_endpoint(self.address(rank))) for rank in ranks)
        return [sockets.endpoint(hosts.get(rank, host), port) for rank, host, port in named]

    def tf_config(self) -> str:
        """Return the value of TF_CONFIG that makes TensorFlow form this gang."""
        return json.dumps(
            {
                "cluster": {"worker": list(self.addresses)},
                "task": {"type": "worker", "index": self.rank},
            }
        )


ALONE = Cluster(rank=0, addresses=("localhost:0",), local=True)


def environment(rank: int, workers: int, port: int) -> dict[str, str]:
    """Return the environment of one worker of a gang on this machine."""
    return {
        INDEX: str(rank),
        "TRAINYARD_WORKERS": str(workers),
        "TRAINYARD_SERVICE": LOCAL,
        "TRAINYARD_PORT": str(port),
    }


def from_environment(env: Mapping[str, str], *, may_grow: bool = False) -> Cluster | None:
    """Return the gang this process belongs to, or None outside of one.

    With ``may_grow``, a gang of pods may have more of them than it began with. Those know of no
    rank above their own.

    Raises:
        ConfigError: a variable of the contract is missing, no number, or out of range.
    """
    if INDEX not in env:
        return None
    workers = _number(env, "TRAINYARD_WORKERS", 1, MOST_WORKERS, "1")
    service = env.get("TRAINYARD_SERVICE", "")
    last = MOST_WORKERS if may_grow and workers > 1 and service != LOCAL else workers
    rank = _number(env, INDEX, 0, last - 1)
    workers = max(workers, rank + 1)
    last_port = 65535 - (workers if service == LOCAL else 2)
    port = _number(env, "TRAINYARD_PORT", 1, last_port, str(DEFAULT_PORT))
    if workers == 1:
        return Cluster(0, (f"localhost:{port}",), local=True, service=service or LOCAL)
    if not service:
        raise ConfigError(
            f"TRAINYARD_SERVICE: not set: a gang needs the name of its headless Service; {_REMEDY}"
        )
    if service == LOCAL:
        host = sockets.loopback()
        local = [sockets.endpoint(host, port + r) for r in range(workers + 1)]
        return Cluster(rank, tuple(local[:-1]), local=True, rendezvous=local[-1])
    hosts = [f"{service}-{r}.{service}" for r in range(workers)]
    addresses = tuple(f"{host}:{port}" for host in hosts)
    rendezvous = f"{hosts[0]}:{port + 1}"
    return Cluster(rank, addresses, local=False, rendezvous=rendezvous, service=service)


def _number(
    env: Mapping[str, str], name: str, low: int, high: int, default: str | None = None
) -> int:
    text = env.get(name, default)
    # Of thousands of digits, Python makes no number.
    if not (text and text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
        shown = None if text is None else shortened(text, 40)
        workers = env.get("TRAINYARD_WORKERS", "not set")
        why = f" (TRAINYARD_WORKERS is {workers})" if name == INDEX else ""
        remedy = f"; {_REMEDY}" if env.get("TRAINYARD_SERVICE") != LOCAL else ""
        raise ConfigError(
            f"{name}: {shown!r}: must be a whole number from {low} to {high}{why}{remedy}"
        )
    return int(text)
