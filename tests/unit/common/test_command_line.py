"""The commands of all programs: their help, their mistakes, their exit codes."""

import argparse
import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import pytest

from k8s import console
from k8s.__main__ import PROGRAM as CLUSTERS
from k8s.__main__ import VERBS
from k8s.console import PROGRAM
from trainer import __version__
from trainer.cli.main import COMMANDS, main
from trainer.cli.main import PROGRAM as TRAINER
from trainer.common.command_line import Program, exit_code
from trainer.common.text import CALLED, called
from trainer.errors import ConfigError, DataError, UserError
from trainer.failure import FailedError, Failure, Kind
from trainer.worker_events import STATUS_FD


def actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for its in action.choices.values():
                yield from actions(its)
        elif not isinstance(action, argparse._HelpAction):
            yield f"{parser.prog} {action.dest}", action


def test_commands_and_verbs_have_names_of_their_own() -> None:
    # `watch` shows a run in a folder or in a cluster, and `sweep` trains runs here or there; the
    # verbs take the commands' flags, too.
    assert COMMANDS.keys() & VERBS.keys() == {"watch", "sweep"}
    PROGRAM.parse(["sweep", "docs/sweep.yaml", "--plan"])
    PROGRAM.parse(["sweep", "docs/sweep.yaml", "--on", "runs/gcs.yaml"])
    PROGRAM.parse(["watch", "--run", "bucket/runs/first", "--port", "0"])
    PROGRAM.parse(["watch", "mnist-cnn"])


def test_every_help_is_a_sentence() -> None:
    helps = {name: str(action.help) for name, action in actions(PROGRAM.parser(PROGRAM.commands))}
    helps |= {name: text for name, (_, text) in PROGRAM.commands.items()}
    assert len(helps) > 100
    odd = [name for name, text in helps.items() if not (text[0].isupper() and text[-1] in ".)")]
    assert odd == []


def test_no_help_names_a_default_that_is_nothing() -> None:
    helps = [str(action.help) for _, action in actions(PROGRAM.parser(PROGRAM.commands))]
    assert [text for text in helps if "None" in text or "False" in text] == []
    assert any("(default: 0)" in text for text in helps)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "--run", "a", "--outptu", "b"], "'--outptu'; did you mean --output?"),
        (["report", "--run", "a", "--dropout", "1"], "'--dropout': a flag of train ("),
        (
            ["data", "put", "--from", "digits", "--to", "a", "--validation", "0"],
            "'--validation': a flag of train (",
        ),
        (["report", "--run", "a", "--test-count", "1"], "'--test-count': a flag of data ("),
        (["submit", "a.yaml", "--folow"], "'--folow'; did you mean --follow?"),
        (["data", "put", "--form", "a", "--to", "b"], "'--form'; did you mean --from?"),
        (["data", "put", "--form=a", "--to", "b"], "'--form'; did you mean --from?"),
        (["data", "putt", "--help"], "invalid choice: 'putt'"),
        (["submit"], "required: RUN (trainyard submit --help lists all)"),
        (
            ["--namespace", "x", "status", "run"],
            "--namespace: flags follow the command: trainyard status --namespace ...",
        ),
        (["--run=a"], "--run: flags follow the command: trainyard COMMAND --run ..."),
        (["completion"], "required: bash|zsh (trainyard completion --help lists all)"),
        (["sumbit"], "invalid choice: 'sumbit'"),
        (["train", "--version"], "'--version': trainyard --version prints it ("),
        ([], "required: COMMAND (trainyard --help lists all)"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PROGRAM.parse(arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize("program", [PROGRAM, TRAINER, CLUSTERS], ids=lambda each: each.name)
def test_every_program_says_its_version(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        program.parse(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{program.name} {__version__}\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (console.trainyard, "trainyard data show, trainyard logs"),
        (console.kubectl, "trainyard data show, kubectl trainyard logs"),
        (None, "python -m trainer data show, python -m k8s logs"),
    ],
)
def test_advice_names_the_command_that_was_called(
    command: Callable[[], object] | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALLED, "")
    monkeypatch.setattr("trainer.__main__.run", lambda _: None)
    monkeypatch.setattr("k8s.__main__.main", lambda **_: 0)
    monkeypatch.setattr(sys, "argv", ["trainyard", "train"])
    if command is not None:
        with contextlib.suppress(SystemExit):
            command()
    assert f"{called('trainer')} data show, {called('k8s')} logs" == words


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("torn\nimages"), 65, "a: torn images\n"),
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 1, "a: out of memory; give it more, or smaller data\n"),
        (
            ModuleNotFoundError(name="scipy.ndimage"),
            2,
            "a: the package scipy is not installed; install what this command needs: pip install "
            "'trainyard-batch[trainer,k8s]'\n",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "a: cannot write: No space left on device; free some space\n",
        ),
        (
            OSError(errno.EFBIG, "File too large"),
            1,
            "a: cannot write: File too large; raise the limit of a file's size (ulimit -f)\n",
        ),
    ],
    ids=repr,
)
def test_what_a_user_can_fix_is_one_line(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    before = sys.stdout
    monkeypatch.setattr(sys, "stdout", before)  # which is replaced where nothing can be written
    assert exit_code("a", fail) == code
    if sys.stdout is not before:
        sys.stdout.close()
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("name", ["trainer.nothing", "torch", "of_the_users_model"])
def test_a_module_that_no_extra_installs_is_a_defect_and_shown_whole(name: str) -> None:
    def fail() -> None:
        raise ModuleNotFoundError(name=name)

    with pytest.raises(ModuleNotFoundError):
        exit_code("a", fail)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("torn"), 65, "torn"),
        (MemoryError(), 1, "out of memory"),
        (ModuleNotFoundError(name="keras"), 2, "the package keras is not installed"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "cannot write"),
    ],
    ids=repr,
)
def test_a_parent_gets_the_error_instead_of_the_terminal(
    error: Exception,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[UserError] = []
    before = sys.stdout
    monkeypatch.setattr(sys, "stdout", before)  # which is replaced where nothing can be written

    def fail() -> None:
        raise error

    def tell(error: UserError) -> bool:
        told.append(error)
        return True

    assert exit_code("a", fail, tell) == code
    if sys.stdout is not before:
        sys.stdout.close()
    assert [str(error).startswith(said) for error in told] == [True]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "rank", "in_gang", "silent"),
    [
        ("stopped", 1, True, True),
        ("stopped", 0, True, False),
        ("stopped", 1, False, False),  # a pod
        ("unavailable", 1, True, False),
    ],
)
def test_of_a_gang_that_is_left_alone_rank_0_says_that_it_stopped(
    kind: Kind, rank: int, in_gang: bool, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    if in_gang:
        monkeypatch.setenv(STATUS_FD, str(writing))
    found = Failure(kind=kind, rank=rank, code=75, message="stopped at step 120")
    program = Mock()
    main([], program)
    tell = program.run.call_args.args[2]
    assert tell(FailedError(found, 2)) is silent
    os.close(writing)


def run_in_shell(code: str, redirections: str) -> subprocess.CompletedProcess[str]:
    program = f"from trainer.common.command_line import *\n{code}"
    shell = ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, program]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(shell, capture_output=True, text=True, timeout=60, env=env, check=False)


@pytest.mark.process
@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", ">/dev/full 2>&1", ">&- 2>&-"])
def test_an_error_that_cannot_be_written_keeps_its_exit_code(redirections: str) -> None:
    code = (
        "def fail():\n    print('some output')\n    raise ConfigError('seed')\n"
        "open_closed_streams()\nsys.exit(exit_code('a', fail))"
    )
    done = run_in_shell(code, redirections)
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.process
def test_closed_streams_keep_their_numbers() -> None:
    code = (
        "open_closed_streams()\nprint('some output', sys.stdout.isatty())\n"
        "print(os.pipe(), end='', file=sys.stderr, flush=True)\nos.execl('/bin/cat', 'cat')"
    )
    done = run_in_shell(code, "<&- >&-")
    assert (done.returncode, done.stderr) == (0, "(3, 4)")


def test_a_program_opens_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    TRAINER.run(["no-command"])
    assert sys.stdout.name == os.devnull
    sys.stdout.close()
