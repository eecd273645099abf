"""How long a sum takes over links with a delay: ours, TensorFlow's collective and PyTorch's gloo.

Each rank has a host of its own (tests/support/switch.py), and every frame takes as long from one to
another. Two costs are fitted to ours: of an exchange beside its delay, and of a vector that a rank
sends, for which all ranks wait, as they share this machine's cores. Needs root.

With ``--gigabits`` it sums a gradient of 4 MB in float32 and in bfloat16 instead, over links that
send so many Gbit/s; that is printed, and not written.
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
from scipy.optimize import nnls

from benchmarks import common
from benchmarks.allreduce import FLOATS
from benchmarks.common import ABSENT, Side, Spread, ratios, table, take_turns
from benchmarks.limits import together
from benchmarks.scaling import ETHERNET, sums
from tests.support import switch
from tests.support.hosts import ipv6_hosts

PRESET = "mlp-100"
DELAYS = (0.5e-3, 2e-3, 5e-3)  # seconds from one host to another
RANKS = (2, 4, 8, 16, 32)
MOST_OF_PEERS = 16  # ranks
AHEAD = (64, 1024)  # ranks
REPEATS = 20
PEERS = ("tensorflow", "torch")
NAMES = {"ours": "ours", "tensorflow": "TensorFlow", "torch": "PyTorch gloo"}
PORT = 2222

Case = tuple[float, int, bool]  # seconds of delay, ranks, whether vectors are sent whole


def main() -> None:
    """Measure and print."""
    parser = common.options(main.__doc__, rounds=5)
    parser.add_argument("--gigabits", type=float, help="compare float32 and bfloat16 at this rate")
    chosen = common.parse(parser)
    if chosen.gigabits:
        print(narrow(chosen))
        return
    rows: list[list[str]] = []
    measured: dict[Case, float] = {}
    for delay, ranks in itertools.product(
        DELAYS[:1] if chosen.quick else DELAYS, RANKS[:2] if chosen.quick else RANKS
    ):
        times, whole = measure(delay, ranks, chosen)
        measured[delay, ranks, whole] = Spread.of(times["ours"]).median
        row = [f"{delay * 1e3:g}", str(ranks)]
        for kind in NAMES:
            absent = "not tried" if ranks > MOST_OF_PEERS else ABSENT
            found = [t * 1e3 for t in times.get(kind, [])]
            row.append(Spread.of(found).text(".1f") if found else absent)
        for kind in PEERS:
            there = kind in times
            row.append(ratios(times[kind], times["ours"]).text(".1f") if there else absent)
        rows.append(row)
    about = (
        f"The gradient of `{PRESET}` ({FLOATS[PRESET] * 4 / 1024:,.0f} KiB) summed over hosts that "
        "share this machine's cores: milliseconds, median (least to greatest) of "
        f"{chosen.rounds} turns of each."
    )
    head = ["delay, ms", "ranks", *NAMES.values(), *(f"{NAMES[kind]} / ours" for kind in PEERS)]
    common.publish(chosen, "Distance", about, f"{table(head, rows)}\n\n{fitted(measured)}")


def measure(
    delay: float, ranks: int, chosen: argparse.Namespace
) -> tuple[dict[str, list[float]], bool]:
    """Return seconds of a sum, by kind, and whether ours sends whole vectors."""
    with switch.network("far", ranks) as network, ExitStack() as opened:
        network.delay = delay  # from the start, when ours measures it
        gangs = {
            kind: opened.enter_context(gang(network.hosts, command, PORT + 100 * place))
            for place, (kind, command) in enumerate(commands().items())
            if kind == "ours" or ranks <= MOST_OF_PEERS
        }
        repeats = 2 if chosen.quick else REPEATS
        work: dict[str, Callable[[], float]] = {
            kind: partial(together, sides, FLOATS[PRESET], repeats) for kind, sides in gangs.items()
        }
        times = take_turns(work, chosen.rounds)
        for side in gangs["ours"]:
            side.send(floats=FLOATS[PRESET], repeats=1)
        return times, {side.receive(limit=120)["whole"] for side in gangs["ours"]} == {True}


def fitted(measured: Mapping[Case, float]) -> str:
    """Return what the costs are that fit seconds of our sums, by how much, and what they predict.

    The squares of relative errors are least; no cost is less than nothing.
    """
    cases = [(*case, *way(ranks, whole=whole)) for case in measured for _, ranks, whole in [case]]
    seconds = np.array([*measured.values()])
    unknown = np.array([[hops, ranks * vectors] for _, ranks, _, hops, vectors in cases])
    known = np.array([hops * delay for delay, _, _, hops, _ in cases])
    scaled = (unknown / seconds[:, None], 1 - known / seconds)
    hop, vector = nnls(*scaled)[0].tolist()
    told = known + unknown @ (hop, vector)
    rows = [
        [
            *(f"{delay * 1e3:g}", str(ranks), str(hops)),
            *(f"{1e3 * found:.1f}", f"{1e3 * by_fit:.1f}", f"{by_fit / found - 1:+.0%}"),
        ]
        for (delay, ranks, _, hops, _), found, by_fit in zip(cases, seconds, told, strict=True)
    ]
    ahead = ", ".join(
        f"{ranks:,} ranks {1e3 * best(ranks, hop, DELAYS[-1]):,.0f} ms" for ranks in AHEAD
    )
    head = ["delay, ms", "ranks", "exchanges", "measured, ms", "fitted, ms", "off by"]
    return (
        f"Fitted to ours: {1e6 * hop:,.0f} us for an exchange beside its delay, and "
        f"{1e6 * vector:,.0f} us of these cores, for which all wait, for each vector that a rank "
        f"sends.\n\n{table(head, rows)}\n\nWhere each rank has a machine of "
        f"its own, {ETHERNET.bandwidth / 1e9 * 8:.0f} Gbit/s and a delay of "
        f"{DELAYS[-1] * 1e3:g} ms, that is for {ahead}."
    )


def way(ranks: int, *, whole: bool) -> tuple[int, float]:
    """Return exchanges one after the other, and vectors that each rank sends."""
    return sums(ranks)[0 if whole else -1]


def best(ranks: int, hop: float, delay: float) -> float:
    """Return seconds of a sum over machines of their own, the faster way."""
    sending = 4 * FLOATS[PRESET] / ETHERNET.bandwidth
    return min(hops * (delay + hop) + vectors * sending for hops, vectors in sums(ranks))


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
