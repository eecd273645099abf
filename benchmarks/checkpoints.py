"""For how long a checkpoint stops training, and how long it takes: ours and Orbax's, by size.

python -m benchmarks.checkpoints --data URI
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import common
from benchmarks.common import ABSENT, Side, Spread, ratios, table, take_turns

SIZES = (1, 10, 100, 1000)  # megabytes
NAMES = {"ours": "trainyard", "orbax": "Orbax"}


def main() -> None:
    """Measure and print."""
    chosen = common.parse(common.options(main.__doc__, rounds=5))
    rows = [measured(size, chosen) for size in (SIZES[:1] if chosen.quick else SIZES)]
    head = ["MB", *(f"{name} stops, ms" for name in NAMES.values()), "Orbax / ours"]
    head += [f"{name} stored, ms" for name in NAMES.values()]
    about = (
        "Weights and Adam's slots stored in a local folder while nothing trains: milliseconds for "
        "which training would stand still, and until the checkpoint is stored; median (least to "
        f"greatest) of {chosen.rounds} checkpoints of each in turns."
    )
    body = [
        table(head, rows),
        "Ours copies the state, which it does at the end of every chunk, to survive a fault; the "
        "rest is done by a thread: it checks that all values are finite, computes a SHA-256 of "
        "the file, and stores it. Orbax is its `CheckpointManager` with its defaults, on one "
        "machine.",
    ]
    common.publish(chosen, "Checkpoints", about, "\n\n".join(body))


def measured(size: int, chosen: argparse.Namespace) -> list[str]:
    """Return the row of a size."""
    commands = {"ours": [sys.executable]}
    if python := common.peer_python("orbax-checkpoint"):
        commands["orbax"] = [python]
    stored: dict[str, list[float]] = {kind: [] for kind in commands}
    with ExitStack() as opened:
        work: dict[str, Callable[[], float]] = {}
        for kind, command in commands.items():
            folder = opened.enter_context(tempfile.TemporaryDirectory())
            more = [chosen.data] if kind == "ours" else []
            program = [*command, "-m", "benchmarks.checkpoint_side", kind, str(size)]
            side = opened.enter_context(Side([*program, f"{folder}/run", *more]))

            def blocked(side: Side = side, kind: str = kind) -> float:
                answer = side.ask()
                stored[kind].append(answer["stored"])
                return float(answer["blocked"])

            blocked()  # imports, and makes the folder
            stored[kind].clear()
            work[kind] = blocked
        times = take_turns(work, chosen.rounds)
    row = [str(size)]
    row += [_milliseconds(times.get(kind)) for kind in NAMES]
    row.append(ratios(times["orbax"], times["ours"]).text(".2f") if "orbax" in times else ABSENT)
    return row + [_milliseconds(stored.get(kind)) for kind in NAMES]


def _milliseconds(seconds: list[float] | None) -> str:
    return Spread.of(s * 1e3 for s in seconds).text(".1f") if seconds else ABSENT


if __name__ == "__main__":
    main()
