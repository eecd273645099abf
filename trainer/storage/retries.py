"""Requests that are made again until they succeed or time is up."""

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from trainer.errors import UnavailableError
from trainer.storage import endpoints

T = TypeVar("T")

# How clients call it that a server which speaks TLS drops what does not.
_DROPPED = re.compile("reset by peer|closed connection|error sending request|BadStatusLine")


class OutOfTimeError(Exception):
    """No try succeeded within the deadline.

    Attributes:
        last: the error of the last try.
    """

    def __init__(self, last: Exception) -> None:
        super().__init__(str(last))
        self.last = last


def keep_trying(
    attempt: Callable[[float], T], is_transient: Callable[[Exception], bool], deadline: float
) -> T:
    """Return what ``attempt`` returns, with growing random pauses between tries.

    Args:
        attempt: called with the seconds that are left, at least 0.1.
        is_transient: whether another try may succeed after this error.
        deadline: seconds from now after which no try begins. At 120, the default of storages,
            pauses grow from at most 0.2 s to at most 8 s.

    Raises:
        OutOfTimeError: time is up.
        Exception: of ``attempt``, where it is not transient.
    """
    end = time.monotonic() + deadline
    longest = deadline / 600
    while True:
        try:
            return attempt(max(0.1, end - time.monotonic()))
        except Exception as error:
            if not is_transient(error):
                raise
            pause = random.uniform(0, longest)  # noqa: S311 - spreads retries, keeps no secret
            if time.monotonic() + pause >= end:
                raise OutOfTimeError(error) from error
        time.sleep(pause)
        longest = min(2 * longest, deadline / 15)


def unanswered(what: str, endpoint: str, deadline: float, last: str) -> UnavailableError:
    """Return the error of a call that ran out of time.

    Args:
        what: ``cannot VERB URI``.
        endpoint: where its requests went.
        deadline: the time that it had, seconds.
        last: what the last answer was, in a few words.
    """
    remedy = "try again later"
    if endpoint.startswith("http:") and _DROPPED.search(last):
        remedy += ", or write https:// if the server has a certificate"
    return UnavailableError(
        f"{what}: {endpoint}{endpoints.way(endpoint)} gave no good answer within {deadline:g} s, "
        f"the last was {last}; {remedy}"
    )
