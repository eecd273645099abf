"""``train``: as a fork server of workers, as the supervisor of one, or as a local gang."""

import argparse
import contextlib
import os
import subprocess
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from trainer import cluster_spec as clusters
from trainer import failure, presets, progress, worker_events
from trainer.config import TrainConfig, read_yaml
from trainer.errors import UserError
from trainer.gang import found_failures, local_gang, process, supervisor, worker
from trainer.runs import run_folder, user_code
from trainer.storage.base import open_storage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: every setting of a run."""
    names = "\n".join(
        f"  {name:<20}{_indented(preset.summary)}\n{'':<22}{_indented(_settings(preset.settings))}"
        for name, preset in presets.PRESETS.items()
    )
    parser.description = (
        "Train a model, or resume a run that was interrupted. A preset changes\n"
        "some of the defaults below; a file wins over the preset, and flags win over\n"
        "both. A model of your own has the defaults, unless you also name a preset."
    )
    parser.epilog = f"presets, with what they change:\n{names}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--config", metavar="FILE", help="Read the settings below from this YAML file."
    )
    for name, field in TrainConfig.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        unset = field.default is None or field.default is False
        named = "" if unset else f" (default: {field.default})"
        text = f"{field.description}{named}".replace("%", "%%")  # argparse gives % a meaning
        if field.annotation is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            parser.add_argument(flag, metavar=_kind(field.annotation), default=None, help=text)


def run(options: argparse.Namespace) -> None:
    """Train until the run is done or stopped."""
    flags = {
        name: value
        for name in TrainConfig.model_fields
        if (value := getattr(options, name)) is not None
    }
    file = read_yaml(options.config) if options.config else {}
    config = presets.configure(file, flags)
    os.environ.setdefault(worker.STARTED, repr(time.time()))
    os.environ.setdefault(run_folder.COMMIT, _commit())
    cluster = clusters.from_environment(os.environ, may_grow=config.min_workers > 0)
    if worker_events.STATUS_FD not in os.environ and (cluster is None or cluster.rank == 0):
        _warn_of_epochs(config, file, flags)
    try:
        with user_code.packed(config, Path.cwd()) as packed:
            given = packed.code != config.code
            arguments = [*options.arguments, *([f"--code={packed.code}"] if given else [])]
            placed = _beside_other_data(packed)
            _train([*arguments, f"--run={placed.run}"], placed, cluster)
    except UserError as error:
        _record_end(error, config, cluster.rank if cluster else None)
        raise


def _warn_of_epochs(config: TrainConfig, *given: Mapping[str, Any]) -> None:
    if config.steps and any(values.keys() >= {"steps", "epochs"} for values in given):
        progress.create(config.log_format).warn(
            f"steps: {config.steps} decides the length of the run, and epochs does not count; "
            "give only one of them"
        )


def _beside_other_data(config: TrainConfig) -> TrainConfig:
    """Return a config whose folder, if {digest} names it, is not taken by a run of other data.

    The digest is of the settings alone; where these trained on other data before, the beginning of
    this data's SHA-256 follows it.
    """

    def place() -> str:
        stored = run_folder.read_config(run_folder.open_folder(run_folder.uri(config)))
        if stored is None or stored.get("data") == run_folder.from_anywhere(config.data):
            return config.run
        from trainer.data import dataset

        sha256 = dataset.load_from(open_storage(config.data), 0).sha256
        if stored.get("data_sha256") == sha256:
            return config.run
        return config.run.replace("{digest}", f"{{digest}}-{sha256[:8]}")

    run = config.run
    if "{digest}" in run:
        with contextlib.suppress(UserError):  # which the run reports itself
            run = process.apart(place)
    placed = config.model_copy(update={"run": run})
    return placed.model_copy(update={"run": run_folder.uri(placed)})


def _commit() -> str:
    """Return the commit of the project where the user stands, "-dirty" if it is changed.

    Nothing where there is no project, or no git.
    """
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    command = ("git", "-c", "core.fsmonitor=false", *describe)  # which could name a program
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _train(arguments: list[str], config: TrainConfig, cluster: clusters.Cluster | None) -> None:
    if supervisor.WORKER in os.environ:
        worker.serve(config, cluster or clusters.ALONE)
    elif cluster is None and config.workers > 1:
        local_gang.run_gang(arguments, config, process.stop_event())
    else:
        supervisor.supervise(arguments, config, cluster or clusters.ALONE, process.stop_event())


def _record_end(error: UserError, config: TrainConfig, rank: int | None) -> None:
    """Record for programs why the run ended; a process below another one leaves it to that."""
    record = failure.of(error, rank).record()
    found_failures.leave_message(record)
    if config.log_format == "json" and worker_events.STATUS_FD not in os.environ:
        code = error.exit_code
        words = f"ended with exit code {code}"
        progress.create("json").say(words, event="ended", exit_code=code, failure=record)


def _indented(text: str) -> str:
    return textwrap.fill(text, 80 - 22, break_on_hyphens=False).replace("\n", f"\n{'':<22}")


def _settings(settings: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "nothing"


def _kind(annotation: Any) -> str:
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "N", float: "X"}.get(annotation, "TEXT")
