"""When a gang is not restarted again: too often in vain, or a machine computes wrong. Pure."""

from collections import Counter

from trainer.failure import BAD_MACHINE, Failure


class RestartLimit:
    """Counts the restarts of one gang.

    Args:
        most: restarts in a row without a new step.

    Attributes:
        without_progress: restarts since the last new step.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.without_progress = 0
        self._corrupt = Counter[int]()  # how often a rank's weights were wrong

    def reached(self, cause: Failure | None, *, progress: bool) -> bool:
        """Count a restart; return whether it is one too many.

        It counts unless the attempt before made ``progress``, was stopped on request, or ended
        without a ``cause``.
        """
        asked = cause is None or (cause.kind == "stopped" and not cause.consequence)
        self.without_progress = 0 if progress else self.without_progress + (not asked)
        return self.without_progress > self._most

    def judge(self, failure: Failure) -> Failure:
        """Return a failure, final if it is the second time that this rank's weights were wrong."""
        if failure.kind != "corrupt" or failure.rank is None:
            return failure
        self._corrupt[failure.rank] += 1
        if self._corrupt[failure.rank] == 1:
            return failure
        return failure.but(
            code=BAD_MACHINE,
            message=f"{failure.message}, for the second time",
            remedy="have its memory and processor tested and train on other machines; the same "
            "command resumes from the last checkpoint on which all ranks agreed",
        )
