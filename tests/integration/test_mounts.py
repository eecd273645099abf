"""LocalStorage on file systems that people mount: one writer wins, or a run does not begin."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import mounts, processes, series, warm
from tests.support.mounts import Mount
from trainer.errors import ConfigError
from trainer.storage.base import Entry
from trainer.storage.local import LocalStorage

ROOT = Path(__file__).parents[2]
ROUNDS = series.length(5, 100)
WRITERS = 16

# Prints what create returned, a list of rounds for each writer.
RACE = """
import json, multiprocessing, sys
from trainer.storage.local import LocalStorage
rounds, writers, folders = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
context = multiprocessing.get_context("fork")
barrier, answers = context.Barrier(writers), context.SimpleQueue()
def write(writer):
    store, said = LocalStorage(folders[writer % len(folders)]), []
    for number in range(rounds):
        barrier.wait()
        try:
            said.append(store.create(f"race/{number}", b"%d" % writer * 1000))
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    answers.put((writer, said))
started = [context.Process(target=write, args=(writer,)) for writer in range(writers)]
for process in started:
    process.start()
found = dict(answers.get() for _ in started)
print(json.dumps([found[writer] for writer in range(writers)]))
"""


def race(folder: Path) -> list[list[bool | str]]:
    """Have all writers create the same names at the same time; return what each was told.

    Where there are two clients of the folder, each has half of the writers.
    """
    folders = [str(each) for each in (folder, mounts.other(folder)) if each.exists()]
    command = [sys.executable, "-c", RACE, str(ROUNDS), str(WRITERS), *folders]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=processes.LIMIT
    )
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("mount", [mounts.ext4, mounts.sshfs])
def test_of_many_writers_exactly_one_wins(mount: Mount, tmp_path: Path) -> None:
    with mount(tmp_path) as folder:
        answers, store = race(folder), LocalStorage(str(folder))
        for number in range(ROUNDS):
            said = [each[number] for each in answers]
            assert sorted(map(str, said)) == ["False"] * (WRITERS - 1) + ["True"]
            assert store.read(f"race/{number}") == b"%d" % said.index(True) * 1000
        assert [entry.size for entry in store.list()] == [
            len(store.read(entry.name)) for entry in store.list()
        ]
        assert len(list((folder / "race").iterdir())) == ROUNDS


@pytest.mark.parametrize("mount", [mounts.ext4, mounts.sshfs])
def test_objects_are_written_read_and_deleted(mount: Mount, tmp_path: Path) -> None:
    with mount(tmp_path) as folder:
        store = LocalStorage(str(folder))
        assert store.create("run/a", b"1")
        assert store.create("run/a", b"1")
        assert not store.create("run/a", b"2")
        store.replace("run/b", b"12")
        store.replace("run/b", b"21")
        assert store.list() == [Entry("run/a", 1), Entry("run/b", 2)]
        assert store.read("run/b") == b"21"
        store.delete("run/a")
        assert store.list("run/") == [Entry("run/b", 2)]


REFUSED = [mounts.rclone, mounts.s3fs, mounts.vfat, mounts.exfat]


@pytest.mark.parametrize("mount", REFUSED)
def test_a_mount_that_can_only_overwrite_is_named(mount: Mount, tmp_path: Path) -> None:
    with mount(tmp_path) as folder:
        store = LocalStorage(str(folder))
        with pytest.raises(ConfigError) as caught:
            store.create("run/a", b"1")
        said = str(caught.value)
        assert "its file system (fuse" in said
        assert "cannot create a file unless it is there" in said
        assert store.list() == []


def test_a_run_on_such_a_mount_does_not_begin(digits: Path, tmp_path: Path) -> None:
    with mounts.rclone(tmp_path) as folder:
        code, out, err = warm.run(
            *("train", "--model", "tiny_models:noisy", "--steps", "20"),
            *("--validation", "400", "--data", str(digits), "--run", str(folder / "run")),
        )
    assert code == 2
    assert "its file system (fuse.rclone) cannot create a file unless it is there" in err
    assert err.count("\n") == 1
    assert "step" not in out


def test_data_and_runs_in_the_root_of_a_disk(digits: Path) -> None:
    """Pods are no root, which lost+found belongs to."""
    with tempfile.TemporaryDirectory() as above, mounts.ext4(Path(above)) as folder:
        for path in (Path(above), folder):
            path.chmod(0o777)
        for path in digits.iterdir():
            shutil.copy(path, folder)
        assert (folder / "lost+found").stat().st_mode & 0o777 == 0o700
        data = LocalStorage(str(digits)).list()
        os.seteuid(65534)
        try:
            store = LocalStorage(str(folder))
            assert store.list() == data
            assert store.create("run/a", b"1")
        finally:
            os.seteuid(0)
