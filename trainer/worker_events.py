"""What a worker reports to its supervisor: JSON lines on the pipe that its environment names."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STATUS_FD = "TRAINYARD_STATUS_FD"

TRAINING, EVALUATING, GATHERING = "training", "evaluating", "gathering"
SHOWN = (
    *("step", "loss", "accuracy", "images_per_second"),
    *("validation_loss", "validation_accuracy"),
)
RANKS = 64  # in an event: a pipe takes 4,096 bytes at once
AT_THE_STORE = ""  # or other work that has limits of its own

Event = dict[str, Any]


@dataclass(frozen=True)
class Pulse:
    """What a heartbeat carries.

    Attributes:
        work: TRAINING, EVALUATING, GATHERING (values of all ranks), or AT_THE_STORE.
        count: grows with every step.
        waits: whether it waits for other ranks now, as far as is known.
        first: whether this worker has not done such work before, which then is compiled.
    """

    work: str
    count: int
    waits: bool
    first: bool = True


def tell_parent(**event: Any) -> bool:
    """Write one event to the parent's pipe; return False if nobody listens."""
    if STATUS_FD not in os.environ:
        return False
    try:
        os.write(int(os.environ[STATUS_FD]), (json.dumps(event) + "\n").encode())
    except OSError:  # the parent is gone; then standard error is all there is
        return False
    return True


def tell_metrics(record: Mapping[str, Any], total: int) -> None:
    """Report a line of metrics.jsonl and the steps of the run, for those who ask the supervisor."""
    shown = {name: record[name] for name in SHOWN if name in record}
    tell_parent(event="metrics", total=total, **shown)
    of_ranks = {name: record[name] for name in ("compute_ms", "wait_ms") if name in record}
    if of_ranks:
        of_ranks["ranks"] = record.get("ranks", [*range(len(record["compute_ms"]))])
    for first in range(0, len(of_ranks.get("ranks", [])), RANKS):
        part = {name: values[first : first + RANKS] for name, values in of_ranks.items()}
        tell_parent(event="ranks", **part)
