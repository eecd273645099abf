"""A program with several commands, each in a module of its own.

The module of a command has ``add_arguments(parser)``, which declares its flags, and
``run(options)``, which does it and returns an exit code or None for 0. It is imported when its
command is given, so that ``--help`` is quick.
"""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from trainer import __version__
from trainer.common.text import nearest, one_line
from trainer.errors import ConfigError, UserError

DISTRIBUTION = "trainyard-batch"  # its name on the package index
# What the extras `trainer` and `k8s` install; any other module that is missing is a defect.
OPTIONAL = frozenset(
    (
        *("jinja2", "keras", "kubernetes", "PIL", "safetensors", "scipy"),
        *("prometheus_client", "tensorboard", "tensorflow", "werkzeug"),
    )
)
_NO_ROOM = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
}
INTERRUPTED = 130  # exit code after SIGINT, as a shell counts it


class Parser(argparse.ArgumentParser):
    """Raises ConfigError instead of printing its usage, and knows the nearest flag."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} ({self.prog} --help lists all)")


@dataclass(frozen=True)
class Program:
    """A program with commands: by name, the module of each and its line in ``--help``.

    Its epilog says the exit codes.
    """

    name: str
    description: str
    epilog: str
    commands: Mapping[str, tuple[str, str]]

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the flags of the command that is given, with its ``action``.

        Raises:
            ConfigError: an argument is missing, wrong or unknown.
        """
        alone = ("-h", "--help", "--version")
        if arguments and arguments[0].startswith("-") and arguments[0] not in alone:
            flag = arguments[0].partition("=")[0]
            command = self.command(arguments) or "COMMAND"
            raise ConfigError(f"{flag}: flags follow the command: {self.name} {command} {flag} ...")
        command = self.command(arguments)
        parser = self.parser([command])
        try:
            options, unknown = parser.parse_known_args(arguments)
        except ConfigError:  # of an argument that is missing, perhaps because of this one
            known = ["--help", *self._flags(command)] if command else arguments
            for word in arguments:
                if word.startswith("--") and word.partition("=")[0] not in known:
                    raise self._unknown(word, command) from None
            raise
        if unknown:
            raise self._unknown(unknown[0], options.command)
        return options

    def _unknown(self, argument: str, command: str) -> ConfigError:
        name = argument.partition("=")[0]
        flags = [flag for flag in self._flags(command) if flag != name]
        owners = [each for each in self.commands if name in self._flags(each)]
        hint = f": a flag of {', '.join(owners)}" if owners else nearest(name, flags)
        if name == "--version":
            hint = f": {self.name} --version prints it"
        return ConfigError(
            f"unknown argument {name!r}{hint} ({self.name} {command} --help lists all)"
        )

    def command(self, arguments: Sequence[str]) -> str:
        """Return the command that is given, or nothing."""
        return next((word for word in arguments if word in self.commands), "")

    def parser(self, wanted: Collection[str]) -> Parser:
        """Return a parser that knows all commands, and the flags of the wanted ones."""
        parser = Parser(
            prog=self.name, description=self.description, epilog=self.epilog, allow_abbrev=False
        )
        version = f"{self.name} {__version__}"
        parser.add_argument(
            "--version", action="version", version=version, help="Print the version."
        )
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        for name, (module, text) in self.commands.items():
            its = commands.add_parser(name, help=text, allow_abbrev=False)
            if name in wanted:
                command = importlib.import_module(module)
                its.set_defaults(action=command.run)
                command.add_arguments(its)
        return parser

    def run(
        self,
        arguments: Sequence[str] | None,
        prepare: Callable[[argparse.Namespace], object] = lambda _: None,
        tell: Callable[[UserError], bool] = lambda _: False,
    ) -> int:
        """Run the command that is given, by default on the command line; return its exit code.

        ``prepare`` is called with its flags before it runs; for ``tell`` see ``exit_code``.
        """
        open_closed_streams()

        def work() -> int | None:
            options = self.parse(sys.argv[1:] if arguments is None else arguments)
            prepare(options)
            code: int | None = options.action(options)
            return code

        return exit_code(self.name, work, tell)

    def _flags(self, command: str) -> list[str]:
        """Return the flags of a command; none where a package that it needs is missing."""
        parser = Parser(add_help=False)
        try:
            importlib.import_module(self.commands[command][0]).add_arguments(parser)
        except ModuleNotFoundError:
            return []
        return _flags_of(parser)


def add_port(parser: argparse.ArgumentParser) -> None:
    """Declare --port of commands that serve a page to this machine alone."""
    text = "Listen on this port of 127.0.0.1 (default: a free one)."
    parser.add_argument("--port", type=int, default=0, metavar="N", help=text)


def _flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags of a parser and of the parsers below it."""
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for its in action.choices.values():
                found += _flags_of(its)
    return found


def exit_code(
    name: str, run: Callable[[], int | None], tell: Callable[[UserError], bool] = lambda _: False
) -> int:
    """Run a program and return its exit code; what a user can fix is reported on one line.

    Args:
        name: of the program, before its error messages.
        run: does its work.
        tell: passes an error to a parent process; False where there is none, and the message goes
            to standard error.
    """
    problem: UserError
    try:
        code = run()
        sys.stdout.flush()
        return code or 0
    except UserError as error:
        problem = error
    except ModuleNotFoundError as error:
        problem = ConfigError(_missing(error))
    except MemoryError:
        problem = UserError("out of memory; give it more, or smaller data")
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        _drop("stdout")
        return 0
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _drop("stdout")
        problem = UserError(f"cannot write: {error.strerror}; {_NO_ROOM[error.errno]}")
    if not tell(problem):
        _complain(f"{name}: {one_line(problem)}\n")
    return problem.exit_code


def open_closed_streams() -> None:
    """Open the null device as each standard stream that was closed when this program started.

    Else the next pipe or file gets its number, and children take that for their own stream.
    """
    for stream in ("stdin", "stdout", "stderr"):
        if getattr(sys, stream) is None:
            _drop(stream)
            os.set_inheritable(getattr(sys, stream).fileno(), True)


def _complain(line: str) -> None:
    """Write a line to standard error, after all output; if it cannot be, the exit code is left."""
    for stream, text in (("stdout", ""), ("stderr", line)):
        try:
            getattr(sys, stream).write(text)
            getattr(sys, stream).flush()
        except OSError:
            _drop(stream)


def _missing(error: ModuleNotFoundError) -> str:
    package = str(error.name).partition(".")[0]
    if package not in OPTIONAL:
        raise error
    return (
        f"the package {package} is not installed; install what this command needs: "
        f"pip install '{DISTRIBUTION}[trainer,k8s]'"
    )


def _drop(stream: str) -> None:
    """Put the null device in place of a standard stream."""
    mode = "r" if stream == "stdin" else "w"
    setattr(sys, stream, open(os.devnull, mode, errors="replace"))  # noqa: SIM115, PTH123
