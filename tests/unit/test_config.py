import re
from pathlib import Path
from typing import Any, get_args

import pytest

from trainer import config
from trainer.cli.main import main
from trainer.config import RUNTIME_SETTINGS, TrainConfig, parse
from trainer.errors import ConfigError
from trainer.presets import configure

FIELDS = TrainConfig.model_fields
DEFAULTS = config.parse({})

# A value of each type that no field takes.
OUT_OF_RANGE: list[tuple[str, Any, str]] = [
    ("seed", -1, "must be greater than or equal to 0"),
    ("seed", 2**31, "must be less than 2147483648"),
    ("seed", "one", "must be a valid integer"),
    ("validation", -1, "must be greater than or equal to 0"),
    ("batch_size", 0, "must be greater than or equal to 1"),
    ("epochs", 0, "must be greater than 0"),
    ("epochs", "nan", "must be a finite number"),
    ("steps", 1.5, "must be a valid integer, got a number with a fractional part"),
    ("shuffle_shards", 0, "must be greater than or equal to 1"),
    ("memory", 0, "must be greater than or equal to 1"),
    ("threads", -1, "must be greater than or equal to 0"),
    ("all_reduce", "gloo", "must be 'auto', 'tcp' or 'tensorflow'"),
    ("all_reduce_precision", "float16", "must be 'float32' or 'bfloat16'"),
    ("layers", "torch", "must be 'auto' or 'keras'"),
    ("optimizer", "adamw", "must be 'sgd', 'adam' or 'adagrad'"),
    ("learning_rate", 0, "must be greater than 0"),
    ("learning_rate", float("inf"), "must be a finite number"),
    ("schedule", "linear", "must be 'constant', 'cosine' or 'one-cycle'"),
    ("momentum", 1, "must be less than 1"),
    ("weight_decay", -1e-9, "must be greater than or equal to 0"),
    ("label_smoothing", 1, "must be less than 1"),
    ("precision", "float16", "must be 'float32' or 'mixed_bfloat16'"),
    ("xla", True, "must be 'auto', 'on' or 'off'"),
    ("eval_epochs", "often", "must be a valid number"),
    ("early_stopping", -1, "must be greater than or equal to 0"),
    ("keep_best", "perhaps", "must be a valid boolean, unable to interpret input"),
    ("workers", 1025, "must be less than or equal to 1024"),
    ("min_workers", -1, "must be greater than or equal to 0"),
    ("resize_after", 0, "must be greater than 0"),
    ("port", 65536, "must be less than or equal to 65535"),
    ("metrics_port", 65536, "must be less than or equal to 65535"),
    ("peer_deadline", 0, "must be greater than 0"),
    ("max_restarts", -1, "must be greater than or equal to 0"),
    ("chunk_steps", 0, "must be greater than or equal to 1"),
    ("checkpoint_steps", 0, "must be greater than or equal to 1"),
    ("keep_checkpoints", 1, "must be greater than or equal to 2"),
    ("ship_logs", "maybe", "must be a valid boolean, unable to interpret input"),
    ("report", "maybe", "must be a valid boolean, unable to interpret input"),
    ("tensorboard", "yes", "must be 'off', 'on' or 'histograms'"),
    ("log_format", "xml", "must be 'auto', 'text' or 'json'"),
    ("model", "my_models", "must be package.module:function"),
    ("model", ":build", "must be package.module:function"),
    (
        "model",
        "./nets:small",
        "must be package.module:function; name its file or folder as code",
    ),
    (
        "model",
        "nets.py:small",
        "must be package.module:function; name its file or folder as code",
    ),
    ("model", "my_models: ", "must be package.module:function"),
    ("units", "64,x", "must be numbers from 1 to 65536, with commas in between"),
    ("units", 0, "must be numbers from 1 to 65536, with commas in between"),
    ("dropout", 1, "must be less than 1"),
    ("code", 7, "must be a valid string"),
    ("data", 7, "must be a valid string"),
]


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def yaml_refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        config.read_yaml(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"--config {path}: ")
    return message.removeprefix(f"--config {path}: ")


def test_every_field_says_what_it_means() -> None:
    for name, field in FIELDS.items():
        assert field.description, name
        assert "\n" not in field.description, name


@pytest.mark.parametrize(("field", "value", "rule"), OUT_OF_RANGE)
def test_a_value_against_its_rule_is_refused_in_one_line(field: str, value: Any, rule: str) -> None:
    meaning = FIELDS[field].description
    assert refusal({field: value}) == f"{field}: {value!r}: {rule} ({meaning})"


def test_every_field_that_has_a_rule_is_tried() -> None:
    unchecked = {"preset", "run"}  # presets.configure checks the one; any URI may be the other
    assert {field for field, _, _ in OUT_OF_RANGE} == FIELDS.keys() - unchecked


def test_gradients_travel_in_fewer_bits_only_where_our_own_all_reduce_sums() -> None:
    fewer = {"all_reduce_precision": "bfloat16"}
    for all_reduce in ("auto", "tcp"):
        parsed = config.parse({**fewer, "all_reduce": all_reduce})
        assert parsed.identity()["all_reduce_precision"] == "bfloat16"
    assert "all_reduce_precision" not in DEFAULTS.identity()
    assert refusal({**fewer, "all_reduce": "tensorflow"}) == (
        "all_reduce_precision: 'bfloat16': TensorFlow's collectives, which sum here, send float32; "
        "leave it out or, if each worker has one device, set all_reduce to tcp"
    )
    config.parse({"all_reduce_precision": "float32", "all_reduce": "tensorflow"})


def test_code_belongs_to_a_model_of_ones_own() -> None:
    assert refusal({"code": "src"}) == (
        "code: 'src': is for a model of your own; name its function as "
        "model: package.module:function"
    )
    own = config.parse({"model": "m:f"}).identity()
    assert own["code"] is None  # so that code that is added is another run
    assert "code" not in config.parse({}).identity()


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("lerning_rate", "; did you mean learning_rate?"),
        ("batchsize", "; did you mean batch_size?"),
        ("epoch", "; did you mean epochs?"),
        ("zzzzzz", ""),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest(unknown: str, nearest: str) -> None:
    assert refusal({unknown: 1}) == (
        f"unknown setting {unknown!r}{nearest} (trainer train --help lists all)"
    )


def test_flags_are_text_and_parsed_as_such() -> None:
    parsed = config.parse({"seed": "7", "epochs": "2.5", "learning_rate": "1e-3"})
    assert (parsed.seed, parsed.epochs, parsed.learning_rate) == (7, 2.5, 1e-3)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.parse({}).seed = 2


def test_where_a_run_executes_is_no_part_of_its_identity() -> None:
    assert FIELDS.keys() >= RUNTIME_SETTINGS
    assert (
        DEFAULTS.identity().keys()
        == FIELDS.keys() - RUNTIME_SETTINGS - config.LEGACY_DEFAULTS.keys()
    )
    assert config.parse({"shuffle_shards": 2}).identity()["shuffle_shards"] == 2
    moved = {
        "data": "gs://b/d",
        "run": "r",
        "workers": 2,
        "port": 4000,
        "metrics_port": 9400,
        "peer_deadline": 9,
        "max_restarts": 3,
        "min_workers": 2,
        "resize_after": 1.0,
        "chunk_steps": 7,
        "checkpoint_steps": 8,
        "memory": 9,
        "threads": 3,
        "all_reduce": "tensorflow",
        "layers": "keras",
        "keep_checkpoints": 9,
        "log_format": "json",
        "ship_logs": True,
        "report": False,
        "tensorboard": "off",
    }
    assert moved.keys() == RUNTIME_SETTINGS
    assert config.parse(moved).identity() == DEFAULTS.identity()
    for change in ({"seed": 2}, {"batch_size": 64}, {"validation": 0}, {"xla": "off"}):
        assert config.parse(change).identity() != DEFAULTS.identity()


def test_a_file_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\nlearning_rate: 1e-3  # YAML 1.1 reads that as text\nmodel: null\n")
    values = config.read_yaml(str(path))
    assert config.parse(values) == config.parse({"seed": 3, "learning_rate": 1e-3})
    path.write_text("# nothing but a comment\n")
    assert config.read_yaml(str(path)) == {}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert yaml_refusal(tmp_path / "none.yaml") == (
        "No such file or directory; give a readable file"
    )
    assert yaml_refusal(tmp_path) == "Is a directory; give a readable file"


@pytest.mark.parametrize(
    "content",
    [
        b"seed: [1, 2",
        b"seed: 1\n\tbatch_size: 2",
        b"!!python/object/apply:os.system ['true']",
        b"when: !!timestamp 2024-13-45",
        b"seed: \x00",
    ],
)
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    assert yaml_refusal(path).startswith("not YAML: ")


@pytest.mark.parametrize("content", ["- seed: 1", "seed", "42"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    assert yaml_refusal(path) == "must be a mapping of settings, such as 'seed: 1'"
    path.write_text("1: 2")
    assert yaml_refusal(path) == "1: must be the name of a setting, as in 'seed: 1'"


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^seed: has no value; give it one, or leave it out \("):
        config.parse({"seed": None})


def test_flags_win_over_the_file_over_the_preset_over_defaults() -> None:
    assert DEFAULTS.learning_rate == 1e-3
    assert configure({"preset": "softmax"}, {}).learning_rate == 0.5
    assert configure({"preset": "softmax", "learning_rate": 0.4}, {}).learning_rate == 0.4
    file = {"preset": "softmax", "learning_rate": 0.4, "seed": 5}
    both = configure(file, {"learning_rate": "0.3"})
    assert (both.learning_rate, both.seed, both.batch_size) == (0.3, 5, 100)
    assert configure({"preset": "softmax"}, {"preset": "mlp-100"}).batch_size == 32


def test_epochs_asked_for_beat_steps_of_a_lower_layer() -> None:
    assert configure({}, {"preset": "softmax"}).steps == 1000
    assert configure({}, {"preset": "softmax", "epochs": "2"}).steps == 0
    assert configure({"preset": "softmax", "epochs": 2}, {}).steps == 0
    assert configure({"preset": "softmax", "steps": 7}, {"epochs": "2"}).steps == 0
    # Steps given beside epochs, or above them, still win.
    assert configure({}, {"preset": "softmax", "epochs": "2", "steps": "7"}).steps == 7
    assert configure({"epochs": 2}, {"preset": "softmax", "steps": "7"}).steps == 7


def test_help_lists_every_setting_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no line is broken
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name, field in FIELDS.items():
        flag = f"--{name.replace('_', '-')}"
        nothing = field.default is None or field.default is False
        default = "" if nothing else f" (default: {field.default})"
        text = re.escape(f"{field.description}{default}")
        # Beside the flag, or below where that is long.
        line = re.search(rf"^  {flag}\b.*(\n {{10,}}|  ){text}$", shown, re.MULTILINE)
        assert line, flag
        for choice in get_args(field.annotation):
            if isinstance(choice, str):
                assert choice in line[0], flag


def test_an_unknown_flag_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--batch-sise", "3"]) == 2
    assert capsys.readouterr().err == (
        "trainer: unknown argument '--batch-sise'; did you mean --batch-size? "
        "(trainer train --help lists all)\n"
    )


def test_flags_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    # An abbreviation would stop working when a flag that starts alike is added.
    assert main(["train", "--batch", "3"]) == 2
    assert "did you mean --batch-size?" in capsys.readouterr().err


def test_a_bad_value_on_the_command_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--seed", "many"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("trainer: seed: 'many': must be a valid integer")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_workers": 1}, r"min_workers: 1: needs at least 2 workers, but workers is 1; raise"),
        (
            {"min_workers": 4, "workers": 3},
            r"min_workers: 4: needs at least 4 workers, but workers is 3; raise that",
        ),
        (
            {"min_workers": 2, "workers": 3, "resize_after": 300},
            r"resize_after: 300: must be below peer_deadline, 300, .*; lower it",
        ),
    ],
)
def test_a_gang_has_sizes_that_it_can_have(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(values)
    parse({"min_workers": 3, "workers": 3})
    parse({"resize_after": 300})  # which nothing uses


@pytest.mark.parametrize("missing", [{"validation": 0}, {"eval_epochs": 0}])
@pytest.mark.parametrize("wanted", [{"early_stopping": 3}, {"keep_best": True}])
def test_what_goes_by_validations_needs_them(
    wanted: dict[str, Any], missing: dict[str, Any]
) -> None:
    parse(wanted)
    with pytest.raises(ConfigError, match=r"needs validations, .* set both above 0"):
        parse({**wanted, **missing})
