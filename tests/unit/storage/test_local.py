"""LocalStorage: paths, errors of the file system, and what a killed writer leaves."""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from trainer.errors import ConfigError, DataError, UnavailableError, UserError
from trainer.storage import file_system, foreign_names
from trainer.storage.base import Entry, ObjectNotFoundError, open_storage, read_at_most
from trainer.storage.local import LocalStorage

ROOT = Path(__file__).parents[3]


def message(error: type[UserError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_and_a_file_uri_are_the_same_folder(tmp_path: Path) -> None:
    by_path = open_storage(f"{tmp_path}/a b%20c//")
    by_uri = open_storage(f"file://{tmp_path}/a b%20c/")
    assert by_path.uri == f"{tmp_path}/a b%20c"
    assert by_uri.uri == f"file://{tmp_path}/a b%20c"
    by_path.create("x", b"1")
    assert by_uri.read("x") == b"1"
    assert (tmp_path / "a b%20c" / "x").read_bytes() == b"1"


def test_opening_and_reading_make_nothing(tmp_path: Path) -> None:
    store = open_storage(str(tmp_path / "a" / "b"))
    store.list()
    store.delete("x")
    with pytest.raises(ObjectNotFoundError):
        store.read("x")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_outlives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_storage("bucket/run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.create("a", b"1")
    assert store.uri == "bucket/run"
    assert (tmp_path / "bucket" / "run" / "a").exists()


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    open_storage("~/run").create("a", b"1")
    assert (tmp_path / "run" / "a").exists()
    assert open_storage("/").uri == "/"


@pytest.mark.parametrize("uri", ["", "file://", "a\0b", "a\nb"])
def test_paths_that_are_none_are_refused(uri: str) -> None:
    assert "the path is empty or holds" in message(ConfigError, lambda: open_storage(uri))


CALLS: list[Callable[[LocalStorage], object]] = [
    lambda store: store.read("a/b"),
    lambda store: store.create("a/b", b"1"),
    lambda store: store.replace("a/b", b"1"),
    lambda store: store.list(),
    lambda store: store.delete("a/b"),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_file_in_the_place_of_the_folder_is_told(
    tmp_path: Path, call: Callable[[LocalStorage], object]
) -> None:
    (tmp_path / "file").write_bytes(b"1")
    said = message(ConfigError, lambda: call(LocalStorage(str(tmp_path / "file"))))
    assert str(tmp_path / "file") in said
    assert said.endswith(
        f"a file stands where a folder must be; name its folder, {tmp_path}, or another"
    )


def test_an_object_cannot_be_a_folder_too(tmp_path: Path) -> None:
    store = LocalStorage(str(tmp_path))
    store.create("a", b"1")
    store.create("folder/b", b"1")
    for write in (store.create, store.replace):
        assert "a file stands where" in message(ConfigError, partial(write, "a/b", b"2"))
        assert "a folder stands where" in message(ConfigError, partial(write, "folder", b"2"))
    assert store.list() == [Entry("a", 1), Entry("folder/b", 1)]


@pytest.fixture
def denied() -> Iterator[LocalStorage]:
    """A storage in a folder that this process may not enter, whoever runs the tests."""
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStorage(folder)
        store.create("a/b", b"1")
        Path(folder).chmod(0)
        if me == 0:
            os.seteuid(65534)  # root may enter any folder
        try:
            yield store
        finally:
            os.seteuid(me)
            Path(folder).chmod(0o700)


@pytest.mark.parametrize("call", CALLS)
def test_missing_permission_is_told(
    denied: LocalStorage, call: Callable[[LocalStorage], object]
) -> None:
    said = message(ConfigError, lambda: call(denied))
    assert denied.uri in said
    assert "Permission denied" in said
    assert "fix its permissions" in said
    assert f"this process: user {os.geteuid()}, groups " in said


def test_a_write_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStorage(str(tmp_path))
    store.create("old", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for write in (store.create, store.replace):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            said = message(ConfigError, partial(write, "new", bytes(10_000)))
            message(ConfigError, lambda: store.replace("old", bytes(10_000)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(tmp_path / "new") in said
        assert "File too large; raise the limit of a file's size (ulimit -f)" in said
    assert store.read("old") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_or_broken_disk_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    store = LocalStorage(str(tmp_path))
    for write in (store.create, store.replace):
        said = message(UnavailableError, partial(write, "a", b"1"))
        assert f"cannot write {tmp_path / 'a'}: {os.strerror(code)}" in said
    assert list(tmp_path.iterdir()) == []


def refuse(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


NO_LINKS = [errno.EPERM, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.mark.parametrize("code", NO_LINKS)
def test_a_file_system_without_links_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", refuse(code))
    store = LocalStorage(str(tmp_path))
    assert store.create("a", b"1")
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.read("a") == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", NO_LINKS)
@pytest.mark.parametrize("answer", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_refuse_to_overwrite_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, answer: int
) -> None:
    monkeypatch.setattr(os, "link", refuse(code))
    monkeypatch.setattr(file_system, "_renameat2", lambda *_: answer)
    monkeypatch.setattr("trainer.storage.local.kind", lambda _: "fuse.rclone")
    store = LocalStorage(str(tmp_path))
    said = message(ConfigError, lambda: store.create("a", b"1"))
    assert "its file system (fuse.rclone) cannot create a file unless it is there" in said
    assert "if it shows a bucket, the bucket as s3://" in said
    assert list(tmp_path.iterdir()) == []


def test_who_comes_too_late_is_answered_as_such_whatever_link_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStorage(str(tmp_path))
    store.create("a", b"1")
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))  # as sshfs does
    monkeypatch.setattr(file_system, "_renameat2", lambda *_: errno.EINVAL)
    assert not store.create("a", b"2")
    assert store.create("a", b"1")


def test_a_broken_disk_is_not_called_one_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.ENOSPC))
    said = message(UnavailableError, lambda: LocalStorage(str(tmp_path)).create("a", b"1"))
    assert "No space left" in said


def test_the_type_of_a_file_system_is_that_of_the_innermost_mount() -> None:
    assert file_system.kind(Path("/proc/self")) == "proc"
    assert file_system.kind(Path("/")) not in ("", "proc")


@pytest.mark.parametrize("pattern", foreign_names.FOREIGN)
def test_what_systems_keep_in_folders_is_not_listed(tmp_path: Path, pattern: str) -> None:
    store = LocalStorage(str(tmp_path))
    for path in (tmp_path, tmp_path / "folder"):
        path.mkdir(exist_ok=True)
        (path / pattern.replace("*", "x1")).write_bytes(b"1")
    store.create("folder/a", b"1")
    assert store.list() == [Entry("folder/a", 1)]


def test_a_folder_that_only_the_system_may_enter_ends_no_listing() -> None:
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        LocalStorage(folder).create("a", b"1")
        (Path(folder) / "lost+found").mkdir(0)
        if me == 0:
            os.seteuid(65534)  # root may enter any folder
        try:
            assert LocalStorage(folder).list() == [Entry("a", 1)]
        finally:
            os.seteuid(me)


@pytest.mark.parametrize(
    ("write", "step"), [(LocalStorage.create, "link"), (LocalStorage.replace, "replace")]
)
def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[LocalStorage, str, bytes], object],
    step: str,
) -> None:
    store = LocalStorage(str(tmp_path))
    steps: list[str] = []
    for name in ("fsync", "link", "replace"):
        real = getattr(os, name)

        def noted(*args: object, name: str = name, real: Callable[..., None] = real) -> None:
            steps.append(name)
            real(*args)

        monkeypatch.setattr(os, name, noted)
    write(store, "a", b"1")
    assert steps == ["fsync", step, "fsync"]


KILLED = """
import os, signal, sys
from trainer.storage.base import open_storage
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
os.link = os.replace = die
getattr(open_storage(sys.argv[1]), sys.argv[2])("a/b", b"new")
"""


@pytest.mark.process
@pytest.mark.parametrize("verb", ["create", "replace"])
def test_a_killed_writer_leaves_no_object(tmp_path: Path, verb: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), verb], cwd=ROOT, timeout=30
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "a").iterdir())) == 1
    store = LocalStorage(str(tmp_path))
    assert store.list() == []
    assert store.create("a/b", b"1")
    assert store.list() == [Entry("a/b", 1)]


def test_links_lead_out_of_a_folder_only_where_they_may(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    LocalStorage(str(outside)).create("a", b"1")
    LocalStorage(str(inside)).create("a", b"2")
    (tmp_path / "here").symlink_to(inside)  # the folder itself may be one
    (inside / "file").symlink_to(outside / "a")
    (inside / "folder").symlink_to(outside)
    (inside / "near").symlink_to("a")
    free, bound = LocalStorage(str(inside)), open_storage(str(tmp_path / "here"), links=False)
    assert free.read("file") == free.read("folder/a") == b"1"
    assert bound.read("near") == bound.read("a") == b"2"
    for call in (
        lambda: bound.read("file"),
        lambda: bound.read("folder/a"),
        lambda: bound.create("file", b"3"),
        lambda: bound.create("folder/b", b"3"),
        lambda: bound.replace("folder/a", b"3"),
        lambda: bound.delete("folder/a"),
    ):
        assert "a link leads out of the folder" in message(DataError, call)
    bound.replace("file", b"3")  # takes the link's place
    assert free.read("file") == b"3"
    assert [entry.name for entry in LocalStorage(str(outside)).list()] == ["a"]
    assert (outside / "a").read_bytes() == b"1"


def test_an_object_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    store = LocalStorage(str(tmp_path))
    for name in ("a", "ab"):
        store.create(name, b"12345"[: 2 + len(name)])
    assert read_at_most(store, "a", 3) == b"123"
    assert "ab: damaged: 4 bytes, above the limit of 3" in message(
        DataError, lambda: read_at_most(store, "ab", 3)
    )
    with pytest.raises(ObjectNotFoundError):
        read_at_most(store, "b", 3)
    with (tmp_path / "a").open("ab") as file:
        file.truncate(1 << 42)
    assert "above the limit" in message(DataError, lambda: read_at_most(store, "a", 3))


def test_what_is_no_object_is_not_listed(tmp_path: Path) -> None:
    store = LocalStorage(str(tmp_path))
    store.create("folder/a", b"123")
    (tmp_path / "empty").mkdir()
    (tmp_path / "control\n").write_bytes(b"")
    if sys.platform == "linux":
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("folder/a")
    assert store.list() == [Entry("folder/a", 3), Entry("link", 3)]
    for name in ("pipe", "dangling", "empty"):
        with pytest.raises(ObjectNotFoundError):
            store.read(name)
    assert "cannot be read; remove it" in message(
        UnavailableError, lambda: store.create("dangling", b"1")
    )
    store.delete("link")
    assert store.list() == [Entry("folder/a", 3)]


def test_files_may_be_read_as_the_umask_says(tmp_path: Path) -> None:
    store = LocalStorage(str(tmp_path))
    before = os.umask(0o027)
    try:
        store.create("a", b"1")
        store.replace("b", b"1")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
