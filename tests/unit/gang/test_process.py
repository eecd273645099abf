"""Child processes, requests to stop, and an init's duties, with real small processes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from textwrap import dedent
from typing import Any

import pytest

import trainer
from tests.support.processes import ROOT, environment, wait_until
from trainer.gang.process import TUNABLES, Child, huge_pages
from trainer.worker_events import STATUS_FD, Event, tell_parent

pytestmark = pytest.mark.process

LIMIT = 30.0  # seconds after which something that should happen did not
STOPPABLE = f"""
    import signal, time
    signal.alarm({LIMIT:.0f})
    from trainer.gang import process
    event = process.stop_event()
    print("ready", flush=True)
    while not event.is_set(): time.sleep(0.01)
    print("stopping", flush=True)
"""


@contextlib.contextmanager
def script(code: str, *before: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in a process of its own; ``before`` comes before its command."""
    process = subprocess.Popen(
        [
            *before,
            sys.executable,
            "-c",
            f"import signal; signal.alarm({LIMIT:.0f})\n{dedent(code)}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(env),
        text=True,
    )
    assert process.stdin
    assert process.stdout
    with process.stdin, process.stdout:
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def state(pid: int) -> str:
    """The letter of /proc for what a process does, or nothing if it is no more."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


# Requests to stop.


def test_a_request_held_back_while_importing_is_not_lost() -> None:
    code = """
        from trainer.gang import process
        process.hold_signals()
        print("held", flush=True)
        input()
        print(process.stop_event().is_set(), flush=True)
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with script(code) as process:
            assert line(process) == "held"
            process.send_signal(number)
            assert process.stdin
            process.stdin.write("go on\n")
            process.stdin.flush()
            assert line(process) == "True"
            assert process.wait(LIMIT) == 0


def test_a_request_held_back_ends_a_process_that_takes_none() -> None:
    code = """
        import os, signal
        from trainer.gang import process
        process.hold_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        print("lives", flush=True)
        process.default_signals()
        print("still lives", flush=True)
    """
    with script(code) as process:
        assert (line(process), line(process)) == ("lives", "")
        assert process.wait(LIMIT) == -signal.SIGTERM


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_request_ends_the_process_at_once(second: signal.Signals) -> None:
    # One long sleep would miss a signal that comes right before it begins.
    with script(STOPPABLE + "    while True: time.sleep(0.01)\n") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "stopping"
        process.send_signal(second)
        assert process.wait(LIMIT) == 75


def test_the_end_of_the_terminal_is_no_request_under_nohup() -> None:
    with script(STOPPABLE, "nohup") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGHUP)
        assert process.stdin
        process.stdin.write("stop\n")  # it is nobody's child: no word either
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGTERM)
        assert line(process) == "stopping"
        assert process.wait(LIMIT) == 0


def test_the_end_of_the_parent_is_a_request() -> None:
    code = f"""
        import os, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", {dedent(STOPPABLE)!r}],
            stdin=subprocess.PIPE, env={{**os.environ, {STATUS_FD!r}: "2"}})
        time.sleep(99)
    """
    with script(code) as parent:
        assert line(parent) == "ready"
        parent.kill()
        assert line(parent) == "stopping"


def test_words_come_whole_and_until_the_parent_is_gone() -> None:
    code = """
        from trainer.gang import process
        for word in process.words(): print(word, flush=True)
        print("the end", flush=True)
    """
    with script(code) as process:
        assert process.stdin
        for part in ("sto", "p\nle", "ave\nstart {}\nhalf a wo"):
            process.stdin.write(part)
            process.stdin.flush()
            if part.startswith("p"):
                assert line(process) == "stop"
        process.stdin.close()
        assert [line(process) for _ in range(3)] == ["leave", "start {}", "the end"]


# Children.


class Parent:
    """What a child told, and the child, closed at the end."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        self.told: SimpleQueue[Event] = SimpleQueue()
        env = options.pop("env", {})
        self.child = Child(list(arguments), env, lambda _, event: self.told.put(event), **options)

    def events(self) -> list[Event]:
        """All events until the exit; it is the last."""
        events = [self.told.get(timeout=LIMIT)]
        while events[-1].get("event") != "exit":
            events.append(self.told.get(timeout=LIMIT))
        self.child.close()
        self.child.signal(signal.SIGCONT)  # there is nobody left to get it
        assert self.told.empty()
        return events


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A main module instead of the trainer's, among the trainer's others."""
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").write_text(f"__path__.append({str(ROOT / 'trainer')!r})\n")
    monkeypatch.setattr(trainer, "__file__", str(package / "__init__.py"))
    return package / "__main__.py"


def test_the_trainer_itself_as_a_child(tmp_path: Path) -> None:
    refused = Parent("train", "--no-such-flag", out=tmp_path / "out").events()
    assert [event.get("code") for event in refused] == [None, 2]
    assert "--no-such-flag" in refused[0]["failure"]["message"]
    assert (tmp_path / "out").read_text() == ""
    assert Parent("train", "--help", out=tmp_path / "out").events() == [
        {"event": "exit", "code": 0}
    ]
    assert (tmp_path / "out").read_text().startswith("usage: trainer train")


def test_half_a_line_of_a_killed_child_is_no_error_and_its_exit_comes_last(stand_in: Path) -> None:
    stand_in.write_text(
        "import os, signal\n"
        "from trainer.worker_events import STATUS_FD, tell_parent\n"
        "tell_parent(event='step', step=1)\n"
        'os.write(int(os.environ[STATUS_FD]), b\'\\xff\\n{"event": "committed", "st\')\n'
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert Parent().events() == [{"event": "step", "step": 1}, {"event": "exit", "code": -9}]


def test_a_child_hears_words_and_writes_where_it_is_told_to(stand_in: Path, tmp_path: Path) -> None:
    stand_in.write_text(
        "import os, sys\n"
        "from trainer.gang.process import words\n"
        "from trainer.worker_events import tell_parent\n"
        "tell_parent(arguments=sys.argv[1:], variable=os.environ['A'], leads=os.getpgid(0))\n"
        "print('not to the log', flush=True)\n"
        "for word in words(): print(word, file=sys.stderr, flush=True)\n"
        "sys.exit(7)\n"
    )
    (tmp_path / "stderr").write_text("an earlier attempt\n")
    parent = Parent("a", "b c", env={"A": "1"}, stderr=tmp_path / "stderr")
    pid = parent.child.process.pid
    assert parent.told.get(timeout=LIMIT) == {
        "arguments": ["a", "b c"],
        "variable": "1",
        "leads": pid,
    }
    for word in ("start {}", "leave"):
        parent.child.say(word)
    parent.child.close()
    assert parent.events() == [{"event": "exit", "code": 7}]
    assert (tmp_path / "stderr").read_text() == "an earlier attempt\nstart {}\nleave\n"


def test_a_child_is_killed_with_all_that_it_started_and_may_be_told_more(stand_in: Path) -> None:
    stand_in.write_text(
        "import subprocess\n"
        "from trainer.gang.process import words\n"
        "from trainer.worker_events import tell_parent\n"
        "tell_parent(pid=subprocess.Popen(['sleep', '99']).pid)\n"
        "list(words())\n"
    )
    parent = Parent()
    grandchild = parent.told.get(timeout=LIMIT)["pid"]
    parent.child.kill()
    wait_until(lambda: state(grandchild) in ("", "Z"), LIMIT)
    assert parent.told.get(timeout=LIMIT) == {"event": "exit", "code": -9}
    parent.child.say("stop")
    parent.child.signal(signal.SIGTERM)
    parent.child.kill()
    parent.child.close()
    parent.child.close()


def test_whoever_listens_is_told_and_whoever_does_not_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(STATUS_FD, raising=False)
    assert not tell_parent(event="beat")
    reading, writing = os.pipe()
    monkeypatch.setenv(STATUS_FD, str(writing))
    assert tell_parent(event="step", path="a\nb\udcff")
    assert json.loads(os.read(reading, 1000)) == {"event": "step", "path": "a\nb\udcff"}
    os.close(reading)
    assert not tell_parent(event="beat")
    os.close(writing)
    assert not tell_parent(event="beat")


# The first process of a container.


def test_adopted_processes_are_reaped_but_not_the_known_child() -> None:
    assert shutil.which("sh")
    code = """
        import ctypes, os, subprocess, time
        from pathlib import Path
        from trainer.gang import process

        PR_SET_CHILD_SUBREAPER = 36
        assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        children = Path(f"/proc/self/task/{os.getpid()}/children")

        def zombies(count):
            while True:
                pids = children.read_text().split()
                states = [Path(f"/proc/{p}/stat").read_text().rpartition(")")[2][1] for p in pids]
                if states == ["Z"] * count: return
                time.sleep(0.01)

        def adopt():
            subprocess.run(["sh", "-c", "sh -c 'exit 3' & sh -c 'kill -9 $$' & exit 0"])

        adopt()
        zombies(2)
        known = subprocess.Popen(["sh", "-c", "exit 7"])
        zombies(3)
        process.reap_orphans({known.pid})
        zombies(1)
        adopt()
        zombies(3)
        process.reap_orphans({known.pid})
        assert known.wait() == 7
        process.reap_orphans(())
        zombies(0)
        process.reap_orphans(())
        living = subprocess.Popen(["sleep", "99"])
        process.reap_orphans(())
        living.kill()
        print(living.wait(), flush=True)
    """
    with script(code) as process:
        assert line(process) == "-9"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_memory_is_in_huge_pages_unless_that_is_told_otherwise(before: str, after: str) -> None:
    assert huge_pages({TUNABLES: before}) == {TUNABLES: after}
    assert huge_pages({})[TUNABLES] == "glibc.malloc.hugetlb=1"


APART = """
    import os, signal, sys
    import numpy as np
    from trainer.errors import UnavailableError
    from trainer.gang import process
    def fail(error): raise error
    def work():
        array = np.arange(6).reshape(2, 3)
        array.flags.writeable = False
        return os.getpid(), array
    try:
        pid, array = process.apart(work)
        assert pid != os.getpid()
        assert array.tolist() == [[0, 1, 2], [3, 4, 5]] and not array.flags.writeable
        process.apart(lambda: {what})
    except UnavailableError as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("fail(UnavailableError('no store'))", 0, "UnavailableError no store\n"),
        ("sys.exit(3)", 1, ""),
        ("1 / 0", 1, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_work_apart_ends_here_as_it_ended_there(what: str, code: int, said: str) -> None:
    with script(APART.format(what=what)) as process:
        assert process.stdout
        assert process.stdout.read() == said
        assert process.wait(LIMIT) == code
