"""Starts the program; its commands are in trainer.cli."""

import sys
from typing import NoReturn

from trainer.gang import process


def run() -> NoReturn:
    """Run one command and exit with its code."""
    process.hold_signals()  # before imports that take long
    from trainer.cli.main import main

    code = main()
    sys.stdout.flush()
    process.hold_signals()  # the interpreter's end takes our handlers away before it is over
    sys.exit(code)


if __name__ == "__main__":
    run()
