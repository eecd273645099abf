"""Packs: what a reader far away gets, from whoever made it."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import UnavailableError
from trainer.storage import pack
from trainer.storage.base import Entry
from trainer.storage.local import LocalStorage

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> LocalStorage:
    store = LocalStorage(str(tmp_path / "run"), links=False)
    store.create("big", b"0123456789")
    store.create("logs/a", b"words\n\x00\xff")
    store.create("none", b"")
    return store


def pieces(found: pack.Pack) -> dict[str, bytes]:
    return {piece.name: piece.data for piece in found.pieces}


def through_a_log(packed: bytes) -> pack.Pack:
    lines = ["a warning", *pack.as_lines(packed), "another"]
    assert max(map(len, lines)) < 5000
    return pack.from_lines(lines)


def test_everything_comes_the_smallest_first_as_far_as_there_is_room(folder: LocalStorage) -> None:
    found = through_a_log(pack.pack(folder, []))
    assert found.entries == folder.list()
    assert list(pieces(found)) == ["none", "logs/a", "big"]
    assert pieces(found) == {entry.name: folder.read(entry.name) for entry in folder.list()}
    small = through_a_log(pack.pack(folder, [], most=10))
    assert small.entries == folder.list()
    assert pieces(small) == {"none": b"", "logs/a": b"words\n\x00\xff", "big": b"01"}


def test_what_is_wanted_comes_from_the_byte_that_is_wanted(folder: LocalStorage) -> None:
    found = through_a_log(pack.pack(folder, [("big", 4), ("gone", 0), ("none", 0)], most=5))
    assert pieces(found) == {"big": b"45678"}
    [piece] = found.pieces
    assert piece.start == 4
    assert piece.sha256 == pack.digest(folder.read("big"))
    assert pieces(pack.unpack(pack.pack(folder, [("big", 99), ("none", 0)]))) == {
        "big": b"",
        "none": b"",
    }


def test_an_object_that_cannot_be_read_does_not_keep_the_others(
    folder: LocalStorage, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"1")
    (tmp_path / "run/out").symlink_to(tmp_path / "secret")
    found = through_a_log(pack.pack(folder, []))
    assert "a link leads out of the folder" in found.faults["out"]
    assert "out" not in pieces(found)
    assert len(found.pieces) == 3


def test_a_log_that_was_cut_is_no_pack(folder: LocalStorage) -> None:
    lines = list(pack.as_lines(pack.pack(folder, [])))
    for broken in ([], ["words"], lines[:-1], [lines[-1]], [lines[0][:-5], pack.MARK]):
        with pytest.raises(UnavailableError, match="ask again"):
            pack.from_lines(broken)


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{}",
        '{"entries": [["a"]], "pieces": [], "faults": {}}',
        '{"entries": [["a", "x"]], "pieces": [], "faults": {}}',
        '{"entries": [], "pieces": [["a"]], "faults": {}}',
        '{"entries": [], "pieces": [], "faults": []}',
        "[" * 100_000,
    ],
)
def test_a_pack_that_somebody_else_made_is_refused(index: str) -> None:
    with pytest.raises(UnavailableError, match="damaged"):
        pack.unpack(zlib.compress(index.encode() + b"\n"))


def test_names_that_no_object_has_are_left_out() -> None:
    index = {"entries": [["../x", 1], ["a\x1b", 1], [5, 1], ["b", 2]], "pieces": [], "faults": {}}
    found = pack.unpack(zlib.compress(json.dumps(index).encode() + b"\n"))
    assert found.entries == [Entry("b", 2)]


def test_a_pack_that_grows_without_end_is_refused() -> None:
    bomb = zlib.compress(bytes(pack.MOST_UNPACKED + 1))
    assert len(bomb) < 100_000
    with pytest.raises(UnavailableError, match="too large"):
        pack.unpack(bomb)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_pack_or_refused(packed: bytes) -> None:
    for tried in (packed, zlib.compress(packed)):
        with pytest.raises(UnavailableError):
            pack.unpack(tried)


@pytest.mark.process
@pytest.mark.usefixtures("folder")
def test_the_program_prints_it_or_one_line_of_what_is_wrong(tmp_path: Path) -> None:
    def run(path: Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "trainer.storage.pack", str(path), '[["big", 1]]']
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    done = run(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert pieces(pack.from_lines(done.stdout.splitlines())) == {"big": b"123456789"}
    (tmp_path / "file").write_bytes(b"")
    failed = run(tmp_path / "file")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
    assert "a file stands where a folder must be" in failed.stderr
