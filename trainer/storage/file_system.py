"""What file systems can do that Python has no name for: a name given unless taken, their type."""

import ctypes
import errno
import os
import sys
from pathlib import Path

_UNSUPPORTED = (
    errno.EPERM,  # vfat, exFAT
    errno.EIO,  # rclone mount
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EMLINK,
    errno.EXDEV,
)
_RENAME_NOREPLACE = 1  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h


class CannotCreateError(OSError):
    """The file system has no way to give a file a name unless that is taken."""


def name_unless_taken(source: Path, target: Path) -> None:
    """Give a file a second or another name; of several processes that try, one succeeds.

    Raises:
        FileExistsError: the name is taken.
        CannotCreateError: this file system cannot do that.
        OSError: something else went wrong.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if os.path.lexists(target):  # sshfs answers those who come too late with EPERM
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        code = _renameat2(source, target)
        if code in _UNSUPPORTED:
            raise CannotCreateError(code, os.strerror(code)) from error
        if code:
            raise OSError(code, os.strerror(code)) from error


def _renameat2(source: Path, target: Path) -> int:
    """Rename unless the target is there; return the error's number, 0 for none.

    Linux: vfat and exFAT of the kernel, CIFS and other network file systems can; most in user space
    cannot.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if sys.platform != "linux" or call is None:
        return errno.ENOSYS
    names = os.fsencode(source), os.fsencode(target)
    done = call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE)
    return ctypes.get_errno() if done else 0


def kind(path: Path) -> str:
    """Return the type of the file system that a path is on, such as ext4; nothing if unknown."""
    found, longest = "", -1
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real = Path(os.path.realpath(path))
    for line in mounts:
        _, mount, its = line.split(" ")[:3]
        mount = mount.replace("\\040", " ")
        if len(mount) >= longest and real.is_relative_to(mount):
            found, longest = its, len(mount)
    return found
