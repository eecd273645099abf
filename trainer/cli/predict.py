"""``predict``: a run's model reads people's own pictures."""

import argparse
import sys

from trainer.cli import shared
from trainer.common.text import one_line
from trainer.errors import ConfigError
from trainer.inference import panel, predict, test_image
from trainer.runs.trained_weights import Restored, restore_with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Classify pictures (PNG, JPEG, WebP, GIF, TIFF, BMP) with the model of a run. Each digit "
        "found in a picture is prepared as MNIST's digits were, whatever its size, colours and "
        "light."
    )
    shared.add_run(parser)
    shared.add_model(parser)
    parser.add_argument(
        "pictures",
        nargs="*",
        metavar="PICTURE",
        help="Classify this file, or the pictures in this folder; - is standard input.",
    )
    parser.add_argument(
        "--test",
        type=int,
        metavar="N",
        help="Classify test image N of the run's data, counted from 0, and show it.",
    )
    parser.add_argument(
        "--data",
        metavar="URI",
        help="Take the image of --test from this dataset (default: the run's).",
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
    _check(options)
    restored = restore_with(options.run, shared.own_model(options))
    with shared.quiet_tensorflow():
        predict.check_large(restored)
    if options.test is not None:
        _look_up(options, restored)
        return
    names, errors = predict.files(options.pictures)
    seen, unread = predict.look(names, restored.settings.input_shape, options.prepare)
    errors += unread
    if seen:
        with shared.quiet_tensorflow():
            predictions = predict.predict(restored, seen)
        write = predict.as_json if options.output == "json" else predict.as_text
        sys.stdout.write(write(predictions, restored.settings.class_names))
        _show(options, restored, seen, predictions)
        sys.stdout.flush()
        for each in seen:
            for note in each.notes:
                sys.stderr.write(f"trainer: {one_line(each.name)}: {note}\n")
    for error in errors[:-1]:
        sys.stderr.write(f"trainer: {one_line(error)}\n")
    if errors:
        raise errors[-1]


def _check(options: argparse.Namespace) -> None:
    if options.test is not None and options.pictures:
        raise ConfigError(
            f"--test {options.test}: takes an image of a dataset instead of pictures, but "
            f"{options.pictures[0]} is given, too; leave one of them away"
        )
    if options.test is None and not options.pictures:
        if options.show:
            raise ConfigError(
                f"--show {options.show}: is the folder to write to, and no PICTURE is left; "
                "give --show after the pictures"
            )
        raise ConfigError("predict: name a PICTURE or a folder of them, or give --test N")
    if options.data is not None and options.test is None:
        raise ConfigError("--data: needs --test N, the number of one of its images")


def _look_up(options: argparse.Namespace, restored: Restored) -> None:
    """Print a test image and what the model makes of it."""
    seen, truth = test_image.find(restored, options.test, options.data)
    with shared.quiet_tensorflow():
        predictions = predict.predict(restored, [seen])
    class_names = restored.settings.class_names
    if options.output == "json":
        sys.stdout.write(predict.as_json(predictions, class_names, truth))
    else:
        sys.stdout.write(test_image.as_text(seen, truth, predictions[0], class_names))
    _show(options, restored, [seen], predictions)


def _show(
    options: argparse.Namespace,
    restored: Restored,
    seen: list[predict.Seen],
    predictions: list[predict.Prediction],
) -> None:
    if options.show is not None:
        stream = sys.stderr if options.output == "json" else sys.stdout
        for path in panel.show(seen, predictions, options.show, restored.settings.class_names):
            stream.write(f"seen: {path}\n")
