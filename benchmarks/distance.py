"""How long a sum takes over links with a delay: ours, TensorFlow's collective and PyTorch's gloo.

Each rank has a host of its own (tests/support/switch.py), and every frame takes as long from one to
another. Needs root.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks import common
from benchmarks.allreduce import FLOATS
from benchmarks.common import ABSENT, Side, Spread, ratios, table, take_turns
from benchmarks.limits import together
from tests.support import switch

PRESET = "mlp-100"
DELAYS = (0.5e-3, 5e-3)  # seconds from one host to another
RANKS = (2, 4, 8, 16)
REPEATS = 20
NAMES = {"ours": "ours", "tensorflow": "TensorFlow", "torch": "PyTorch gloo"}
PORT = 2222


def main() -> None:
    """Measure and print."""
    chosen = common.parse(common.options(main.__doc__, rounds=5))
    rows: list[list[str]] = []
    for delay, ranks in itertools.product(
        DELAYS[:1] if chosen.quick else DELAYS, RANKS[:2] if chosen.quick else RANKS
    ):
        with switch.network("far", ranks) as network, ExitStack() as opened:
            network.delay = delay  # from the start, when ours measures it
            work: dict[str, Callable[[], float]] = {}
            for place, (kind, command) in enumerate(commands().items()):
                start = gang(network, command, PORT + 100 * place)
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


def commands() -> dict[str, list[str]]:
    """Return how a rank of each kind is started."""
    found = {kind: [sys.executable, "-m", "benchmarks.allreduce", kind] for kind in NAMES}
    if python := common.peer_python("torch"):
        found["torch"][0] = python
    else:
        del found["torch"]
    return found


@contextmanager
def gang(network: switch.Network, command: list[str], port: int) -> Iterator[list[Side]]:
    """Start a rank on each host."""
    hosts = [switch.address(host) for host in range(len(network.hosts))]
    with ExitStack() as opened:
        sides = [
            opened.enter_context(Side([*prefix, *command, str(rank), str(port), *hosts]))
            for rank, prefix in enumerate(network.hosts)
        ]
        for side in sides:
            side.send(floats=1, repeats=1)
        for side in sides:
            side.receive(limit=300)
        yield sides


if __name__ == "__main__":
    main()
