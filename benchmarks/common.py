"""What the benchmarks share: turns of the sides, medians, the machine, tables, and results.md.

A side is a process of its own that does a piece of work when asked to, so that the sides can take
turns on one machine and none has the other's threads, packages or memory. Only the standard
library is imported here: one side runs where nothing of the trainer is installed.
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# As for users, a package is compiled once, and not at each start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results.md"
LIMIT = 600.0  # seconds for one answer, then the process is killed
ABSENT = "not installed"
HEAD = (
    "# Benchmarks\n\n`make bench` writes this page. To measure one section again, run its command "
    "with `--write`.\n"
)

Answer = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """The median of some values and a range around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Return the median, the least and the greatest of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    @classmethod
    def middle(cls, values: Iterable[float]) -> Self:
        """Return the median and the middle half, for values of which some are far off."""
        ordered = sorted(values)
        quarter = len(ordered) // 4
        return cls(statistics.median(ordered), ordered[quarter], ordered[-1 - quarter])

    def text(self, form: str = ",.0f", unit: str = "") -> str:
        """Return ``median (low to high)``."""
        low, high = (format(value, form) + unit for value in (self.low, self.high))
        return f"{self.median:{form}}{unit} ({low} to {high})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return ours over theirs, round by round: what slows a whole round cancels out."""
    return Spread.of(a / b for a, b in zip(ours, theirs, strict=True))


def take_turns(work: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Do each piece of work once a round, A B A B, and return the answers by name.

    Every other round goes backwards (A B B A), so that none always follows the same one.
    """
    found: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds):
        for name in list(work)[:: -1 if number % 2 else 1]:
            found[name].append(work[name]())
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    assert all(len(line) == len(head) for line in lines)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


class Side:
    """A process that answers: one JSON line for each that it gets.

    Args:
        command: to run in the project's folder; see ``serve``.
        env: variables besides those of this process.
        cores: that it may use; None for all.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cores: Iterable[int] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [*taskset(cores), *command],
            cwd=ROOT,
            env=environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, **request: Any) -> None:
        """Ask for work."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self, limit: float = LIMIT) -> Answer:
        """Return the answer to what was sent.

        Raises:
            RuntimeError: none came before the limit (seconds), or the side has failed.
        """
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self.close()
            how = "ended" if ready else f"did not answer within {limit:g} s"
            raise RuntimeError(f"{self._process.args!r} {how}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise RuntimeError(f"{self._process.args!r}: {answer['error']}")
        return answer

    def ask(self, **request: Any) -> Answer:
        """Send and receive."""
        self.send(**request)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        kill(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


def serve(work: Callable[..., Answer]) -> None:
    """Be a side: answer every line on standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        try:
            answer = work(**json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def run(command: Sequence[str], limit: float) -> resource.struct_rusage:
    """Run a command to its end and return what it used, its children included.

    Raises:
        RuntimeError: it failed, or took longer than the limit (seconds) and was killed.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    timer = threading.Timer(limit, _end, [process.pid])
    timer.start()
    try:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        timer.cancel()
        kill(process)
    if process.returncode:
        raise RuntimeError(f"{command}: exit code {process.returncode}")
    return used


def kill(process: subprocess.Popen[Any]) -> None:
    """SIGKILL a process and all below it: TensorFlow swallows SIGTERM, and children lead sessions.

    It need not run any more; what it has left behind ends by itself, see trainer/gang/process.py.
    """
    if process.poll() is None:
        _end(process.pid)
    process.wait()


def _end(pid: int) -> None:
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return all processes that this one started, and theirs, eldest first."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment, quiet and without what would make a gang's member."""
    ours = ("JOB_COMPLETION_INDEX", "TRAINYARD_", "TF_CONFIG")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **(extra or {})}


def taskset(cores: Iterable[int] | None) -> list[str]:
    """Return what goes before a command to keep it on some cores."""
    return [] if cores is None else ["taskset", "-c", ",".join(map(str, cores))]


def trainer(*arguments: str) -> list[str]:
    """Return the command ``python -m trainer`` of this interpreter."""
    return [sys.executable, "-m", "trainer", *arguments]


@functools.cache
def peer_version(package: str) -> str | None:
    """Return the version of a package for peers, or None: see requirements/bench.txt."""
    code = f"from importlib import metadata; print(metadata.version('{package}'))"
    with contextlib.suppress(OSError):
        asked = subprocess.run([_bench_python(), "-c", code], capture_output=True, text=True)
        return asked.stdout.strip() or None
    return None


def peer_python(package: str) -> str | None:
    """Return the interpreter that has a peer's package, or None where it is not installed."""
    return _bench_python() if peer_version(package) else None


def _bench_python() -> str:
    return os.environ.get("BENCH_PYTHON", str(ROOT / ".venv-bench" / "bin" / "python"))


def free_ports(count: int) -> int:
    """Return the first of some adjacent free ports below the range for outgoing calls."""
    for first in range(20000 + os.getpid() % 10000, 32768 - count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports")


def machine() -> str:
    """Return what the figures are of: hardware, versions, time and load."""
    load, now = os.getloadavg()[0], time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"Python {platform.python_version()}"]
    for package in ("tensorflow-cpu", "tensorflow", "keras", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    for peer, package in (("PyTorch", "torch"), ("JAX", "jax")):
        versions.append(f"{peer} {peer_version(package) or ABSENT}")
    return (
        f"{_cpu()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB; "
        f"{platform.system()} {platform.release().partition('-')[0]}; {', '.join(versions)}; "
        f"{now}, load {load:.2f} at the start"
    )


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", required=True, help="URI of MNIST's four files")
    parser.add_argument("--quick", action="store_true", help="see that it works; no figures")
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of every side")
    parser.add_argument("--write", action="store_true", help="put the section into results.md")
    return parser


def publish(chosen: argparse.Namespace, title: str, about: str, body: str) -> None:
    """Print a section, and put it into results.md where that is wanted."""
    command = f"python -m benchmarks.{Path(sys.argv[0]).stem}"
    section = f"## {title}\n\n{about} (`{command}`)\n\n{chosen.machine}.\n\n{body}\n"
    if chosen.quick:
        section = section.replace(
            "\n\n", "\n\n**A smoke test: no figure here means anything.**\n\n", 1
        )
    print(section, flush=True)
    if chosen.write and not chosen.quick:
        text = RESULTS.read_text() if RESULTS.exists() else HEAD
        RESULTS.write_text(with_section(text, title, section))


def with_section(text: str, title: str, section: str) -> str:
    """Return a document with a section put in the place of its namesake, or at the end."""
    head, *parts = text.split("\n## ")
    found = {part.partition("\n")[0]: part.rstrip("\n") for part in parts}
    found[title] = section.removeprefix("## ").rstrip("\n")
    return "\n\n## ".join([head.rstrip("\n"), *found.values()]) + "\n"


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the arguments, with the machine as it is before anything has run."""
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds = 2
    chosen.machine = machine()
    return chosen
