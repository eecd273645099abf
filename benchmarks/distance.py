"""How long a sum takes over links with a delay: ours, TensorFlow's collective and PyTorch's gloo.

Each rank has a host of its own (tests/support/switch.py), and every frame takes as long from one to
another. Needs root.

With ``--gigabits`` it sums a gradient of 4 MB in float32 and in bfloat16 instead, over links that
send so many Gbit/s; that is printed, and not written.
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks import common
from benchmarks.allreduce import FLOATS
from benchmarks.common import ABSENT, Side, Spread, ratios, table, take_turns
from benchmarks.limits import together
from tests.support import switch
from tests.support.hosts import ipv6_hosts

PRESET = "mlp-100"
DELAYS = (0.5e-3, 5e-3)  # seconds from one host to another
RANKS = (2, 4, 8, 16)
REPEATS = 20
NAMES = {"ours": "ours", "tensorflow": "TensorFlow", "torch": "PyTorch gloo"}
PORT = 2222


def main() -> None:
    """Measure and print."""
    parser = common.options(main.__doc__, rounds=5)
    parser.add_argument("--gigabits", type=float, help="compare float32 and bfloat16 at this rate")
    chosen = common.parse(parser)
    if chosen.gigabits:
        print(narrow(chosen))
        return
    rows: list[list[str]] = []
    for delay, ranks in itertools.product(
        DELAYS[:1] if chosen.quick else DELAYS, RANKS[:2] if chosen.quick else RANKS
    ):
        with switch.network("far", ranks) as network, ExitStack() as opened:
            network.delay = delay  # from the start, when ours measures it
            work: dict[str, Callable[[], float]] = {}
            for place, (kind, command) in enumerate(commands().items()):
                start = gang(network.hosts, command, PORT + 100 * place)
                sides = opened.enter_context(start)
                repeats = 2 if chosen.quick else REPEATS
                work[kind] = partial(together, sides, FLOATS[PRESET], repeats)
            times = take_turns(work, chosen.rounds)
        row = [f"{delay * 1e3:g}", str(ranks)]
        for kind in NAMES:
            found = [t * 1e3 for t in times.get(kind, [])]
            row.append(Spread.of(found).text(".1f") if found else ABSENT)
        rows.append([*row, ratios(times["tensorflow"], times["ours"]).text(".1f")])
    about = (
        f"The gradient of `{PRESET}` ({FLOATS[PRESET] * 4 / 1024:,.0f} KiB) summed over hosts that "
        "share this machine's cores: milliseconds, median (least to greatest) of "
        f"{chosen.rounds} turns of each."
    )
    head = ["delay, ms", "ranks", *NAMES.values(), "TensorFlow / ours"]
    common.publish(chosen, "Distance", about, table(head, rows))


def narrow(chosen: argparse.Namespace) -> str:
    """Return milliseconds of a sum in float32 and in bfloat16, and their ratio, by ranks."""
    rows = []
    for ranks in RANKS[:2]:
        with ipv6_hosts("narrow", ranks) as hosts, ExitStack() as opened:
            limit = ["tbf", "rate", f"{chosen.gigabits:g}gbit", "burst", "256kb", "latency", "50ms"]
            for host, prefix in enumerate(hosts):
                address = ["ip", "addr", "add", f"{switch.address(host)}/24", "dev", "eth0"]
                for setting in (address, ["tc", "qdisc", "add", "dev", "eth0", "root", *limit]):
                    subprocess.run([*prefix, *setting], check=True)
            work: dict[str, Callable[[], float]] = {}
            for place, kind in enumerate(("ours", "bfloat16")):
                sides = opened.enter_context(gang(hosts, command_of(kind), PORT + 100 * place))
                work[kind] = partial(together, sides, FLOATS["4 MB"], REPEATS)
            times = take_turns(work, chosen.rounds)
        cells = [Spread.of(t * 1e3 for t in found).text(".1f") for found in times.values()]
        rows.append([str(ranks), *cells, ratios(times["bfloat16"], times["ours"]).text(".2f")])
    return table(["ranks", "float32, ms", "bfloat16, ms", "bfloat16 / float32"], rows)


def command_of(kind: str) -> list[str]:
    """Return how a rank of a kind is started."""
    return [sys.executable, "-m", "benchmarks.allreduce", kind]


def commands() -> dict[str, list[str]]:
    """Return how a rank of each kind is started."""
    found = {kind: command_of(kind) for kind in NAMES}
    if python := common.peer_python("torch"):
        found["torch"][0] = python
    else:
        del found["torch"]
    return found


@contextmanager
def gang(hosts: list[list[str]], command: list[str], port: int) -> Iterator[list[Side]]:
    """Start a rank on each host, given what a command starts with that runs there."""
    addresses = [switch.address(host) for host in range(len(hosts))]
    with ExitStack() as opened:
        sides = [
            opened.enter_context(Side([*prefix, *command, str(rank), str(port), *addresses]))
            for rank, prefix in enumerate(hosts)
        ]
        for side in sides:
            side.send(floats=1, repeats=1)
        for side in sides:
            side.receive(limit=300)
        yield sides


if __name__ == "__main__":
    main()
