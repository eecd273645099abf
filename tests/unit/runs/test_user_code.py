"""A user's code: what travels, that its bytes depend on content alone, and hostile archives."""

import contextlib
import io
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support import series
from trainer.errors import ConfigError, DataError
from trainer.runs import user_code
from trainer.storage.local import LocalStorage


def write(root: Path, *names: str, text: str = "x = 1\n") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def names(archive: user_code.Archive) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive.data)) as packed:
        return packed.getnames()


def tar(*entries: tarfile.TarInfo, content: bytes = b"") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for entry in entries:
            entry.size = len(content) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
    return packed.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def pax(name: str, **values: str) -> tarfile.TarInfo:
    """Return a file with values of its extended header."""
    made = tarfile.TarInfo(name)
    made.pax_headers = values
    return made


def header(kind: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    """Return an entry that claims to have so many bytes."""
    made = tarfile.TarInfo("x")
    made.type, made.size = kind, len(content) if size is None else size
    return made.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, "b.py", "a.py", "pkg/__init__.py", "pkg/é.py")
    write(two, "pkg/é.py", "pkg/__init__.py", "a.py", "b.py")
    os.utime(two / "a.py", (1, 1))
    (two / "b.py").chmod(0o700)
    write(two, "__pycache__/a.cpython-311.pyc", "pkg/.DS_Store", ".env")
    write(two, "data/t10k-images-idx3-ubyte.gz", "r/config.json", "r/attempts.jsonl", "r/x.py")

    assert user_code.pack(one).data == user_code.pack(two).data
    write(two, "a.py", text="x = 2\n")
    assert user_code.pack(one).reference != user_code.pack(two).reference


def test_a_file_travels_alone_and_a_package_under_its_name(tmp_path: Path) -> None:
    write(tmp_path, "mine.py", "other.py", "pkg/__init__.py", "pkg/data.txt")
    write(tmp_path, ".dockerignore", text="pkg\nmine.py\n")  # of the image; the user named them

    assert names(user_code.pack(tmp_path / "mine.py")) == ["mine.py"]
    assert names(user_code.pack(tmp_path, "pkg")) == ["pkg/__init__.py", "pkg/data.txt"]
    for model, found in (
        ("mine:f", ["mine.py"]),
        ("pkg.inner:f", ["pkg/__init__.py", "pkg/data.txt"]),
    ):
        archive = user_code.find(model, None, tmp_path)
        assert archive is not None
        assert names(archive) == found
    assert user_code.find("numpy:f", None, tmp_path) is None


@pytest.mark.process
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_leaves_out_the_same_files(tmp_path: Path) -> None:
    draw = random.Random(5)
    parts = ["a", "b", "c.py", "d.txt", "log"]
    rules = [
        "*.txt",
        "/a",
        "b/",
        "!d.txt",
        "!/a/c.py",
        "log",
        "a/**/c.py",
        "# a",
        "",
        "/b/*",
        "!b/a",
    ]
    git = ["git", "-c", "core.excludesFile=", "-C"]
    for case in range(25):
        root = tmp_path / str(case)
        folders = [root, root / "a", root / "b", root / "b" / "a", root / "a" / "log"]
        for folder in folders:
            write(folder, *(f"{each}.f" if each in ("a", "b") else each for each in parts[:4]))
            if draw.random() < 0.6:
                (folder / ".gitignore").write_text("\n".join(draw.sample(rules, 4)) + "\n")
        subprocess.run([*git, root, "init", "-q"], check=True)
        listed = subprocess.run(
            [*git, root, "ls-files", "-z", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert names(user_code.pack(root)) == sorted(filter(None, listed.split("\0"))), case
        below = [n.removeprefix("b/") for n in listed.split("\0") if n.startswith("b/")]
        if below:
            assert names(user_code.pack(root / "b")) == sorted(below), case


def test_dockerignore_is_read_as_docker_reads_it(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "pkg/a.md", "pkg/keep.py", "data/x", "data/keep", "deep/er/tmp", "tmp")
    write(tmp_path, ".dockerignore", text="# no\n*.md\ndata\n!data/keep\n**/tmp\n")

    assert names(user_code.pack(tmp_path)) == [
        ".dockerignore",
        "data/keep",
        "pkg/a.md",
        "pkg/keep.py",
    ]


def test_links_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "code"
    write(root, "real/a.py")
    write(tmp_path, "outside.py")
    (root / "alias.py").symlink_to("real/a.py")
    (root / "also").symlink_to("real")
    archive = user_code.pack(root)
    user_code.unpack(archive.data, tmp_path / "out")
    assert (tmp_path / "out" / "alias.py").read_text() == "x = 1\n"
    assert (tmp_path / "out" / "also" / "a.py").read_text() == "x = 1\n"

    for target in ("../outside.py", str(root / "real" / "a.py"), "real/../../outside.py"):
        (root / "bad").unlink(missing_ok=True)
        (root / "bad").symlink_to(target)
        with pytest.raises(ConfigError, match="is a link that leads out of"):
            user_code.pack(root)


def test_what_cannot_travel_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing: no such file or folder; give the path"):
        user_code.pack(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no file that is not ignored"):
        user_code.pack(tmp_path / "empty")
    write(tmp_path / "large", "a.py")
    with (tmp_path / "large" / "weights.bin").open("wb") as file:
        file.truncate(user_code.MOST_BYTES)
    with pytest.raises(ConfigError, match=r"2 files of 20 MiB, above .* weights\.bin \(20 MiB\)"):
        user_code.pack(tmp_path / "large")


def test_unpacked_code_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path / "code", "pkg/a.py")
    archive = user_code.pack(tmp_path / "code")
    user_code.unpack(archive.data, tmp_path / "out")
    assert user_code.names(archive) == ["pkg/a.py"]
    assert (tmp_path / "out" / "pkg" / "a.py").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "out" / "pkg").stat().st_mode & 0o777 == 0o555


@pytest.mark.parametrize(
    "data",
    [
        tar(entry("../out.py")),
        tar(entry("link", tarfile.SYMTYPE, "../..")),
        tar(entry("link", tarfile.SYMTYPE, "/etc")),
        tar(entry("link", tarfile.SYMTYPE, ".."), entry("link/x.py")),
        tar(entry("hard", tarfile.LNKTYPE, "/etc/passwd")),
        tar(entry("device", tarfile.CHRTYPE)),
        tar(entry("pipe", tarfile.FIFOTYPE)),
        tar(entry("a"), entry("a/b")),
        tar(entry("a/b"), entry("a")),
        tar(entry("n" * 300)),
        tar(entry("n" * 5000)),
        tar(entry("/".join(["n" * 200] * 40))),
        tar(entry("loop", tarfile.SYMTYPE, "loop"), entry("loop/x.py")),
        tar(entry("")),
        tar(pax("a", mtime="9" * 400)),
        tar(pax("a", mtime="nan")),
        tar(pax("a", path="a\0b")),
        tar(pax("a", size="9" * 15)),
        *(header(kind, b"12 path=evil\n") * 3000 + header(b"0") for kind in (b"x", b"g", b"L")),
        header(b"x", size=1 << 40),
        header(b"0", size=8 << 30) + bytes(1024),
        tar(entry("x"))[:100],
        b"",
        b"no tar" * 500,
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, data: bytes) -> None:
    refuse(data, tmp_path)


def test_archives_that_are_too_large_are_refused(tmp_path: Path) -> None:
    refuse(tar(*(entry(f"{number}") for number in range(user_code.MOST_FILES + 1))), tmp_path)
    refuse(tar(entry("x"), content=bytes(user_code.MOST_BYTES + 1)), tmp_path)


def refuse(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^code: damaged: .*; submit the run again$"):
        user_code.unpack(data, tmp_path / "in" / "out")
    assert not (tmp_path / "out.py").exists()
    for before, after in ((data, user_code.EMPTY), (user_code.EMPTY, data)):
        with contextlib.suppress(DataError):  # a bad place is no bad name
            user_code.changes(before, after)


def test_archives_of_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    good = tar(entry("a/b.py"), entry("l", tarfile.SYMTYPE, "a"), pax("c", mtime="1"), content=b"x")
    dice = random.Random(series.seed("TRAINYARD_ARCHIVES_SEED"))
    for number in range(series.length(300, 20_000)):
        data = bytearray(good)
        for _ in range(dice.choice([1, 2, 5, 50])):
            data[dice.randrange(6000)] = dice.choice([0, 32, 47, 57, 128, 255, dice.randrange(256)])
        for start in range(0, len(data), 512):  # a header is read only if its sum is right
            block = data[start : start + 512]
            block[148:156] = b" " * 8
            if any(block[257:263]):
                data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
        with contextlib.suppress(DataError):
            user_code.changes(bytes(data), good)
            user_code.unpack(bytes(data), tmp_path / "in" / f"{number}")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_absolute_name_lands_in_the_folder(tmp_path: Path) -> None:
    user_code.unpack(tar(entry(f"{tmp_path}/out.py")), tmp_path / "in")
    assert not (tmp_path / "out.py").exists()


def test_a_list_of_many_files_is_short() -> None:
    assert user_code.few(["a", "b"]) == "a, b"
    assert user_code.few([str(each) for each in range(10_000)]).endswith("8, 9, 9990 more")


def test_a_run_keeps_its_code_under_its_digest(tmp_path: Path) -> None:
    write(tmp_path / "code", "a.py")
    archive, run = user_code.pack(tmp_path / "code"), LocalStorage(str(tmp_path / "run"))
    archive.store(run)
    archive.store(run)
    assert user_code.fetch(run, archive.reference) == archive.data

    run.replace(user_code.object_name(archive.reference), archive.data + b"\0")
    with pytest.raises(DataError, match="another SHA-256 than its name"):
        user_code.fetch(run, archive.reference)
    with pytest.raises(DataError, match="the run's code is not there"):
        user_code.fetch(run, user_code.SCHEME + "0" * 64)


def test_changes_are_named_by_file(tmp_path: Path) -> None:
    write(tmp_path / "one", "same.py", "gone.py", "other.py")
    write(tmp_path / "two", "same.py", "new.py")
    write(tmp_path / "two", "other.py", text="x = 2\n")

    assert user_code.changes(
        user_code.pack(tmp_path / "one").data, user_code.pack(tmp_path / "two").data
    ) == [
        "gone.py only there",
        "new.py only here",
        "other.py differs",
    ]
