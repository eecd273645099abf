"""Speed of the loop against Keras's fit: the same model, batch and data, in turns.

    python -m benchmarks.keras_fit --data URI [--preset NAME] [--rounds N]

Both train on arrays in memory, after a first call that traces. Prints images per second of each
round and the median of the ratios.
"""

import argparse
import statistics
import time

import numpy as np
import tensorflow as tf
from keras import losses, optimizers

from trainer import dataset, models, order, presets, schedule
from trainer.cluster import ALONE
from trainer.train import assemble, make_strategy


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="mlp-100", choices=list(presets.PRESETS))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    settings = {"preset": options.preset, "batch_size": options.batch_size}
    config = presets.configure({"optimizer": "adam", "chunk_steps": options.steps}, settings)
    data = dataset.load(options.data)
    images, labels = data.train.images, data.train.labels

    loop, _ = assemble(config, data, make_strategy(ALONE))
    state = loop.place(loop.initial_state())
    model = models.build(config, data.input_shape, data.classes)
    model.compile(optimizers.Adam(config.learning_rate), losses.SparseCategoricalCrossentropy(True))
    rows = np.arange(options.steps * config.batch_size) % len(labels)
    fit_images, fit_labels = images[rows], labels[rows]

    def ours(first: int) -> None:
        nonlocal state
        state, _ = loop.run_chunk(
            state,
            order.batches(1, len(labels), config.batch_size, first, options.steps),
            schedule.learning_rates(config, 10**6, first, options.steps),
            order.seeds(1, first, options.steps, loop.generators),
            first,
        )

    def fit() -> None:
        model.fit(fit_images, fit_labels, batch_size=config.batch_size, epochs=1, verbose=0)

    ours(0)
    fit()
    ratios = []
    for turn in range(options.rounds):
        began = time.perf_counter()
        ours((turn + 1) * options.steps)
        middle = time.perf_counter()
        fit()
        end = time.perf_counter()
        count = options.steps * config.batch_size
        ratios.append((end - middle) / (middle - began))
        print(
            f"trainyard {count / (middle - began):>9,.0f} images/s   "
            f"fit {count / (end - middle):>9,.0f} images/s   ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(
        f"{options.preset}, batch {config.batch_size}: {statistics.median(ratios):.2f} times fit "
        f"(median of {options.rounds}; TensorFlow {tf.__version__})"
    )


if __name__ == "__main__":
    main()
