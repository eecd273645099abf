"""Objects that grow while they are read."""

from pathlib import Path

from trainer.runs.tail import GrowingLines
from trainer.storage.base import open_storage
from trainer.storage.local import LocalStorage


class Counting(LocalStorage):
    """A folder that counts the bytes that are read."""

    read_bytes = 0

    def read_part(self, name: str, start: int, size: int) -> bytes:
        data = super().read_part(name, start, size)
        self.read_bytes += len(data)
        return data


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    storage = Counting(str(tmp_path))
    lines = GrowingLines(storage, "a")
    data = b"".join(b"line %d\n" % n for n in range(1000))
    storage.replace("a", data)
    assert lines.read(len(data)) == (False, data.splitlines())
    assert lines.read(len(data)) == (False, [])
    storage.read_bytes = 0
    data += b"one more\nand a beg"
    storage.replace("a", data)
    assert lines.read(len(data)) == (False, [b"one more"])
    assert storage.read_bytes < 1000
    assert lines.read(len(data)) == (False, [])  # the beginning of a line waits for its end
    data += b"inning\n"
    storage.replace("a", data)
    assert lines.read(len(data)) == (False, [b"and a beginning"])


def test_lines_that_are_written_again_void_those_before(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    lines = GrowingLines(storage, "a")
    for data in (b"1\n2\n3\n", b"1\n2\nthree\n4\n", b"1\n", b"other\nlines\n"):
        storage.replace("a", data)
        void, found = lines.read(len(data))
        assert void == (data != b"1\n2\n3\n")
        assert found == data.splitlines()


def test_a_large_object_comes_in_pieces_and_a_line_without_end_is_passed_over(
    tmp_path: Path,
) -> None:
    storage = open_storage(str(tmp_path))
    data = b"first\n" + b"x" * 100 + b"\nlast\n"
    storage.replace("a", data)
    lines = GrowingLines(storage, "a", piece=32)
    found = []
    while part := lines.read(len(data))[1]:
        assert sum(map(len, part)) <= 32
        found += part
    assert found[0] == b"first"
    assert found[-1] == b"last"
    assert set(b"".join(found[1:-1])) == {ord("x")}


def test_an_object_that_shrinks_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    lines = GrowingLines(storage, "a")
    storage.replace("a", b"1\n2\n")
    assert lines.read(4)[1] == [b"1", b"2"]
    storage.replace("a", b"")
    assert lines.read(6) == (True, [])
    storage.replace("a", b"5\n")
    assert lines.read(2) == (False, [b"5"])
