"""Named series of points: thinned, with round ticks, and their values in words. Pure."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

MOST_POINTS = 300

_TINY = 1e-100  # what is below might be divided by too often

Kind = Literal["number", "percent"]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: for legend, table and hover.
        points: (x, y) in the order of x, finite.
        colour: a name of PALETTE.
        dash: index into DASHES.
        dots: whether to mark every point; a single one has a ring.
    """

    name: str
    points: Points
    colour: str = "series-1"
    dash: int = 0
    dots: bool = False


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """Return at most ``most`` points: the first, the last, and means of those between."""
    if len(points) <= most:
        return tuple(points)
    inner, count = points[1:-1], most - 2
    edges = [len(inner) * k // count for k in range(count + 1)]
    means = (
        (
            sum(x for x, _ in inner[a:b]) / (b - a),
            sum(y for _, y in inner[a:b]) / (b - a),
        )
        for a, b in pairwise(edges)
    )
    return (points[0], *means, points[-1])


def ticks(low: float, high: float, about: int = 5, *, whole: bool = False) -> list[float]:
    """Return round numbers at equal distances, the first <= ``low``, the last >= ``high``.

    Equal values span the way from 0 to them, or from 0 to 1.
    """
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-6 * largest, _TINY):  # equal, or too near for labels to differ
        low, high = (min(low, 0.0), max(high, 0.0)) if largest > _TINY else (0.0, 1.0)
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    steps = [unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= rough * 0.999]
    step = next((step for step in steps if step.is_integer()), 1.0) if whole else steps[0]
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    # 12 digits hide what multiplying leaves behind: 3 * 0.1 is not 0.3.
    return [float(f"{k * step:.12g}") for k in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers for an axis of logarithms, the first <= ``low``, the last >= ``high``.

    ``low`` is above 0 and smaller than ``high``. Over up to two powers of ten, these are 1, 2 and 5
    times each; over more, the powers alone, at most eight of them.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = (1, 2, 5) if math.log10(high / low) <= 2 else (1,)
    every = max(1, math.ceil((last - first) / 6))
    powers = range(first, last + every, every)
    found = [float(f"{part}e{power}") for power in powers for part in parts]
    start = max(place for place, tick in enumerate(found) if tick <= low * (1 + 1e-9))
    end = min(place for place, tick in enumerate(found) if tick >= high * (1 - 1e-9))
    return found[start : end + 1]


def text(value: float, kind: Kind) -> str:
    """Return a value for people."""
    if kind == "percent":
        return f"{value:.2%}"
    grouped = abs(value) < 1e15 and (abs(value) >= 1000 or value == int(value))
    return f"{value:,.0f}" if grouped else f"{value:.4g}"


def spread(points: Points, most: int) -> Points:
    """Return at most ``most`` of the points, the first and the last among them."""
    if len(points) <= most:
        return points
    return tuple(points[round(k * (len(points) - 1) / (most - 1))] for k in range(most))


def short(value: float) -> float:
    """Return a number with six digits, which nobody sees the end of in a chart."""
    return float(f"{value:.6g}")
