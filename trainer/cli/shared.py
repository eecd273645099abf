"""What several commands share: flags, and what they show on a terminal."""

import argparse
import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainer.common.text import printable
from trainer.errors import ConfigError, UserError
from trainer.runs import trained_weights, user_code


def add_run(
    parser: argparse.ArgumentParser, text: str = "Read the run in this folder or URI."
) -> None:
    """Declare --run."""
    parser.add_argument("--run", required=True, metavar="URI", help=text)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare --model, --code and --trust-code of commands that load a run's model."""
    parser.add_argument(
        "--model",
        metavar="TEXT",
        help="Load your own model, package.module:function, if the run was trained with one; the "
        "program imports what a run's folder names only with --trust-code.",
    )
    parser.add_argument(
        "--code",
        metavar="PATH",
        help="Import --model from this file or folder (default: the module of that name in the "
        "current folder).",
    )
    parser.add_argument(
        "--trust-code",
        metavar="SHA256",
        help="Run the code that the run's folder keeps, if it has this SHA-256.",
    )


def own_model(options: argparse.Namespace) -> str | None:
    """Return the user's own model, whose code can be imported afterwards; None for a preset's.

    Raises:
        ConfigError: flags contradict each other; the code is not there, or not what is trusted.
        DataError: the run's code is damaged.
    """
    model: str | None = options.model
    archive: user_code.Archive | None = None
    if options.trust_code is not None:
        if model is not None or options.code is not None:
            raise ConfigError(
                "--trust-code: takes model and code from the run; leave --model and --code away"
            )
        model, archive = trained_weights.trusted(options.run, options.trust_code)
        warn(f"running {archive.source} as {model}: {user_code.few(user_code.names(archive))}")
    elif model is not None:
        archive = user_code.find(model, options.code, Path.cwd())
    elif options.code is not None:
        raise ConfigError("--code: needs --model package.module:function, which it holds")
    if archive is not None:
        folder = tempfile.TemporaryDirectory(prefix="trainyard-")
        atexit.register(folder.cleanup)
        user_code.unpack(archive.data, Path(folder.name) / "code")
        user_code.import_from(str(Path(folder.name) / "code"))
    return model


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def width() -> int:
    """Return the columns that a table may take."""
    return max(80, shutil.get_terminal_size((80, 24)).columns)


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


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
