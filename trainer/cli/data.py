"""``data``: a dataset put into a folder or bucket, and what one holds."""

import argparse
import sys
import textwrap
from pathlib import Path

from trainer.cli import shared
from trainer.common.text import printable
from trainer.data import collection, sources, split
from trainer.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Put a dataset where runs can read it, or show what one holds."
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    put = verbs.add_parser("put", help="Put a dataset into a folder or bucket.")
    put.description = "Download, draw or copy a dataset into a folder or bucket."
    put.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="SOURCE",
        help="Take mnist (downloaded), digits (drawn), a folder or URI of IDX files, a folder of "
        "pictures by class, an .npz, .csv or .parquet file, or auto: what --to holds, else the "
        "folder MNIST_DIR, else mnist if a mirror answers, else digits.",
    )
    put.add_argument("--to", required=True, metavar="URI", help="Write to this folder or bucket.")
    for names, value, text in (
        (("--train-count", "--samples"), 60_000, "Draw N training digits"),
        (("--test-count",), 10_000, "Draw N test digits"),
        (("--shards",), 0, "Split the training images into N shards, which runs stream"),
        (("--seed",), 0, "Seed the drawn digits and the order of shuffled images"),
    ):
        help_text = f"{text} (default: {value})."
        put.add_argument(*names, type=int, default=value, metavar="N", help=help_text)
    own = put.add_argument_group("data of your own")
    own.add_argument("--size", type=int, metavar="N", help="Scale every image to N x N pixels.")
    channels = own.add_mutually_exclusive_group()
    for flag, count, text in (("--grey", 1, "grey"), ("--colour", 3, "colour")):
        channels.add_argument(
            flag, dest="channels", action="store_const", const=count, help=f"Store {text} images."
        )
    own.add_argument(
        "--classes",
        metavar="FILE",
        help="Name the classes from this file: one name per line, from label 0 on, or EMNIST's "
        "mapping.",
    )
    own.add_argument(
        "--transpose", action="store_true", help="Exchange rows and columns, as EMNIST needs."
    )
    own.add_argument(
        "--test-share",
        type=float,
        default=split.TEST_SHARE,
        metavar="X",
        help="Draw this share of the images for testing, if the source has no test images "
        f"(default: {split.TEST_SHARE}).",
    )
    own.add_argument(
        "--licence", default="", metavar="TEXT", help="Record this licence of the data."
    )
    put.set_defaults(carry_out=_put)
    show = verbs.add_parser("show", help="Show what a dataset holds.")
    show.description = "Show a dataset's size, images per class, digest and origin."
    show.add_argument("uri", metavar="URI", help="Read the dataset in this folder or bucket.")
    show.add_argument(
        "--picture", metavar="FILE.png", help="Draw some images of each class into this file."
    )
    shared.add_json(show)
    show.set_defaults(carry_out=_show)


def run(options: argparse.Namespace) -> None:
    """Put a dataset, or show one."""
    options.carry_out(options)


def _show(options: argparse.Namespace) -> None:
    from trainer.report import data_summary

    file = options.picture
    if file is not None and not file.endswith(".png"):
        raise ConfigError(f"--picture {file!r}: must end in .png; give NAME.png")
    found = data_summary.read(options.uri, pictures=file is not None)
    if file is not None:
        try:
            Path(file).write_bytes(data_summary.picture(found))
        except OSError as error:
            raise ConfigError(f"--picture {file}: {error.strerror}; give another name") from None
    write = data_summary.as_json if options.json else data_summary.as_text
    sys.stdout.write(write(found))
    if file is not None:
        (sys.stderr if options.json else sys.stdout).write(f"picture: {printable(file)}\n")


def _put(options: argparse.Namespace) -> None:
    line = sources.put(
        options.source,
        options.to,
        train_count=options.train_count,
        test_count=options.test_count,
        seed=options.seed,
        split=options.shards,
        options=_options(options),
    )
    if sys.stdout.isatty():  # which would break it inside a word
        line = textwrap.fill(line, shared.width(), break_long_words=False, break_on_hyphens=False)
    sys.stdout.write(line + "\n")


def _options(options: argparse.Namespace) -> collection.Options:
    if options.size is not None and not 1 <= options.size <= 2048:
        raise ConfigError(f"--size: {options.size}; give 1 to 2048 pixels")
    if not 0 < options.test_share < 1:
        raise ConfigError(f"--test-share: {options.test_share:g}; give more than 0 and less than 1")
    return collection.Options(
        size=options.size,
        channels=options.channels,
        transpose=options.transpose,
        test_share=options.test_share,
        classes=options.classes,
        licence=options.licence,
        seed=options.seed,
    )
