"""The processor of this machine: its model, and the instructions that decide how it computes."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.common.text import one_line
from trainer.errors import ConfigError

CPUINFO = Path("/proc/cpuinfo")
# Those by which TensorFlow, Eigen and oneDNN choose their kernels, and so the order of sums:
# https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
TELLING = (
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"),
    *("asimd", "sve", "bf16", "i8mm"),
)
NO_AVX = "this processor lacks AVX, which TensorFlow for x86-64 needs"
REMEDY = (
    "use an image of the machine's own architecture (arm64 on Apple's and other ARM processors)"
)


def describe(cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Return ``model`` and ``instructions``; what is not known is empty."""
    values = _values(cpuinfo)
    model = values.get("model name") or values.get("CPU part", "")
    known = values.get("flags", values.get("Features", "")).split()
    return {
        "model": model,
        "instructions": " ".join(
            [platform.machine(), *(each for each in TELLING if each in known)]
        ),
    }


def name(values: Mapping[str, Any]) -> str:
    """Return what ``describe`` returned, here or in a run's folder, for people."""
    model, instructions = (one_line(str(values.get(k, "")), 80) for k in ("model", "instructions"))
    return f"{model or 'unknown'} ({instructions})"


def check(machine: str = platform.machine(), cpuinfo: Path = CPUINFO) -> None:
    """Refuse a processor on which importing TensorFlow would end this process.

    Raises:
        ConfigError: it is an x86-64 without AVX, as emulators on other architectures are.
    """
    flags = _values(cpuinfo).get("flags")
    if machine in ("x86_64", "AMD64") and flags is not None and "avx" not in flags.split():
        raise ConfigError(f"{NO_AVX}; {REMEDY}")


def cores(process: int = 0) -> int:
    """Return on how many cores a process may run, 0 for this one."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(process))
    return os.cpu_count() or 1


def _values(cpuinfo: Path) -> dict[str, str]:
    """Return what is said of the first processor."""
    try:
        first = cpuinfo.read_text(errors="replace").partition("\n\n")[0]
    except OSError:  # not on Linux
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
