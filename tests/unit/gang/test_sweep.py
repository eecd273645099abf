import math
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.folders import result
from trainer import presets
from trainer.cli.main import PROGRAM
from trainer.config import RUNTIME_SETTINGS, TrainConfig
from trainer.data import dataset, sources
from trainer.errors import ConfigError, StoppedError
from trainer.gang import sweep, sweep_file
from trainer.runs import run_folder
from trainer.storage.base import open_storage

ROOT = Path(__file__).parents[3]
LISTS: dict[str, list[Any]] = {
    "learning_rate": [1e-4, 1e-3, 1e-2, 0.1],
    "batch_size": [16, 32, 64],
    "optimizer": ["sgd", "adam", "adagrad"],
    "epochs": [0.5, 1.0, 2.0],
    "keep_best": [False, True],
    "seed": [1, 2, 3],
}


def plan(**values: Any) -> list[sweep_file.Planned]:
    settings = {"eval_epochs": 1.0, **values.pop("settings", {})}
    return sweep_file.plan(sweep_file.parse({"folder": "out", "settings": settings, **values}))


def subset(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=len(values))


grids = st.fixed_dictionaries({}, optional={k: subset(v) for k, v in LISTS.items()}).filter(bool)


@given(grids)
def test_a_grid_is_every_combination_once_in_order(grid: dict[str, list[Any]]) -> None:
    runs = plan(grid=grid)
    distinct = {name: list(dict.fromkeys(values)) for name, values in grid.items()}
    assert len(runs) == math.prod(map(len, distinct.values()))
    places = [tuple(distinct[name].index(run.varied[name]) for name in grid) for run in runs]
    assert places == sorted(set(places))
    assert len({run.config.run for run in runs}) == len(runs)
    assert plan(grid=grid) == runs
    for run in runs:
        assert {name: getattr(run.config, name) for name in grid} == run.varied


@given(grids)
def test_a_runs_folder_depends_on_its_settings_alone(grid: dict[str, list[Any]]) -> None:
    backwards = {name: grid[name][::-1] for name in reversed(grid)}
    folders = {run.config.run for run in plan(grid=grid)}
    assert {run.config.run for run in plan(grid=backwards)} == folders
    more = {**grid, "momentum": [0.0, 0.9]}
    assert folders < {run.config.run for run in plan(grid=more)}


ranges = st.tuples(
    st.floats(1e-9, 1e3), st.floats(1.01, 1e6), st.sampled_from(["linear", "log"])
).map(lambda r: {"low": r[0], "high": r[0] * r[1], "scale": r[2]})
whole_ranges = st.tuples(
    st.integers(1, 100), st.integers(1, 1000), st.sampled_from(["linear", "log"])
).map(lambda r: {"low": r[0], "high": r[0] + r[1], "scale": r[2]})


@given(ranges, whole_ranges, st.integers(1, 20), st.integers(0, 2**70))
def test_draws_are_within_bounds_and_reproducible(
    rate: dict[str, Any], batch: dict[str, Any], count: int, seed: int
) -> None:
    settings = {"learning_rate": rate, "batch_size": batch, "optimizer": ["sgd", "adam"]}
    draws = {"count": count, "seed": seed, "settings": settings}
    runs = plan(random=draws)
    assert 1 <= len(runs) <= count
    for run in runs:
        assert rate["low"] <= run.config.learning_rate <= rate["high"]
        assert batch["low"] <= run.config.batch_size <= batch["high"]
        assert isinstance(run.config.batch_size, int)
        assert run.config.optimizer in ("sgd", "adam")
    assert plan(random=draws) == runs
    # More runs, another order of the settings or one more of them change no earlier draw.
    more = plan(random={**draws, "count": count + 5})
    assert more[: len(runs)] == runs
    turned = plan(random={**draws, "settings": dict(reversed(settings.items()))})
    assert [run.config for run in turned] == [run.config for run in runs]


def test_draws_cover_their_range_evenly() -> None:
    draws = {"count": 1000, "settings": {}}
    log = {"low": 1e-4, "high": 1e-1, "scale": "log"}
    runs = plan(random={**draws, "settings": {"learning_rate": log}})
    decades = [math.floor(math.log10(run.config.learning_rate)) for run in runs]
    for decade in (-4, -3, -2):
        assert 0.28 < decades.count(decade) / len(runs) < 0.39
    few = plan(random={**draws, "settings": {"seed": {"low": 1, "high": 4}}})
    assert {run.config.seed for run in few} == {1, 2, 3, 4}
    values = [
        run["seed"]
        for run in sweep_file._draws(
            sweep_file.Draws.model_validate({**draws, "settings": {"seed": {"low": 1, "high": 4}}})
        )
    ]
    for value in range(1, 5):
        assert 0.2 < values.count(value) / len(values) < 0.3


def test_the_same_run_is_planned_once() -> None:
    runs = plan(
        grid={"learning_rate": [0.001, "1e-3", 0.0010], "batch_size": [32, "32", 32.0]},
        random={"count": 5, "settings": {"learning_rate": [0.001], "batch_size": [32]}},
    )
    assert [run.varied for run in runs] == [{"learning_rate": 0.001, "batch_size": 32}]


def test_1e_4_is_a_number(tmp_path: Path) -> None:
    text = """
folder: out/
settings: {learning_rate: 1e-4}
grid: {weight_decay: [1e-4, 1e-3]}
random: {count: 3, settings: {weight_decay: {low: 1e-4, high: 1e-1, scale: log}}}
"""
    (tmp_path / "s.yaml").write_text(text)
    runs = sweep_file.plan(sweep_file.read(str(tmp_path / "s.yaml")))
    assert [run.config.learning_rate for run in runs] == [1e-4] * 5
    assert [run.config.weight_decay for run in runs[:2]] == [1e-4, 1e-3]
    assert all(1e-4 <= run.config.weight_decay <= 0.1 for run in runs[2:])
    assert all(run.config.run.startswith("out/") for run in runs)
    assert "//" not in runs[0].config.run


def test_epochs_that_vary_win_over_steps_for_all() -> None:
    runs = plan(settings={"preset": "softmax"}, grid={"epochs": [1, 2]})
    assert [(run.config.epochs, run.config.steps) for run in runs] == [(1.0, 0), (2.0, 0)]


def test_runs_write_no_page_each_unless_asked_to() -> None:
    grid = {"seed": [1]}
    assert plan(grid=grid)[0].config.report is False
    assert plan(grid=grid, settings={"report": True})[0].config.report is True


settings_of = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.sampled_from(values) for name, values in LISTS.items()},
        "preset": st.sampled_from(sorted(presets.PRESETS)),
        "model": st.text(st.characters(exclude_categories=["C"]), min_size=1).map("a:b".__add__),
        "data": st.text(st.characters(exclude_categories=["C"]), min_size=1),
        "weight_decay": st.floats(0, 1),
        "workers": st.integers(1, 4),
        "report": st.booleans(),
    },
)


@given(settings_of)
def test_a_runs_arguments_mean_exactly_its_settings(settings: dict[str, Any]) -> None:
    config = presets.configure({"validation": 100, "eval_epochs": 1.0, **settings}, {})
    options = PROGRAM.parse(sweep_file.arguments(config))
    flags = {n: v for n in type(config).model_fields if (v := getattr(options, n)) is not None}
    assert presets.configure({}, flags) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "must be a mapping"),
        ([], "must be a mapping"),
        ({1: 2}, "1: must be the name of a setting"),
        ({"grid": {"seed": [1]}}, "folder is missing"),
        ({"folder": "a", "gird": {}}, "unknown setting 'gird'; did you mean grid?"),
        ({"folder": "a", "epochs": 2}, "go under settings, grid or random.settings"),
        ({"folder": "a"}, "nothing to vary"),
        ({"folder": "/", "grid": {"seed": [1]}}, "must be a folder's URI"),
        ({"folder": "a/{preset}", "grid": {"seed": [1]}}, "nothing in it is filled in"),
        (
            {"folder": "a", "grid": {"sede": [1]}},
            "grid.sede: unknown setting 'sede'; did you mean seed",
        ),
        ({"folder": "a", "grid": {"seed": []}}, "grid.seed: .*at least 1 item"),
        ({"folder": "a", "grid": {"seed": 1}}, "grid.seed: '1': .*list"),
        ({"folder": "a", "grid": {"seed": [-1]}}, "seed -1: seed: -1: .*greater than or equal"),
        ({"folder": "a", "grid": {"batch_size": [1.5]}}, "batch_size: 1.5"),
        ({"folder": "a", "grid": {"workers": [1, 2]}}, "workers: does not decide the weights"),
        ({"folder": "a", "grid": {"seed": [1]}, "settings": {"run": "b"}}, "give folder instead"),
        ({"folder": "a", "grid": {"seed": [1]}, "settings": {"epoch": 1}}, "did you mean epochs"),
        ({"folder": "a", "grid": {"preset": ["cn"]}}, "no such preset; did you mean cnn"),
        ({"folder": "a", "grid": {"seed": [*range(1001)]}}, "1,001 runs are more than 1,000"),
        ({"folder": "a", "random": {"settings": {"seed": [1]}}}, "random.count is missing"),
        ({"folder": "a", "random": {"count": 0, "settings": {"seed": [1]}}}, "random.count: '0'"),
        ({"folder": "a", "random": {"count": 1, "settings": {}}}, "random.settings: .*at least 1"),
        ({"folder": "a", "random": {"count": 1, "seed": 1, "settings": {"seed": 1}}}, "list"),
        ({"folder": "a", "random": {"count": 1, "batch_size": [1]}}, "random.settings"),
        (
            {"folder": "a", "grid": {"learning_rate": 0.1}},
            r"^grid.learning_rate: '0.1': must be a list of values; give \[0.1\]$",
        ),
        (
            {"folder": "a", "grid": {"seed": {"low": 1, "high": 2}}},
            "must be a list of values; a range goes under random.settings$",
        ),
    ],
)
def test_a_bad_file_is_refused_in_one_line(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        sweep_file.plan(sweep_file.parse(values))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("learning_rate", {"low": 1}, "learning_rate.high is missing"),
        ("learning_rate", {"low": 1, "high": 1}, "low 1 must be below high 1"),
        ("learning_rate", {"low": 0, "high": 1, "scale": "log"}, "must be above 0 for scale log"),
        ("learning_rate", {"low": 1, "high": 2, "scael": 3}, "did you mean scale"),
        ("learning_rate", {"low": 1, "high": ".inf"}, "high"),
        ("learning_rate", {"low": 1, "high": 2, "scale": "lgo"}, "scale: 'lgo'"),
        ("learning_rate", {"low": -1, "high": -0.5}, "learning_rate: .*greater than 0"),
        ("batch_size", {"low": 1.5, "high": 4}, "must be whole numbers"),
        ("batch_size", {"low": -1e308, "high": 1e308}, "must be below 1e"),
        ("learning_rate", {"low": -1e308, "high": 1e308}, "must be below 1e"),
        ("optimizer", {"low": 1, "high": 4}, "is no number; give a list"),
        ("keep_best", {"low": 0, "high": 1}, "is no number; give a list"),
    ],
)
def test_a_bad_range_is_refused(name: str, choice: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(random={"count": 2, "settings": {name: choice}})


@pytest.mark.long
@pytest.mark.parametrize("text", ["a: [", "\x00", "a: !!int x"])
def test_what_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"{path}: not YAML"):
        sweep_file.read(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        sweep_file.read(str(tmp_path / "absent.yaml"))


def test_nothing_runs_before_every_combination_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("it ran"))
    wanted = sweep_file.parse(
        {"folder": str(tmp_path), "grid": {"batch_size": [32, 64, 0]}, "settings": {"data": "none"}}
    )
    with pytest.raises(ConfigError, match="batch_size 0"):
        sweep.execute(wanted, threading.Event())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"batch_size": [32, 600]}, "batch_size: 600: more than the 440 training images"),
        # A batch of 500 fits without validation only.
        ({"validation": [0, 100], "batch_size": [500]}, "500: more than the 440 training images"),
        ({"validation": [0, 540]}, "validation 540: .* has 540 training images"),
        ({"batch_size": [32, 33]}, "batch_size: 33: not divisible by the 2 workers"),
    ],
)
def test_nothing_runs_before_every_combination_fits_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: dict[str, list[Any]], message: str
) -> None:
    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("it ran"))
    data, folder = str(tmp_path / "data"), tmp_path / "sweep"
    sources.put("digits", data, train_count=540, test_count=10, seed=0)
    settings = {"preset": "softmax", "data": data, "validation": 100, "workers": 2}
    wanted = sweep_file.parse({"folder": str(folder), "grid": grid, "settings": settings})
    with pytest.raises(ConfigError, match=message):
        sweep.execute(wanted, threading.Event())
    assert not folder.exists()


def test_every_placement_is_refused_as_a_dimension() -> None:
    for name in RUNTIME_SETTINGS:
        with pytest.raises(ConfigError, match="does not decide the weights"):
            plan(grid={name: [1]})


def test_the_example_is_good() -> None:
    path = ROOT / "docs/sweep.yaml"
    shown = (ROOT / "docs/compare.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(shown) == yaml.safe_load(path.read_text())
    runs = sweep_file.plan(sweep_file.read(str(path)))
    assert len(runs) == 8
    text = sweep.as_text(runs)
    assert text.splitlines()[0].startswith("1/8  learning_rate 0.001, batch_size 32  bucket/")
    assert len(text.splitlines()) == 8


def test_here_the_worse_half_is_stopped_and_resumed_if_worse_ones_follow(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    digits = tmp_path / "data"
    sources.put("digits", str(digits), train_count=600, test_count=100, seed=0)
    accuracy = {0.9: 0.9, 0.5: 0.5, 0.4: 0.4, 0.3: 0.3}  # by learning rate
    trained = []

    def train(config: TrainConfig, stop: threading.Event) -> tuple[int, str]:
        """Validate once, and after a while finish, as long as nobody asks to stop."""
        trained.append(config.learning_rate)
        share, folder = accuracy[config.learning_rate], open_storage(config.run)
        run_folder.claim(folder, config, dataset.load(config.data, config.validation).sha256)
        line = {"step": 100, "train_seconds": 1, "validation_accuracy": share, "validation_loss": 1}
        folder.replace(run_folder.METRICS, run_folder.lines([line]))
        if stop.wait(0.5):
            return StoppedError.exit_code, "stopped"
        folder.replace(run_folder.RESULT, run_folder.pretty(result(share)))
        return 0, ""

    monkeypatch.setattr(sweep, "train", train)
    monkeypatch.setattr(sweep, "WATCH", 0.01)
    values = {
        "folder": str(tmp_path / "sweep"),
        "settings": {"preset": "softmax", "data": str(digits), "validation": 200},
        "grid": {"learning_rate": list(accuracy)},
        "halving": {"first": 100},
    }
    sweep.execute(sweep_file.parse(values), threading.Event())
    assert trained == [0.9, 0.5, 0.4, 0.5, 0.3]
    out = capsys.readouterr().out
    assert (
        "3/4  learning_rate 0.4  stopped early: 40.00% in its last validation, at step 100\n" in out
    )
    assert (
        "4/4  learning_rate 0.3  stopped early: 30.00% in its last validation, at step 100\n" in out
    )
    assert "~ 2 of 4 not finished" in out
    trained.clear()
    sweep.execute(sweep_file.parse(values), threading.Event())
    assert not trained
