"""JSON that anybody may have written: what is read of it, and what is passed over."""

import json
from typing import Any

_HUGE = 1e100


def json_object(data: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that data hold, None if they hold anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def number(value: Any, least: float = -_HUGE, most: float = _HUGE) -> float | None:
    """Return a JSON value if it is a number from ``least`` to below ``most``; NaN is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and least <= value < most else None


def measured(value: Any) -> float | None:
    """Return a JSON value if it is a number of at least 0 that can have been measured."""
    return number(value, 0, 1e12)
