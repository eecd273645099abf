"""A run in progress as the JSON that the page of ``watch`` shows, all of its words among it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from trainer import progress
from trainer.common.text import duration, one_line, plural, printable
from trainer.common.untrusted_json import number
from trainer.report import status, vega
from trainer.report.live import Live
from trainer.report.series import Kind, Points, short, text, thin, ticks
from trainer.runs import reader

MOST_ROWS = 32  # of a table: ranks, or restarts
_PACE_SHARE = 0.25  # of the steps done, the last ones, whose pace is expected of the rest

Json = dict[str, Any]


class Pod(NamedTuple):
    """What a cluster says of one rank."""

    rank: int
    name: str
    state: str
    node: str


class Seen(NamedTuple):
    """What is known of a run beside its folder.

    Attributes:
        phase: of the cluster, empty where the run is in none.
        cause: of what is wrong there, in words.
        pods: by rank.
        failed: whether the cluster has given it up.
        trouble: why the folder or the cluster cannot be read, in words.
    """

    phase: str = ""
    cause: str = ""
    pods: Sequence[Pod] = ()
    failed: bool = False
    trouble: str = ""


def view(live: Live, seen: Seen) -> Json:
    """Return what the page shows of a run, and of what else is known of it."""
    state, words = _state(live, seen)
    return {
        "state": state,
        "name": one_line((live.stored or {}).get("model") or _preset(live), 200),
        "words": words,
        "trouble": seen.trouble or " ".join(live.faults.values()),
        "progress": _progress(live) if live.stored else None,
        "charts": _charts(live),
        "ranks": _ranks(live, seen),
        "restarts": _restarts(live.attempts),
        "pictures": {
            "step": live.pictured,
            "count": sum(name in live.pictures for name in PICTURES),
        },
    }


# By the names of the event files, and as the page calls them.
PICTURES = {
    "confusion matrix": "Confusion matrix of the validation images",
    "wrong pictures": "The wrong predictions that the model was surest of",
}


def _preset(live: Live) -> str:
    return str((live.stored or {}).get("preset") or "Run")


def _state(live: Live, seen: Seen) -> tuple[str, str]:
    """Return the run's state, and what there is to say about it."""
    if live.finished:
        return "finished", "its report is being made"
    if seen.failed:
        return "failed", seen.cause
    if live.stored is None:
        what = f"{seen.phase}: {seen.cause}" if seen.cause else seen.phase
        return "waiting", what or "nothing is there yet; this page fills itself when the run begins"
    ranks, beside = live.ranks, seen.cause or seen.phase
    if ranks is None:  # of a version that stored no states
        return "training" if live.newest else "starting", beside
    if ranks.over and ranks.cause and ranks.cause.kind != "stopped":
        remedy = status.REMEDIES.get(ranks.cause.kind, status.AGAIN)
        return "failed", f"{one_line(ranks.cause.advice, 500)}. {remedy}"
    if ranks.over:
        return "stopped", status.AGAIN
    at_work = sum(state in ("training", "finished") for state in ranks.ranks)
    if ranks.attempt and at_work == len(ranks.members or ranks.ranks):
        fewer = f"with {at_work} of {len(ranks.ranks)} workers"
        return "training", seen.cause or fewer * (at_work < len(ranks.ranks))
    if ranks.cause or ranks.attempt > 1:
        return "restarting", one_line(ranks.cause.advice, 500) if ranks.cause else ""
    return "starting", beside


def _progress(live: Live) -> Json:
    step = int(live.newest.get("step", 0))
    total = total_steps(live.stored or {}, live.newest)
    parts = []
    if (seconds := _pace(_points(live, "train_seconds"))) and total and not live.finished:
        parts.append(f"about {duration(seconds * (total - step))} left")
    for name, words in (("images_per_second", "{:,.0f} images/s"), ("loss", "loss {:.4f}")):
        if (value := number(live.newest.get(name))) is not None:
            parts.append(words.format(value))
    if (accuracy := number(live.newest.get("accuracy"))) is not None:
        parts.append(f"accuracy {accuracy:.2%}")
    if validated := _points(live, "validation_accuracy"):
        parts.append(f"validation accuracy {validated[-1][1]:.2%}")
    return {
        "share": min(1.0, step / total) if total else 0.0,
        "words": f"step {step:,} of {total:,}" if total else plural(step, "step"),
        "parts": parts,
        "time": number(live.newest.get("time")),  # seconds since the epoch
    }


def total_steps(stored: Mapping[str, Any], newest: Mapping[str, Any]) -> int:
    """Return the steps of a run by its settings and a line of its metrics; 0 if not yet known."""
    step = int(number(newest.get("step")) or 0)
    steps, epochs, done = (
        max(0.0, number(value) or 0.0)
        for value in (stored.get("steps"), stored.get("epochs"), newest.get("epoch"))
    )
    # An epoch has four decimals in metrics.jsonl.
    estimate = epochs * step / done if done else 0.0
    return max(round(min(steps or estimate, 1e15)), step) if steps or estimate else 0


def _pace(seconds: Points) -> float:
    """Return the seconds of a step lately, 0 if not known."""
    if len(seconds) < 2:
        return 0.0
    step, now = seconds[-1]
    since = next((p for p in seconds if p[0] >= (1 - _PACE_SHARE) * step), seconds[0])
    first = since if since[0] < step else seconds[-2]
    return max(0.0, (now - first[1]) / (step - first[0]))


def _points(live: Live, name: str) -> Points:
    return live.curves[name].points if name in live.curves else ()


def _charts(live: Live) -> Json:
    marks = [attempt.first_step for attempt in live.attempts[1:]]
    if live.ranks and live.attempts and live.ranks.attempt > len(live.attempts):
        marks.append(live.attempts[-1].last_step)  # which the attempt under way started from
    return {
        "loss": chart("Loss", _series(live, "loss"), marks=marks),
        "accuracy": chart("Accuracy", _series(live, "accuracy"), kind="percent", marks=marks),
        "speed": chart(
            "Images per second",
            {"training": _points(live, "images_per_second")},
            from_zero=True,
            marks=marks,
        ),
    }


def _series(live: Live, name: str) -> dict[str, Points]:
    return {"training": _points(live, name), "validation": _points(live, f"validation_{name}")}


def chart(
    title: str,
    series: Mapping[str, Points],
    *,
    kind: Kind = "number",
    from_zero: bool = False,
    marks: Sequence[float] = (),
) -> Json | None:
    """Return a chart of lines over steps for watch.js to draw, None without a point.

    With ``from_zero`` the values' axis has 0, too; a dashed line stands at each of ``marks``.
    """
    thinned = {name: thin(points) for name, points in series.items()}
    xs = [x for points in thinned.values() for x, _ in points]
    ys = [y for points in thinned.values() for _, y in points]
    if not xs:
        return None
    end = max(*xs, *marks, 1)
    y_ticks = ticks(min(*ys, 0) if from_zero else min(ys), max(ys))
    x_ticks = [tick for tick in ticks(0, end, 4, whole=True) if tick <= end]
    last = {name: text(points[-1][1], kind) for name, points in thinned.items() if points}
    return {
        "plot": [vega.LEFT, vega.TOP, *vega.PLOT],
        "x": [0, short(end)],
        "y": [y_ticks[0], y_ticks[-1]],
        "xTicks": [[tick, vega.tick_text(tick, "number", x_ticks)] for tick in x_ticks],
        "yTicks": [[tick, vega.tick_text(tick, kind, y_ticks)] for tick in y_ticks],
        "marks": [short(mark) for mark in sorted(set(marks))],
        "gist": f"{title} over steps. "
        + " ".join(
            f"{name}: {value} at step {thinned[name][-1][0]:,.0f}." for name, value in last.items()
        ),
        "last": last,
        "series": [
            {
                "name": name,
                "colour": "series-1" if name == "training" else "series-2",
                "points": [[short(x), short(y)] for x, y in points],
            }
            for name, points in thinned.items()
            if points
        ],
    }


def _ranks(live: Live, seen: Seen) -> Json:
    """Return the table of ranks: what each does, and how its steps pass."""
    states = live.ranks.ranks if live.ranks else ()
    newest = live.newest
    compute, wait = (_by_rank(newest, f"{name}_ms") for name in ("compute", "wait"))
    pods = {pod.rank: pod for pod in seen.pods}
    count = max(len(states), len(compute), max(pods, default=-1) + 1)
    # Who computes longest is who the others wait for.
    slowest = max(range(len(compute)), key=compute.__getitem__) if len(compute) > 1 else -1
    order = list(range(count))
    if count > MOST_ROWS:  # those that something is to be seen of
        order.sort(key=lambda r: (r < len(states) and states[r] == "training", -_at(compute, r)))
    columns = ["rank", "state"]
    columns += ["computing", "waiting"] if compute else []
    columns += ["pod", "in the cluster", "node"] if pods else []
    rows = []
    for rank in sorted(order[:MOST_ROWS]):
        state = printable(states[rank]) if rank < len(states) else ""
        if live.ranks and live.ranks.over and state != "finished":
            state = "ended"
        row = [str(rank), state]
        if compute:
            row += [f"{_at(compute, rank):.2f} ms", f"{_at(wait, rank):.2f} ms"]
        if pods:
            pod = pods.get(rank, Pod(rank, "", "no pod", ""))
            row += [one_line(each, 200) for each in (pod.name, pod.state, pod.node)]
        rows.append({"cells": row, "slowest": rank == slowest})
    adding = number(newest.get("sum_ms"))
    return {
        "columns": columns,
        "rows": rows,
        "words": (
            f"{plural(count, 'rank')}, of which {len(rows)} are shown. " * (count > len(rows))
        )
        + (f"Adding up the gradients takes {adding:.2f} ms of each step. " if adding else "")
        + ("The others wait for the slowest rank." if slowest >= 0 else "")
        + "".join(f" Rank {r} is slow: {how}." for r, how in progress.slow_ranks(newest).items()),
    }


def _each(values: Any) -> list[float]:
    found = [number(each) for each in values[:1024]] if isinstance(values, list) else []
    return [each or 0.0 for each in found]


def _by_rank(line: Mapping[str, Any], name: str) -> list[float]:
    """Return by rank the values that a line lists, 0 for ranks that took no part."""
    values = _each(line.get(name))
    found = dict(zip(progress.named(line, len(values)), values, strict=True))
    return [found.get(rank, 0.0) for rank in range(max(found, default=-1) + 1)]


def _at(values: Sequence[float], place: int) -> float:
    return values[place] if place < len(values) else 0.0


def _restarts(attempts: Sequence[reader.Attempt]) -> list[list[str]]:
    """Return time (UTC), steps and cause of attempts that ended early, the newest first."""
    return [
        [
            datetime.fromtimestamp(each.end, UTC).strftime("%H:%M:%S"),
            f"{each.first_step:,} to {each.last_step:,}",
            each.ended_by,
        ]
        for each in reversed(attempts)
        if each.cause
    ][:MOST_ROWS]
