"""``report``: a page of a run, or its report on the terminal."""

import argparse
import io
import sys

from trainer.cli import shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Write report.html, a page that needs no other file, into the run's folder. "
        "The run may be unfinished."
    )
    shared.add_run(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--output", metavar="FILE", help="Write the page to this file instead.")
    instead.add_argument(
        "--text", action="store_true", help="Print the report, 80 columns wide, and write nothing."
    )


def run(options: argparse.Namespace) -> None:
    """Write the page of a run, or print its report."""
    if options.text:
        from trainer.report import facts, terminal

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal may have no block characters
        sys.stdout.write(terminal.as_text(facts.gather(options.run)))
        return
    from trainer.report import run_page

    sys.stdout.write(f"report in {run_page.write(options.run, options.output)}\n")
