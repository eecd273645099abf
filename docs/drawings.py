"""Draws pictures for the documentation from real runs.

    python -m docs.drawings gang bucket/data

trains with two workers, one of which is killed, and writes docs/steps.svg, some steps as each rank
measured them, and docs/fault.svg, what the gang's processes reported after the kill, and when.

    python -m docs.drawings tutorials bucket/data bucket/runs/softmax

writes the pictures of docs/tutorials: labels of a dataset, a test image with what a finished run
says of it, and a network.
"""

import argparse
import itertools
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from trainer import notebook, presets
from trainer.data import dataset
from trainer.gang.local_gang import Gang
from trainer.report import shared_work, vega
from trainer.runs import run_folder
from trainer.storage.base import open_storage
from trainer.worker_events import Event

DOCS = Path(__file__).resolve().parent
KILL_AFTER = 400  # steps
IMAGE = 10  # of the test images
WIDTH, LANES, LEFT = 720, (46, 106), 60

Moment = tuple[float, int, str]  # seconds since the fault, rank, what it reported


class Recorder:
    """Kills rank 1's worker after some steps, and keeps what all report from then on."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._worker = 0
        self._killed = float("inf")

    def tell(self, rank: int, event: Event) -> None:
        """Take an event of a rank's processes."""
        now = time.monotonic()
        name = str(event.get("event"))
        if rank == 1 and name == "started":
            self._worker = event["pid"]
        self.moments.append((now - self._killed, rank, name))
        if self._killed == float("inf") and name == "step" and event["step"] >= KILL_AFTER:
            self._killed = time.monotonic()
            self.moments = []
            os.kill(self._worker, signal.SIGKILL)


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("gang").add_argument("data")
    tutorials = commands.add_parser("tutorials")
    tutorials.add_argument("data")
    tutorials.add_argument("run")
    options = parser.parse_args()
    if options.command == "gang":
        gang(options.data)
        return
    found = dataset.load(options.data, 0)
    shares = notebook.load(options.run).probabilities(IMAGE).tolist()
    drawings = {
        "labels": labels(found.train.labels[:20].tolist()),
        "image-10": image(found.test.images[IMAGE, ..., 0].tolist(), shares),
        "network": network((784, 65, 65, 10)),
    }
    for name, drawing in drawings.items():
        (DOCS / "tutorials" / f"{name}.svg").write_text(drawing)


def gang(data: str) -> None:
    """Train, kill, and draw."""
    with tempfile.TemporaryDirectory() as run:
        settings: dict[str, Any] = {"data": data, "run": run, "workers": 2, "epochs": 3.0}
        flags = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
        recorder = Recorder()
        workers = Gang(
            ["train", "--no-report", *flags],
            presets.configure({}, settings),
            log=Path(os.devnull),
            listen=recorder.tell,
        )
        workers.run(threading.Event())
        lines = run_folder.read_metrics(open_storage(run), 1 << 53)
    steps = next(line["steps_ms"] for line in lines if "steps_ms" in line)
    (DOCS / "steps.svg").write_text(shared_work.timeline(steps, range(len(steps)), words=True))
    (DOCS / "fault.svg").write_text(fault(recorder.moments))


def labels(classes: list[int]) -> str:
    """Return labels as a matrix, an SVG: a column for each image, a 1 in the row of its class."""
    drawn = [_text(8, 40 + 20 * row, str(row)) for row in range(10)]
    for place, of_image in enumerate(classes):
        left = 28 + 22 * place
        drawn.append(_text(left + 10, 18, str(of_image), "middle"))
        for row in range(10):
            colour = "series-1" if row == of_image else "grid"
            drawn.append(_bar(left, left + 20, 26 + 20 * row, colour, 18))
    return _svg(drawn, 40 + 22 * len(classes), 234)


def image(pixels: list[list[int]], shares: list[float]) -> str:
    """Return an image and its probabilities as bars, an SVG."""
    drawn = [
        f'<rect x="{10 + 6 * x}" y="{20 + 6 * y}" width="6" height="6" fill="rgb({v},{v},{v})"/>'
        for y, row in enumerate(pixels)
        for x, v in enumerate(row)
    ]
    for row, share in enumerate(shares):
        base = 34 + 17 * row
        drawn.append(_text(210, base, str(row)))
        drawn.append(_bar(226, 226 + 200 * share, base - 11, "series-1", 13))
        drawn.append(_text(432, base, f"{share:.1%}"))
    return _svg(drawn, 490, 208)


def network(units: tuple[int, ...]) -> str:
    """Return layers of units with their connections, an SVG; of many units a few are drawn."""
    shown = [min(count, 10) for count in units]
    at = [
        [(70 + 150 * layer, 150 + 24 * (unit - (count - 1) / 2)) for unit in range(count)]
        for layer, count in enumerate(shown)
    ]
    grid, dot = vega.colour("axis"), vega.colour("series-1")
    drawn = [
        f'<path d="M{a} {b}L{c} {d}" stroke="{grid}" stroke-width="0.4"/>'
        for left, right in itertools.pairwise(at)
        for a, b in left
        for c, d in right
    ]
    drawn += [f'<circle cx="{x}" cy="{y}" r="7" fill="{dot}"/>' for each in at for x, y in each]
    names = ["pixels", *["hidden units"] * (len(units) - 2), "digits"]
    for layer, (count, name) in enumerate(zip(units, names, strict=True)):
        drawn.append(_text(70 + 150 * layer, 296, f"{count} {name}", "middle"))
    return _svg(drawn, 140 + 150 * (len(units) - 1), 306)


def _svg(drawn: list[str], width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(drawn)}</svg>\n'
    )


def fault(moments: list[Moment]) -> str:
    """Return the picture of a fault, an SVG: two lanes, and a mark at each moment."""

    def first(rank: int, *names: str) -> float:
        return min(at for at, of, name in moments if of == rank and name in names)

    noticed, saved = first(1, "ended"), first(0, "committed")
    started = max(first(0, "started"), first(1, "started"))
    resumed = first(0, "resumed")
    stepped = min(at for at, rank, name in moments if name == "step" and at > resumed)
    end = stepped * 1.08
    scale = (WIDTH - LEFT - 20) / (end + 0.12 * end)

    def x(seconds: float) -> float:
        return LEFT + (seconds + 0.12 * end) * scale

    bar, text = _bar, _text
    training, gone, waking, saving = "series-1", "grid", "series-3", "series-4"
    drawn = [text(4, lane + 20, f"rank {rank}") for rank, lane in enumerate(LANES)]
    drawn += [bar(LEFT, x(0 if rank else noticed), LANES[rank], training) for rank in (0, 1)]
    drawn += [bar(x(noticed), x(saved), LANES[0], saving)]
    drawn += [bar(x(saved), x(started), LANES[0], gone), bar(x(0), x(started), LANES[1], gone)]
    drawn += [bar(x(started), x(stepped), lane, waking) for lane in LANES]
    drawn += [bar(x(stepped), WIDTH - 20, lane, training) for lane in LANES]
    marks = [
        (0.0, "killed"),
        (noticed, "noticed"),
        (saved, "last chunk stored"),
        (started, "new workers"),
        (resumed, "checkpoint restored"),
        (stepped, "first chunk done"),
    ]
    legend = [(training, "training"), (saving, "storing a checkpoint"), (gone, "no worker")]
    legend.append((waking, "building the model, first chunk"))
    for number, (at, words) in enumerate(marks, 1):
        path = f'd="M{x(at):.1f} 34v112" stroke-dasharray="2 2"'
        drawn.append(f'<path {path} stroke="{vega.colour("label")}"/>')
        drawn.append(text(x(at), 28 if number % 2 else 14, str(number), "middle"))
        drawn.append(text(16, 170 + 18 * number, f"{number}  {at:6.2f} s  {words}"))
    for number, (colour, words) in enumerate(legend, 1):
        drawn.append(bar(380, 394, 158 + 18 * number, colour, 12))
        drawn.append(text(402, 170 + 18 * number, words))
    return _svg(drawn, WIDTH, 180 + 18 * len(marks))


def _bar(left: float, right: float, top: float, colour: str, height: int = 30) -> str:
    width, fill = max(0.0, right - left), vega.colour(colour)
    return f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" fill="{fill}"/>'


def _text(left: float, base: float, words: str, anchor: str = "start") -> str:
    fill = vega.colour("label")
    return (
        f'<text x="{left:.1f}" y="{base}" fill="{fill}" text-anchor="{anchor}" '
        f'xml:space="preserve">{words}</text>'
    )


if __name__ == "__main__":
    main()
