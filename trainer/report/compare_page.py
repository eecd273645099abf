"""The page of a comparison: its table, and the runs' curves over each other."""

from collections.abc import Sequence

from trainer.report import charts, html
from trainer.report.compare import Comparison, Row, heading, metrics, notes, shown
from trainer.report.series import Points, Series, thin
from trainer.runs.reader import Run

DOTTED = 30  # points of a line up to which each is marked
LABELLED = 2  # settings up to which they name a curve; the run does where there are more
COLOURED = 12  # runs whose curves differ by colour and dash; the best ones
CURVE_POINTS = 150  # of one run in one chart: four charts of COLOURED runs stay below 400 KB
# Nats; guessing among ten classes is 2.3. One run that diverges would flatten all others.
MOST_LOSS = 10.0
_HUGE = 1e100  # what a chart takes for infinity


def as_page(comparison: Comparison) -> bytes:
    """Return the table and the curves as one HTML page, UTF-8."""
    made = curves(comparison)
    return html.render(
        "compare.html",
        made,
        rows=[
            {
                "row": row,
                "values": [shown(value) for value in row.settings.values()],
                "metrics": metrics(row),
            }
            for row in comparison.rows
        ],
        settings=[heading(name) for name in comparison.settings],
        notes=notes(comparison),
        charts=made,
        coloured=COLOURED,
        most_loss=MOST_LOSS,
        cut=any(chart.is_cut for chart in made),
    )


def curves(comparison: Comparison) -> list[charts.Chart]:
    """Return loss and accuracy over steps and over seconds, of the best runs."""
    best = list(zip(comparison.runs, comparison.rows, strict=True))[:COLOURED]
    labels = _distinct([row for _, row in best], comparison.settings)
    validated = [_has_validations(each) for each, _ in best]
    names = [
        f"{label} (training images)" if any(validated) and not its else label
        for label, its in zip(labels, validated, strict=True)
    ]
    where = "validation" if any(validated) else "training"
    made = []
    for axis, over in (("step", "steps"), ("second", "seconds of training")):
        losses = [_points(each, "loss", axis) for each, _ in best]
        accuracies = [
            _points(each, "validation_accuracy" if its else "accuracy", axis)
            for (each, _), its in zip(best, validated, strict=True)
        ]
        if any(losses):
            made.append(
                charts.line(
                    f"loss-{axis}",
                    f"Training loss over {over}",
                    _series(labels, losses),
                    best="lowest",
                    x_name=axis,
                    unit="cross-entropy, nats",
                    may_log=True,
                    most=MOST_LOSS,
                )
            )
        if any(accuracies):
            made.append(
                charts.line(
                    f"accuracy-{axis}",
                    f"Accuracy on {where} images over {over}",
                    _series(names, accuracies),
                    kind="percent",
                    best="highest",
                    x_name=axis,
                    unit="share of the images",
                )
            )
    return made


def write(comparison: Comparison, output: str) -> str:
    """Write the page and return its URI.

    Raises:
        ConfigError: the output is no name of a file, or cannot be written.
    """
    html.write(output, as_page(comparison))
    return output


def _has_validations(each: Run) -> bool:
    return sum(record.validation_accuracy is not None for record in each.records) > 1


def _points(each: Run, name: str, axis: str) -> Points:
    pairs = (
        (r.step if axis == "step" else r.train_seconds, getattr(r, name)) for r in each.records
    )
    # False for NaN, too.
    known = tuple((float(x), min(y, _HUGE)) for x, y in pairs if y is not None and y > -_HUGE)
    return thin(known, CURVE_POINTS)


def _series(names: Sequence[str], points: Sequence[Points]) -> list[Series]:
    return [
        Series(name, line, f"series-{place % 8 + 1}", dash=place // 8, dots=len(line) <= DOTTED)
        for place, (name, line) in enumerate(zip(names, points, strict=True))
    ]


def _distinct(rows: Sequence[Row], settings: Sequence[str]) -> list[str]:
    labels = [row.label if len(settings) <= LABELLED else row.name for row in rows]
    return [
        label if labels.count(label) == 1 else f"{label} ({row.name})"
        for row, label in zip(rows, labels, strict=True)
    ]
