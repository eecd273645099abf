"""What is printed is shown at once, and copied into the run's folder whatever the store does."""

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.processes import environment, wait_until
from tests.support.stores import Proxied, Stores, proxied
from trainer.runs.logs import CHUNK, PATIENCE, ROOM, UNSENT, LogBuffer, LogChunk, read
from trainer.storage.base import open_storage
from trainer.storage.local import LocalStorage

LIMIT = 30.0  # seconds after which something that should happen did not
MISSING = re.compile(rb"trainer: (\d+) bytes of output are missing here: ")

# The copy by itself.


def lines_of(stream: int, count: int) -> list[bytes]:
    return [b"%d:%d:%s\n" % (stream, number, b"x" * (number % 40)) for number in range(count)]


class Store:
    """Takes what a copy has, and knows what came."""

    def __init__(self) -> None:
        self.objects: dict[int, bytes] = {}
        self.writes = 0

    def take(self, copy: LogBuffer) -> None:
        for part in copy.changed():
            self.take_part(copy, part)

    def take_part(
        self, copy: LogBuffer, part: LogChunk, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        if found := copy.content(part):
            meanwhile()
            self.put(part.number, found[1])
            copy.sent(part, found[0])

    def put(self, number: int, content: bytes) -> None:
        before = self.objects.get(number, b"")
        assert content.startswith(before), "what was stored is gone"
        self.objects[number] = content
        self.writes += 1

    @property
    def whole(self) -> bytes:
        return b"".join(self.objects[number] for number in sorted(self.objects))


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(1, 300), st.booleans())))
def test_lines_arrive_whole_and_in_order_however_they_are_cut(
    pieces: list[tuple[int, int, bool]],
) -> None:
    copy, store = LogBuffer(chunk=ROOM + 200, unsent=1 << 30), Store()
    left = {stream: b"".join(lines_of(stream, 200)) for stream in (1, 2)}
    given = {1: b"", 2: b""}
    for stream, size, stored in pieces:
        data, left[stream] = left[stream][:size], left[stream][size:]
        given[stream] += data
        copy.add(stream, data)
        if stored:
            store.take(copy)
            assert not copy.changed()
    copy.end()
    store.take(copy)
    found = store.whole.splitlines(keepends=True)
    begun = [data[data.rfind(b"\n") + 1 :] for data in given.values()]
    last = [line + b"\n" for line in begun if line]
    assert sorted(found[len(found) - len(last) :]) == sorted(last)
    for stream, data in given.items():
        mine = [line for line in found[: len(found) - len(last)] if line[0] == ord(f"{stream}")]
        assert b"".join(mine) == data[: data.rfind(b"\n") + 1]
    assert all(len(each) <= ROOM + 200 for each in store.objects.values())
    assert all(each.endswith(b"\n") for each in store.objects.values())


@given(st.lists(st.tuples(st.integers(0, 25), st.sampled_from(["up", "down", "slow"]))))
def test_what_is_missing_is_told_to_the_byte(turns: list[tuple[int, str]]) -> None:
    copy, store, number = LogBuffer(chunk=ROOM + 100, unsent=400), Store(), 0

    def print_lines(count: int) -> None:
        nonlocal number
        for _ in range(count):
            copy.add(1, b"%029d\n" % number)
            number += 1
            assert sum(len(part.data) for part in copy.changed()) <= 400

    for count, state in turns:
        print_lines(count)
        if state == "up":
            store.take(copy)
        elif state == "slow":  # while a part is on its way, more is printed
            for part in copy.changed():
                store.take_part(copy, part, partial(print_lines, count))
    copy.end()
    store.take(copy)
    following = 0
    for line in store.whole.splitlines():
        if told := MISSING.match(line):
            assert int(told[1]) % 30 == 0
            assert int(told[1])
            following += int(told[1]) // 30
        else:
            assert int(line) == following
            following += 1
    assert following == number


def test_a_finished_part_is_stored_once() -> None:
    copy, store = LogBuffer(chunk=ROOM + 100), Store()
    for number in range(100):
        copy.add(1, b"%049d\n" % number)
        if number % 2:
            store.take(copy)
            store.take(copy)
    assert len(store.objects) == 50
    assert store.writes == 50


def test_a_line_longer_than_a_part_is_broken() -> None:
    for piece in (1000, 1 << 20):
        copy, store = LogBuffer(), Store()
        text = b"".join(b"%07d," % number for number in range(CHUNK // 4)) + b"\n"
        for start in range(0, len(text), piece):
            copy.add(2, text[start : start + piece])
            copy.add(1, b"")
        store.take(copy)
        assert len(store.objects) == 3
        assert max(map(len, store.objects.values())) <= CHUNK
        assert store.whole.replace(b"\n", b"") == text.rstrip()


# Reading.


def test_lines_are_read_by_rank_start_and_part(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    for name, text in {
        "rank-10/20261120T140211Z-3fa9.00000.log": "eleventh",
        "rank-2/20261120T140211Z-3fa9.00001.log": "d\u2028d\rd\n\nd",
        "rank-2/20261120T140211Z-3fa9.00000.log": "c\xff\n",
        "rank-2/20261120T140211Z-3fa9.100000.log": "e\n",
        "rank-2/20261119T235959Z-ffff.00007.log": "a\nb\n",
        "rank-2/20261121T000000Z-0000.00000.log": "",
        "rank-2/notes.txt": "not ours",
        "rank-20/20261119T235959Z-ffff.00000.log": "another\n",
    }.items():
        storage.replace(f"logs/{name}", text.encode("utf-8" if "\u2028" in text else "latin-1"))
    rank_2 = [(2, text) for text in ("a", "b", "c\ufffd", "d\u2028d\rd", "", "d", "e")]
    assert list(read(storage, 2)) == rank_2
    assert list(read(storage)) == [*rank_2, (10, "eleventh"), (20, "another")]
    assert list(read(LocalStorage(str(tmp_path / "none")))) == []


# In processes.

SHIPPING = f"""
    import atexit, os, signal, subprocess, sys, threading, time
    signal.alarm({LIMIT:.0f})
    from trainer.runs.logs import LogShipper
    from trainer.storage.base import open_storage
    warn = lambda text: print("warned:", text, flush=True)
    def ship(open_store, every=0.05, rank=3):
        shipper = LogShipper(open_store, rank, warn, every)
        atexit.register(shipper.close)
    def bucket(uri, deadline):
        return lambda: open_storage(uri, deadline=deadline)
"""


def start(code: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", dedent(SHIPPING) + dedent(code)],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def run(code: str) -> tuple[int, str, str]:
    process = start(code)
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("logs/rank-3/*.log"))


def copied(folder: Path) -> list[str]:
    return [line for rank, line in read(LocalStorage(str(folder))) if rank == 3]


@pytest.mark.process
def test_all_that_is_printed_is_shown_unchanged_and_copied(tmp_path: Path) -> None:
    code = f"""
        print("before", flush=True)
        ship(lambda: open_storage({str(tmp_path)!r}))
        print("python", flush=True)
        print("python's error", file=sys.stderr)
        os.write(1, b"na"); os.write(2, b"native error\\n"); os.write(1, b"tive\\n")
        subprocess.run("echo a child; echo its error >&2", shell=True)
        sys.stdout.write("begun")
        raise RuntimeError("a defect")
    """
    code_, out, err = run(code)
    assert (code_, out) == (1, "before\npython\nnative\na child\nbegun")
    own, native, child, *traceback = err.splitlines()
    assert [own, native, child] == ["python's error", "native error", "its error"]
    assert traceback[-1] == "RuntimeError: a defect"
    lines = copied(tmp_path)
    assert [line for line in lines if line in out.splitlines()] == out.splitlines()[1:]
    assert [line for line in lines if line not in out.splitlines()] == err.splitlines()
    [part] = parts(tmp_path)
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}\.00000\.log", part.name)
    assert abs(time.mktime(time.strptime(part.name[:15], "%Y%m%dT%H%M%S")) - _utc()) < 3600


def _utc() -> float:
    return time.mktime(time.gmtime())


@pytest.mark.process
def test_what_is_printed_is_shown_at_once_and_outlives_a_kill(tmp_path: Path) -> None:
    code = f"""
        ship(lambda: open_storage({str(tmp_path)!r}))
        for text in ("a line\\n", "half a line", " and the rest\\n"):
            os.write(1, text.encode())
            input()
    """
    with start(code) as process:
        assert process.stdin
        assert process.stdout
        for text in ("a line\n", "half a line", " and the rest\n"):
            assert os.read(process.stdout.fileno(), 1000).decode() == text
            if text != " and the rest\n":
                process.stdin.write("\n")
                process.stdin.flush()
        wait_until(lambda: copied(tmp_path) == ["a line", "half a line and the rest"], LIMIT)
        process.kill()
    assert copied(tmp_path) == ["a line", "half a line and the rest"]


@pytest.mark.process
def test_a_finished_part_is_stored_at_once(tmp_path: Path) -> None:
    code = f"""
        ship(lambda: open_storage({str(tmp_path)!r}), every={LIMIT})
        for number in range(3 * {CHUNK} // 1000): print(f"{{number:0999}}", file=sys.stderr)
        input()
    """
    with start(code) as process:
        assert process.stderr
        for number in range(3 * CHUNK // 1000):
            assert process.stderr.readline() == f"{number:0999}\n"
        wait_until(lambda: len(copied(tmp_path)) >= 2 * (CHUNK - ROOM) // 1000, LIMIT / 2)
        process.kill()


@pytest.mark.process
def test_a_reader_that_leaves_ends_neither_the_process_nor_the_copy(tmp_path: Path) -> None:
    code = f"""
        ship(lambda: open_storage({str(tmp_path)!r}))
        for number in range(50_000):
            print(number)
        print("done", file=sys.stderr)
    """
    reading, writing = os.pipe()
    with start(code, stdout=writing) as process:
        os.close(writing)
        os.close(reading)
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "done\n")
    assert [line for line in copied(tmp_path) if line != "done"] == [*map(str, range(50_000))]
    assert len(parts(tmp_path)) == 2
    assert max(part.stat().st_size for part in parts(tmp_path)) <= CHUNK


@pytest.mark.process
def test_lines_of_two_ranks_on_one_output_are_not_torn(tmp_path: Path) -> None:
    code = f"""
        rank = sys.stdin.readline()
        ship(lambda: open_storage({str(tmp_path)!r}), rank=int(rank))
        print("ready", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        for _ in range(800): os.write(1, line.encode())
    """
    reading, writing = os.pipe()
    # A pipe that is full takes a part of what is written, unless it is little.
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    ranks = [start(code, stdout=writing) for _ in range(2)]
    os.close(writing)
    for rank, process in enumerate(ranks):
        assert process.stdin
        assert process.stderr
        process.stdin.write(f"{rank}\n")
        process.stdin.flush()
        assert process.stderr.readline() == "ready\n"
    for rank, process in enumerate(ranks):
        assert process.stdin
        process.stdin.write(str(rank) * 999 + "\n")
        process.stdin.flush()
    time.sleep(0.2)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    assert [process.communicate(timeout=LIMIT)[1] for process in ranks] == ["", ""]
    assert sorted(lines) == ["0" * 999] * 800 + ["1" * 999] * 800
    found = list(read(LocalStorage(str(tmp_path))))
    assert found == [
        (rank, line) for rank in (0, 1) for line in ("ready", *[str(rank) * 999] * 800)
    ]


@pytest.mark.process
def test_the_end_does_not_wait_for_a_child_that_goes_on(tmp_path: Path) -> None:
    code = f"""
        ship(lambda: open_storage({str(tmp_path)!r}))
        print(subprocess.Popen(["sleep", "{LIMIT:.0f}"], stderr=2).pid, flush=True)
    """
    began = time.monotonic()
    with start(code) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        assert process.wait(LIMIT) == 0
        os.kill(child, 9)
    assert time.monotonic() - began < LIMIT / 2
    assert copied(tmp_path) == [str(child)]


# A store that fails.


@pytest.fixture
def store(stores: Stores) -> Iterator[Proxied]:
    with proxied(stores("gs")) as store:
        yield store


def objects(store: Proxied) -> list[str]:
    return [entry.name for entry in store.around.list("logs/")]


@pytest.mark.process
def test_after_the_store_was_down_for_a_while_the_copy_is_complete(
    store: Proxied, tmp_path: Path
) -> None:
    code = f"""
        ship(bucket({store.uri!r}, 0.3))
        for number in range(20_000):
            print(f"{{number:029}}", flush=number % 100 == 0)
            if number % 5000 == 0:
                print(f"at {{number}}", file=sys.stderr, flush=True); input()
    """
    with (tmp_path / "out").open("wb") as file, start(code, stdout=file.fileno()) as process:
        assert process.stdin
        assert process.stderr
        for number in range(0, 20_000, 5000):
            assert process.stderr.readline() == f"at {number}\n"
            if number == 0:
                wait_until(lambda: objects(store), LIMIT)
                store.proxy.stop()
            if number == 15_000:
                time.sleep(1)  # longer than a call's deadline
                store.proxy.start()
            process.stdin.write("\n")
            process.stdin.flush()
        _, err = process.communicate(timeout=LIMIT)
    out = (tmp_path / "out").read_text()
    assert (process.returncode, err) == (0, "")
    assert out.count("warned: what is printed is not stored now: cannot write gs://bucket/") == 1
    lines = [line for _, line in read(open_storage(store.uri, deadline=5))]
    assert [line for line in lines if not line.startswith("at ")] == out.splitlines()
    assert [line for line in lines if line.startswith("at ")] == [
        f"at {number}" for number in range(0, 20_000, 5000)
    ]
    assert len(objects(store)) == 3


@pytest.mark.process
def test_a_store_that_is_down_for_good_delays_the_end_by_seconds_only(store: Proxied) -> None:
    code = f"""
        import resource
        ship(bucket({store.uri!r}, 120))
        print("first", flush=True)
        input()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range({4 * UNSENT // 1000}):
            print(f"{{number:0999}}")
        sys.stdout.flush(); time.sleep(0.5)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print("end", grown, time.time(), flush=True)
    """
    with start(code) as process:
        wait_until(lambda: objects(store), LIMIT)
        store.proxy.stop()
        out, err = process.communicate("\n", timeout=LIMIT)
        ended = time.time()
    assert (process.returncode, err) == (0, "")
    first, *lines, end = out.splitlines()
    assert first == "first"
    assert lines == [f"{number:0999}" for number in range(4 * UNSENT // 1000)]
    _, grown, when = end.split()
    assert ended - float(when) < PATIENCE + 7  # it is busy here
    assert int(grown) << 10 < 3 * UNSENT + (8 << 20)


@pytest.mark.process
def test_what_did_not_fit_is_told_when_the_store_is_back(store: Proxied) -> None:
    code = f"""
        ship(bucket({store.uri!r}, 0.3))
        print("first", flush=True)
        input()
        for number in range({2 * UNSENT // 1000}):
            print(f"{{number:0999}}")
        print("printed", file=sys.stderr, flush=True)
        input()
    """
    with start(code) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        wait_until(lambda: objects(store), LIMIT)
        store.proxy.stop()
        process.stdin.write("\n")
        process.stdin.flush()
        while (line := process.stdout.readline().rstrip()) != f"{2 * UNSENT // 1000 - 1:0999}":
            assert line
        assert process.stderr.readline() == "printed\n"
        store.proxy.start()
        process.communicate("\n", timeout=LIMIT)
    whole = b"".join(store.around.read(name) for name in objects(store))
    numbers = [int(line) for line in whole.splitlines() if line.isdigit()]
    [told] = [int(found[1]) for found in map(MISSING.match, whole.splitlines()) if found]
    kept = len(numbers) * 1000
    assert kept + told == 2 * UNSENT // 1000 * 1000
    assert UNSENT - CHUNK < kept <= UNSENT + CHUNK  # one was under way when it was given up
    assert whole.startswith(b"first\n")
    assert numbers[-1] == 2 * UNSENT // 1000 - 1
