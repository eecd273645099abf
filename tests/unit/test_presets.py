from pathlib import Path

import pytest

from trainer.cli import train
from trainer.cli.main import main
from trainer.config import TrainConfig, parse
from trainer.errors import ConfigError
from trainer.gang import worker
from trainer.presets import PRESETS, configure, hidden_units
from trainer.runs import run_folder

# The table of sources: what they trained with, and the accuracy on MNIST they report.
SOURCES = {
    "softmax": (0.92, {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 100, "steps": 1000}),
    "single-layer": (0.9241, {"optimizer": "adam", "epochs": 5, "batch_size": 32}),
    "linear-512-256-128": (
        0.9206,
        {"optimizer": "adam", "learning_rate": 1e-4, "batch_size": 128, "steps": 1000},
    ),
    "mlp-100": (0.9759, {"optimizer": "adam", "epochs": 5, "batch_size": 32}),
    "mlp-65-65": (
        0.975,
        {
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "batch_size": 100,
            "epochs": 15,
            "eval_epochs": 1,
        },
    ),
    "dnn-128-32": (
        0.9783,
        {"optimizer": "adagrad", "learning_rate": 0.1, "batch_size": 40, "steps": 15000},
    ),
}


def test_the_presets_are_those_of_the_sources_and_two_of_our_own() -> None:
    assert list(PRESETS) == [*SOURCES, "cnn", "cnn-best"]
    assert (PRESETS["cnn"].accuracy, PRESETS["cnn-best"].accuracy) == (0.99, 0.996)
    assert not PRESETS["cnn"].source
    assert not PRESETS["cnn-best"].source


@pytest.mark.parametrize("name", SOURCES)
def test_a_preset_trains_as_its_source_did(name: str) -> None:
    accuracy, settings = SOURCES[name]
    config = configure({}, {"preset": name})
    assert {key: getattr(config, key) for key in settings} == settings
    assert config.schedule == "constant"
    assert PRESETS[name].accuracy == accuracy
    assert PRESETS[name].source


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_valid_configuration(name: str) -> None:
    preset = PRESETS[name]
    config = configure({}, {"preset": name})
    assert config.preset == name
    assert config == parse({**preset.settings, "preset": name})
    assert preset.summary


@pytest.mark.parametrize("name", PRESETS)
def test_any_setting_of_a_preset_can_be_overridden(name: str) -> None:
    for key, value in PRESETS[name].settings.items():
        default = TrainConfig.model_fields[key].default
        other = default if default != value else 12
        assert getattr(configure({}, {"preset": name, key: other}), key) == other


def test_cnn_is_the_default() -> None:
    assert configure({}, {}) == configure({}, {"preset": "cnn"})


def test_a_model_of_ones_own_has_a_presets_settings_only_if_it_is_named() -> None:
    own = {"model": "mymodels:wide"}
    plain = {name: field.default for name, field in TrainConfig.model_fields.items()}
    assert configure({}, own) == configure(own, {}) == TrainConfig(**{**plain, **own})
    named = configure({"preset": "cnn"}, own)
    assert named == configure({}, {**PRESETS["cnn"].settings, **own})
    assert configure({}, {"model": None}) == configure({}, {})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("softmx", "; did you mean softmax?"),
        ("???", ""),
        (3, ""),
        (["cnn"], "; did you mean cnn?"),
        (None, ""),
    ],
)
def test_an_unknown_preset_is_refused_with_the_nearest(name: object, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure({"preset": name}, {})
    assert str(caught.value) == (
        f"preset: {name!r}: no such preset{nearest} (known: {', '.join(PRESETS)})"
    )


def test_units_and_dropout_change_presets_of_dense_layers() -> None:
    assert hidden_units(configure({}, {"preset": "dnn-128-32"})) == (128, 32)
    for units in ("512,256,128", " 512, 256 ,128", [512, 256, 128]):
        config = configure({}, {"preset": "softmax", "units": units, "dropout": "0.5"})
        assert (hidden_units(config), config.units) == ((512, 256, 128), "512,256,128")
    assert hidden_units(configure({}, {"preset": "mlp-100", "units": 64})) == (64,)
    assert hidden_units(configure({}, {"preset": "cnn"})) is None
    assert hidden_units(configure({}, {"model": "mymodels:f"})) is None


def test_units_change_a_runs_identity_and_their_absence_does_not() -> None:
    plain = configure({}, {"preset": "mlp-100"}).identity()
    assert not {"units", "dropout"} & plain.keys()
    assert configure({}, {"preset": "mlp-100", "units": 64}).identity()["units"] == "64"


@pytest.mark.parametrize("chosen", [{"preset": "cnn"}, {"model": "mymodels:f"}])
@pytest.mark.parametrize("field", [{"units": "64"}, {"dropout": 0.5}])
def test_units_and_dropout_are_refused_elsewhere(
    chosen: dict[str, str], field: dict[str, object]
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure({}, chosen | field)
    assert "is for presets of dense layers (softmax, single-layer, linear" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        ("--steps 100 --epochs 3", True),
        ("--config both.yaml", True),
        ("--config both.yaml --epochs 4", False),  # flags win over the file
        ("--steps 100", False),
        ("--steps 100 --preset cnn", False),  # which has epochs of its own
        ("--steps 0 --epochs 3", False),
    ],
)
def test_epochs_that_do_not_count_are_reported(
    flags: str,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "both.yaml").write_text("steps: 100\nepochs: 3\n")
    for name in (worker.STARTED, run_folder.COMMIT):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(train, "_commit", str)
    monkeypatch.setattr(train, "_train", lambda *_: None)
    assert main(["train", "--data", "data", "--run", "run", *flags.split()]) == 0
    line = (
        "warning: steps: 100 decides the length of the run, and epochs does not count; give only "
        "one of them\n"
    )
    assert capsys.readouterr().out == (line if warned else "")
