"""The installed commands: ``trainyard`` and ``kubectl trainyard``.

The first has the trainer's commands and the cluster's verbs, the second the verbs alone.
"""

import argparse
import os
import sys
from dataclasses import replace
from typing import Any, NoReturn

import k8s.__main__ as clusters
import trainer.__main__ as trainers
import trainer.cli.main as trainer_cli
from trainer.common.command_line import Program
from trainer.common.text import CALLED
from trainer.errors import ConfigError

PROGRAM = Program(
    name="trainyard",
    description="Train image classifiers on this machine and in a Kubernetes cluster.",
    epilog=f"{trainer_cli.PROGRAM.epilog}; in a cluster: "
    f"{clusters.PROGRAM.epilog.removeprefix('exit codes: ')}",
    commands={
        **trainer_cli.COMMANDS,
        **clusters.VERBS,
        "completion": ("k8s.console", "Print a script that completes commands in a shell."),
    },
)
FILES = ("DIR", "FILE", "PICTURE", "RUN", "URI", "SOURCE")  # metavars that a path may stand for


def trainyard() -> NoReturn:
    """Run one command and exit with its code."""
    os.environ[CALLED] = "trainyard"
    if PROGRAM.command(sys.argv[1:]) in clusters.VERBS:
        sys.exit(clusters.main(program=PROGRAM))
    trainers.run(PROGRAM)


def kubectl() -> NoReturn:
    """Run one verb and exit with its code."""
    os.environ[CALLED] = "kubectl trainyard"
    sys.exit(clusters.main(program=replace(clusters.PROGRAM, name="kubectl trainyard")))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``completion``."""
    parser.description = (
        "Print a script that completes commands, flags and files. For bash: "
        "source <(trainyard completion bash)"
    )
    parser.add_argument(
        "shell",
        choices=("bash", "zsh"),
        metavar="bash|zsh",
        help="Print the script for this shell.",
    )


def run(options: argparse.Namespace) -> None:
    """Print the script.

    Raises:
        ConfigError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ConfigError("completion needs shtab: pip install shtab") from None
    parser = PROGRAM.parser(PROGRAM.commands)
    _complete_files(parser, shtab.FILE)
    sys.stdout.write(shtab.complete(parser, options.shell))


def _complete_files(parser: argparse.ArgumentParser, by: Any) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for its in action.choices.values():
                _complete_files(its, by)
        elif action.metavar in FILES:
            action.complete = by  # type: ignore[attr-defined]
