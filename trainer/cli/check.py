"""``check``: a model of the user's built for the shape of data, without training."""

import argparse
import re
import sys

from trainer.cli import shared
from trainer.config import parse
from trainer.errors import ConfigError
from trainer.runs.predictions import MOST_CLASSES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Build your own model as a run would, and check what it takes and returns. Give the data, "
        "or the shape of the images and the number of classes."
    )
    parser.add_argument(
        "--model", required=True, metavar="TEXT", help="Build package.module:function."
    )
    parser.add_argument(
        "--code",
        metavar="PATH",
        help="Import it from this file or folder (default: the module of that name in the current "
        "folder).",
    )
    parser.add_argument("--data", metavar="URI", help="Build it for this dataset.")
    parser.add_argument("--shape", metavar="HxWxC", help="Build it for images such as 28x28x1.")
    parser.add_argument("--classes", type=int, metavar="N", help="Build it for N classes.")


def run(options: argparse.Namespace) -> None:
    """Build the model, and print what it is."""
    shape, classes = _sizes(options)
    options.trust_code = None
    config = parse({"model": shared.own_model(options)})
    warnings: list[str] = []
    with shared.quiet_tensorflow():
        from trainer.train import models

        model = models.build(config, shape, classes, warnings.append)
    for each in warnings:
        shared.warn(each)
    size = "x".join(map(str, shape))
    sys.stdout.write(
        f"{config.model}: images {size} to {classes} logits, {model.count_params():,} weights\n"
    )


def _sizes(options: argparse.Namespace) -> tuple[tuple[int, int, int], int]:
    if options.data is not None:
        from trainer.data import dataset

        data = dataset.load(options.data, 0)
        return data.input_shape, data.classes
    parts = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,2})", options.shape or "")
    if parts is None or options.classes is None or not 2 <= options.classes <= MOST_CLASSES:
        raise ConfigError(
            f"check: give --data, or --shape such as 28x28x1 and --classes from 2 to {MOST_CLASSES}"
        )
    height, width, channels = map(int, parts.groups())
    if not height * width * channels:
        raise ConfigError(f"--shape: {options.shape}: has no pixel; give one such as 28x28x1")
    return (height, width, channels), options.classes
