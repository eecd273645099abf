"""Starts the program; its commands are in trainer.cli."""

import sys
from typing import TYPE_CHECKING, NoReturn

from trainer.gang import process

if TYPE_CHECKING:
    from trainer.command_line import Program


def run(program: "Program | None" = None) -> NoReturn:
    """Run one command, of the trainer or of a program that includes it; exit with its code."""
    process.hold_signals()  # before imports that take long
    from trainer.cli.main import PROGRAM, main

    code = main(program=program or PROGRAM)
    sys.stdout.flush()
    process.hold_signals()  # the interpreter removes our handlers before it has ended
    sys.exit(code)


if __name__ == "__main__":
    run()
