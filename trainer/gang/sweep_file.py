"""The runs of a grid or random search, from a sweep file; pure but for ``read``."""

import itertools
import math
import random
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
)

from trainer import presets
from trainer.common import yaml_text
from trainer.common.text import first_problem, nearest
from trainer.config import RUNTIME_SETTINGS, Strict, TrainConfig, flag
from trainer.errors import ConfigError
from trainer.runs import run_folder

_MOST = 1e15  # of a number to draw; whole ones are exact up to there
MOST_RUNS = 1000
DIGITS = 4  # significant ones of a drawn number
DEFAULTS = {"report": False}  # one page for all runs, unless the file wants one for each


class Range(Strict):
    """Numbers from ``low`` to ``high``."""

    low: float = Field(description="the lowest")
    high: float = Field(description="the highest")
    scale: Literal["linear", "log"] = Field("linear", description="log: equally often per decade")


def _form(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "list"


Values = Annotated[list[Any], Field(min_length=1)]
Choice = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Values, Tag("list")], Discriminator(_form)
]


class Draws(Strict):
    """Runs whose settings are drawn."""

    count: int = Field(ge=1, le=MOST_RUNS, description="how many runs to draw")
    seed: int = Field(
        1, ge=0, description="seed of the random settings; a larger count keeps the first ones"
    )
    settings: dict[str, Choice] = Field(
        min_length=1, description="a list of values, or {low, high, scale}, by setting"
    )


class Halving(Strict):
    """When to stop the worse half of the runs, see ``sweep_decision``."""

    first: int = Field(
        ge=1, description="compare the runs after this many steps, and again after each doubling"
    )
    metric: Literal["accuracy", "loss"] = Field(
        "accuracy", description="compare them by this, on the validation images"
    )


class Sweep(Strict):
    """A sweep file."""

    folder: str = Field(description="URI of the folder that takes the runs")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="of all runs, as in a file for train --config"
    )
    grid: dict[str, Values] = Field(
        default_factory=dict, description="values by setting; all their combinations are run"
    )
    random: Draws | None = Field(None, description="drawn runs")
    halving: Halving | None = Field(None, description="stop the worse half of the runs early")
    parallel: int = Field(
        1, ge=1, le=MOST_RUNS, description="how many runs train in a cluster at the same time"
    )

    @field_validator("folder")
    @classmethod
    def _folder_is_plain(cls, value: str) -> str:
        if not value.strip("/") or "{" in value:
            raise ValueError("must be a folder's URI; nothing in it is filled in")
        return value.rstrip("/")


@dataclass(frozen=True)
class Planned:
    """A run of a sweep: all its settings, and of these the ones that the sweep varies.

    ``config.run`` is the URI of its folder.
    """

    config: TrainConfig
    varied: dict[str, Any]


def read(path: str) -> Sweep:
    """Read a sweep file.

    Raises:
        ConfigError: it is missing, no YAML, or breaks a rule; with the field and the rule.
    """
    values = yaml_text.read(path, "sweep file")
    try:
        return parse(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(values: Any) -> Sweep:
    """Check the values of a sweep file.

    Raises:
        ConfigError: one breaks a rule.
    """
    values = yaml_text.mapping(values, "folder: bucket/sweeps/first")
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_problem(error)) from None
    _check(sweep)
    return sweep


def plan(sweep: Sweep) -> list[Planned]:
    """Return the runs of a sweep, each once.

    The grid's come first, its last setting changing fastest, then the drawn ones.

    Raises:
        ConfigError: a combination of settings is refused.
    """
    varied = list(dict.fromkeys([*sweep.grid, *(sweep.random.settings if sweep.random else ())]))
    found: dict[str, Planned] = {}
    for values in itertools.chain(_grid(sweep.grid), _draws(sweep.random)):
        try:
            config = presets.configure(
                {**defaults(sweep), **sweep.settings},
                {**values, "run": f"{sweep.folder}/{{digest}}"},
            )
        except ConfigError as error:
            chosen = ", ".join(f"{name} {value}" for name, value in values.items())
            raise ConfigError(f"run with {chosen or 'the settings'}: {error}") from None
        if sweep.halving and not (config.validation and config.eval_epochs):
            raise ConfigError(
                f"halving: needs validations, but validation is {config.validation} and "
                f"eval_epochs {config.eval_epochs:g}; set both above 0"
            )
        config = config.model_copy(update={"run": run_folder.uri(config)})
        found.setdefault(config.run, Planned(config, {n: getattr(config, n) for n in varied}))
    return list(found.values())


def defaults(sweep: Sweep) -> dict[str, Any]:
    """Return settings that runs of a sweep have unless its file gives others; none decides weights.

    Metrics are stored with checkpoints, so where they are compared there is one in time.
    """
    return DEFAULTS | ({"checkpoint_steps": sweep.halving.first} if sweep.halving else {})


def arguments(config: TrainConfig) -> list[str]:
    """Return the arguments of ``python -m trainer`` that train with exactly these settings."""
    settings = config.model_dump().items()
    return ["train", *(flag(name, value) for name, value in settings if value is not None)]


def _grid(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    if not grid:
        return []
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _draws(draws: Draws | None) -> list[dict[str, Any]]:
    if draws is None:
        return []
    # Each setting has a generator of its own: one more setting or run changes no other draw.
    # Python promises the same numbers from random() in every version.
    sources = {name: random.Random(f"{draws.seed} {name}") for name in draws.settings}  # noqa: S311
    return [
        {name: _draw(name, of, sources[name].random()) for name, of in draws.settings.items()}
        for _ in range(draws.count)
    ]


def _draw(name: str, choice: Range | list[Any], share: float) -> Any:
    """Return the value that lies at a share, 0 <= share < 1, of a choice."""
    if isinstance(choice, list):
        return choice[int(share * len(choice))]
    low, high = choice.low, choice.high
    if TrainConfig.model_fields[name].annotation is int:
        # Each whole number from low to high has a stretch of its own.
        whole = math.floor(_between(low, high + 1, choice.scale, share))
        return min(int(high), max(int(low), whole))
    value = float(f"{_between(low, high, choice.scale, share):.{DIGITS}g}")
    return min(high, max(low, value))


def _between(low: float, high: float, scale: str, share: float) -> float:
    if scale == "log":
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def _check(sweep: Sweep) -> None:
    """Check what concerns several fields.

    Raises:
        ConfigError: with the field, the rule and the remedy.
    """
    if "run" in sweep.settings:
        raise ConfigError("settings.run: does not belong there; give folder instead")
    if not sweep.grid and not sweep.random:
        raise ConfigError("nothing to vary: give grid, random or both")
    drawn = sweep.random.settings if sweep.random else {}
    for where, names in (("grid", sweep.grid), ("random.settings", drawn)):
        for name in names:
            _check_name(f"{where}.{name}", name)
    for name, choice in drawn.items():
        if isinstance(choice, Range):
            _check_range(f"random.settings.{name}", name, choice)
    count = math.prod(map(len, sweep.grid.values())) if sweep.grid else 0
    count += sweep.random.count if sweep.random else 0
    if count > MOST_RUNS:
        raise ConfigError(f"{count:,} runs are more than {MOST_RUNS:,}; take out some values")


def _check_name(where: str, name: str) -> None:
    if name not in TrainConfig.model_fields:
        raise ConfigError(
            f"{where}: unknown setting {name!r}{nearest(name, TrainConfig.model_fields)}"
            " (trainer train --help lists all)"
        )
    if name in RUNTIME_SETTINGS:
        raise ConfigError(
            f"{where}: does not decide the weights, so all its values would be one run; "
            "give one value under settings"
        )


def _check_range(where: str, name: str, choice: Range) -> None:
    kind = TrainConfig.model_fields[name].annotation
    if kind not in (int, float):
        raise ConfigError(f"{where}: is no number; give a list of values")
    if not max(abs(choice.low), abs(choice.high)) < _MOST:  # nor are infinities
        raise ConfigError(f"{where}: low and high must be below {_MOST:g}")
    if not choice.low < choice.high:
        raise ConfigError(f"{where}: low {choice.low:g} must be below high {choice.high:g}")
    if choice.scale == "log" and choice.low <= 0:
        raise ConfigError(f"{where}: low {choice.low:g} must be above 0 for scale log")
    if kind is int and not (choice.low.is_integer() and choice.high.is_integer()):
        raise ConfigError(f"{where}: low and high must be whole numbers, as the setting is one")


def _problem(error: ValidationError) -> str:
    """Return a validation's first problem in one line."""
    problem = first_problem(error)
    path = [part for part in problem.path if part not in ("range", "list")]
    field = ".".join(path)
    if problem.kind == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {"": Sweep, "random": Draws, "halving": Halving}
        known = models.get(".".join(path[:-1]), Range).model_fields
        hint = nearest(path[-1], known)
        if path[-1] in TrainConfig.model_fields:
            hint = "; settings of the training go under settings, grid or random.settings"
        return f"unknown setting {field!r}{hint} (known: {', '.join(known)})"
    if problem.kind == "missing":
        return f"{field} is missing"
    if problem.value is None:
        return f"{field}: has no value; give it one"
    value = str(problem.value)[:40]
    if problem.kind == "list_type":
        plain = not isinstance(problem.value, dict)
        remedy = f"give [{value}]" if plain else "a range goes under random.settings"
        return f"{field}: {value!r}: must be a list of values; {remedy}"
    return f"{field}: {value!r}: {problem.rule}"
