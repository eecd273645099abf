"""``compare``: runs beside each other, as a table and as a page."""

import argparse
import sys

from trainer.cli import shared
from trainer.report import compare, compare_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Print how runs differ in settings and results, the best first, and write a page with "
        "their curves in one chart."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="Compare the run, or the runs, in this folder."
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="Write the page to this file (default: compare.html; with --json, no page unless you "
        "give this flag).",
    )
    shared.add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Print the table and write the page."""
    comparison = compare.compare(options.runs, shared.warn)
    if options.json:
        sys.stdout.write(compare.as_json(comparison))
    else:
        sys.stdout.write(compare.as_text(comparison, shared.width()))
    if options.output or not options.json:
        output = compare_page.write(comparison, options.output or "compare.html")
        if not options.json:
            sys.stdout.write(f"\npage: {output}\n")
