"""``export``: a run's model for other programs."""

import argparse

from trainer.cli import shared
from trainer.inference import export
from trainer.inference.formats import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Write the model of a run for Keras, TensorFlow Serving and ONNX. Each file is loaded "
        "again and must give the run's predictions before it is stored."
    )
    shared.add_run(parser)
    shared.add_model(parser)
    parser.add_argument(
        "--to", metavar="URI", help="Write the exports to this folder (default: RUN/model)."
    )
    parser.add_argument(
        "--format",
        metavar="LIST",
        help=f"Write these formats, separated by commas: {', '.join(FORMATS)} (default: each whose "
        "packages are installed).",
    )


def run(options: argparse.Namespace) -> None:
    """Write the exports, and a line for each."""
    model = shared.own_model(options)
    with shared.quiet_tensorflow():
        export.export(options.run, options.to, options.format, shared.say, model)
