"""Draws the pictures of docs/how-it-works.md from a run of two workers, one of which is killed.

    python docs/drawings.py bucket/data

writes docs/steps.svg, some steps as each rank measured them, and docs/fault.svg, what the gang's
processes reported after SIGKILL of rank 1's worker, and when.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from trainer import presets
from trainer.gang.local_gang import Gang
from trainer.report import shared_work, vega
from trainer.runs import run_folder
from trainer.storage.base import open_storage
from trainer.worker_events import Event

DOCS = Path(__file__).resolve().parent
KILL_AFTER = 400  # steps
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
    """Train, kill, and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", help="folder with MNIST")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as run:
        settings: dict[str, Any] = {"data": data, "run": run, "workers": 2, "epochs": 3.0}
        flags = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
        recorder = Recorder()
        gang = Gang(
            ["train", "--no-report", *flags],
            presets.configure({}, settings),
            log=Path(os.devnull),
            listen=recorder.tell,
        )
        gang.run(threading.Event())
        lines = run_folder.read_metrics(open_storage(run), 1 << 53)
    steps = next(line["steps_ms"] for line in lines if "steps_ms" in line)
    (DOCS / "steps.svg").write_text(shared_work.timeline(steps, words=True))
    (DOCS / "fault.svg").write_text(fault(recorder.moments))
    sys.stdout.write(f"{recorder.moments[:14]}\n")


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
    training, gone, waking, saving = "series-1", "mark", "axis", "series-2"
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
    height = 180 + 18 * len(marks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>{"".join(drawn)}</svg>\n'
    )


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
