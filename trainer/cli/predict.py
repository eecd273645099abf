"""``predict``: a run's model reads people's own pictures."""

import argparse
import sys

from trainer.cli import shared
from trainer.inference import panel, predict
from trainer.runs.trained_weights import restore_with
from trainer.text import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Classify pictures (PNG, JPEG, WebP) with the model of a run. Each digit found in a "
        "picture is prepared as those of MNIST were, whatever its size, colours and light."
    )
    shared.add_run(parser)
    shared.add_model(parser)
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURE", help="Classify this file; - is standard input."
    )
    parser.add_argument(
        "--output",
        choices=("text", "json"),
        default="text",
        help="Print this format (default: text).",
    )
    parser.add_argument(
        "--show",
        nargs="?",
        const="",
        metavar="DIR",
        help="Write NAME.seen.png, the picture beside what the model saw of it, into DIR "
        "(default: beside the picture).",
    )
    parser.add_argument(
        "--prepare",
        choices=("auto", "mnist", "resize"),
        default="auto",
        help="Prepare pictures in this way; mnist: find digits and prepare each; resize: scale the "
        "whole picture; auto: mnist if the model takes square images of one channel "
        "(default: auto).",
    )


def run(options: argparse.Namespace) -> None:
    """Print what the model reads; report the pictures that cannot be read at the end."""
    restored = restore_with(options.run, shared.own_model(options))
    with shared.quiet_tensorflow():
        predict.check_large(restored)
    seen, errors = predict.look(options.pictures, restored.settings.input_shape, options.prepare)
    if seen:
        with shared.quiet_tensorflow():
            predictions = predict.predict(restored, seen)
        as_json = options.output == "json"
        names = restored.settings.class_names
        write = predict.as_json if as_json else predict.as_text
        sys.stdout.write(write(predictions, names))
        if options.show is not None:
            for path in panel.show(seen, predictions, options.show, names):
                (sys.stderr if as_json else sys.stdout).write(f"seen: {path}\n")
        sys.stdout.flush()
    for error in errors[:-1]:
        sys.stderr.write(f"trainer: {one_line(error)}\n")
    if errors:
        raise errors[-1]
