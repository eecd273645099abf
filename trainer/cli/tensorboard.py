"""``tensorboard``: the event files of runs, served with TensorBoard."""

import argparse

from trainer.cli import shared
from trainer.gang import process
from trainer.report import tensorboard_server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Serve the event files of runs with TensorBoard, straight from the store, also while the "
        "runs are in progress. TensorBoard checks nobody's identity: --host opens it to everybody "
        "who reaches that address."
    )
    shared.add_run(parser, "Serve the run, or the runs, in this folder or URI.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="Listen on this address (default: 127.0.0.1).",
    )
    parser.add_argument(
        "--port", type=int, default=6006, metavar="N", help="Listen on this port (default: 6006)."
    )


def run(options: argparse.Namespace) -> None:
    """Serve until asked to stop."""
    stop = process.stop_event()
    tensorboard_server.serve(options.run, options.host, options.port, stop, shared.say, shared.warn)
