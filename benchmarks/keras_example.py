"""A side: the simple convnet of Keras's documentation, trained with ``fit``.

    python -m benchmarks.keras_example SEED DATA

After https://keras.io/examples/vision/mnist_convnet: 3x3 convolutions of 32 and 64, each pooled,
dropout of 0.5, Adam, batch 128, one tenth set apart for validation. That is left out of the clock,
so ``fit`` gets the other nine tenths alone. Requests: {"do": "epoch", "rows"}, {"do": "score"}.
"""

import sys
import time

import keras
import numpy as np
from keras import layers

from benchmarks.common import Answer, serve
from trainer.data import dataset

BATCH = 128
HELD_OUT = 6000  # images


def main() -> None:
    """Be the side."""
    keras.utils.set_random_seed(int(sys.argv[1]))
    data = dataset.load(sys.argv[2], 0)
    images, tests = (split.images.astype(np.float32) / 255 for split in (data.train, data.test))
    labels = keras.utils.to_categorical(data.train.labels, data.classes)
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(data.classes, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])

    def work(do: str, rows: int = 0) -> Answer:
        began = time.perf_counter()
        if do == "epoch":
            count = min(rows, len(labels) - HELD_OUT)
            model.fit(images[:count], labels[:count], batch_size=BATCH, epochs=1, verbose=0)
            return {"seconds": time.perf_counter() - began}
        guesses = model.predict(tests, batch_size=500, verbose=0).argmax(axis=1)
        accuracy = float((guesses == data.test.labels).mean())
        return {"seconds": time.perf_counter() - began, "accuracy": accuracy}

    serve(work)


if __name__ == "__main__":
    main()
