"""Names that systems keep in every folder that people see or mount; no object has one."""

import fnmatch

FOREIGN = (
    "lost+found",  # ext4
    ".snapshot",  # NFS servers
    ".nfs*",  # a file that was deleted while another process had it open, likewise below
    ".fuse_hidden*",
    ".Trash-*",
    "._*",  # macOS
    ".DS_Store",
    "Thumbs.db",  # Windows
    "System Volume Information",
)


def is_foreign(name: str) -> bool:
    """Return whether a file or folder of this name is some system's own."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in FOREIGN)
