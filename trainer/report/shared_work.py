"""How the workers of a gang shared the work: the parts of a step, and what restarts cost."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from trainer import progress
from trainer.common.untrusted_json import measured
from trainer.report import vega

PARTS = ("computing", "waiting", "adding up")
COLOURS = {"computing": "series-1", "waiting": "axis", "adding up": "series-2"}

_MOST_RANKS, _MOST_STEPS, _MOST_STRETCHES = 1024, 8, 64
_WIDTH, _ROW, _LEFT, _FOOT = 640, 34, 52, 26  # of a timeline, CSS pixels

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """One rank's mean step, milliseconds; ``parts`` in the order of PARTS."""

    rank: int
    parts: tuple[float, ...]

    @property
    def total(self) -> float:
        """Return the milliseconds of a step."""
        return sum(self.parts)


@dataclass(frozen=True)
class Slow:
    """Steps in which a rank was slow, after ``first`` up to ``last``, and how, in words."""

    rank: int
    first: int
    last: int
    words: str


@dataclass(frozen=True)
class Work:
    """What the page shows of a gang.

    Attributes:
        batch: images of a step, None if config.json does not say.
        shares: of the ranks, in the order of ranks.
        steps: of each rank, (computing, summing) of a few steps one after the other, ms.
        slow: stretches of steps in which a rank held up the others, in their order.
    """

    batch: int | None
    shares: tuple[Share, ...]
    steps: tuple[tuple[tuple[float, float], ...], ...]
    slow: tuple[Slow, ...] = ()

    @property
    def longest(self) -> float:
        """Return the milliseconds of the rank with the longest step."""
        return max(share.total for share in self.shares)

    @property
    def timeline(self) -> Markup:
        """Return the picture of the few steps, an SVG; empty if there are none."""
        names = [share.rank for share in self.shares]
        return timeline(self.steps, names) if self.steps else Markup()


def of_run(stored: Mapping[str, Any], lines: Sequence[Line] | str) -> Work | None:
    """Return how the workers of a run shared its work, None if nothing was measured.

    ``stored`` is its config.json; anybody may have written the lines of metrics.jsonl.
    """
    if isinstance(lines, str):
        return None
    chunks = [found for line in lines if (found := _parts_of(line))]
    if not chunks:
        return None
    names = chunks[-1].keys()  # other ranks may have taken part before
    same = [found for found in chunks if found.keys() == names]
    shares = tuple(
        Share(rank, tuple(fmean(found[rank][part] for found in same) for part in range(3)))
        for rank in names
    )
    single = [
        steps
        for line in lines
        if (steps := _single_steps(line)) and [*progress.named(line, len(steps))] == [*names]
    ]
    batch = stored.get("batch_size")
    return Work(
        batch=batch if type(batch) is int and batch % len(names) == 0 else None,
        shares=shares,
        steps=single[-1] if single else (),
        slow=slow_stretches(lines)[:_MOST_STRETCHES],
    )


def slow_stretches(lines: Sequence[Line]) -> tuple[Slow, ...]:
    """Return when ranks were slow, by the lines of chunks, which name them each time."""
    done: list[Slow] = []
    open_ones: dict[int, Slow] = {}
    before = 0
    for line in lines:
        if not _parts_of(line):
            continue
        step, said = int(line["step"]), progress.slow_ranks(line)
        done += [each for rank, each in open_ones.items() if rank not in said]
        open_ones = {
            rank: Slow(rank, open_ones[rank].first if rank in open_ones else before, step, words)
            for rank, words in said.items()
        }
        before = step
    return tuple(sorted([*done, *open_ones.values()], key=lambda each: (each.first, each.rank)))


def timeline(
    steps: Sequence[Sequence[tuple[float, float]]], names: Sequence[int], *, words: bool = False
) -> Markup:
    """Return a few steps of all ranks on one axis of milliseconds, an SVG of a fixed width.

    Each rank's times are of its own clock. A sum ends for all at about the same moment, so each
    row is moved by as much as makes its sums end with those of the others in the mean.

    Args:
        steps: of each rank, (computing, summing) one after the other, ms.
        names: of the ranks.
        words: whether to name the parts below it, and to set it on white: for a page of its own.
    """
    adding = [min(rank[k][1] for rank in steps) for k in range(len(steps[0]))]
    totals = [sum(map(sum, rank)) for rank in steps]
    ends = [fmean(itertools.accumulate(map(sum, rank))) for rank in steps]
    begins = [max(ends) - end for end in ends]
    longest = max(map(sum, zip(begins, totals, strict=True))) or 1.0
    scale = (_WIDTH - _LEFT - 8) / longest
    height = _ROW * len(steps) + _FOOT + (24 if words else 0)
    drawn = []
    for row, rank in enumerate(steps):
        at, top = begins[row], _ROW * row + 4
        drawn.append(_text(4, top + 18, f"rank {names[row]}"))
        for (computing, summing), added in zip(rank, adding, strict=True):
            parts = (computing, max(0.0, summing - added), min(summing, added))
            for part, length in zip(PARTS, parts, strict=True):
                left, width = _LEFT + at * scale, length * scale
                drawn.append(_bar(left, top, width, COLOURS[part]))
                at += length
            end = _LEFT + at * scale
            mark = vega.colour("label")
            drawn.append(
                f'<path d="M{end:.1f} {top - 2}v{_ROW - 6}" stroke="{mark}" stroke-width="1"/>'
            )
    foot = _ROW * len(steps)
    for tick in _ticks(longest):
        at = _LEFT + tick * scale
        anchor = "middle" if at < _WIDTH - 20 else "end"
        drawn.append(_text(min(at, _WIDTH - 2), foot + 16, f"{tick:g} ms", anchor))
    if words:
        for place, part in enumerate(PARTS):
            left = _LEFT + 130 * place
            drawn.append(_bar(left, foot + 28, 14, COLOURS[part], 14))
            drawn.append(_text(left + 20, foot + 40, part))
    return _svg(drawn, height, white=words)


def _svg(drawn: Sequence[str], height: int, *, white: bool) -> Markup:
    name = ' xmlns="http://www.w3.org/2000/svg"'
    ground = f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>' if white else ""
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    return Markup(  # noqa: S704  # numbers, and words of this module
        f'<svg{name} viewBox="0 0 {_WIDTH} {height}" {font}>{ground}{"".join(drawn)}</svg>'
    )


def _bar(left: float, top: float, width: float, colour: str, height: int = _ROW - 10) -> str:
    fill = vega.colour(colour)
    return f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" fill="{fill}"/>'


def _text(left: float, base: float, words: str, anchor: str = "start") -> str:
    fill = vega.colour("label")
    return f'<text x="{left:.1f}" y="{base}" fill="{fill}" text-anchor="{anchor}">{words}</text>'


def _ticks(longest: float) -> list[float]:
    """Return a few round milliseconds from 0 on."""
    unit = 10.0 ** (len(f"{longest:.0f}") - 1)
    step = next(each for each in (unit / 5, unit / 2, unit, 2 * unit) if longest / each < 7)
    return [round(k * step, 6) for k in range(int(longest / step) + 1)]


def _parts_of(line: Line) -> dict[int, tuple[float, float, float]]:
    """Return the ranks' milliseconds in the order of PARTS; none if the line has none."""
    computing, waiting = _numbers(line.get("compute_ms")), _numbers(line.get("wait_ms"))
    adding = measured(line.get("sum_ms"))
    if adding is None or not 2 <= len(computing) == len(waiting) <= _MOST_RANKS:
        return {}
    names = progress.named(line, len(computing))
    return {n: (c, w, adding) for n, c, w in zip(names, computing, waiting, strict=True)}


def _single_steps(line: Line) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return (computing, summing) of the steps of each rank, as many for all."""
    ranks = line.get("steps_ms")
    if not isinstance(ranks, list) or not all(isinstance(steps, list) for steps in ranks):
        return ()
    pairs = [[_numbers(step) for step in steps] for steps in ranks]
    count = len(pairs[0]) if pairs else 0
    sound = all(len(rank) == count and all(len(p) == 2 for p in rank) for rank in pairs)
    if not sound or not 1 <= count <= _MOST_STEPS:
        return ()
    return tuple(tuple((step[0], step[1]) for step in rank) for rank in pairs)


def _numbers(value: Any) -> list[float]:
    """Return a list of measured values, empty if one is none."""
    found = [measured(each) for each in value] if isinstance(value, list) else []
    sound = [each for each in found if each is not None]
    return sound if len(sound) == len(found) else []
