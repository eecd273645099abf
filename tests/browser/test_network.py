"""network.js and draw.js of the report against TensorFlow and trainer/inference/picture.py."""

import base64
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import layers

from tests.support import networks
from trainer.data import dataset
from trainer.inference import mnist_style
from trainer.report import network
from trainer.runs import predictions
from trainer.runs.trained_weights import restore

gc.freeze()  # every clear_session collects garbage: not among TensorFlow's own objects

PROBABILITIES = """([description, bytes, size]) => {
    const network = Trainyard.network(description);
    const images = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    const answers = [];
    for (let at = 0; at < images.length; at += size) {
        answers.push([...network.probabilities(images.subarray(at, at + size))]);
    }
    return answers;
}"""
CENTRED = """([inks, size]) => inks.map(([text, height, width]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return [...Trainyard.centred(new Float32Array(bytes.buffer), height, width, size)];
})"""
# One letter a pixel: a list of numbers takes seconds on its way here.
INK = """(strokes) => [...Trainyard.ink(strokes)]
    .map((share) => String.fromCharCode(Math.round(255 * share))).join("")"""


def in_browser(
    page: Any, description: Any, images: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """Return what network.js makes of images, [n, classes]."""
    assert isinstance(description, dict), description
    text = base64.b64encode(images.tobytes()).decode()
    return np.array(page.evaluate(PROBABILITIES, [description, text, images[0].size]))


def test_a_runs_probabilities_are_tensorflows(scripts: Any, run: Path, data: Path) -> None:
    restored = restore(str(run))
    found = predictions.read(restored.storage)
    assert found is not None
    images = dataset.load(str(data), 0).test.images[:1000]
    architecture = json.loads((run / "model" / "architecture.json").read_text())
    description = network.describe(architecture, restored.arrays, (28, 28, 1), 10)
    wanted = networks.probabilities(found.logits[:1000])
    got = in_browser(scripts, description, images)
    assert got.shape == (1000, 10)
    print(f"largest difference {np.abs(got - wanted).max():.1e}")
    assert np.abs(got - wanted).max() < 1e-4
    assert set(wanted.argmax(axis=1)) == set(range(10))


def frozen() -> Any:
    body = networks.stack(layers.Conv2D(3, 3), layers.BatchNormalization())
    body.trainable = False
    return body


def activation(name: str) -> Callable[[], Any]:
    return lambda: networks.stack(layers.Conv2D(3, 3, activation=name))


def of(*makers: Callable[[], Any]) -> Callable[[], Any]:
    """Return a maker of a body; each call makes new layers, for their names."""
    return lambda: networks.stack(*(make() for make in makers))


BODIES: dict[str, Callable[[], Any]] = {
    "dense": of(),
    "dense without bias": of(lambda: layers.Dense(3, use_bias=False)),
    "convolution": of(lambda: layers.Conv2D(3, (2, 4)), lambda: layers.Conv2D(2, 3)),
    "same": of(lambda: layers.Conv2D(3, (2, 4), padding="same", use_bias=False)),
    "same, strides": of(lambda: layers.Conv2D(3, 4, strides=(2, 3), padding="same")),
    "same, long strides": of(lambda: layers.Conv2D(3, 2, strides=4, padding="same")),
    "strides": of(lambda: layers.Conv2D(3, 4, strides=(2, 3))),
    "batch norm": of(lambda: layers.Conv2D(3, 2), layers.BatchNormalization),
    "batch norm, bare": of(
        lambda: layers.BatchNormalization(scale=False, center=False, epsilon=0.1)
    ),
    "batch norm, flat": of(
        layers.Flatten, lambda: layers.Dense(5), lambda: layers.BatchNormalization(scale=False)
    ),
    "rescaling": of(lambda: layers.Rescaling([3.0], offset=-1)),
    "relu": of(lambda: layers.Conv2D(3, 2), layers.ReLU),
    "dropout": of(lambda: layers.Dropout(0.5), layers.Flatten),
    "frozen": frozen,
    **{f"activation {name}": activation(name) for name in network.ACTIVATIONS},
}


@pytest.mark.parametrize("name", BODIES)
def test_every_layer_is_tensorflows(scripts: Any, name: str) -> None:
    keras.utils.clear_session()
    rng = np.random.default_rng(len(name))
    model = networks.around(BODIES[name](), rng)
    images = rng.integers(0, 256, (20, networks.SIDE, networks.SIDE, 1), np.uint8)
    wanted = networks.probabilities(np.asarray(model(images)))
    got = in_browser(scripts, networks.describe(model), images)
    assert np.ptp(wanted, axis=0).max() > 1e-3, "the images make no difference"
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [28, 11])
def test_pictures_are_prepared_as_predict_does(scripts: Any, data: Path, size: int) -> None:
    rng = np.random.default_rng(1)
    inks = [image[..., 0] / np.float32(255) for image in dataset.load(str(data), 0).test.images]
    inks = [*inks[:30], np.zeros((9, 9), np.float32)]
    for _ in range(20):
        shape = rng.integers(1, 90, 2)
        inks.append(rng.random(shape, np.float32) ** 3 * (rng.random(shape) < 0.3))
    check_centred(scripts, inks, size)


@pytest.mark.parametrize("far", [0.0, 3.0, 60.0, 240.0])
def test_drawings_are_prepared_as_predict_does(scripts: Any, far: float) -> None:
    image = drawn(scripts, [[[20, 20], [20 + far, 25], [20 + far / 2, 20 + far]], [[30, 40]]])
    assert image.max() == 255


def test_strokes_become_as_wide_as_mnists(scripts: Any) -> None:
    for side in (40, 80, 160, 230):
        image = drawn(scripts, [[[20, 20], [20, 20 + side]]])
        assert 1.9 < (image.sum(axis=1) / 255)[8:20].mean() < 3.1


def drawn(page: Any, strokes: list[list[list[float]]]) -> npt.NDArray[np.uint8]:
    """Return what predict makes of a drawing's ink, having checked that the page does so too."""
    text = page.evaluate(INK, strokes)
    levels = np.frombuffer(text.encode("latin-1"), np.uint8).reshape(280, 280)
    ink = (levels / 255).astype(np.float32)
    check_centred(page, [ink], 28)
    return mnist_style.centred(ink, 28)


def check_centred(page: Any, inks: list[npt.NDArray[np.float32]], size: int) -> None:
    """Check that the page prepares ink as predict does, within one grey level."""
    sent = [(base64.b64encode(ink.tobytes()).decode(), *ink.shape) for ink in inks]
    for image, ink in zip(page.evaluate(CENTRED, [sent, size]), inks, strict=True):
        away = np.array(image).reshape(size, size) - mnist_style.centred(ink, size).astype(int)
        assert np.abs(away).max() <= 1
