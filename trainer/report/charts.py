"""Charts of a page: named series of points to Vega-Lite specs, and those to static SVG.

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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from markupsafe import Markup

WIDTH, HEIGHT = 300, 190  # CSS pixels: four abreast on a desktop, one on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 24  # around the plot
MOST_POINTS = 300
TABLE_ROWS = 20

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
DASHES: tuple[list[int], ...] = ([], [6, 3], [2, 2], [8, 3, 2, 3])  # of series that share a colour

_TINY = 1e-100  # what is below might be divided by too often
_SURPLUS = re.compile(r' (?:aria-[a-z]+|role|class|pointer-events)="[^"]*"')

# The library holds a browser's engine, which reserves 64 GB of addresses and ends its process where
# it cannot have them, as under `ulimit -v`.
_PROGRAM = """
import json, sys, vl_convert
for spec in json.load(sys.stdin):
    print(json.dumps(vl_convert.vegalite_to_svg(spec)), flush=True)
"""
_PATIENCE = 40.0  # seconds for all charts of a page, which take one or two

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


@dataclass(frozen=True)
class Chart:
    """What ``pages/chart.html`` shows: title, legend, picture, values on hover, and a table.

    Attributes:
        key: unique in the page.
        title: its heading.
        gist: for those who cannot see it.
        spec: Vega-Lite.
        series: what the spec draws.
        x_name: of the first column of the table.
        x_kind, kind: how values along and up are written.
        x, y: first and last value of the axes.
    """

    key: str
    title: str
    gist: str
    spec: dict[str, Any]
    series: tuple[Series, ...]
    x_name: str
    x_kind: Kind
    kind: Kind
    x: tuple[float, float]
    y: tuple[float, float]

    @property
    def hover(self) -> dict[str, Any]:
        """Return what page.js needs to show the value of a point; positions in the SVG's pixels."""
        return {
            "plot": [LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM],
            "x": self.x,
            "y": self.y,
            "xName": self.x_name,
            "xKind": self.x_kind,
            "kind": self.kind,
            "series": [
                {
                    "name": series.name,
                    "colour": series.colour,
                    "points": [[_short(x), _short(y)] for x, y in series.points],
                }
                for series in self.series
            ],
        }

    @property
    def table(self) -> list[list[str]]:
        """Rows of x and the value of every series there, about TABLE_ROWS for each series."""
        columns = [dict(_spread(series.points, TABLE_ROWS)) for series in self.series]
        return [
            [
                text(x, self.x_kind),
                *(text(column[x], self.kind) if x in column else "" for column in columns),
            ]
            for x in sorted({x for column in columns for x in column})
        ]


def draw(charts: Sequence[Chart]) -> dict[str, Markup]:
    """Return the pictures of charts by key, without scripts, ids or names from outside.

    A process of its own draws them. What it fails to draw is missing.
    """
    if not charts:
        return {}
    specs = json.dumps([chart.spec for chart in charts], allow_nan=False).encode()
    with contextlib.suppress(OSError):
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            output = child.communicate(specs, _PATIENCE)[0]
        except subprocess.TimeoutExpired:
            child.kill()
            output = child.communicate()[0]
        *lines, _ = output.split(b"\n")  # behind the last one, what was cut by the process's end
        # Of its attributes some are for readers of a chart that is not one picture.
        pictures = (Markup(_SURPLUS.sub("", json.loads(line))) for line in lines)  # noqa: S704
        return {chart.key: svg for chart, svg in zip(charts, pictures, strict=False)}
    return {}


def line(
    key: str,
    title: str,
    series: Sequence[Series],
    *,
    kind: Kind = "number",
    best: Literal["lowest", "highest"] | None = None,
    from_zero: bool = False,
    marks: Sequence[float] = (),
    x_name: str = "step",
) -> Chart:
    """Return a chart of lines over steps; series without points are left out.

    Args:
        key: unique in the page.
        title: its heading.
        series: at least one with a point; points beyond MOST_POINTS are thinned out.
        kind: of the values.
        best: which extreme the gist names.
        from_zero: whether the values' axis has 0, too.
        marks: where on the axis to draw a dashed line, such as a restart.
        x_name: of the axis.
    """
    thinned = tuple(replace(each, points=thin(each.points)) for each in series if each.points)
    assert thinned, f"chart {key} without a point"
    xs = [x for each in thinned for x, _ in each.points]
    ys = [y for each in thinned for _, y in each.points]
    among = [*ys, 0.0] if from_zero else ys
    y_ticks = ticks(min(among), max(among))
    x_end = max(*xs, *marks, 1)
    x_ticks = [tick for tick in ticks(0, x_end, 4, whole=True) if tick <= x_end]
    x, y = (0.0, float(x_end)), (y_ticks[0], y_ticks[-1])
    layers = [layer for each in thinned for layer in _series_layers(each)]
    layers += _lone_layers([each for each in thinned if len(each.points) == 1])
    if marks:
        layers.insert(0, _mark_layer(marks))
    spec = _frame(layers, _axis(x, x_ticks, "number"), _axis(y, y_ticks, kind))
    gist = f"{title} over {x_name}s. " + " ".join(
        _gist(each, kind, best, x_name) for each in thinned
    )
    return Chart(key, title, gist, spec, thinned, x_name, "number", kind, x, y)


def reliability(
    key: str,
    title: str,
    bins: Sequence[tuple[float, float, float, float]],
    gist: str,
) -> Chart:
    """Return a reliability diagram: how often the model is right over how sure it is.

    Args:
        key: unique in the page.
        title: its heading.
        bins: mean probability, accuracy, and its interval, all 0 to 1.
        gist: in words.
    """
    series = Series("accuracy", tuple((x, y) for x, y, _, _ in bins), "series-1", dots=True)
    whiskers = [{"x": x, "y": low, "y2": high} for x, _, low, high in bins]
    layers = [
        {
            "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
            "mark": {"type": "line", "color": _colour("axis"), "strokeDash": [4, 4]},
        },
        {
            "data": {"values": whiskers},
            "mark": {"type": "rule", "color": _colour("series-1"), "opacity": 0.45, "size": 2},
            "encoding": {"y2": {"field": "y2"}},
        },
        *_series_layers(series),
    ]
    whole = (0.0, 1.0)
    axis = _axis(whole, [0, 0.25, 0.5, 0.75, 1], "percent")
    spec = _frame(layers, axis, axis)
    return Chart(
        key, title, gist, spec, (series,), "probability", "percent", "percent", whole, whole
    )


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


def text(value: float, kind: Kind) -> str:
    """Return a value for people."""
    if kind == "percent":
        return f"{value:.2%}"
    grouped = abs(value) < 1e15 and (abs(value) >= 1000 or value == int(value))
    return f"{value:,.0f}" if grouped else f"{value:.4g}"


def _gist(series: Series, kind: Kind, best: str | None, x_name: str) -> str:
    def at(point: tuple[float, float]) -> str:
        return f"{text(point[1], kind)} at {x_name} {text(point[0], 'number')}"

    points = series.points
    if len(points) == 1:
        return f"{series.name}: {at(points[0])}."
    words = f"{series.name}: from {at(points[0])} to {at(points[-1])}"
    if best:
        extreme = (min if best == "lowest" else max)(points, key=lambda point: point[1])
        words += f", {best} {at(extreme)}"
    return f"{words}."


def _spread(points: Points, most: int) -> Points:
    """Return at most ``most`` of the points, the first and the last among them."""
    if len(points) <= most:
        return points
    return tuple(points[round(k * (len(points) - 1) / (most - 1))] for k in range(most))


def _short(value: float) -> float:
    """Return a number with six digits, which nobody sees the end of in a chart."""
    return float(f"{value:.6g}")


def _colour(name: str) -> str:
    return PALETTE[name][0]


def _axis(domain: tuple[float, float], values: list[float], kind: Kind) -> dict[str, Any]:
    if kind == "percent":
        digits = max(len(f"{100 * value:.9g}".partition(".")[2]) for value in values)
        label = f"format(datum.value, '.{digits}%')"
    else:  # 0 would be "0k" among thousands
        size = "~s" if values[-1] >= 1000 else ".6~g"
        label = f"datum.value ? format(datum.value, '{size}') : '0'"
    return {
        "type": "quantitative",
        "scale": {"domain": list(domain), "nice": False, "zero": False},
        "axis": {"values": values, "title": None, "labelExpr": label},
    }


def _frame(layers: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """Return a spec with its plot at a fixed place, which page.js relies on."""
    font = "system-ui, sans-serif"
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": WIDTH - LEFT - RIGHT,
        "height": HEIGHT - TOP - BOTTOM,
        "autosize": "none",
        "padding": {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        "background": None,
        "encoding": {"x": {"field": "x", **x}, "y": {"field": "y", **y}},
        "layer": layers,
        "config": {
            "aria": False,
            "view": {"stroke": None},
            "axis": {
                "labelFont": font,
                "labelFontSize": 12,
                "labelColor": _colour("label"),
                "labelBound": False,
                "labelFlush": True,
                "gridColor": _colour("grid"),
                "domainColor": _colour("axis"),
                "tickColor": _colour("axis"),
                "tickSize": 4,
            },
            "axisX": {"grid": False},
            "axisY": {"domain": False, "ticks": False, "labelFlush": False},
        },
    }


def _series_layers(series: Series) -> list[dict[str, Any]]:
    """Return a line through the points, if there are several, and dots on them, if wanted."""
    data = {"values": _values(series)}
    line = {
        "type": "line",
        "color": _colour(series.colour),
        "strokeWidth": 1.75,
        "strokeJoin": "round",
    }
    if DASHES[series.dash]:
        line["strokeDash"] = DASHES[series.dash]
    dot = {"type": "point", "filled": True, "size": 26, "opacity": 1, "color": line["color"]}
    layers = [{"data": data, "mark": line}] if len(series.points) > 1 else []
    return [*layers, {"data": data, "mark": dot}] if series.dots else layers


def _lone_layers(lone: Sequence[Series]) -> list[dict[str, Any]]:
    """Return a ring for each series of one point, smaller and smaller, so that none hides one."""
    ring = {"type": "point", "filled": False, "strokeWidth": 2, "opacity": 1}
    return [
        {
            "data": {"values": _values(series)},
            "mark": {**ring, "size": 110 / (k + 1) ** 2, "color": _colour(series.colour)},
        }
        for k, series in enumerate(lone)
    ]


def _values(series: Series) -> list[dict[str, float]]:
    return [{"x": _short(x), "y": _short(y)} for x, y in series.points]


def _mark_layer(places: Sequence[float]) -> dict[str, Any]:
    """Return dashed lines over the height of the plot, with a triangle on the axis."""
    data = {"values": [{"x": place} for place in places]}
    height = HEIGHT - TOP - BOTTOM
    return {
        "data": data,
        "layer": [
            {
                "mark": {
                    "type": "rule",
                    "color": _colour("mark"),
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
                    "color": _colour("mark"),
                },
                "encoding": {"y": {"value": height - 3}},
            },
        ],
    }
