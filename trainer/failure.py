"""Why a worker ended: one record that ranks send, run folders keep and the diagnosis reads.

Programs look at the kind and the numbers. The sentences are for people, in any wording. Records
come from peers, pods and run folders, so reading one checks it and bounds its size.
"""

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from trainer.common.text import one_line
from trainer.errors import CorruptError, PeerLostError, UserError

Kind = Literal[
    "config",  # bad arguments, configuration or permissions
    "data",  # bad data, or a damaged checkpoint
    "unavailable",  # storage or a peer was not reached in time
    "port_taken",  # another process listens on a port of this rank
    "peers_missing",  # the gang did not meet in time
    "out_of_memory",  # the kernel killed the worker
    "killed",  # by any other signal
    "crashed",  # ended with an exit code of its own
    "stalled",  # gave no sign of life, or finished no step
    "corrupt",  # its weights, or with rank None somebody's, are wrong
    "stopped",  # somebody asked for it
    "resized",  # made room for another number of workers
    "peer_lost",  # left because another rank had failed
    "supervisor_lost",  # the connection to its supervisor broke
    "unknown",  # a record of another version
]
KINDS: tuple[Kind, ...] = get_args(Kind)
OF_EXIT_CODE: dict[int, Kind] = {2: "config", 65: "data", 69: "unavailable", 75: "stopped"}
BAD_MACHINE = 71  # exit code of a rank whose weights were wrong again and again
FINAL = frozenset({2, 65, 69, BAD_MACHINE})  # exit codes after which a gang does not start again
LONGEST = {"message": 2800, "remedy": 400}  # bytes as JSON
MOST_MISSING = 64
MOST_BYTES = 4000  # of a record as JSON: Kubernetes keeps 4,096, and a pipe takes as many at once


def known_kind(value: Any) -> Any:
    """Return a kind from outside, "unknown" in place of one of another version."""
    return value if value in KINDS else "unknown"


class Failure(BaseModel):
    """One worker's failure.

    Attributes:
        kind: for programs.
        rank: whose worker failed.
        code: exit code that says so to a scheduler.
        message: what happened, one line without the rank.
        remedy: what to do about it; empty where the message says it, or nothing can be done.
        missing: ranks that were not there, at most MOST_MISSING.
        consequence: whether whoever reports this ended only because another rank had failed.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    kind: Annotated[Kind, BeforeValidator(known_kind)] = "unknown"
    rank: Annotated[int, Field(ge=0, lt=1024)] | None = None
    code: Annotated[int, Field(ge=-256, le=256)]
    message: str
    remedy: str = ""
    missing: Annotated[tuple[Annotated[int, Field(ge=0, lt=1024)], ...], Field(strict=False)] = ()
    consequence: bool = False

    @field_validator("message", "remedy")
    @classmethod
    def _is_one_short_line(cls, value: str, info: Any) -> str:
        longest = LONGEST[info.field_name]
        line = one_line(value, longest)
        while (over := len(json.dumps(line)) - longest) > 0:
            line = line[: -(over // 12 + 1)]  # no character takes more bytes in JSON
        return line

    @field_validator("missing")
    @classmethod
    def _is_bounded(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return value[:MOST_MISSING]

    @property
    def names_a_cause(self) -> bool:
        """Whether it says more than that this worker left or another one is gone."""
        return self.kind not in ("stopped", "resized", "peer_lost", "supervisor_lost")

    def but(self, **changes: Any) -> "Failure":
        """Return a copy with some values changed."""
        return Failure(**{**self.model_dump(), **changes})

    def sentence(self, workers: int) -> str:
        """Return it for people; ``workers`` decides whether the rank needs naming."""
        # Records of earlier versions name it in their message.
        named = workers > 1 and self.rank is not None and self.kind != "unknown"
        whose = f"rank {self.rank}: " if named else ""
        return f"{whose}{self.message}{f'; {self.remedy}' if self.remedy else ''}"

    def record(self) -> dict[str, Any]:
        """Return it ready for JSON, in which it takes at most MOST_BYTES."""
        return self.model_dump(mode="json")


class FailedError(UserError):
    """Ends this process because of a failure, its own or another rank's."""

    def __init__(self, failure: Failure, workers: int, exit_code: int | None = None) -> None:
        super().__init__(failure.sentence(workers))
        self.failure = failure
        self.exit_code = failure.code if exit_code is None else exit_code


def parse(value: Any) -> Failure | None:
    """Return the failure that a JSON value from outside holds, or None if it holds none."""
    try:
        return Failure.model_validate(value)
    except ValidationError:
        return None


def of(error: UserError, rank: int | None = None) -> Failure:
    """Return the failure that an error reports."""
    if isinstance(error, FailedError):
        return error.failure
    if isinstance(error, CorruptError):
        rank, code = error.rank, error.exit_code
        return Failure(kind="corrupt", rank=rank, code=code, message=one_line(error))
    lost = isinstance(error, PeerLostError)
    kind = "peer_lost" if lost else OF_EXIT_CODE.get(error.exit_code, "crashed")
    return Failure(kind=kind, rank=rank, code=error.exit_code, message=one_line(error))
