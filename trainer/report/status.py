"""How a run stands: finished, in progress, stopped or failed; why, and what to do. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainer.common.text import plural
from trainer.failure import FINAL, Kind
from trainer.runs.reader import Attempt

State = Literal["finished", "in progress", "interrupted", "stopped", "failed"]

ANOTHER_FOLDER = "Other settings make another run, which needs a folder of its own."
AGAIN = "The same command resumes the run from its newest checkpoint."
# By what ended the last attempt. A message of kinds "config" and "data" says what to change itself.
REMEDIES: dict[Kind, str] = {
    "config": f"Change what this names, and start again. {ANOTHER_FOLDER}",
    "data": f"Repair or replace what this names, and start again. {AGAIN}",
    "unavailable": f"See that what this names answers. {AGAIN}",
    "port_taken": f"End what listens there. {AGAIN}",
    "peers_missing": f"See why the missing ranks did not come. {AGAIN}",
    "out_of_memory": f"Give each worker more memory, or train with more workers. {AGAIN}",
    "stopped": AGAIN,
}
RESTARTING = (
    "The workers start again by themselves, unless too many restarts brought no new checkpoint, "
    f"or the whole command was ended. {AGAIN}"
)


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes:
        state: "interrupted" where its last attempt was cut short and the next may have begun.
        why: a sentence; empty where there is nothing to say.
        remedy: what to do, in sentences; empty if nothing.
    """

    state: State
    why: str = ""
    remedy: str = ""

    @property
    def is_trouble(self) -> bool:
        """Whether the run is neither finished nor in progress."""
        return self.state in ("interrupted", "stopped", "failed")


def of(
    *, result: Mapping[str, Any] | str, attempts: Sequence[Attempt] | str, last_step: int
) -> Status:
    """Return how a run stands.

    Args:
        result: its result.json, empty if there is none, or why it is not known.
        attempts: that have ended, or why they are not known.
        last_step: of its metrics.
    """
    if result:
        return Status("finished", result if isinstance(result, str) else "")
    if isinstance(attempts, str):
        return Status("in progress", f"Whether an attempt has failed is not known: {attempts}")
    if not attempts or last_step > max(each.last_step for each in attempts):
        again = f" after {plural(len(attempts), 'attempt')} that ended" if attempts else ""
        return Status(
            "in progress",
            f"It trains{again}, or has ended without a trace. This page shows what is stored.",
        )
    last = attempts[-1]
    if last.cause and last.cause.kind == "resized":
        return Status("in progress", f"Step {last.last_step:,}: {last.cause.message}.")
    if last.cause is None:
        return Status("in progress", "All steps are done; the result is not stored yet.")
    when = f"{last.ended:%Y-%m-%d %H:%M:%S} UTC, at step {last.last_step:,}"
    why = f"Attempt {last.number} ended {when}: {last.ended_by}."
    kind = last.cause.kind
    if kind == "stopped":
        return Status("stopped", why, REMEDIES[kind])
    remedy = (
        f"{last.cause.remedy[:1].upper()}{last.cause.remedy[1:]}. " if last.cause.remedy else ""
    )
    if last.cause.code in FINAL:
        return Status("failed", why, remedy + REMEDIES.get(kind, AGAIN))
    return Status("interrupted", why, remedy + REMEDIES.get(kind, RESTARTING))
