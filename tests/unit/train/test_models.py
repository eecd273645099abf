import math
import re
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from trainer import classification
from trainer.config import parse
from trainer.errors import ConfigError, DataError
from trainer.presets import PRESETS
from trainer.runs.trained_weights import Restored, Settings
from trainer.storage.local import LocalStorage
from trainer.train import models

pytestmark = pytest.mark.tensorflow

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


def test_units_and_dropout_as_given() -> None:
    config: dict[str, Any] = {"preset": "mlp-65-65", "units": "12,7,5", "dropout": 0.5}
    model = build(**config)
    kernels = [v.shape for v in model.trainable_variables if v.path.endswith("kernel")]
    assert kernels == [(784, 12), (12, 7), (7, 5), (5, 10)]
    _, body = model.layers
    assert [layer.rate for layer in body.layers if isinstance(layer, keras.layers.Dropout)] == [
        0.5
    ] * 3
    assert models.multiply_adds(parse(config), *MNIST) == 784 * 12 + 12 * 7 + 7 * 5 + 5 * 10
    pixels = images(MNIST[0], 64)
    assert (np.asarray(model(pixels)) == np.asarray(model(pixels))).all()
    assert (np.asarray(model(pixels, training=True)) != np.asarray(model(pixels))).any()


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
    np.testing.assert_allclose(classification.losses(logits, labels), np.asarray(wanted), rtol=1e-5)


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


def test_weights_of_another_model_are_refused() -> None:
    model = build((28, 28, 1), 10, preset="mlp-100")
    arrays = {f"parameters/{each.path}": each.numpy() for each in model.weights}
    kernel = model.weights[0].path
    for changed, words in (
        (
            {**arrays, "parameters/more": np.zeros(3)},
            "has 3 weights for more, and the model here no",
        ),
        ({name: arrays[name] for name in [*arrays][:-1]}, "bias, and the model here 10;"),
        (
            {**arrays, f"parameters/{kernel}": np.zeros((1000, 100))},
            f"has 1000x100 weights for {kernel}, and the model here 784x100; use the model that",
        ),
    ):
        with pytest.raises(DataError, match=re.escape(words)):
            models.load(restored("mlp-100", 28, changed))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_smallest_images_of_a_preset_are_the_smallest_that_keras_takes(preset: str) -> None:
    side = PRESETS[preset].smallest
    build((side, side, 1), 10, preset=preset)
    if side > 1:
        stack = models.BUILDERS[preset](parse({"preset": preset}), 10)
        with pytest.raises(ValueError, match="zero or negative"):
            keras.Sequential([keras.Input((side - 1, side, 1)), *stack])


def test_images_too_small_for_a_preset_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        build((4, 3, 1), 10, preset="cnn")
    assert str(caught.value) == (
        "preset: cnn: cannot take images of 4 x 3 pixels; "
        "give larger ones, a preset without convolutions, or a model of your own"
    )
