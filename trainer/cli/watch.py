"""``watch``: a page that shows a run while it trains, and becomes its report."""

import argparse

from trainer.cli import shared
from trainer.common.command_line import add_port
from trainer.common.text import plural
from trainer.errors import ConfigError
from trainer.gang import process
from trainer.runs import run_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Serve a page, only to this machine, that shows a run while it trains: curves, progress, "
        "ranks, restarts, errors so far. At the run's end the page becomes the report. The run "
        "need not have begun."
    )
    shared.add_run(parser, "Watch the run in this folder or URI.")
    add_port(parser)


def run(options: argparse.Namespace) -> None:
    """Serve until asked to stop.

    Raises:
        ConfigError: the folder holds runs, but is none itself; or the port cannot be had.
        UnavailableError: the store cannot be read.
    """
    from trainer.report import live_server
    from trainer.report.live import Live

    stop = process.stop_event()
    storage = run_folder.open_folder(options.run)
    if run_folder.read_config(storage) is None:
        end = f"/{run_folder.CONFIG}"
        if runs := [each.name for each in storage.list() if each.name.endswith(end)]:
            raise ConfigError(
                f"run: {storage.uri}: holds {plural(len(runs), 'run')} and is not a run itself; "
                f"give one, such as {storage.uri}/{runs[-1].removesuffix(end)}"
            )
        shared.say(f"{storage.uri}: no run is there yet; the page shows it once it begins")
    watcher = live_server.Watcher(Live(storage))
    live_server.serve(watcher, storage.uri, options.port, stop, shared.say)
