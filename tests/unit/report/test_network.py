import base64
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tests.support import networks
from trainer.report import html, network

pytestmark = pytest.mark.tensorflow


def described(body: Any) -> Any:
    return networks.describe(networks.around(body, np.random.default_rng(1)))


def numbers(description: dict[str, Any]) -> Any:
    return np.frombuffer(base64.b64decode(description["weights"]), "<f4")


def test_a_dense_layer_is_found_again() -> None:
    model = networks.around(networks.stack(), np.random.default_rng(1))
    found = networks.describe(model)
    assert isinstance(found, dict)
    assert (found["input_shape"], found["classes"]) == ([11, 11, 1], 4)
    scaling, dense = found["layers"]
    row = numbers(found)
    assert (scaling["type"], scaling["input"], scaling["output"]) == (
        "affine",
        [11, 11, 1],
        [11, 11, 1],
    )
    assert row[scaling["scale"]] == np.float32(1 / 255)
    assert row[scaling["shift"]] == 0
    assert (dense["type"], dense["input"], dense["output"]) == ("dense", [121], [4])
    kernel, bias = (v.numpy() for v in model.trainable_variables)
    np.testing.assert_array_equal(row[dense["kernel"] :][:484].reshape(121, 4), kernel)
    np.testing.assert_array_equal(row[dense["bias"] :][:4], bias)
    assert len(row) == 2 + 484 + 4


def test_what_only_training_does_is_left_out() -> None:
    inert = [layers.Dropout(0.5)]
    assert described(networks.stack(*inert)) == described(networks.stack())


def test_layers_in_models_in_models_are_found_by_name() -> None:
    def inner(name: str) -> Any:
        return keras.Sequential([layers.Dense(3, name="same")], name=name)

    model = networks.around(
        networks.stack(layers.Flatten(), inner("a"), inner("b"), layers.Dense(3, name="same")),
        np.random.default_rng(1),
    )
    found = networks.describe(model)
    assert isinstance(found, dict)
    row = numbers(found)
    for variable in model.trainable_variables:
        values = variable.numpy().ravel()
        assert any((row[i : i + len(values)] == values).all() for i in range(len(row)))


def functional() -> Any:
    images = keras.Input((11, 11, 1))
    return keras.Model(images, layers.Dense(4)(layers.Flatten()(images)))


@keras.saving.register_keras_serializable("tests")
class Dense(layers.Dense):  # type: ignore[misc]
    """A user's layer with the name of one of Keras'."""


UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown layer": (
        lambda: networks.stack(layers.UnitNormalization()),
        "it has a layer UnitNormalization, which the page does not compute",
    ),
    "a user's layer": (
        lambda: networks.stack(layers.Flatten(), Dense(3)),
        "it has a layer Dense, which the page does not compute",
    ),
    "groups": (
        lambda: networks.stack(layers.Conv2D(4, 3), layers.Conv2D(4, 3, groups=2, name="split")),
        "its layer split convolves in groups or with gaps",
    ),
    "an axis": (
        lambda: networks.stack(layers.BatchNormalization(axis=1, name="rows")),
        "its layer rows does not normalise the last axis",
    ),
    "channels first": (
        lambda: networks.stack(layers.Flatten(data_format="channels_first", name="turned")),
        "its layer turned has its channels first",
    ),
    "an activation": (
        lambda: networks.stack(layers.Dense(2, activation="hard_shrink", name="odd")),
        "its layer odd has an activation that the page does not compute",
    ),
    "precision": (
        lambda: networks.stack(layers.Flatten(), layers.Dense(2, dtype="float16", name="half")),
        "its layer half computes in float16, not float32",
    ),
    "pooling": (
        lambda: networks.stack(layers.MaxPooling2D()),
        "it has a layer MaxPooling2D, which the page does not compute",
    ),
    "a functional model": (
        functional,
        "it has a layer Functional, which the page does not compute",
    ),
    "gaps": (
        lambda: networks.stack(layers.Conv2D(4, 3, dilation_rate=2, name="wide")),
        "its layer wide convolves in groups or with gaps",
    ),
    "a bent relu": (
        lambda: networks.stack(layers.ReLU(6, name="low")),
        "its layer low has a slope, a threshold or a ceiling",
    ),
    "size": (
        lambda: networks.stack(layers.Flatten(), layers.Dense(2000, name="big")),
        "it has 252,004 weights, and a page takes 250,000 at most",
    ),
    "outputs": (
        lambda: keras.Sequential([keras.Input((11, 11, 1)), layers.Flatten(), layers.Dense(5)]),
        "its output has shape (5,), not one value a class",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_said_in_a_sentence(name: str) -> None:
    keras.utils.clear_session()
    body, reason = UNFIT[name]
    assert described(body()) == (
        f"This model is not in the page: {reason}. "
        "python -m trainer predict reads pictures with it."
    )


def test_only_square_grey_images_can_be_drawn() -> None:
    found = network.describe({}, {}, (32, 32, 3), 10)
    assert "its images are 32x32x3, and a drawing is square and grey" in found


def test_a_model_that_keras_cannot_describe() -> None:
    found = network.describe(None, {}, (28, 28, 1), 10)
    assert "Keras cannot describe it as a list of layers" in found


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_do_not_belong_to_the_model(change: str) -> None:
    model = networks.around(networks.stack(), np.random.default_rng(1))
    arrays = networks.arrays(model)
    name = next(name for name in arrays if name.endswith("kernel"))
    kernel = arrays.pop(name)
    if change == "shape":
        arrays[name] = kernel.T
    architecture = json.loads(model.to_json())
    found = network.describe(architecture, arrays, (11, 11, 1), 4)
    assert "kernel of its layer dense" in found
    assert "was not found" in found


def test_the_panel_tells_why_there_is_no_model() -> None:
    panel = html.render("draw.html", network=None, network_reason="2 < 3.").decode()
    assert panel.strip() == '<p class="empty">2 &lt; 3.</p>'
