"""Errors a user can cause, each with the exit code that a scheduler acts on.

    UserError                 1   anything else a user can fix
    ├── ConfigError           2   bad arguments or configuration; retrying cannot help
    ├── DataError            65   bad data, or no usable checkpoint where one is required
    ├── CorruptError          1   weights differ between ranks; 71 when it happens again
    ├── UnavailableError     69   storage or peers not reached within the deadline; retry
    │   └── CredentialsError  2   missing or refused; 69 in a pod, which may get them late
    └── StoppedError         75   asked to stop; run again to resume
        └── PeerLostError    75   another rank was lost; run again to resume

The message is one line: what, the value, the rule, the remedy. ``__main__`` prints it to
standard error and exits with ``exit_code``; a traceback means a defect of the program.
"""

import os


class UserError(Exception):
    """Base of every error that a user can cause and fix."""

    exit_code = 1


class ConfigError(UserError):
    """Arguments, configuration, or permissions are wrong; the same command fails again."""

    exit_code = 2


class DataError(UserError):
    """An input file or checkpoint is damaged, contradictory, or missing."""

    exit_code = 65


class UnavailableError(UserError):
    """Storage or a peer was not reached within its deadline; another try may succeed."""

    exit_code = 69


class CredentialsError(UnavailableError):
    """A store is not reached because credentials are missing, too old or refused.

    On a machine, somebody has to log in. What gives credentials to a pod may not answer in its
    first seconds, so there another try may succeed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            self.exit_code = ConfigError.exit_code


class CorruptError(UserError):
    """Ranks that must have the same weights have others: a machine computes wrong.

    Attributes:
        rank: that has the wrong ones, None if nobody knows.
    """

    def __init__(self, message: str, rank: int | None) -> None:
        super().__init__(message)
        self.rank = rank


class StoppedError(UserError):
    """The run was asked to stop; the same command resumes it."""

    exit_code = 75


class PeerLostError(StoppedError):
    """This rank cannot continue because another one is gone; the same command resumes the run."""
