"""``evaluate``: a run's model measured on the test images of a dataset."""

import argparse
import sys

from trainer.cli import shared
from trainer.train.quick_import import quick_imports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Load the model of a run and measure it on test images."
    shared.add_run(parser)
    parser.add_argument(
        "--data", metavar="URI", help="Use the test images of this dataset (default: the run's)."
    )
    shared.add_model(parser)
    shared.add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Print the metrics of a run's weights."""
    model = shared.own_model(options)
    warnings: list[str] = []
    with shared.quiet_tensorflow():
        with quick_imports():
            from trainer.train import evaluate

        report = evaluate.evaluate(options.run, options.data, model, warnings.append)
    for each in warnings:
        shared.warn(each)
    sys.stdout.write(evaluate.as_json(report) if options.json else evaluate.as_text(report))
