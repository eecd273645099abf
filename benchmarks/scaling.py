"""Step time against the number of workers: a model, fitted to gangs of one to four workers.

    python -m benchmarks.scaling --data URI

A worker has one thread and is kept to a core; where there are more workers than cores, they share.
XLA is off, as it is in gangs on CPUs, so that one worker does what several do. What follows from
it is in docs/scaling.md.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import common
from benchmarks.allreduce import FLOATS
from benchmarks.common import Spread, table, take_turns
from benchmarks.workers import CHUNKS, Case, train
from trainer.train.all_reduce import rounds

WORKERS = (1, 2, 3, 4)
BATCHES = (96, 384, 1536)  # shared out evenly by each number of workers
PRESETS = ("mlp-100", "cnn")
IMAGES = 60_000  # of a run of a gang, about
FLOAT = 4  # bytes
AHEAD = (8, 64, 1024)  # workers
FIXED, OWN = 2048, 256  # images of a global batch, and of each worker's part of one
# What Meta's 16,384 GPUs that trained Llama 3 405B saw in 54 days (arXiv:2407.21783, section
# 3.3.4): 419 unexpected interruptions. Seconds of one worker for each.
BETWEEN_FAILURES = 54 * 24 * 3600 * 16_384 / 419
PREEMPTED = 24 * 3600.0  # seconds a worker lasts where each is taken away once a day
RESTART = 5.0  # seconds without progress after a fault, see docs/reliability.md


class Plain(Case):
    """A case without XLA."""

    @property
    def flags(self) -> list[str]:
        """Arguments of a run of ours."""
        return [*super().flags, "--xla", "off"]


@dataclass(frozen=True)
class Costs:
    """What a step takes.

    Attributes:
        step: seconds a worker takes for a step, however small its batch.
        image: seconds for each image of its batch.
        hop: seconds of an exchange between two workers, beside its bytes.
    """

    step: float
    image: float
    hop: float


@dataclass(frozen=True)
class Network:
    """Seconds for a message to arrive, and bytes a second."""

    latency: float
    bandwidth: float


ETHERNET = Network(50e-6, 1.25e9)  # assumed: TCP in one data centre, 10 Gbit/s
LOOPBACK = Network(0.0, float("inf"))  # its share is in what is fitted


def step_seconds(
    costs: Costs,
    workers: int,
    batch: int,
    *,
    crowd: int = 1,
    floats: int = 0,
    network: Network = LOOPBACK,
) -> float:
    """Return the seconds of a step: the arithmetic, then the sum.

    Args:
        costs: of this model.
        workers: of the gang.
        batch: images of the global batch.
        crowd: workers that share a core, on the core that has most.
        floats: that are summed.
        network: between workers.
    """
    sending = floats * FLOAT / network.bandwidth
    ways = [
        hops * (costs.hop + network.latency) + vectors * sending for hops, vectors in sums(workers)
    ]
    return crowd * (costs.step + costs.image * batch / workers) + min(ways)


def sums(workers: int) -> list[tuple[int, float]]:
    """Return the ways to sum: exchanges one after the other, and vectors that each worker sends."""
    hops = len(rounds(workers))
    scattered = (2 * hops, 2 * (workers - 1) / workers)
    return [(hops, hops), scattered] if workers.bit_count() == 1 else [scattered]


def fit(measured: Mapping[tuple[int, int], float], cores: int) -> Costs:
    """Return the costs with the least squares of relative errors.

    Args:
        measured: seconds of a step for (workers, batch).
        cores: that the workers were kept to.
    """
    rows = np.array(
        [
            [crowd(workers, cores), crowd(workers, cores) * batch / workers, sums(workers)[0][0]]
            for workers, batch in measured
        ]
    )
    seconds = np.array(list(measured.values()))
    found = np.linalg.lstsq(rows / seconds[:, None], np.ones(len(seconds)), rcond=None)[0]
    return Costs(*found.tolist())


def crowd(workers: int, cores: int) -> int:
    """Return how many workers share a core, on the core that has most."""
    return -(-workers // cores)


def lost(workers: int, lasts: float) -> float:
    """Return the share of time without progress, where a worker lasts so many seconds."""
    return min(1.0, RESTART * workers / lasts)


def main() -> None:
    """Measure, fit and print."""
    chosen = common.parse(common.options(main.__doc__, rounds=3))
    batches = BATCHES[:1] if chosen.quick else BATCHES
    gangs = WORKERS[:2] if chosen.quick else WORKERS
    cores, checks, costs_of = len(os.sched_getaffinity(0)), [], {}
    for preset in PRESETS[:1] if chosen.quick else PRESETS:
        measured = measure(preset, batches, gangs, chosen)
        costs_of[preset] = costs = fit(measured, cores)
        for (workers, batch), seconds in measured.items():
            told = step_seconds(costs, workers, batch, crowd=crowd(workers, cores))
            line = [f"`{preset}`", str(workers), f"{batch:,}"]
            checks.append([*line, ms(seconds), ms(told), f"{told / seconds - 1:+.0%}"])
    fitted = [
        [f"`{preset}`", ms(costs.step), us(costs.image), us(costs.hop)]
        for preset, costs in costs_of.items()
    ]
    ahead = [forecast(preset, costs, n) for preset, costs in costs_of.items() for n in AHEAD]
    failures = [
        [
            f"{workers:,}",
            f"{BETWEEN_FAILURES / workers / 3600:,.0f} h",
            f"{lost(workers, BETWEEN_FAILURES):.4%}",
            f"{PREEMPTED / workers / 60:,.1f} min",
            f"{lost(workers, PREEMPTED):.1%}",
        ]
        for workers in AHEAD
    ]
    kinds, names = (f"{FIXED:,}: ", f"{OWN} each: "), ("ms", "times one", "efficiency")
    about = (
        f"Gangs of 1 to {max(gangs)} workers on {cores} cores, each worker with one thread and "
        f"pinned to a core: medians of {chosen.rounds} runs in turns, and three costs of a step "
        "fitted to them."
    )
    body = [
        table(["model", "a step, ms", "an image, us", "a hop, us"], fitted),
        table(["model", "workers", "batch", "measured, ms", "fitted, ms", "off by"], checks),
        "What these costs predict for workers on machines of their own, with one core each, "
        f"{ETHERNET.latency * 1e6:.0f} us more a hop and {ETHERNET.bandwidth / 1e9 * 8:.0f} Gbit/s "
        "between them (assumed): milliseconds a step, speed as a multiple of one worker's, and "
        f"that multiple divided by the number of workers. The batch is {FIXED:,} in total, or "
        f"{OWN} for each worker:",
        table(
            ["model", "workers", *(f"{kind}{name}" for kind in kinds for name in names)],
            ahead,
        ),
        f"Time without progress at {RESTART:g} s a fault, with the fault rate of Llama 3's GPUs, "
        "and if each worker is preempted once a day:",
        table(["workers", "a fault every", "lost", "preempted every", "lost"], failures),
    ]
    common.publish(chosen, "Scaling", about, "\n\n".join(body))


def measure(
    preset: str, batches: Sequence[int], gangs: Sequence[int], chosen: argparse.Namespace
) -> dict[tuple[int, int], float]:
    """Return the median seconds of a step for (workers, batch)."""
    cores = sorted(os.sched_getaffinity(0))
    work: dict[tuple[int, int], Callable[[], float]] = {}
    for batch in batches:
        case = Plain(preset, batch, 3 if chosen.quick else max(4, IMAGES // CHUNKS // batch))
        for workers in gangs:
            places = [cores[rank % len(cores)] for rank in range(workers)]
            work[workers, batch] = partial(train, case, chosen.data, places)
    found = take_turns({str(key): call for key, call in work.items()}, chosen.rounds)
    medians = {key: key[1] / Spread.of(found[str(key)]).median for key in work}
    print(preset, medians, file=sys.stderr, flush=True)
    return medians


def forecast(preset: str, costs: Costs, workers: int) -> list[str]:
    """Return a line for a number of workers on machines of their own."""
    line = [f"`{preset}`", f"{workers:,}"]
    for batch, alone in ((FIXED, FIXED), (OWN * workers, OWN)):
        one = step_seconds(costs, 1, alone) / alone
        seconds = step_seconds(costs, workers, batch, floats=FLOATS[preset], network=ETHERNET)
        times = one / (seconds / batch)
        line += [ms(seconds), f"{times:,.1f}", f"{times / workers:.0%}"]
    return line


def ms(seconds: float) -> str:
    """Return seconds as milliseconds."""
    return f"{seconds * 1e3:,.2f}"


def us(seconds: float) -> str:
    """Return seconds as microseconds."""
    return f"{seconds * 1e6:,.1f}"


if __name__ == "__main__":
    main()
