"""The failures that a supervisor finds, and the record left for Kubernetes."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.cluster_spec import ALONE
from trainer.failure import Failure
from trainer.gang.found_failures import leave_message, of_exit
from trainer.gang.supervisor import Supervisor
from trainer.gang.supervisor_states import WorkerAttempt

TRACEBACK = """\
2026-11-20 10:00:00.1: I tensorflow/core/platform: an optimized build
Traceback (most recent call last):
  File "mine.py", line 3, in model
    raise ValueError("a Dense layer")
tensorflow.python.framework.errors_impl.InvalidArgumentError: Graph execution error:

Detected at node Mul defined at (most recent call last):
  <stack traces unavailable>
"""


@pytest.mark.parametrize(
    ("code", "log", "limit", "kind", "says"),
    [
        (
            -9,
            TRACEBACK,
            "limit 512 MiB, peak 511 MiB",
            "out_of_memory",
            "its worker was killed for lack of memory (limit 512 MiB, peak 511 MiB)",
        ),
        (-9, TRACEBACK, None, "killed", "its worker was killed by SIGKILL"),
        (-11, "", None, "killed", "its worker was killed by SIGSEGV"),
        (-35, "", None, "killed", "its worker was killed by signal 35"),
        (1, TRACEBACK, None, "crashed", "its worker ended with code 1: tensorflow.python."),
        (3, "one\nmymodel.ShapeError\n\n", None, "crashed", "its worker ended with code 3: my"),
        (1, "SystemExit: no\nafter\n", None, "crashed", "its worker ended with code 1: SystemEx"),
        (
            134,
            "first\nterminate called\n \n",
            None,
            "crashed",
            "its worker ended with code 134: te",
        ),
        (
            1,
            "an Error is in the middle\nlast",
            None,
            "crashed",
            "its worker ended with code 1: last",
        ),
        (1, "\n \n", None, "crashed", "its worker ended with code 1: it wrote nothing"),
    ],
)
def test_an_end_becomes_a_failure(
    code: int, log: str, limit: str | None, kind: str, says: str
) -> None:
    failure = of_exit(3, code, log, limit)
    assert (failure.kind, failure.rank, failure.code, failure.consequence) == (kind, 3, 1, False)
    assert failure.message.startswith(says)
    assert failure.remedy == ("give it more memory or lower batch_size" if limit else "")


@pytest.mark.parametrize(
    ("code", "log"),
    [
        (-signal.SIGILL, ""),
        (-signal.SIGABRT, "F0000 The TensorFlow library was compiled to use AVX instructions, but"),
    ],
)
def test_a_missing_instruction_is_no_reason_to_start_again(code: int, log: str) -> None:
    failure = of_exit(1, code, log, None)
    assert (failure.kind, failure.code) == ("config", 2)
    assert "this processor lacks, such as AVX" in failure.message
    assert "arm64" in failure.remedy


def test_a_limit_of_a_files_size_is_no_reason_to_start_again() -> None:
    failure = of_exit(0, 1, "tensorflow.OutOfRangeError: /tmp/a; File too large [Op:b]\n", None)
    assert (failure.kind, failure.code) == ("config", 2)
    assert failure.remedy == "raise the limit of a file's size (ulimit -f)"


@pytest.mark.parametrize("variable", ["XLA_FLAGS", "TF_XLA_FLAGS"])
def test_a_flag_that_xla_does_not_know_is_no_reason_to_start_again(variable: str) -> None:
    log = f"F0000 parse_flags_from_env.cc:234] Unknown flag in {variable}: --bogus\nmore\n"
    failure = of_exit(0, 1, log, None)
    assert (failure.kind, failure.code) == ("config", 2)
    assert failure.sentence(1) == (
        f"{variable}: --bogus: XLA knows no such flag; correct the variable {variable}, or unset it"
    )


@pytest.mark.parametrize(
    "log",
    [
        "F0000 env.cc:88] Check failed: ret == 0 (11 vs. 0)Thread t creation via pthread_create() "
        "failed.",
        "Traceback\nRuntimeError: can't start new thread",
        "BlockingIOError: [Errno 11] Resource temporarily unavailable",
        "bash: fork: retry: Resource temporarily unavailable",
    ],
)
@pytest.mark.parametrize("limit", [40, None])
def test_the_limit_on_processes_is_named(
    log: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.gang.cgroup.process_limit", lambda: limit)
    failure = of_exit(0, -signal.SIGABRT, log, None)
    assert failure.kind == "crashed"
    assert ("the limit of 40 (pids.max) is reached" in failure.message) == (limit == 40)
    assert "podPidsLimit" in failure.remedy


def test_every_signal_has_a_name() -> None:
    messages = {of_exit(0, -number, "", None).message for number in range(1, signal.NSIG)}
    assert len(messages) == signal.NSIG - 1


def test_the_record_goes_only_where_kubernetes_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("TRAINYARD_TERMINATION_LOG", str(path))
    record = Failure(kind="data", rank=0, code=65, message="torn").record()
    leave_message(record)
    assert not path.exists()
    path.write_text("an earlier and longer message " * 100)
    leave_message(record)
    assert json.loads(path.read_text()) == record
    for nowhere in (tmp_path, path / "below", tmp_path / ("x" * 300)):
        monkeypatch.setenv("TRAINYARD_TERMINATION_LOG", str(nowhere))
        leave_message({})
    monkeypatch.setenv("TRAINYARD_TERMINATION_LOG", str(path))
    monkeypatch.setenv("TRAINYARD_STATUS_FD", "1")  # a parent does it
    leave_message({})
    assert json.loads(path.read_text()) == record


@pytest.mark.parametrize(
    ("reported", "exit_code", "log", "code"),
    [
        (None, 1, "Unknown flag in XLA_FLAGS: --bogus", 2),
        (None, 1, TRACEBACK, 1),
        (None, 65, TRACEBACK, 65),
        (69, 1, TRACEBACK, 1),  # it went on after that
        (69, 69, TRACEBACK, 69),
    ],
)
def test_what_a_supervisor_finds_to_be_final_ends_the_gang(
    reported: int | None, exit_code: int, log: str, code: int
) -> None:
    attempt = WorkerAttempt(1, 0, 0.0, 0.0, None)
    if reported:
        attempt.failure = Failure(kind="unavailable", code=reported, message="no store")
    supervisor: Any = SimpleNamespace(_cluster=ALONE, _out_of_memory=lambda _: None)
    found = Supervisor._explain(supervisor, attempt, exit_code, log)
    assert found.code == code
