"""What a worker reports to its supervisor: JSON lines on the pipe that its environment names."""

import json
import os
from dataclasses import dataclass
from typing import Any

STATUS_FD = "TRAINYARD_STATUS_FD"

TRAINING, EVALUATING, GATHERING = "training", "evaluating", "gathering"
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
