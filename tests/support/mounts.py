"""File systems as people mount them, where root, the kernel and the programs allow it.

Every function mounts one on a folder for the time of a ``with`` block, or skips the test and says
what is missing. The kernel's own NFS, vfat, 9p and virtiofs are not among them: kernels that run
tests seldom have them.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import processes, stores

Mount = Callable[[Path], contextlib.AbstractContextManager[Path]]

SIZE = 64 << 20  # bytes of a disk


def skip(*programs: str, fuse: bool = True) -> None:
    """Skip the test if this process cannot mount, naming what it lacks."""
    missing = [name for name in programs if shutil.which(name, path=_path()) is None]
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if fuse and not Path("/dev/fuse").exists():
        pytest.skip("the kernel has no FUSE")


@contextlib.contextmanager
def ext4(folder: Path) -> Iterator[Path]:
    """A disk of its own, whose root holds lost+found."""
    skip("mkfs.ext4", "mount", fuse=False)
    disk = _disk(folder, "mkfs.ext4", "-q")
    mount = _point(folder)
    if subprocess.run(
        ["mount", "-o", "loop", disk, mount], capture_output=True, check=False
    ).returncode:
        pytest.skip("the kernel has no free loop device")
    with _mounted(mount):
        yield mount


@contextlib.contextmanager
def vfat(folder: Path) -> Iterator[Path]:
    """A FAT disk by fusefat."""
    skip("mkfs.vfat", "fusefat")
    mount = _point(folder)
    _run("fusefat", "-o", "rw+", _disk(folder, "mkfs.vfat"), str(mount))
    with _mounted(mount):
        yield mount


@contextlib.contextmanager
def exfat(folder: Path) -> Iterator[Path]:
    """An exFAT disk by exfat-fuse."""
    skip("mkfs.exfat", "mount.exfat-fuse", "losetup")
    mount, disk = _point(folder), _disk(folder, "mkfs.exfat")
    found = subprocess.run(
        ["losetup", "--find", "--show", disk], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip("the kernel has no free loop device")
    device = found.stdout.strip()
    try:
        _run("mount.exfat-fuse", device, str(mount))
        with _mounted(mount):
            yield mount
    finally:
        _run("losetup", "--detach", device)


@contextlib.contextmanager
def sshfs(folder: Path) -> Iterator[Path]:
    """A folder of an SSH server on this machine, which ``other`` mounts once more."""
    skip("sshfs", "sshd", "ssh-keygen")
    mount, port = _point(folder), processes.free_ports(1)
    for name in ("host", "user"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PermitRootLogin": "yes",
        "StrictModes": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    server = subprocess.Popen(
        [str(shutil.which("sshd", path=_path())), "-D", "-f", "/dev/null", *flags],
        stderr=subprocess.DEVNULL,
    )
    try:
        processes.wait_until(lambda: _listens(port))
        (folder / "shared").mkdir()
        flags = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        flags += [f"IdentityFile={folder / 'user'}", f"port={port}"]
        options_of_ssh = [part for flag in flags for part in ("-o", flag)]
        other(mount).mkdir()
        with contextlib.ExitStack() as both:
            for each in (mount, other(mount)):
                _run("sshfs", *options_of_ssh, f"root@127.0.0.1:{folder / 'shared'}", str(each))
                both.enter_context(_mounted(each))
            yield mount
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[Path]:
    """A folder of this machine, as rclone shows any of its stores."""
    skip("rclone")
    mount = _point(folder)
    (folder / "shared").mkdir()
    command = ["rclone", "mount", "--vfs-cache-mode", "writes", f"{folder}/shared", str(mount)]
    config = {**os.environ, "RCLONE_CONFIG": os.devnull, "XDG_CACHE_HOME": str(folder)}
    program = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=config)
    try:
        processes.wait_until(lambda: os.path.ismount(mount))
        with _mounted(mount):
            yield mount
    finally:
        program.kill()
        program.wait()


@contextlib.contextmanager
def s3fs(folder: Path) -> Iterator[Path]:
    """A bucket of SeaweedFS."""
    skip("s3fs")
    mount = _point(folder)
    (folder / "store").mkdir()
    password = folder / "password"
    password.write_text(f"{stores.KEY}:{stores.SECRET}")
    password.chmod(0o600)
    with stores.seaweedfs(folder / "store") as server:
        flags = [f"url={server.url}", "use_path_request_style", f"passwd_file={password}"]
        _run("s3fs", "bucket", str(mount), *(part for flag in flags for part in ("-o", flag)))
        processes.wait_until(lambda: os.path.ismount(mount))
        with _mounted(mount):
            yield mount


def other(mount: Path) -> Path:
    """Where a second client mounts the same folder, if there is one."""
    return mount.with_name("other")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _point(folder: Path) -> Path:
    mount = folder / "mount"
    mount.mkdir()
    return mount


def _disk(folder: Path, *command: str) -> str:
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    _run(*command, str(disk))
    return str(disk)


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": _path()}
    )
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def _mounted(mount: Path) -> Iterator[None]:
    try:
        yield
    finally:
        # What a process that has just ended had open may still be closing.
        for _ in range(20):
            if not subprocess.run(["umount", mount], capture_output=True, check=False).returncode:
                break
            time.sleep(0.1)
        else:
            _run("umount", "--lazy", str(mount))


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
