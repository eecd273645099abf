import json
import math
import re
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.report import charts, vega
from trainer.report.charts import Chart
from trainer.report.series import MOST_POINTS, Kind, Points, Series, log_ticks, text, thin, ticks

POINTS = st.lists(st.tuples(st.integers(1, 10**6), st.floats(-1e12, 1e12)), min_size=1).map(
    lambda pairs: tuple((float(x), y) for x, y in sorted(dict(pairs).items()))
)


def svg_of(chart: Chart) -> str:
    return vega.draw({chart.key: chart.spec})[chart.key]


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.booleans())
def test_ticks_are_round_few_and_span_the_values(low: float, span: float, whole: bool) -> None:
    found = ticks(low, low + span, whole=whole)
    assert 2 <= len(found) <= 12
    steps = {round((b - a) / (found[1] - found[0]), 3) for a, b in pairwise(found)}
    assert steps == {1.0}
    if span > abs(low) * 1e-6:
        slack = 1e-4 * (found[1] - found[0])
        assert found[0] <= low + slack
        assert low + span <= found[-1] + slack
    if whole:
        assert all(tick.is_integer() for tick in found)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.83, 0.9925, [0.8, 0.85, 0.9, 0.95, 1]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.01, 0.01, [0, 0.002, 0.004, 0.006, 0.008, 0.01]),
        (-2, -2, [-2, -1.5, -1, -0.5, 0]),
    ],
)
def test_ticks(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == wanted


@given(POINTS, st.integers(3, 50))
def test_thinning_keeps_both_ends_and_what_lies_between(points: Points, most: int) -> None:
    thinned = thin(points, most)
    assert len(thinned) == min(len(points), most)
    assert thinned[0] == points[0]
    assert thinned[-1] == points[-1]
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)
    ys = [y for _, y in points]
    slack = 1e-9 * max(map(abs, ys))
    assert all(min(ys) - slack <= y <= max(ys) + slack for _, y in thinned)


def test_thinning_takes_means_of_neighbours() -> None:
    points = tuple((float(x), 10.0 * x) for x in range(8))
    assert thin(points, 5) == ((0, 0), (1.5, 15), (3.5, 35), (5.5, 55), (7, 70))


def losses() -> Chart:
    """Return the chart of a training that validates twice and is restarted at step 60."""
    return charts.line(
        "loss",
        "Loss",
        [
            Series("training", tuple((10.0 * k, 1 / k) for k in range(1, 11))),
            Series("validation", ((50.0, 0.3), (100.0, 0.2)), "series-2", dots=True),
            Series("nothing", ()),
            Series("test", ((100.0, 0.25),), "series-3"),
        ],
        best="lowest",
        marks=[60],
    )


@pytest.mark.process
def test_the_points_lie_where_the_page_looks_for_them() -> None:
    chart = losses()
    left, top, width, height = chart.hover["plot"]
    svg = svg_of(chart)
    assert f'translate({left},{top})"' in svg
    path = re.search(r'd="M([^"]+)" stroke="#0b63b8"', svg)
    assert path
    drawn = [tuple(map(float, pair.split(","))) for pair in path[1].split("L")]
    (x0, x1), (y0, y1) = chart.x, chart.y
    wanted = [
        (width * (x - x0) / (x1 - x0), height * (y1 - y) / (y1 - y0))
        for x, y in chart.hover["series"][0]["points"]
    ]
    assert len(drawn) == len(wanted) == 10
    for (x, y), (wanted_x, wanted_y) in zip(drawn, wanted, strict=True):
        assert x == pytest.approx(wanted_x, abs=0.01)
        assert y == pytest.approx(wanted_y, abs=0.01)


@pytest.mark.process
def test_what_is_drawn() -> None:
    svg = svg_of(losses())
    assert svg.count('stroke="#b84a08"') == 1  # the line of the validations
    assert svg.count('fill="#b84a08"') == 2  # their dots
    assert svg.count('stroke="#00735f"') == 1  # the ring of the test
    mark = re.findall(r'<line transform="translate\(([\d.]+),[^>]*stroke="#8a5a00"', svg)
    assert [float(x) for x in mark] == [pytest.approx(0.6 * losses().hover["plot"][2], abs=1)]


def test_the_gist_names_first_last_and_best() -> None:
    assert losses().gist == (
        "Loss over steps. training: from 1 at step 10 to 0.1 at step 100, lowest 0.1 at step 100. "
        "validation: from 0.3 at step 50 to 0.2 at step 100, lowest 0.2 at step 100. "
        "test: 0.25 at step 100."
    )


def test_the_table_has_every_series_and_few_rows() -> None:
    assert losses().table[-1] == ["100", "0.1", "0.2", "0.25"]
    assert losses().table[0] == ["10", "1", "", ""]
    many = Series("training", tuple((float(x), 0.5) for x in range(5000)))
    chart = charts.line("a", "A", [many], kind="percent")
    assert len(chart.table) == charts.TABLE_ROWS
    assert chart.table[0][1] == "50.00%"
    assert len(chart.hover["series"][0]["points"]) == MOST_POINTS


@given(
    st.lists(POINTS, min_size=1, max_size=3),
    st.sampled_from(["number", "percent"]),
    st.lists(st.integers(0, 10**6), max_size=3),
    st.booleans(),
    st.sampled_from([math.inf, 10.0]),
)
def test_any_points_make_a_chart_of_finite_numbers(
    lines: list[Points], kind: Kind, marks: list[int], from_zero: bool, most: float
) -> None:
    series = [Series(str(k), points) for k, points in enumerate(lines)]
    chart = charts.line("a", "A", series, kind=kind, marks=marks, from_zero=from_zero, most=most)
    json.dumps([chart.spec, chart.hover], allow_nan=False)
    for each in chart.series:
        assert all(chart.x[0] <= x <= chart.x[1] for x, _ in each.points)
        low, high = chart.y
        slack = 1e-4 * (high - low)
        highest = math.inf if chart.is_cut else high + slack
        assert all(low - slack <= y <= highest for _, y in each.points)


@pytest.mark.process
def test_an_svg_has_nothing_from_outside_no_ids_and_colours_that_follow_the_theme() -> None:
    name = "<script>alert(1)</script>"
    points = ((1.0, 0.2), (2.0, 0.3))
    series = [Series(name, points, f"series-{k}", dash=k % 4) for k in range(1, 9)]
    reliability = charts.reliability("b", name, [(0.3, 0.4, 0.2, 0.6), (0.9, 1, 0.9, 1)], name)
    drawings = vega.draw(
        {"a": charts.line("a", name, series, marks=[1]).spec, "b": reliability.spec}
    )
    assert drawings.keys() == {"a", "b"}
    for svg in drawings.values():
        assert "script" not in svg
        assert " id=" not in svg
        assert "NaN" not in svg
        colours = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]+)"', svg))
        assert len(colours) > 3
        assert colours <= {light for light, _ in vega.PALETTE.values()}


@pytest.mark.process
def test_what_cannot_be_drawn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    dying = vega._PROGRAM.replace("print", "spec['mark'] if spec.pop('die', 0) else print")
    monkeypatch.setattr(vega, "_PROGRAM", dying)
    first, second = losses(), charts.reliability("b", "B", [(0.3, 0.4, 0.2, 0.6)], "gist")
    second.spec["die"] = 1
    assert vega.draw({first.key: first.spec, second.key: second.spec}).keys() == {first.key}
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert vega.draw({first.key: first.spec}) == {}


def test_text() -> None:
    shown = [text(v, "number") for v in (0, 12345, 12345.6, 0.123456, 1e-7, 1e20, -2.5)]
    assert shown == ["0", "12,345", "12,346", "0.1235", "1e-07", "1e+20", "-2.5"]
    assert text(0.98765, "percent") == "98.77%"


@given(st.floats(1e-90, 1e90), st.floats(20, 1e90))
def test_ticks_of_logarithms_are_few_and_span_the_values(low: float, times: float) -> None:
    high = low * times
    found = log_ticks(low, high)
    assert 2 <= len(found) <= 10
    assert found == sorted(set(found))
    assert found[0] <= low * (1 + 1e-6)
    assert found[-1] >= high * (1 - 1e-6)


def test_a_loss_that_falls_far_gets_an_axis_of_logarithms() -> None:
    points = tuple((float(k), 10.0 / k) for k in range(1, 101))
    steep = charts.line("loss", "Loss", [Series("training", points)], may_log=True)
    assert steep.log
    assert steep.hover["log"]
    assert list(steep.y) == [0.1, 10]
    flat = charts.line("loss", "Loss", [Series("training", points[20:])], may_log=True)
    zero = charts.line("loss", "Loss", [Series("training", (*points, (101, 0)))], may_log=True)
    plain = charts.line("a", "A", [Series("training", points)])
    assert [each.log for each in (flat, zero, plain)] == [False] * 3


@pytest.mark.process
def test_epochs_stand_above_the_plot() -> None:
    points = tuple((float(k), 1.0 / k) for k in range(1, 101))
    chart = charts.line(
        "loss", "Loss", [Series("training", points)], epochs=((50.0, 1.0), (100.0, 2.0))
    )
    assert chart.has_epochs
    width = chart.hover["plot"][2]
    ticks_drawn = re.findall(
        r'<text [^>]*transform="translate\(([\d.]+),-8\)"[^>]*>([\d.]+)<', svg_of(chart)
    )
    assert [label for _, label in ticks_drawn] == ["0", "0.5", "1", "1.5", "2"]
    places = [float(x) / width for x, _ in ticks_drawn]
    assert places == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.005)
    assert not charts.line("loss", "Loss", [Series("training", points)]).has_epochs
