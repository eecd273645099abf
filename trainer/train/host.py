"""This machine in one line, for those who look for the reason why a rank is slow or wrong."""

import os
import socket
from pathlib import Path

from trainer.common import cpu
from trainer.common.text import one_line

NODE = "NODE_NAME"  # variable by which a pod may be told the name of its node
# Of this container, in version 2 of control groups and in version 1.
CPU_STATS = (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat"))
LONGEST = 200  # characters of a description


class Host:
    """This machine, and how often its container was throttled since this was made."""

    def __init__(self, cpu_stats: tuple[Path, ...] = CPU_STATS) -> None:
        self._stats = cpu_stats
        self._before = self._periods()

    def describe(self) -> str:
        """Return its name, node, processor, throttling and load, as far as they are known."""
        parts = [name()]
        if model := cpu.describe()["model"]:
            parts.append(model)
        held, all_of_them = (
            now - before for now, before in zip(self._periods(), self._before, strict=True)
        )
        if held > 0 < all_of_them:
            parts.append(f"throttled in {held / all_of_them:.0%} of the periods of its CPU limit")
        if hasattr(os, "getloadavg"):
            parts.append(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        return one_line(", ".join(parts), LONGEST)

    def _periods(self) -> tuple[int, int]:
        """Return in how many periods the container was throttled, and of how many."""
        for path in self._stats:
            try:
                words = path.read_text(errors="replace").split()
                found = dict(zip(words[::2], words[1::2], strict=False))
                return int(found["nr_throttled"]), int(found["nr_periods"])
            except (OSError, KeyError, ValueError):  # no limit, or not on Linux
                continue
        return 0, 0


def name() -> str:
    """Return this machine's name, and that of its node if it is known."""
    node = os.environ.get(NODE)
    return one_line(f"host {socket.gethostname()}{f' (node {node})' if node else ''}", LONGEST)
