"""How long random series are: short by default, long with TRAINYARD_LONG, as ``make test-long``.

TRAINYARD_LONG is a factor: 1 runs the long series, 20 runs series twenty times as long. A failure
names the seed and the variable that make its case again.
"""

import os

import pytest

_FACTOR = float(os.environ.get("TRAINYARD_LONG") or 0)

LONG = _FACTOR > 0

only_long = pytest.mark.skipif(not LONG, reason="a part of make test-long")


def length(short: int, long: int) -> int:
    """Return how many cases of a series to try."""
    return max(short, round(_FACTOR * long))


def seed(variable: str) -> int:
    """Return the first seed of a series, 0 unless an environment variable names another."""
    return int(os.environ.get(variable, "0"))
