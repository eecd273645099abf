"""Control groups: how often the kernel killed for memory, the limit and the peak."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.gang.cgroup import CGROUPS, Memory, process_limit

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
    assert Memory(tmp_path, tmp_path / "none").summary() == told


@pytest.mark.parametrize(("limit", "known"), [("40", 40), ("max", None)])
def test_the_limit_on_processes_in_either_version(
    tmp_path: Path, limit: str, known: int | None
) -> None:
    membership = tmp_path / "membership"
    membership.write_text("3:pids:/docker/a\n4:memory:/docker/b\n0::/c\n")
    assert process_limit(tmp_path, membership) is None
    write(tmp_path / "c", pids__max=limit, pids__events="max 1")
    assert process_limit(tmp_path, membership) == known
    write(tmp_path / "pids" / "docker" / "a", pids__max=limit)
    assert process_limit(tmp_path, membership) == known
