"""Charts of a page: lines over steps and reliability diagrams, each with its words and table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from trainer.report import vega
from trainer.report.series import (
    Kind,
    Points,
    Series,
    log_ticks,
    short,
    spread,
    text,
    thin,
    ticks,
)

TABLE_ROWS = 20
LOG_FROM = 20.0  # times the smallest value that the largest must be for an axis of logarithms


@dataclass(frozen=True)
class Chart:
    """What ``pages/chart.html`` shows: title, legend, picture, values on hover, and a table.

    Attributes:
        key: unique in the page.
        title: its heading.
        gist: for people who cannot see it.
        spec: Vega-Lite.
        series: what the spec draws.
        x_name: of the first column of the table.
        x_kind, kind: how values along and up are written.
        x, y: first and last value of the axes.
        unit: of the values, in words.
        log: whether the values' axis is of logarithms.
        has_epochs: whether an axis of epochs stands above the plot.
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
    unit: str = ""
    log: bool = False
    has_epochs: bool = False

    @property
    def is_cut(self) -> bool:
        """Return whether there are values above the plot."""
        return any(y > self.y[1] for series in self.series for _, y in series.points)

    @property
    def hover(self) -> dict[str, Any]:
        """Return what page.js needs to show the value of a point; positions in the SVG's pixels."""
        return {
            "plot": [vega.LEFT, vega.TOP, *vega.PLOT],
            "x": self.x,
            "y": self.y,
            "xName": self.x_name,
            "xKind": self.x_kind,
            "kind": self.kind,
            "log": self.log,
            "series": [
                {
                    "name": series.name,
                    "colour": series.colour,
                    "points": [[short(x), short(y)] for x, y in series.points],
                }
                for series in self.series
            ],
        }

    @property
    def table(self) -> list[list[str]]:
        """Rows of x and the value of every series there, about TABLE_ROWS for each series."""
        columns = [dict(spread(series.points, TABLE_ROWS)) for series in self.series]
        return [
            [
                text(x, self.x_kind),
                *(text(column[x], self.kind) if x in column else "" for column in columns),
            ]
            for x in sorted({x for column in columns for x in column})
        ]


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
    unit: str = "",
    may_log: bool = False,
    epochs: Points = (),
    most: float = math.inf,
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
        unit: of the values, in words.
        may_log: whether values that are LOG_FROM times as large as others get an axis of
            logarithms.
        epochs: (step, epoch) of some steps, for a second axis above the plot.
        most: where lines leave the plot, unless all values are above it.
    """
    thinned = tuple(replace(each, points=thin(each.points)) for each in series if each.points)
    assert thinned, f"chart {key} without a point"
    xs = [x for each in thinned for x, _ in each.points]
    ys = [y for each in thinned for _, y in each.points]
    among = [*ys, 0.0] if from_zero else ys
    low, high = min(among), max(among)
    high = min(high, most) if low < most else high
    log = may_log and low > 1e-100 and high >= LOG_FROM * low
    y_ticks = log_ticks(low, high) if log else ticks(low, high)
    x_end = max(*xs, *marks, 1)
    x_ticks = [tick for tick in ticks(0, x_end, 4, whole=True) if tick <= x_end]
    x, y = (0.0, float(x_end)), (y_ticks[0], y_ticks[-1])
    layers = [layer for each in thinned for layer in vega.layers_of(each, y[1])]
    layers += vega.rings([s for s in thinned if len(s.points) == 1 and s.points[0][1] <= y[1]])
    if marks:
        layers.insert(0, vega.dashes_at(marks))
    upper = _epoch_ticks(epochs, x_end)
    if upper:
        layers.append(vega.upper_axis(upper))
    spec = vega.frame(layers, vega.axis(x, x_ticks, "number"), vega.axis(y, y_ticks, kind, log=log))
    gist = f"{title} over {x_name}s. " + " ".join(
        _gist(each, kind, best, x_name) for each in thinned
    )
    return Chart(
        key, title, gist, spec, thinned, x_name, "number", kind, x, y, unit, log, bool(upper)
    )


def _epoch_ticks(epochs: Points, x_end: float) -> list[tuple[float, str]]:
    """Return where on an axis of steps some epochs end, and their numbers."""
    step, epoch = epochs[-1] if epochs else (0.0, 0.0)
    if step <= 0 or not 1e-9 < epoch / step * x_end < 1e9:
        return []
    last = epoch / step * x_end
    found = ticks(0, last, 4, whole=last >= 3)
    return [(tick * step / epoch, f"{tick:.6g}") for tick in found if tick <= last * 1.001]


def reliability(
    key: str,
    title: str,
    bins: Sequence[tuple[float, float, float, float]],
    gist: str,
) -> Chart:
    """Return a reliability diagram: how often the model is right over how sure it is."""
    series = Series("accuracy", tuple((x, y) for x, y, _, _ in bins), "series-1", dots=True)
    whiskers = [{"x": x, "y": low, "y2": high} for x, _, low, high in bins]
    layers = [
        {
            "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
            "mark": {"type": "line", "color": vega.colour("axis"), "strokeDash": [4, 4]},
        },
        {
            "data": {"values": whiskers},
            "mark": {"type": "rule", "color": vega.colour("series-1"), "opacity": 0.45, "size": 2},
            "encoding": {"y2": {"field": "y2"}},
        },
        *vega.layers_of(series),
    ]
    whole = (0.0, 1.0)
    axis = vega.axis(whole, [0, 0.25, 0.5, 0.75, 1], "percent")
    spec = vega.frame(layers, axis, axis)
    return Chart(
        key,
        title,
        gist,
        spec,
        (series,),
        "probability of the predicted class",
        "percent",
        "percent",
        whole,
        whole,
        "accuracy of these images",
    )


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
