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
    put.add_argument(
        "--train-count",
        "--samples",
        type=int,
        default=60_000,
        metavar="N",
        help="Draw N training digits (default: 60000).",
    )
    put.add_argument(
        "--test-count",
        type=int,
        default=10_000,
        metavar="N",
        help="Draw N test digits (default: 10000).",
    )
    put.add_argument(
        "--shards",
        type=int,
        default=0,
        metavar="N",
        help="Split the training images into N shards, which runs stream (default: 0, no shards).",
    )
    put.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="Seed the drawn digits and the order of the shards (default: 0).",
    )


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
