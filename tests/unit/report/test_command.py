"""The command that a report gives is the run's: the program itself reads the same run from it."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import presets
from trainer.cli.main import PROGRAM
from trainer.config import TrainConfig
from trainer.report import command
from trainer.runs import run_folder
from trainer.storage.base import open_storage

SETTINGS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.sampled_from(list(presets.PRESETS)),
        "seed": st.integers(0, 9),
        "epochs": st.floats(0.1, 100),
        "steps": st.integers(0, 9),
        "validation": st.integers(0, 9),
        "eval_epochs": st.sampled_from([0.0, 1.0]),
        "learning_rate": st.floats(1e-9, 1e9),
        "schedule": st.sampled_from(["constant", "one-cycle"]),
        "model": st.sampled_from(["m:f", "a.b:c"]),
        "data": st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1),
    },
)


def configured(**values: Any) -> TrainConfig:
    return TrainConfig.model_validate(values)


def stored(config: TrainConfig) -> dict[str, Any]:
    return {**config.identity(), "data_sha256": "ab", "data": config.data, "classes": 10}


@given(SETTINGS, st.integers(1, 4))
def test_it_is_the_same_run(values: dict[str, Any], workers: int) -> None:
    config = presets.configure({}, values)
    line = command.repeat(stored(config), "a run's $(folder)", workers)
    if not config.data.isprintable():
        assert line is None
        return
    assert line is not None
    python, m, trainer, *arguments = shlex.split(line.replace("\\\n", ""))
    assert (python, m, trainer) == ("python", "-m", "trainer")
    options = PROGRAM.parse(arguments)
    flags = {
        name: value
        for name in TrainConfig.model_fields
        if (value := getattr(options, name)) is not None
    }
    again = presets.configure({}, flags)
    assert again.identity() == config.identity()
    assert (again.data, again.run, again.workers) == (config.data, "a run's $(folder)", workers)


@pytest.mark.parametrize("hostile", ["a\nb", "\x1b[2J", "\u202ex", "\ud800"])
def test_what_a_terminal_would_obey_is_no_command(hostile: str) -> None:
    assert command.repeat(stored(configured(data=hostile)), "run", 1) is None
    assert command.repeat(stored(configured()), hostile, 1) is None


@pytest.mark.parametrize("value", [None, [], {}, 1, "x", True])
def test_settings_of_any_type_are_no_defect(value: Any) -> None:
    for name in ("preset", "model", "steps", "data", "epochs"):
        line = command.repeat({**stored(configured()), name: value}, "run", 1)
        assert line is None or line.startswith("python -m trainer train")


def test_no_key_of_a_store_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "top-secret")
    run_folder.claim(open_storage(str(tmp_path)), configured(data="s3://bucket/data"), "ab")
    line = command.repeat(run_folder.config(open_storage(str(tmp_path))), str(tmp_path), 2)
    assert line is not None
    assert "--data=s3://bucket/data" in line
    assert "secret" not in line
