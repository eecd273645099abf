"""Presets: models with hyperparameters, and the test accuracy that their source reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.common.text import nearest
from trainer.config import TrainConfig, parse
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A model of ``models.BUILDERS`` and the settings it is trained with.

    A source reports the accuracy of one run. Where the median of our runs is lower, the settings
    name a seed that reaches it; docs/presets.md shows that run beside the median.

    Attributes:
        summary: the model in a few words.
        settings: values of TrainConfig that differ from its defaults.
        accuracy: test accuracy on MNIST that the source reports, from 0 to 1.
        source: who reports it, or "" for a model designed for this project, whose goal is
            ``accuracy``.
        hidden: units of the hidden layers, if all layers are dense; None if some convolve.
        smallest: pixels that each side of an image must have at least.
    """

    summary: str
    settings: Mapping[str, Any]
    accuracy: float
    source: str = ""
    hidden: tuple[int, ...] | None = None
    smallest: int = 1


PRESETS: dict[str, Preset] = {
    "softmax": Preset(
        "Softmax regression: one dense layer.",
        {
            "optimizer": "sgd",
            "learning_rate": 0.5,
            "batch_size": 100,
            "steps": 1000,
            "chunk_steps": 250,
        },
        0.92,
        "TensorFlow tutorial, MNIST for ML Beginners",
        hidden=(),
    ),
    "single-layer": Preset(
        "One dense layer with sigmoid outputs.",
        {"epochs": 5, "batch_size": 32, "chunk_steps": 500, "validation": 0},
        0.9241,
        "Keras digits tutorial, one layer",
        hidden=(),
    ),
    "linear-512-256-128": Preset(
        "Three hidden layers without activations.",
        {"learning_rate": 1e-4, "batch_size": 128, "steps": 1000, "seed": 58},
        0.9206,
        "TensorFlow tutorial, neural network for handwritten digits; its dropout of 0.5 is left "
        "out, because it has no effect there: the output layer reads the layer before the dropout",
        hidden=(512, 256, 128),
    ),
    "mlp-100": Preset(
        "A hidden layer of 100 ReLU units, and sigmoid outputs.",
        {"epochs": 5, "batch_size": 32, "chunk_steps": 500, "validation": 0, "seed": 3},
        0.9759,
        "Keras digits tutorial, one hidden layer",
        hidden=(100,),
    ),
    "mlp-65-65": Preset(
        "Two hidden layers of 65 ReLU units each.",
        {"epochs": 15, "batch_size": 100, "chunk_steps": 250},
        0.975,
        "Keras tutorial, two hidden layers (read off a picture)",
        hidden=(65, 65),
    ),
    "dnn-128-32": Preset(
        "Two hidden layers of 128 and 32 ReLU units.",
        {
            "optimizer": "adagrad",
            "learning_rate": 0.1,
            "batch_size": 40,
            "steps": 15000,
            "chunk_steps": 1000,
        },
        0.9783,
        "TensorFlow estimator tutorial, DNNClassifier; its proximal Adagrad has no regularisation, "
        "which makes it Adagrad",
        hidden=(128, 32),
    ),
    "cnn": Preset(
        "A small convolutional network that reaches 99% fast.",
        {
            "epochs": 1.2,
            "batch_size": 128,
            "schedule": "one-cycle",
            "learning_rate": 4e-2,
            "label_smoothing": 0.1,
            "eval_epochs": 0,
        },
        0.99,
        smallest=13,
    ),
    "cnn-best": Preset(
        "A larger convolutional network, made for accuracy.",
        {
            "epochs": 27,
            "batch_size": 128,
            "schedule": "one-cycle",
            "learning_rate": 4e-3,
            "label_smoothing": 0.1,
            "validation": 0,
        },
        0.996,
        smallest=17,
    ),
}


def configure(file_values: Mapping[str, Any], flags: Mapping[str, Any]) -> TrainConfig:
    """Merge defaults, the preset's settings, a file's values and flags; the later one wins.

    A user's own model gets the settings of a preset only if the user names the preset: they were
    chosen for another model.

    Raises:
        ConfigError: a preset or setting is unknown, or a value breaks its rule.
    """
    chosen = {**file_values, **flags}
    name = chosen.get("preset", TrainConfig.model_fields["preset"].default)
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(
            f"preset: {name!r}: no such preset{nearest(str(name), PRESETS)} "
            f"(known: {', '.join(PRESETS)})"
        )
    own = chosen.get("model") is not None and "preset" not in chosen
    settings = {} if own else dict(PRESETS[name].settings)
    for values in (file_values, flags):
        # Given epochs win over the steps of a preset or file below.
        if "epochs" in values and "steps" not in values:
            settings["steps"] = 0
        settings.update(values)
    config = parse(settings)
    if config.model is not None or PRESETS[name].hidden is None:
        for field in ("units", "dropout"):
            if value := getattr(config, field):
                raise ConfigError(
                    f"{field}: {value}: is for presets of dense layers "
                    f"({', '.join(each for each in PRESETS if PRESETS[each].hidden is not None)}); "
                    "choose one, or write your own model"
                )
    return config


def named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preset and the model that a run's settings name, each only if its user did.

    A user's own model has the defaults, unless a preset was named; the default one counts as none.
    """
    preset, model = settings.get("preset"), settings.get("model")
    bare = model is not None and preset == TrainConfig.model_fields["preset"].default
    pair = {"preset": None if bare else preset, "model": model}
    return {name: value for name, value in pair.items() if value is not None}


def check_images(preset: str, height: int, width: int) -> None:
    """Check that a preset takes images of this size.

    Raises:
        ConfigError: a convolution's output would have no pixels.
    """
    if min(height, width) < PRESETS[preset].smallest:
        raise ConfigError(
            f"preset: {preset}: cannot take images of {height} x {width} pixels; "
            "give larger ones, a preset without convolutions, or a model of your own"
        )


def hidden_units(config: TrainConfig) -> tuple[int, ...] | None:
    """Return the units of the hidden layers, None unless all layers are a preset's and dense."""
    hidden = None if config.model is not None else PRESETS[config.preset].hidden
    if hidden is None or config.units is None:
        return hidden
    return tuple(map(int, config.units.split(",")))
