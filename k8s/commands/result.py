"""``result``: how a run ended, and a copy of everything that it left."""

import argparse
import sys
from typing import Any

from k8s.run import stored_result, which_run
from trainer.common.text import printable
from trainer.errors import ConfigError, DataError
from trainer.runs import run_folder
from trainer.storage.base import Storage
from trainer.storage.local import LocalStorage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Print a run's result from its folder."
    which_run.add_run(parser, nargs="?")
    parser.add_argument(
        "--download",
        metavar="DIR",
        help="Copy the run's folder to this one, even while the run is in progress.",
    )
    which_run.add_output(parser)
    which_run.add_folder(parser)


def run(options: argparse.Namespace) -> None:
    """Print a run's result, and copy its folder if asked to."""
    folder, config = which_run.folder(options)
    if options.download:
        count = download(folder, options.download)
        copied = printable(f"{count} objects of {folder.uri} copied to {options.download}")
        sys.stderr.write(f"{copied}\n")
        if run_folder.read_result(folder) is None:
            sys.stderr.write(f"{printable(stored_result.not_ended(folder))}\n")
            return
    values = stored_result.read(folder, config)
    if options.output == "json":
        which_run.print_json(values)
    else:
        sys.stdout.write(as_text(values, folder))


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
    """Copy a run's folder, without the secret of its pods, and return the number of objects.

    Raises:
        ConfigError: there is nothing, or the target cannot be written.
    """
    local = LocalStorage(target)
    entries = [each for each in folder.list() if not run_folder.is_gang_key(each.name)]
    if not entries:
        raise ConfigError(f"{folder.uri}: holds nothing; check the run's name")
    for entry in entries:
        local.replace(entry.name, folder.read(entry.name))
    return len(entries)
