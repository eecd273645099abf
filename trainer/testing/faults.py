"""The faults that chaos injects, drawn from a seed. Pure."""

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "pod", "freeze", "hold", "stop", "store", "port", "flip"]
KINDS: dict[Kind, str] = {
    "kill": "SIGKILL of a worker",
    "pod": "SIGKILL of a supervisor's tree",
    "freeze": "SIGSTOP of a worker",
    "hold": "one thread of a worker held",
    "stop": "SIGTERM of a supervisor",
    "store": "store down, slow or losing answers",
    "port": "SIGKILL, then its port taken",
    "flip": "one bit flipped in a rank's sum",
}
WEIGHTS: dict[Kind, int] = {
    "kill": 44,
    "pod": 10,
    "freeze": 8,
    "hold": 1,
    "stop": 12,
    "store": 15,
    "port": 10,
    "flip": 4,
}
OVERLAP = 0.2  # share of faults that do not wait until the gang has recovered


@dataclass(frozen=True)
class Planned:
    """One fault to inject.

    Attributes:
        kind: what happens.
        rank: the rank it hits.
        delay: seconds to wait after the gang stepped again or, if the fault before overlaps, after
            that fault.
        length: how long a store or port fault lasts, seconds.
        overlap: whether the next fault does not wait until the gang steps again.
    """

    kind: Kind
    rank: int
    delay: float
    length: float
    overlap: bool


def plan(seed: int, faults: int, workers: int, kinds: Collection[str]) -> list[Planned]:
    """Return the faults of a seed."""
    dice = random.Random(seed)  # noqa: S311
    chosen = dice.choices(
        [kind for kind in WEIGHTS if kind in kinds],
        [weight for kind, weight in WEIGHTS.items() if kind in kinds],
        k=faults,
    )
    return [
        Planned(
            kind=kind,
            rank=dice.randrange(workers),
            delay=dice.uniform(0, 2),
            length=dice.uniform(0.2, 4),
            overlap=dice.random() < OVERLAP,
        )
        for kind in chosen
    ]
