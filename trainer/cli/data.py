"""``data put``: a dataset put into a folder or bucket."""

import argparse
import sys

from trainer.data import sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = "Put a dataset where runs read it."
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    put = verbs.add_parser("put", help="Put a dataset into a folder or bucket.")
    put.description = "Download, draw or copy a dataset into a folder or bucket."
    put.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="SOURCE",
        help="Take mnist (downloaded), digits (drawn), a folder or URI of the four IDX files, or "
        "auto: the folder MNIST_DIR, else mnist if a mirror answers, else digits.",
    )
    put.add_argument(
        "--to", required=True, metavar="URI", help="Write to this folder or gs://BUCKET/PREFIX."
    )
    for names, value, text in (
        (("--train-count", "--samples"), 60_000, "Draw N training digits"),
        (("--test-count",), 10_000, "Draw N test digits"),
        (("--shards",), 0, "Split the training images into N shards, which runs stream"),
        (("--seed",), 0, "Seed the drawn digits and the order of the shards"),
    ):
        help_text = f"{text} (default: {value})."
        put.add_argument(*names, type=int, default=value, metavar="N", help=help_text)


def run(options: argparse.Namespace) -> None:
    """Put the dataset there, and print what it is."""
    line = sources.put(
        options.source,
        options.to,
        train_count=options.train_count,
        test_count=options.test_count,
        seed=options.seed,
        split=options.shards,
    )
    sys.stdout.write(line + "\n")
