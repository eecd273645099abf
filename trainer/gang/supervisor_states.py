"""The states of a supervisor, each with what belongs to it; supervisor.py moves between them."""

import time
from dataclasses import dataclass, field

from trainer.failure import FailedError, Failure


@dataclass
class WorkerAttempt:
    """One try of this rank's worker.

    Attributes:
        number: counted by the rendezvous.
        log_start: where its part of the standard error begins, bytes.
        start: when it was started, monotonic seconds.
        heard: when it last gave a sign of life.
        loading: the fork server's, while that has not loaded everything.
        joined: whether the workers have met.
        failure: as the worker reports it.
        trouble: why this supervisor ends it.
    """

    number: int
    log_start: int
    start: float
    heard: float
    loading: "Loading | None"
    joined: bool = False
    failure: Failure | None = None
    trouble: Failure | None = None


@dataclass
class Loading:
    """The fork server imports TensorFlow and loads the data.

    Attributes:
        lost: fork servers that were lost in a row before one had loaded.
        since: monotonic seconds.
        failure: as the fork server reports it.
    """

    lost: int = 0
    since: float = field(default_factory=time.monotonic)
    failure: Failure | None = None


@dataclass
class Ready:
    """A worker could start; the gang has not met.

    Attributes:
        reported: whether the rendezvous knows.
        incomplete_since: when ranks began to be missing, monotonic seconds.
        port_taken_since: when a port of this rank began to be taken.
    """

    reported: bool = False
    incomplete_since: float | None = None
    port_taken_since: float | None = None


@dataclass
class Running:
    """The worker trains."""

    attempt: WorkerAttempt


@dataclass
class Leaving:
    """The worker was asked to go, or killed.

    Attributes:
        attempt: its own.
        kill_at: when it is killed, monotonic seconds.
        killed: whether it was.
        stopping: whether this supervisor was asked to stop.
        outcome: raised once the worker is gone, if there is nothing to come back for.
    """

    attempt: WorkerAttempt
    kill_at: float
    killed: bool = False
    stopping: bool = False
    outcome: FailedError | None = None


@dataclass
class Finished:
    """The run is finished; rank 0 waits for the others."""

    since: float = field(default_factory=time.monotonic)


State = Loading | Ready | Running | Leaving | Finished
