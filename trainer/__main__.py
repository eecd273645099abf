"""Starts the program; its commands are in trainer.cli."""

import os
import sys

# python -m puts the current directory first on the path. A random.py of the user's, or of whose
# run is there, would come before Python's own. In a checkout it is where the program itself is.
if (
    __name__ == "__main__"
    and not sys.flags.safe_path
    and sys.path[0] != os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
):
    del sys.path[0]

from typing import TYPE_CHECKING, NoReturn

from trainer.gang import process

if TYPE_CHECKING:
    from trainer.common.command_line import Program


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
