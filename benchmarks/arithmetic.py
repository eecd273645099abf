"""A side: steps of our loop, and their matrix products and convolutions by themselves.

    python -m benchmarks.arithmetic SETTINGS DATA

Requests: {"do": "flops"}; {"do": "step" or "bare", "seconds"}, which is answered with the
{"seconds"} of one, of as many as fill the given time.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from benchmarks.common import Answer, serve
from benchmarks.tensorflow_side import Ours
from trainer import presets
from trainer.cluster_spec import ALONE
from trainer.data import dataset
from trainer.train import models
from trainer.train.devices import is_reordered, microbatches_of, set_threads
from trainer.train.forward import (
    goes_back_unstrided,
    in_a_row,
    input_gradient,
    multiplies_first,
    together,
)

COPIES = (16, 64)  # of a product in one graph call, at least and at most
ENOUGH = 1e9  # floating-point operations beside which a call costs nothing


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
    """Be the side."""
    settings, uri = sys.argv[1:]
    config = presets.configure({}, json.loads(settings))
    data = dataset.load(uri, config.validation)
    set_threads(config, ALONE, data)
    microbatches = microbatches_of(config)
    model = models.build(config, data.input_shape, data.classes)
    found = products(model, config.batch_size // microbatches, reordered=is_reordered(config))
    ours = Ours(config, data)
    bare = [alone(product, microbatches) for product in found]
    ours.train("", 1)

    def work(do: str, seconds: float = 0.0) -> Answer:
        if do == "flops":
            return {"flops": microbatches * sum(product.flops for product in found)}
        if do == "step":
            return {"seconds": timed(lambda: ours.train("", 1)[0], seconds)}
        return {"seconds": sum(timed(each, seconds / len(bare)) for each in bare)}

    serve(work)


def products(model: Any, batch: int, *, reordered: bool) -> list[Product]:
    """Return the matrix products and convolutions of a training step.

    Args:
        model: whose layers stand in a row.
        batch: images.
        reordered: whether they are those of ``forward.py``.
    """
    found: list[Product] = []
    for layer, *more in together(in_a_row(model)):
        kind = type(layer).__name__
        first = not found
        if reordered and more and multiplies_first([layer, *more], batch):
            found += chain([layer, *more], batch, first=first)
            continue
        for each in (layer, *more):
            if kind == "Dense":
                inputs, units = each.kernel.shape
                found += dense(inputs, units, batch, first=first and each is layer)
            elif kind == "Conv2D":
                found += convolution(each, batch, first=first, reordered=reordered)
    return found


def chain(group: list[Any], batch: int, *, first: bool) -> list[Product]:
    """Return the products of dense layers that are multiplied with each other."""
    units, found = group[-1].units, list[Product]()
    for layer in group[:-1]:
        # The layer takes the place of the images, the product of those after it that of a layer.
        inputs, inner = layer.kernel.shape
        found += dense(inner, units, inputs, first=False)
    return found + dense(group[0].kernel.shape[0], units, batch, first=first)


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


def convolution(layer: Any, batch: int, *, first: bool, reordered: bool) -> list[Product]:
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
            lambda w, g: (
                input_gradient(g, w, images, layer.strides)
                if reordered and goes_back_unstrided(layer)
                else raw.Conv2DBackpropInput(
                    input_sizes=images, filter=w, out_backprop=g, **settings
                )
            ),
        ),
    ]
    return made[:2] if first else made


def alone(product: Product, microbatches: int) -> Callable[[], int]:
    """Return what computes a product some times, one after the other, and returns how often.

    All of the same arrays, which stay in the caches as a step's do. Each waits for the one before
    it and all results are returned, so that the graph's optimizer merges and drops none.

    Args:
        product: of a microbatch.
        microbatches: how many to compute side by side.
    """
    least, most = COPIES
    count = min(most, max(least, int(ENOUGH / product.flops)))
    arrays = [tf.random.normal(shape) for shape in product.shapes]

    def compute(*arrays: Any) -> list[Any]:
        results: list[list[Any]] = [[] for _ in range(microbatches)]
        for done in (part for _ in range(count) for part in results):
            with tf.control_dependencies(done[-1:]):
                done.append(product.compute(*arrays))
        return results

    # Traced here: to TensorFlow many such functions look like one traced over and over.
    graph = tf.function(compute, autograph=False).get_concrete_function(*arrays)
    graph(*arrays)

    def computed() -> int:
        graph(*arrays)
        return count

    return computed


def timed(work: Callable[[], int], seconds: float) -> float:
    """Return the seconds of one piece of work, of as many as fill the given seconds.

    Args:
        work: does some pieces and returns how many.
        seconds: at least.
    """
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds or not count:
        count += work()
    return spent / count


if __name__ == "__main__":
    main()
