import gc
import importlib
import math
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from trainer import metrics
from trainer.config import parse
from trainer.errors import ConfigError, DataError
from trainer.presets import PRESETS
from trainer.runs.trained_weights import Restored, Settings
from trainer.storage.local import LocalStorage
from trainer.train import models

pytestmark = pytest.mark.tensorflow

gc.freeze()  # every build collects garbage: not among TensorFlow's own objects, that takes 0.2 s

MNIST = ((28, 28, 1), 10)
OTHER = ((20, 24, 3), 4)


def build(shape: models.Shape = MNIST[0], classes: int = MNIST[1], **settings: Any) -> Any:
    return models.build(parse(settings), shape, classes)


def weights(model: Any) -> dict[str, npt.NDArray[Any]]:
    return {v.path: v.numpy() for v in model.weights if "seed" not in v.path}


def images(shape: models.Shape, count: int = 3) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, *shape)).astype(np.uint8)


def test_every_preset_has_a_model() -> None:
    assert models.BUILDERS.keys() == PRESETS.keys()
    dense = {name for name in PRESETS if models.is_dense(parse({"preset": name}))}
    assert dense == PRESETS.keys() - {"cnn", "cnn-best"}


@pytest.mark.parametrize("case", [MNIST, OTHER])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_images_of_any_shape(preset: str, case: tuple[models.Shape, int]) -> None:
    shape, classes = case
    model = build(shape, classes, preset=preset)
    logits = np.asarray(model(images(shape)))
    assert logits.shape == (3, classes)
    assert logits.dtype == np.float32
    assert models.has_convolutions(model) == preset.startswith("cnn")
    kernels = [v.shape for v in model.trainable_variables if v.path.endswith("kernel")]
    wanted = sum(map(math.prod, kernels)) if not preset.startswith("cnn") else None
    assert models.multiply_adds(parse({"preset": preset}), shape, classes) == wanted


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_seeds_make_equal_weights_whatever_was_built_before(preset: str) -> None:
    first = weights(build(preset=preset, seed=5))
    other = weights(build(preset=preset, seed=6))
    again = weights(build(preset=preset, seed=5))
    assert list(first) == list(other) == list(again)  # checkpoints go by these names
    for path, array in first.items():
        assert array.tobytes() == again[path].tobytes(), path
    if preset != "softmax":  # which starts from zero
        assert any(other[path].tobytes() != array.tobytes() for path, array in first.items())


def test_the_models_scale_pixels_themselves() -> None:
    model = build(preset="mlp-100")
    pixels = images(MNIST[0])
    _, body = model.layers
    np.testing.assert_allclose(
        np.asarray(model(pixels)), np.asarray(body(pixels.astype(np.float32) / 255)), rtol=1e-5
    )


def test_softmax_starts_from_zero() -> None:
    assert all(not array.any() for array in weights(build(preset="softmax")).values())


def test_the_linear_model_starts_as_its_source_says() -> None:
    for path, array in weights(build(preset="linear-512-256-128")).items():
        if path.endswith("bias"):
            np.testing.assert_array_equal(array, np.float32(0.1))
        elif array.size > 10_000:
            # A normal of deviation 0.1 cut at two deviations has a deviation of 0.088.
            assert array.std() == pytest.approx(0.088, rel=0.02)
            assert np.abs(array).max() <= 0.2 + 1e-6


def test_single_layers_logits_give_the_loss_over_its_sigmoids() -> None:
    model = build(preset="single-layer")
    logits = np.asarray(model(images(MNIST[0], 8)))
    labels = np.arange(8, dtype=np.int32)
    sigmoids = np.exp(logits)
    assert ((sigmoids > 0) & (sigmoids < 1)).all()
    wanted = keras.losses.sparse_categorical_crossentropy(labels, sigmoids)
    np.testing.assert_allclose(metrics.losses(logits, labels), np.asarray(wanted), rtol=1e-5)


def test_precision_is_set_for_one_model_only() -> None:
    mixed = build(preset="mlp-100", precision="mixed_bfloat16")
    assert {layer.compute_dtype for layer in mixed.layers} == {"bfloat16"}
    assert {v.dtype for v in mixed.trainable_variables} == {"float32"}
    assert {layer.compute_dtype for layer in build(preset="mlp-100").layers} == {"float32"}


def restored(preset: str, side: int, arrays: dict[str, npt.NDArray[Any]]) -> Restored:
    of_run = Settings(parse({"preset": preset}), "", "", (side, side, 1), 10)
    return Restored(LocalStorage("folder"), of_run, 1, arrays)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_larger_than_the_weights_that_are_there_is_not_built(preset: str) -> None:
    model = build((28, 28, 1), 10, preset=preset)
    arrays = {f"parameters/{each.path}": each.numpy() for each in model.weights}
    loaded = models.load(restored(preset, 28, arrays))
    assert sum(each.size for each in loaded.get_weights()) == sum(a.size for a in arrays.values())
    with pytest.raises(DataError, match=r"has [\d,]+ weights, and .* for images of 2048x2048x1"):
        models.load(restored(preset, 2048, arrays))


def test_images_too_small_for_a_preset_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        build((4, 3, 1), 10, preset="cnn")
    assert str(caught.value) == (
        "preset: cnn: cannot take images of 4 x 3 pixels; "
        "give larger ones, a preset without convolutions, or --model"
    )


SOURCE = """
import keras
from keras import layers

def good(input_shape, classes):
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), layers.Dense(classes)])

def built_by_its_first_call(input_shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes)])

class Own(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.dense = layers.Dense(classes)
        self.flatten = layers.Flatten()

    def call(self, images):
        return self.dense(self.flatten(images))

def of_a_class(input_shape, classes):
    return Own(classes)

def convolving(input_shape, classes):
    return keras.Sequential([layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(classes)])

def activation(input_shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes, activation="softmax")])

def layer(input_shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes), layers.Softmax()])

def nested(input_shape, classes):
    return keras.Sequential([layers.Flatten(), activation(input_shape, classes)])

def too_wide(input_shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes + 1)])

def unflattened(input_shape, classes):
    return keras.Sequential([layers.Dense(classes)])

def two_outputs(input_shape, classes):
    images = keras.Input(input_shape)
    flat = layers.Flatten()(images)
    return keras.Model(images, [layers.Dense(classes)(flat), layers.Dense(1)(flat)])

def other_input(input_shape, classes):
    return keras.Sequential([keras.Input((5, 5, 1)), layers.Flatten(), layers.Dense(classes)])

def no_model(input_shape, classes):
    return [layers.Dense(classes)]

def nothing(input_shape, classes):
    pass

def raising(input_shape, classes):
    raise RuntimeError("first line\\n  second line")

def of_one_argument(input_shape):
    pass

number = 3
"""


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the user's in the working directory."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "own.py").write_text(SOURCE)
    (tmp_path / "zoo" / "broken.py").write_text("import no_such_package\n")
    (tmp_path / "zoo" / "torn.py").write_text("def good(\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "zoo"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize("name", ["good", "built_by_its_first_call", "of_a_class", "convolving"])
def test_a_users_own_model(name: str) -> None:
    shape, classes = OTHER
    model = build(shape, classes, model=f"zoo.own:{name}")
    assert np.asarray(model(images(shape))).shape == (3, classes)
    assert model.trainable_variables
    assert models.has_convolutions(model) == (name == "convolving")
    again = build(shape, classes, model=f"zoo.own:{name}")
    assert [v.path for v in again.weights] == [v.path for v in model.weights]
    for one, other in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


GIVE = "; give package.module:function of (input_shape, classes) that returns a keras.Model"
SHARES = (
    "its outputs are shares that add up to 1, as a softmax gives, but the loss takes logits; "
    "remove that activation"
)
MISTAKES = {
    "zoo.own:activation": SHARES,
    "zoo.own:layer": SHARES,
    "zoo.own:nested": SHARES,
    "zoo.own:too_wide": (
        "its output for 3 images has shape (3, 11), but the data has 10 classes; end with Dense(10)"
    ),
    "zoo.own:unflattened": (
        "its output for 3 images has shape (3, 28, 28, 10), but the data has 10 classes; "
        "end with Dense(10)"
    ),
    "zoo.own:no_model": f"returned a list{GIVE}",
    "zoo.own:nothing": f"returned a NoneType{GIVE}",
    "zoo.own:raising": f"RuntimeError: first line second line{GIVE}",
    "zoo.own:number": f"TypeError: 'int' object is not callable{GIVE}",
    "zoo.own:of_one_argument": (
        f"TypeError: of_one_argument() takes 1 positional argument but 2 were given{GIVE}"
    ),
    "zoo.own:missing": f"AttributeError: module 'zoo.own' has no attribute 'missing'{GIVE}",
    "zoo.none:good": f"ModuleNotFoundError: No module named 'zoo.none'{GIVE}",
    "zoo.broken:good": f"ModuleNotFoundError: No module named 'no_such_package'{GIVE}",
}


def mistake(reference: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build(model=reference)
    message = str(caught.value)
    assert message.startswith(f"model: {reference}: ")
    assert message.isprintable()
    return message.removeprefix(f"model: {reference}: ")


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize("reference", MISTAKES)
def test_a_mistake_in_a_users_model_is_one_line(reference: str) -> None:
    assert mistake(reference) == MISTAKES[reference]


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize(
    ("reference", "first"),
    [
        ("zoo.torn:good", "SyntaxError: "),
        ("zoo.own:two_outputs", "ValueError: "),
        ("zoo.own:other_input", "ValueError: "),
    ],
)
def test_what_python_and_keras_say_of_it_is_one_line_too(reference: str, first: str) -> None:
    told = mistake(reference)
    assert told.startswith(first)
    assert told.endswith(GIVE)
