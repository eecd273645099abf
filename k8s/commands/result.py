"""``result``: how a run ended, and a copy of everything that it left."""

import argparse
import sys
from typing import Any

from k8s.client.cluster import Cluster
from k8s.commands import run_store, target
from k8s.commands.claim_folder import ClaimFolder
from k8s.diagnosis import run_phase
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError, UnavailableError, UserError
from trainer.runs import run_folder
from trainer.storage.base import Storage
from trainer.storage.local import LocalStorage
from trainer.text import one_line, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Print a run's result from its folder."
    target.add_run(parser, nargs="?")
    parser.add_argument(
        "--download",
        metavar="DIR",
        help="Copy the run's folder to this one, even while the run is in progress.",
    )
    target.add_output(parser)
    target.add_folder(parser)


def run(options: argparse.Namespace) -> None:
    """Print a run's result, and copy its folder if asked to."""
    folder, config = target.folder(options)
    if options.download:
        count = download(folder, options.download)
        copied = printable(f"{count} objects of {folder.uri} copied to {options.download}")
        sys.stderr.write(f"{copied}\n")
        if run_folder.read_result(folder) is None:
            sys.stderr.write(f"{printable(_not_ended(folder))}\n")
            return
    values = read(folder, config)
    if options.output == "json":
        target.print_json(values)
    else:
        sys.stdout.write(as_text(values, folder))


def prove(
    cluster: Cluster, job: dict[str, Any], pods: list[dict[str, Any]], *, logged: bool
) -> None:
    """Check that a Job whose pods all ended with 0 has trained: that its result is stored.

    A mark that rank 0 left in its pod suffices: it does so once the result is stored. Otherwise
    the run's folder is read; if that cannot be seen from here, rank 0's log decides.

    Raises:
        UnavailableError: the folder cannot be seen from here, and nothing else shows it.
        UserError: there is no result of this run.
    """
    if run_phase.left_result(pods):
        return
    try:
        folder, config = run_store.of_job(cluster, job)
        stored = run_folder.read_result(folder)
    except DataError:
        raise
    except UserError as error:  # no way to the bucket, or no right to read it
        if logged:
            return
        raise UnavailableError(one_line(error)) from None
    if stored is None:
        raise ConfigError(f"{folder.uri} holds no {run_folder.RESULT}")
    read(folder, config)


def is_stored(cluster: Cluster, job: dict[str, Any]) -> bool:
    """Whether a run's folder holds its result; False if that takes a pod, or cannot be seen."""
    try:
        folder, config = run_store.of_job(cluster, job)
        if isinstance(folder, ClaimFolder):
            return False
        read(folder, config)
    except UserError:
        return False
    return True


def read(folder: Storage, config: TrainConfig | None = None) -> dict[str, Any]:
    """Return a run's result; ``config``, unless it is None, must be the folder's settings.

    Raises:
        ConfigError: it has none yet, or the folder is another run's.
    """
    result = run_folder.read_result(folder)
    if result is None and config is None and not folder.list():
        raise ConfigError(f"{folder.uri}: does not exist or is empty; give the folder of a run")
    if result is None:
        raise ConfigError(_not_ended(folder))
    if config is not None:
        stored = run_folder.read_config(folder)
        if stored is None:
            raise ConfigError(
                f"{folder.uri}: holds {run_folder.RESULT} but no {run_folder.CONFIG}, "
                "so it is no run's folder; give an empty or new one"
            )
        # Raises if it is another run's.
        run_folder.claim(folder, config, str(stored.get("data_sha256")))
    return result


def _not_ended(folder: Storage) -> str:
    steps = [entry.name for entry in folder.list("checkpoints/")]
    so_far = f"its newest checkpoint is {steps[-1]}" if steps else "it has no checkpoint yet"
    return f"{folder.uri}: the run has not ended; {so_far}"


def as_text(result: dict[str, Any], folder: Storage) -> str:
    """Return a result for people.

    Raises:
        DataError: a figure is missing.
    """
    try:
        rows = _rows(result)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{folder.uri}/{run_folder.RESULT}: not of this version of the trainer; "
            "--output json shows it"
        ) from None
    rows["folder"] = folder.uri
    if run_folder.has(folder, run_folder.REPORT):
        rows["report"] = f"{folder.uri}/{run_folder.REPORT}"
    return "".join(f"{name:<14} {printable(value)}\n" for name, value in rows.items())


def _rows(result: dict[str, Any]) -> dict[str, str]:
    return {
        "test accuracy": f"{result['test_accuracy']:.2%}",
        "test loss": f"{result['test_loss']:.4f}",
        "steps": f"{result['steps']}",
        "training": f"{result['train_seconds']:.1f} s, {result['images_per_second']:,.0f} images/s",
        "weights": f"sha256 {result['weights_sha256']}",
    }


def download(folder: Storage, target: str) -> int:
    """Copy a run's folder and return the number of objects.

    Raises:
        ConfigError: there is nothing, or the target cannot be written.
    """
    local = LocalStorage(target)
    entries = folder.list()
    if not entries:
        raise ConfigError(f"{folder.uri}: holds nothing; check the run's name")
    for entry in entries:
        local.replace(entry.name, folder.read(entry.name))
    return len(entries)
