"""How far the loop is from what the machine can do.

    python -m benchmarks.limits --data URI [--only PRESET ...]

In one process: seconds of a step's matrix products and convolutions, each alone and of the step's
shapes, over the seconds of the step. Between two: the all-reduce of a gradient against bare
sockets that carry the same bytes, and against the loopback's round trip.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from benchmarks import common
from benchmarks.allreduce import FLOATS
from benchmarks.common import ABSENT, Side, Spread, ratios, table, take_turns
from benchmarks.tensorflow_side import Ours
from benchmarks.throughput import settings_of
from trainer import dataset, models, presets
from trainer.presets import PRESETS

COPIES = (16, 64)  # of a product in one graph call, at least and at most
ENOUGH = 1e9  # floating-point operations beside which a call costs nothing
SECONDS = 1.0  # of one turn
WHOLE = 4  # bytes of a float


@dataclass(frozen=True)
class Product:
    """A matrix product or a convolution of a step.

    Attributes:
        name: what it computes.
        flops: floating-point operations, two for each multiplication and addition.
        shapes: of its arguments.
        compute: takes arrays of these shapes.
    """

    name: str
    flops: float
    shapes: tuple[tuple[int, ...], ...]
    compute: Callable[..., Any]


def main() -> None:
    """Measure and print."""
    parser = common.options(main.__doc__, rounds=5)
    parser.add_argument("--only", nargs="*", choices=list(PRESETS), default=list(PRESETS))
    chosen = common.parse(parser)
    if chosen.quick:
        chosen.only = chosen.only[:1]
    rows = [arithmetic(name, chosen) for name in chosen.only]
    head = ["preset", "batch", "GFLOP a step", "ms a step", "GFLOP/s", "ms bare", "GFLOP/s bare"]
    lines = ["gradient", "KiB", *(f"{name}, ms" for name in NAMES.values()), "sockets over ours"]
    about = (
        f"Median (least to greatest) of {chosen.rounds} turns of each side: of a step, and of its "
        "matrix products and convolutions alone."
    )
    body = [
        table([*head, "share of the step"], rows),
        "Bare are TensorFlow's own products and convolutions, forward and backward, each of the "
        "step's shapes and on as many threads; the first layer's has no gradient for its input. "
        "The rest of a step is gathering and scaling images, activations, normalisation, loss and "
        "the update; where XLA compiles the step, its products may be faster than the bare ones.",
        "The sum of a vector of a gradient's size over two processes on the loopback interface:",
        table(lines, collectives(chosen)),
        "Sockets carry what a sum over two needs, half of the vector each way and the other half "
        "back, and add nothing up.",
    ]
    common.publish(chosen, "Limits", about, "\n\n".join(body))


def arithmetic(name: str, chosen: argparse.Namespace) -> list[str]:
    """Return the line of a preset: its step against its products alone."""
    config = presets.configure({}, settings_of(name))
    data = dataset.load(chosen.data, config.validation)
    found = products(models.build(config, data.input_shape, data.classes), config.batch_size)
    ours = Ours(config, data)
    bare = [alone(product) for product in found]
    seconds = 0.02 if chosen.quick else SECONDS
    ours.train("", 1)

    def step() -> float:
        done, spent = ours.train("", steps)
        return spent / done

    def products_alone() -> float:
        return sum(timed(each, seconds / len(bare)) / copies for each, copies in bare)

    steps = 1
    steps = max(1, round(seconds / step()))
    times = take_turns({"step": step, "bare": products_alone}, chosen.rounds)
    flops = sum(product.flops for product in found)
    line = [f"`{name}`", str(config.batch_size), f"{flops / 1e9:.3f}"]
    for side in ("step", "bare"):
        line.append(Spread.of(t * 1e3 for t in times[side]).text(".3f"))
        line.append(f"{flops / statistics.median(times[side]) / 1e9:.0f}")
    return [*line, ratios(times["bare"], times["step"]).text(".0%")]


def products(model: Any, batch: int) -> list[Product]:
    """Return the matrix products and convolutions of a training step.

    Args:
        model: whose layers stand in a row.
        batch: images.
    """
    found: list[Product] = []
    for layer in layers_of(model):
        kind = type(layer).__name__
        first = not found
        if kind == "Dense":
            inputs, units = layer.kernel.shape
            found += dense(inputs, units, batch, first=first)
        elif kind == "Conv2D":
            found += convolution(layer, batch, first=first)
    return found


def layers_of(layer: Any) -> Iterator[Any]:
    """Yield the layers that do the work, in their order."""
    inner = getattr(layer, "layers", None)
    if inner is None:
        yield layer
    for each in inner or []:
        yield from layers_of(each)


def dense(inputs: int, units: int, batch: int, *, first: bool) -> list[Product]:
    """Return the products of a dense layer: forward, for its weights, and for its input."""
    flops, matmul = 2.0 * batch * inputs * units, tf.linalg.matmul
    made = [
        Product("forward", flops, ((batch, inputs), (inputs, units)), matmul),
        Product(
            "weights",
            flops,
            ((batch, inputs), (batch, units)),
            lambda x, g: matmul(x, g, transpose_a=True),
        ),
        Product(
            "input",
            flops,
            ((batch, units), (inputs, units)),
            lambda g, w: matmul(g, w, transpose_b=True),
        ),
    ]
    return made[:2] if first else made


def convolution(layer: Any, batch: int, *, first: bool) -> list[Product]:
    """Return the convolutions of a layer: forward, for its weights, and for its input."""
    images, kernel = (batch, *layer.input.shape[1:]), tuple(layer.kernel.shape)
    outputs = (batch, *layer.output.shape[1:])
    flops = 2.0 * tf.TensorShape(outputs).num_elements() * tf.TensorShape(kernel[:3]).num_elements()
    settings = {"strides": [1, *layer.strides, 1], "padding": layer.padding.upper()}
    raw = tf.raw_ops
    made = [
        Product(
            "forward",
            flops,
            (images, kernel),
            lambda x, w: raw.Conv2D(input=x, filter=w, **settings),
        ),
        Product(
            "weights",
            flops,
            (images, outputs),
            lambda x, g: raw.Conv2DBackpropFilter(
                input=x, filter_sizes=kernel, out_backprop=g, **settings
            ),
        ),
        Product(
            "input",
            flops,
            (kernel, outputs),
            lambda w, g: raw.Conv2DBackpropInput(
                input_sizes=images, filter=w, out_backprop=g, **settings
            ),
        ),
    ]
    return made[:2] if first else made


def alone(product: Product) -> tuple[Callable[[], object], int]:
    """Return what computes a product some times, one after the other, and how often.

    All of the same arrays, which stay in the caches as a step's do. Each waits for the one before
    it and all results are returned, so that the graph's optimizer merges and drops none.
    """
    least, most = COPIES
    count = min(most, max(least, int(ENOUGH / product.flops)))
    arrays = [tf.random.normal(shape) for shape in product.shapes]

    def compute(*arrays: Any) -> list[Any]:
        results: list[Any] = []
        for _ in range(count):
            with tf.control_dependencies(results[-1:]):
                results.append(product.compute(*arrays))
        return results

    # Traced here: to TensorFlow many such functions look like one traced over and over.
    graph = tf.function(compute, autograph=False).get_concrete_function(*arrays)
    graph(*arrays)
    return lambda: graph(*arrays), count


def timed(call: Callable[[], object], seconds: float) -> float:
    """Return the seconds of one call, of as many as fill the given seconds."""
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds or not count:
        call()
        count += 1
    return spent / count


# The sum over two processes.

NAMES = {
    "ring": "ours",
    "tensorflow": "TensorFlow",
    "torch": "PyTorch gloo",
    "sockets": "bare sockets",
    "round trip": "round trip of a byte",
}


def collectives(chosen: argparse.Namespace) -> list[list[str]]:
    """Return a line for each size of a gradient."""
    rows = []
    repeats = 20 if chosen.quick else 300
    commands = {kind: [sys.executable, "-m", "benchmarks.allreduce", kind] for kind in NAMES}
    if python := common.pytorch():
        commands["torch"][0] = python
    else:
        del commands["torch"]
    sizes = dict(list(FLOATS.items())[: 1 if chosen.quick else None])
    for name, floats in sizes.items():
        work: dict[str, Callable[[], float]] = {}
        with gangs(commands) as found:
            for kind, gang in found.items():
                work[kind] = partial(together, gang, floats, repeats)
                work[kind]()
            times = take_turns(work, chosen.rounds)
        row = [f"`{name}`" if name in PRESETS else name, f"{floats * WHOLE / 1024:,.0f}"]
        for kind in NAMES:
            found_times = [t * 1e3 for t in times.get(kind, [])]
            row.append(Spread.of(found_times).text(".2f") if found_times else ABSENT)
        rows.append([*row, ratios(times["sockets"], times["ring"]).text(".0%")])
    return rows


@contextmanager
def gangs(commands: dict[str, list[str]]) -> Iterator[dict[str, list[Side]]]:
    """Start two processes of each kind."""
    made: dict[str, list[Side]] = {}
    try:
        for kind, command in commands.items():
            port = str(common.free_ports(2))
            made[kind] = [Side([*command, str(rank), port]) for rank in range(2)]
            for side in made[kind]:  # joined before the next looks for free ports
                side.send(floats=1, repeats=1)
            for side in made[kind]:
                side.receive(limit=120)
        yield made
    finally:
        for side in (side for gang in made.values() for side in gang):
            side.close()


def together(gang: list[Side], floats: int, repeats: int) -> float:
    """Return the seconds of one sum."""
    for side in gang:
        side.send(floats=floats, repeats=repeats)
    seconds: float = max(side.receive(limit=120)["seconds"] for side in gang)
    return seconds / repeats


if __name__ == "__main__":
    main()
