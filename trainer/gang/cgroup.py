"""What this container may use: its memory's limit and peak, how often it ran out, its processes."""

import contextlib
from pathlib import Path

from trainer.common.text import size

CGROUPS = Path("/sys/fs/cgroup")


class Memory:
    """The memory of this container, as its control group counts it."""

    def __init__(
        self, folder: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")
    ) -> None:
        self._folder = _group(folder, membership)
        self._seen = self.kills()

    def kills(self) -> int:
        """Return how many processes the kernel has killed here for lack of memory."""
        for name in ("memory.events", "memory.oom_control"):
            for line in self._read(name).splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0

    def has_killed(self) -> bool:
        """Return whether the kernel has killed here since the last call."""
        before, self._seen = self._seen, self.kills()
        return self._seen > before

    def limit(self) -> int | None:
        """Return the limit, bytes, or None where there is none."""
        text = self._read("memory.max") or self._read("memory.limit_in_bytes")
        # Version 1 writes a number near 2**63 for no limit.
        return int(text) if text.isdecimal() and int(text) < 1 << 60 else None

    def peak(self) -> int | None:
        """Return the most that was ever used here, bytes, or None where the kernel does not say.

        Version 2 counts it since Linux 5.19: https://docs.kernel.org/admin-guide/cgroup-v2.html
        """
        text = self._read("memory.peak") or self._read("memory.max_usage_in_bytes")
        return int(text) if text.isdecimal() else None

    def summary(self) -> str:
        """Return limit and peak for people."""
        limit, peak = self.limit(), self.peak()
        known = "limit of its machine" if limit is None else f"limit {size(limit)}"
        return known if peak is None else f"{known}, peak {size(peak)}"

    def _read(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / name).read_text().strip()
        return ""


def process_limit(
    folder: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return how many processes and threads may run here, or None where that is not known.

    The limit of a pod, as kubelets set it, is not seen from its containers.
    """
    with contextlib.suppress(OSError, ValueError):
        return int((_group(folder, membership, "pids") / "pids.max").read_text())
    return None


def _group(folder: Path, membership: Path, controller: str = "memory") -> Path:
    """Return the folder of the group that counts what this process uses."""
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            version_1 = folder / controller / path.strip("/")
            if controllers == controller and version_1.is_dir():
                return version_1
            version_2 = folder / path.strip("/")
            if not controllers and (version_2 / f"{controller}.events").exists():
                return version_2
    # A container sees its own group as the root, whatever it is called outside.
    return folder / controller if (folder / controller).is_dir() else folder
