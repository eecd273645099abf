"""What tests of the client share."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from trainer.errors import UserError


def job(name: str = "m") -> dict[str, Any]:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"a": 1}}


E = TypeVar("E", bound=UserError)


def raised(error: type[E], call: Callable[[], object]) -> E:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return caught.value
