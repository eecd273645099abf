"""Pauses between tries, with a clock of its own."""

import itertools
import time

import pytest

from trainer.storage.retries import OutOfTimeError, keep_trying


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses made; time passes in them alone."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(made))
    return made


def fail(error: Exception) -> None:
    raise error


def test_pauses_grow_are_random_and_end_before_the_deadline(pauses: list[float]) -> None:
    left: list[float] = []
    last = TimeoutError()

    def attempt(seconds: float) -> None:
        left.append(seconds)
        fail(last)

    with pytest.raises(OutOfTimeError) as caught:
        keep_trying(attempt, lambda _: True, 120)
    assert caught.value.last is last
    assert len(left) == len(pauses) + 1 > 15
    assert left[0] == 120
    assert all(before > after >= 0.1 for before, after in itertools.pairwise(left))
    assert sum(pauses) < 120
    assert all(pause <= min(0.2 * 2**number, 8) for number, pause in enumerate(pauses))
    assert max(pauses) > 2
    assert len(set(pauses)) == len(pauses)


def test_what_will_not_pass_is_raised_at_once(pauses: list[float]) -> None:
    with pytest.raises(KeyError):
        keep_trying(lambda _: fail(KeyError()), lambda error: not isinstance(error, KeyError), 120)
    assert pauses == []


def test_a_try_that_succeeds_ends_the_pauses(pauses: list[float]) -> None:
    errors = [TimeoutError(), TimeoutError()]

    def attempt(seconds: float) -> float:
        if errors:
            raise errors.pop()
        return seconds

    assert keep_trying(attempt, lambda _: True, 1) == 1 - sum(pauses)
    assert len(pauses) == 2
