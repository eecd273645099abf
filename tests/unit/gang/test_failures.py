"""Why a worker ended: control groups, its last words, and where they are kept."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.errors import UnavailableError
from trainer.gang.failures import CGROUPS, Journal, Memory, describe, leave_message
from trainer.gang.wire import MAX_LINE
from trainer.runs import run_folder
from trainer.storage.base import Storage
from trainer.storage.local import LocalStorage

LIMIT = 20.0  # seconds after which something that should happen did not
NO_LIMIT = "9223372036854771712"  # version 1


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def version_2(folder: Path, kills: int, limit: str) -> None:
    events = f"low 0\nhigh 3\nmax 9\noom 4\noom_kill {kills}\noom_group_kill 5"
    write(folder, memory__events=events, memory__max=limit)


def version_1(folder: Path, kills: int, limit: str) -> None:
    control = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}"
    write(folder, memory__oom_control=control, memory__limit_in_bytes=limit)


def figures(folder: Path, membership: str) -> tuple[int, int | None]:
    (folder / "membership").write_text(membership)
    memory = Memory(folder, folder / "membership")
    return memory.kills(), memory.limit()


@pytest.mark.parametrize(("limit", "bytes_"), [("max", None), ("268435456", 268435456)])
def test_version_2_nested_and_as_a_container_s_own_root(
    tmp_path: Path, limit: str, bytes_: int | None
) -> None:
    version_2(tmp_path / "kubepods" / "pod1", 2, limit)
    assert figures(tmp_path, "0::/kubepods/pod1\n") == (2, bytes_)
    version_2(tmp_path, 7, limit)
    assert figures(tmp_path, "0::/kubepods/pod1\n") == (2, bytes_)
    assert figures(tmp_path, "0::/\n") == (7, bytes_)
    assert figures(tmp_path, "0::/docker/outside\n") == (7, bytes_)
    assert figures(tmp_path, "0::/../outside\n") == (7, bytes_)


@pytest.mark.parametrize(("limit", "bytes_"), [(NO_LIMIT, None), ("67108864", 67108864)])
def test_version_1_nested_and_as_a_container_s_own_root(
    tmp_path: Path, limit: str, bytes_: int | None
) -> None:
    membership = "9:name=systemd:/a\n5:cpu,cpuacct:/a\n4:memory:/docker/a:b\n0::/c\n"
    version_1(tmp_path / "memory", 1, limit)
    assert figures(tmp_path, membership) == (1, bytes_)
    version_1(tmp_path / "memory" / "docker" / "a:b", 3, limit)
    assert figures(tmp_path, membership) == (3, bytes_)
    assert figures(tmp_path, "4:memory:/\n") == (1, bytes_)


def test_where_there_are_no_control_groups_nothing_was_killed(tmp_path: Path) -> None:
    assert figures(tmp_path, "") == (0, None)
    assert figures(tmp_path, "0::/a\n4:memory:/b\n") == (0, None)
    nowhere = Memory(tmp_path / "none", tmp_path / "none either")
    assert (nowhere.kills(), nowhere.limit()) == (0, None)


@pytest.fixture
def group() -> Iterator[tuple[Path, str]]:
    """A control group of this machine for 32 MiB, and the line that names it."""
    name = f"trainyard-test-{os.getpid()}"
    old = (CGROUPS / "memory").is_dir()
    folder = (CGROUPS / "memory" if old else CGROUPS) / name
    try:
        folder.mkdir()
        # What the machine swaps counts on top, unless that is limited too.
        files = ("limit_in_bytes", "memsw.limit_in_bytes") if old else ("max", "swap.max")
        (folder / f"memory.{files[0]}").write_text(str(32 << 20))
        with contextlib.suppress(OSError):
            (folder / f"memory.{files[1]}").write_text(str(32 << 20) if old else "0")
        (folder / "cgroup.procs").open("a").close()
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        yield folder, f"4:memory:/{name}\n" if old else f"0::/{name}\n"
    finally:
        folder.rmdir()


@pytest.mark.process
def test_the_kernel_s_kill_is_counted(group: tuple[Path, str], tmp_path: Path) -> None:
    folder, line = group
    (tmp_path / "membership").write_text(line)
    memory = Memory(CGROUPS, tmp_path / "membership")
    assert (memory.kills(), memory.limit()) == (0, 32 << 20)
    for kills, mebibytes in enumerate((1, 128, 128)):
        script = (
            f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            f"for _ in range({mebibytes}): globals().setdefault('all', []).append(b'x' * 2**20)"
        )
        code = subprocess.run([sys.executable, "-c", script], timeout=LIMIT).returncode
        assert code == (-signal.SIGKILL if kills else 0)
        assert memory.kills() == kills
    # One more kilobyte would have been too much, unless the kernel does not tell.
    assert memory.peak() is None or 31 << 20 < (memory.peak() or 0) <= 32 << 20


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
    ("code", "error", "log", "limit", "told"),
    [
        (1, "its own words", TRACEBACK, "1 MiB", "its own words"),
        (-9, "its own words", "", None, "its own words"),
        (
            -9,
            None,
            TRACEBACK,
            "limit 512 MiB, peak 511 MiB",
            "its worker was killed for lack of memory (limit 512 MiB, peak 511 MiB); give it more",
        ),
        (-9, None, TRACEBACK, None, "its worker was killed by SIGKILL"),
        (-11, None, "", None, "its worker was killed by SIGSEGV"),
        (-35, None, "", None, "its worker was killed by signal 35"),
        (1, None, TRACEBACK, None, "its worker ended with code 1: tensorflow.python.framework."),
        (3, None, "one\nmymodel.ShapeError\n\n", None, "its worker ended with code 3: mymodel.Sh"),
        (1, None, "SystemExit: no\nafter\n", None, "its worker ended with code 1: SystemExit: no"),
        (134, None, "first\nterminate called\n \n", None, "its worker ended with code 134: term"),
        (1, None, "an Error is in the middle\nlast", None, "its worker ended with code 1: last"),
        (1, None, "\n \n", None, "its worker ended with code 1: it wrote nothing"),
    ],
)
def test_an_end_is_told_in_one_line(
    code: int, error: str | None, log: str, limit: str | None, told: str
) -> None:
    line = describe(code, error, log, limit)
    assert line.startswith(told)
    assert "\n" not in line


def test_every_signal_can_be_told() -> None:
    lines = {describe(-number, None, "", None) for number in range(1, signal.NSIG)}
    assert len(lines) == signal.NSIG - 1


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\N{FIRE}" * 50_000, "\udcff" * 50_000])
def test_no_end_is_too_long_for_the_roll_call_or_cannot_be_printed(text: str) -> None:
    for error, log in ((text, ""), (None, text)):
        line = describe(1, error, log, None)
        assert len(json.dumps(line)) < MAX_LINE - 1000
        assert line.encode()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "limit of its machine"),
        ({"memory__max": "max", "memory__peak": str(3 << 30)}, "limit of its machine, peak 3 GiB"),
        ({"memory__max": str(512 << 20)}, "limit 512 MiB"),  # before Linux 5.19
        (
            {"memory__max": str(512 << 20), "memory__peak": str(511 << 20)},
            "limit 512 MiB, peak 511 MiB",
        ),
        (
            {
                "memory__limit_in_bytes": str(64 << 20),
                "memory__max_usage_in_bytes": str(63 << 20),
            },
            "limit 64 MiB, peak 63 MiB",
        ),
    ],
)
def test_limit_and_peak_are_told_as_far_as_they_are_known(
    tmp_path: Path, files: dict[str, str], told: str
) -> None:
    write(tmp_path, **files)
    assert Memory(tmp_path, tmp_path / "none").figures() == told


def test_the_message_goes_only_where_kubernetes_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("TRAINYARD_TERMINATION_LOG", str(path))
    leave_message("nobody asked")
    assert not path.exists()
    path.write_text("an earlier and longer message")
    leave_message("the first cause")
    assert path.read_text() == "the first cause"
    leave_message("elsewhere", tmp_path)  # a folder
    leave_message("elsewhere", path / "below")
    leave_message("elsewhere", tmp_path / ("x" * 300))
    assert path.read_text() == "the first cause"


@pytest.mark.parametrize("letter", ["x", "\N{FIRE}", "é", "\udcff"])
def test_a_long_message_keeps_its_beginning_and_stays_text(tmp_path: Path, letter: str) -> None:
    path = tmp_path / "termination-log"
    path.touch()
    leave_message("rank 1: " + letter * 5000, path)
    # Kubernetes keeps 4,096 bytes.
    assert 3990 < len(path.read_bytes()) <= 4000
    assert path.read_bytes().decode().startswith("rank 1: ")


class Faulty(LocalStorage):
    """A folder that fails as often as it is told, or waits until it is told to go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.faults = 0
        self.open = threading.Event()
        self.open.set()

    def replace(self, name: str, data: bytes) -> None:
        assert self.open.wait(LIMIT)
        if self.faults:
            self.faults -= 1
            raise UnavailableError(os.strerror(errno.ENOSPC))
        super().replace(name, data)


def lines(folder: Path) -> list[str]:
    return (folder / run_folder.ATTEMPTS).read_text().splitlines()


def test_a_journal_counts_on_and_keeps_what_was_there(tmp_path: Path) -> None:
    older = ['{"attempt": 1, "cause": null}', "not even JSON"]
    (tmp_path / run_folder.ATTEMPTS).write_text("\n".join(older))  # its last line is not ended
    for last in (4, 6):
        journal = Journal(lambda: LocalStorage(str(tmp_path)), pytest.fail)
        for cause in ("a", "b\u2028c"):
            journal.add({"attempt": 1, "cause": cause})
        journal.close(LIMIT)
        written = lines(tmp_path)
        assert written[:2] == older
        assert [json.loads(line)["attempt"] for line in written[2:]] == list(range(3, last + 1))
        assert json.loads(written[-1])["cause"] == "b\u2028c"


def test_a_journal_warns_of_a_store_that_fails_and_writes_the_next(tmp_path: Path) -> None:
    store = Faulty(tmp_path)
    warnings: list[str] = []
    opened: list[threading.Thread] = []

    def open_store() -> Storage:
        opened.append(threading.current_thread())
        if len(opened) == 1:
            raise UnavailableError("no credentials")
        return store

    store.faults = 1
    journal = Journal(open_store, warnings.append)
    for cause in "abcd":
        journal.add({"attempt": 9, "cause": cause})
    journal.close(LIMIT)
    assert warnings == [
        "attempts.jsonl not written: no credentials",
        "attempts.jsonl not written: No space left on device",
    ]
    assert [json.loads(line) for line in lines(tmp_path)] == [
        {"attempt": 1, "cause": "c"},
        {"attempt": 2, "cause": "d"},
    ]
    assert threading.current_thread() not in opened


def test_closing_a_journal_waits_but_not_for_ever(tmp_path: Path) -> None:
    store = Faulty(tmp_path)
    store.open.clear()
    journal = Journal(lambda: store, pytest.fail)
    journal.add({"cause": "a"})
    start = time.monotonic()
    journal.close(0.2)
    assert 0.2 <= time.monotonic() - start < LIMIT / 2
    assert not (tmp_path / run_folder.ATTEMPTS).exists()
    store.open.set()
    journal.close(LIMIT)
    assert len(lines(tmp_path)) == 1
