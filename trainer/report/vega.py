"""Draws charts: series as Vega-Lite specs, and these as static SVG.

An SVG holds no text but numbers: names, titles and legends are HTML around it, so nothing that a
run says reaches it. Its colours are those of PALETTE for a light page; the page's style sheet
exchanges each of them, by its value, for the variable that follows the theme.
"""

import contextlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from markupsafe import Markup

from trainer.report.series import Kind, Points, Series, short

WIDTH, HEIGHT = 300, 206  # CSS pixels: four abreast on a desktop, one on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 28, 24  # around the plot
PLOT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

# On a light and on a dark page. Series: at least 4.5:1 against both pages' cards, and distinct
# with any of the usual colour blindnesses by hue, lightness or dash.
PALETTE = {
    "series-1": ("#0b63b8", "#62b0ff"),
    "series-2": ("#b84a08", "#ffa061"),
    "series-3": ("#00735f", "#46cfae"),
    "series-4": ("#7d3fb8", "#c8a2ff"),
    "series-5": ("#7a5c01", "#e6c54f"),
    "series-6": ("#b81f5c", "#ff8fb4"),
    "series-7": ("#4f5965", "#b0bac5"),
    "series-8": ("#2e2f86", "#9aa0ff"),
    "grid": ("#e3e6eb", "#2c323a"),
    "axis": ("#8b939e", "#6b7480"),
    "label": ("#565f6b", "#a3adb9"),
    "mark": ("#8a5a00", "#d9a441"),
}
FONT = "system-ui, sans-serif"
DASHES: tuple[list[int], ...] = ([], [6, 3], [2, 2], [8, 3, 2, 3])  # of series that share a colour

_SURPLUS = re.compile(r' (?:aria-[a-z]+|role|class|pointer-events)="[^"]*"')

# The library holds a browser's engine, which reserves 64 GB of addresses and ends its process where
# it cannot have them, as under `ulimit -v`.
_PROGRAM = """
import json, sys, vl_convert
for spec in json.load(sys.stdin):
    print(json.dumps(vl_convert.vegalite_to_svg(spec)), flush=True)
"""
_PATIENCE = 40.0  # seconds for all charts of a page, which take one or two

Spec = dict[str, Any]


def draw(specs: Mapping[str, Spec]) -> dict[str, Markup]:
    """Return the pictures of specs by name, without scripts, ids or names from outside.

    A process of its own draws them. What it fails to draw is missing.
    """
    if not specs:
        return {}
    given = json.dumps(list(specs.values()), allow_nan=False).encode()
    with contextlib.suppress(OSError):
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            output = child.communicate(given, _PATIENCE)[0]
        except subprocess.TimeoutExpired:
            child.kill()
            output = child.communicate()[0]
        *lines, _ = output.split(b"\n")  # behind the last one, what was cut by the process's end
        # Of its attributes some are for readers of a chart that is not one picture.
        pictures = (Markup(_SURPLUS.sub("", json.loads(line))) for line in lines)  # noqa: S704
        return dict(zip(specs, pictures, strict=False))
    return {}


def colour(name: str) -> str:
    """Return a colour of PALETTE on a light page."""
    return PALETTE[name][0]


def tick_text(value: float, kind: Kind, values: Sequence[float]) -> str:
    """Return the label of a tick among others, as ``axis`` has them."""
    if kind == "percent":
        return f"{value:.{_digits(values)}%}"
    size, unit = next((s for s in ((1e6, "M"), (1e3, "k")) if abs(value) >= s[0]), (1.0, ""))
    return f"{value / size:.6g}{unit}" if value else "0"


def axis(
    domain: tuple[float, float], values: list[float], kind: Kind, *, log: bool = False
) -> Spec:
    """Return an axis over a domain, perhaps of logarithms, with ticks at these values."""
    if kind == "percent":
        label = f"format(datum.value, '.{_digits(values)}%')"
    else:  # 0 would be "0k" among thousands
        size = "~s" if values[-1] >= 1000 and not log else ".6~g"
        label = f"datum.value ? format(datum.value, '{size}') : '0'"
    return {
        "type": "quantitative",
        "scale": {
            "domain": list(domain),
            "nice": False,
            **({"type": "log"} if log else {"zero": False}),
        },
        "axis": {"values": values, "title": None, "labelExpr": label},
    }


def _digits(shares: Sequence[float]) -> int:
    """Return the decimals that tell ticks in percent from each other."""
    return max(len(f"{100 * value:.9g}".partition(".")[2]) for value in shares)


def frame(layers: list[Spec], x: Spec, y: Spec) -> Spec:
    """Return a spec with its plot at a fixed place, which page.js relies on."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": PLOT[0],
        "height": PLOT[1],
        "autosize": "none",
        "padding": {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        "background": None,
        "encoding": {"x": {"field": "x", **x}, "y": {"field": "y", **y}},
        "layer": layers,
        "config": {
            "aria": False,
            "view": {"stroke": None},
            "axis": {
                "labelFont": FONT,
                "labelFontSize": 12,
                "labelColor": colour("label"),
                "labelBound": False,
                "labelFlush": True,
                "gridColor": colour("grid"),
                "domainColor": colour("axis"),
                "tickColor": colour("axis"),
                "tickSize": 4,
            },
            "axisX": {"grid": False},
            "axisY": {"domain": False, "ticks": False, "labelFlush": False},
        },
    }


def layers_of(series: Series, most: float = math.inf) -> list[Spec]:
    """Return a line through the points, if there are several, and dots on them, if wanted.

    The line has gaps where it is above ``most``.
    """
    line = {
        "type": "line",
        "color": colour(series.colour),
        "strokeWidth": 1.75,
        "strokeJoin": "round",
    }
    if DASHES[series.dash]:
        line["strokeDash"] = DASHES[series.dash]
    dot = {"type": "point", "filled": True, "size": 26, "opacity": 1, "color": line["color"]}
    layers = [
        {"data": {"values": _values(part)}, "mark": line}
        for part in _below(series.points, most)
        if len(part) > 1
    ]
    dots = [point for point in series.points if point[1] <= most]
    return [*layers, {"data": {"values": _values(dots)}, "mark": dot}] if series.dots else layers


def _below(points: Points, most: float) -> list[Points]:
    """Return the parts of a line that are not above ``most``, up to where it crosses that."""
    line = [*points[:1]]
    for (x, y), (next_x, next_y) in pairwise(points):
        if (y > most) != (next_y > most):
            line.append((x + (next_x - x) * (most - y) / (next_y - y), most))
        line.append((next_x, next_y))
    parts = groupby(line, lambda point: point[1] <= most)
    return [tuple(part) for is_below, part in parts if is_below]


def rings(lone: Sequence[Series]) -> list[Spec]:
    """Return a ring for each series of one point, smaller and smaller, so that none hides one."""
    ring = {"type": "point", "filled": False, "strokeWidth": 2, "opacity": 1}
    return [
        {
            "data": {"values": _values(series.points)},
            "mark": {**ring, "size": 110 / (k + 1) ** 2, "color": colour(series.colour)},
        }
        for k, series in enumerate(lone)
    ]


def _values(points: Iterable[tuple[float, float]]) -> list[dict[str, float]]:
    return [{"x": short(x), "y": short(y)} for x, y in points]


def upper_axis(labels: Sequence[tuple[float, str]]) -> Spec:
    """Return an axis above the plot: numbers, and the places on the axis below it of each."""
    return {
        "data": {"values": [{"x": place, "label": label} for place, label in labels]},
        "layer": [
            {
                "mark": {"type": "rule", "color": colour("axis")},
                "encoding": {"y": {"value": -4}, "y2": {"value": 0}},
            },
            {
                "mark": {
                    "type": "text",
                    "color": colour("label"),
                    "font": FONT,
                    "fontSize": 12,
                },
                "encoding": {"y": {"value": -12}, "text": {"field": "label"}},
            },
        ],
    }


def dashes_at(places: Sequence[float]) -> Spec:
    """Return dashed lines over the height of the plot, with a triangle on the axis."""
    data = {"values": [{"x": place} for place in places]}
    height = PLOT[1]
    return {
        "data": data,
        "layer": [
            {
                "mark": {
                    "type": "rule",
                    "color": colour("mark"),
                    "strokeDash": [3, 3],
                    "opacity": 0.8,
                },
                "encoding": {"y": {"value": 0}, "y2": {"value": height}},
            },
            {
                "mark": {
                    "type": "point",
                    "shape": "triangle-up",
                    "filled": True,
                    "size": 40,
                    "opacity": 1,
                    "color": colour("mark"),
                },
                "encoding": {"y": {"value": height - 3}},
            },
        ],
    }
