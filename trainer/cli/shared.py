"""What several commands share: flags, and what they show on a terminal."""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

from trainer.errors import UserError
from trainer.text import printable


def add_run(
    parser: argparse.ArgumentParser, text: str = "Read the run in this folder or URI."
) -> None:
    """Declare --run."""
    parser.add_argument("--run", required=True, metavar="URI", help=text)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare --model of commands that read a run."""
    parser.add_argument(
        "--model",
        metavar="TEXT",
        help="Load your own model, package.module:function, if the run was trained with one; the "
        "program never imports what a run's folder names.",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def width() -> int:
    """Return the columns that a table may take."""
    return max(80, shutil.get_terminal_size((80, 24)).columns)


def warn(message: str) -> None:
    """Print a warning."""
    sys.stderr.write(f"trainer: warning: {printable(message)}\n")


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Drop what TensorFlow's libraries write to descriptor 2 while they are loaded.

    They announce their build options there before any setting of theirs can prevent it. When
    loading fails with anything but a message for the user, all of it is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, UserError):
                noise.seek(0)
                os.write(kept, noise.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
