"""Faults at random moments, and what became of them: ``python -m trainer chaos``.

A gang trains on this machine against a Cloud Storage server of our own on the loopback
interface, first undisturbed, then again and again while processes are killed, frozen and asked
to stop, ports are taken and the store fails. Each run must end with the undisturbed weights.
"""

import contextlib
import ctypes
import errno
import json
import os
import queue
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from trainer import presets, sockets
from trainer.config import TrainConfig
from trainer.data import sources
from trainer.errors import ConfigError, UserError
from trainer.gang.local_gang import Gang
from trainer.runs import run_folder
from trainer.status import Event
from trainer.storage.base import open_storage
from trainer.testing.gcs_server import Fault, GCSServer, Verb
from trainer.text import plural

Kind = Literal["kill", "pod", "freeze", "hold", "stop", "store", "port"]
KINDS: dict[Kind, str] = {
    "kill": "SIGKILL of a worker",
    "pod": "SIGKILL of a supervisor's tree",
    "freeze": "SIGSTOP of a worker",
    "hold": "one thread of a worker held",
    "stop": "SIGTERM of a supervisor",
    "store": "store down, slow or losing answers",
    "port": "SIGKILL, then its port taken",
}
WEIGHTS: dict[Kind, int] = {
    "kill": 44,
    "pod": 10,
    "freeze": 8,
    "hold": 1,
    "stop": 12,
    "store": 15,
    "port": 10,
}
_SIGNALS = {"kill": signal.SIGKILL, "port": signal.SIGKILL, "freeze": signal.SIGSTOP}
PTRACE_SEIZE, PTRACE_INTERRUPT, WAIT_ALL = 0x4206, 0x4207, 0x40000000  # Linux's, see ptrace(2)
BUCKET = "chaos"
HANG = 240.0  # seconds without a step after which a gang hangs; a held worker takes 60 to find
WARM = 5  # faults that a supervisor has seen before its growth counts
OVERLAP = 0.2  # share of faults that do not wait until the gang has recovered


class ChaosError(UserError):
    """A run hung, or ended with other weights: a defect of this program."""


@dataclass(frozen=True)
class Planned:
    """One fault.

    Attributes:
        kind: what.
        rank: to whom.
        delay: seconds after the gang stepped again or, after an ``overlap``, after the fault
            before.
        length: of what lasts, seconds.
        overlap: whether the next one does not wait until the gang steps again.
    """

    kind: Kind
    rank: int
    delay: float
    length: float
    overlap: bool


@dataclass
class Outcome:
    """What was counted and measured; times in seconds.

    Recoveries are those of faults that struck a stepping gang and a healthy store, not of those
    that overlap; from the fault to the end of the first chunk after it. Frozen and held workers are
    found, by kind and rank, when their supervisors give them up. Lost steps are finished
    ones that are done again, after a single fault or after several that overlap.
    """

    faults: Counter[Kind] = field(default_factory=Counter)
    recoveries: dict[Kind, list[float]] = field(default_factory=dict)
    found: dict[Kind, dict[int, list[float]]] = field(default_factory=dict)
    lost_steps: list[int] = field(default_factory=list)
    lost_steps_overlapping: list[int] = field(default_factory=list)
    runs: int = 0
    hangs: int = 0
    mismatches: int = 0
    seconds: float = 0.0
    fault_free_seconds: float = 0.0
    growth_files: int = 0
    growth_mib: float = 0.0


def plan(seed: int, faults: int, workers: int, kinds: Collection[str]) -> list[Planned]:
    """Return the faults of a seed. Pure."""
    dice = random.Random(seed)  # noqa: S311
    chosen = dice.choices(
        [kind for kind in WEIGHTS if kind in kinds],
        [weight for kind, weight in WEIGHTS.items() if kind in kinds],
        k=faults,
    )
    return [
        Planned(
            kind=kind,
            rank=dice.randrange(workers),
            delay=dice.uniform(0, 2),
            length=dice.uniform(0.2, 4),
            overlap=dice.random() < OVERLAP,
        )
        for kind in chosen
    ]


class Watch:
    """What the gang's processes tell, as it happens."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.over = False
        self.error: UserError | None = None  # what the gang ended with
        self.workers: dict[int, tuple[int, int]] = {}  # rank -> pids of worker and forkserver
        self._started: dict[int, float] = {}  # rank -> when its worker was started
        self.step = 0  # the last one finished
        self._steps: dict[int, int] = {}  # and by rank
        self.lost: list[tuple[int, int]] = []  # steps done again after so many faults
        self.struck = 0  # faults since the gang went on
        self.killed: dict[int, float] = {}  # rank -> when its supervisor gave its worker up
        self.stepped_at = time.monotonic()
        self._step_of_start = float("-inf")  # when the worker started that told the last step

    def tell(self, rank: int, event: Event) -> None:
        """Take an event of a rank's processes."""
        now = time.monotonic()
        with self._changed:
            match event:
                case {"event": "started", "pid": pid, "parent": parent}:
                    self.workers[rank] = (pid, parent)
                    self._started[rank] = now
                case {"event": "killed"}:
                    self.killed[rank] = now
                case {"event": "ended"}:
                    self.workers.pop(rank, None)
                case {"event": "resumed", "step": step} if rank == 0:
                    if self.step:
                        self.lost.append((max(0, self.step - step), self.struck))
                    self.step, self.struck = step, 0
                case {"event": "step", "step": step}:
                    self._steps[rank] = step
                    self.step = max(self.step, step)
                    self.stepped_at = now
                    self._step_of_start = self._started.get(rank, self._step_of_start)
            self._changed.notify_all()

    def finish(self) -> None:
        """Note that the gang's processes have ended."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def wait_for_step(self, since: float) -> bool | None:
        """Wait for a step of a worker started after ``since``.

        Returns:
            True when it came, None if the run ended first, False if the gang hangs.
        """
        deadline = time.monotonic() + HANG
        with self._changed:
            while not self.over and self._step_of_start < since:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return False
            return None if self.over else True

    def await_step_of(self, rank: int) -> bool:
        """Wait for the end of a rank's chunk, some seconds at most; return whether it came."""
        deadline = time.monotonic() + 5
        with self._changed:
            before = self._steps.get(rank)
            while not self.over and self._steps.get(rank) == before:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return False
            return not self.over

    def wait(self, seconds: float) -> bool:
        """Wait so long; return False if the run ended before."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self.over and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self.over


@dataclass
class Chaos:
    """One series of runs.

    Attributes:
        config: of every run; its data must be there.
        arguments: of ``trainer train`` that say the same.
        store: the server that the runs are written to.
        folder: takes the gangs' output.
    """

    config: TrainConfig
    arguments: list[str]
    store: GCSServer
    folder: Path
    outcome: Outcome = field(default_factory=Outcome)

    def reference(self) -> dict[str, Any]:
        """Train undisturbed and return the result.

        Raises:
            UserError: what the run ended with, if it failed.
        """
        watch = Watch()
        with self._gang("reference", watch):
            hung = self._await_end(watch)
        if watch.error:
            raise watch.error
        if hung:
            raise ChaosError("the undisturbed run hung")
        return self._result("reference")

    def disturb(self, name: str, faults: deque[Planned], digest: str) -> None:
        """Train once under faults.

        Args:
            name: of the run.
            faults: those to come; the ones injected are taken away.
            digest: what the weights must be.
        """
        watch, before, usage = Watch(), time.monotonic(), Usage()
        hung, alone = False, False
        with self._gang(name, watch) as gang:
            while faults and not hung and watch.wait(faults[0].delay):
                alone = alone and not any(fault.times for fault in self.store.faults)
                struck = self._strike(faults[0], gang, watch)
                hung = struck is None and time.monotonic() - watch.stepped_at > HANG
                if struck is not None:
                    fault = faults.popleft()
                    hung = self._recover(fault, watch, struck, alone=alone)
                    alone = not fault.overlap and fault.kind != "store"
                usage.look(gang)
            hung = hung or self._await_end(watch)
            if hung:
                self.outcome.hangs += 1
        self.outcome.runs += 1
        self.outcome.seconds += time.monotonic() - before
        files, mib = usage.growth()
        self.outcome.growth_files = max(self.outcome.growth_files, files)
        self.outcome.growth_mib = max(self.outcome.growth_mib, mib)
        for steps, struck in watch.lost:
            worst = self.outcome.lost_steps if struck < 2 else self.outcome.lost_steps_overlapping
            worst.append(steps)
        if not hung and self._result(name).get("weights_sha256") != digest:
            self.outcome.mismatches += 1

    def _await_end(self, watch: Watch) -> bool:
        """Wait for the end; return whether the gang hangs."""
        while watch.wait(1.0):
            if time.monotonic() - watch.stepped_at > HANG:
                return True
        return False

    def _recover(self, fault: Planned, watch: Watch, struck: float, *, alone: bool) -> bool:
        """Count a fault and wait until the gang steps again; return whether it hangs."""
        self.outcome.faults[fault.kind] += 1
        watch.struck += 1
        if fault.kind == "store" or fault.overlap:
            return False
        stepped = watch.wait_for_step(struck)
        if stepped and alone:
            self.outcome.recoveries.setdefault(fault.kind, []).append(time.monotonic() - struck)
        found = watch.killed.get(fault.rank, 0.0) - struck
        if fault.kind in ("freeze", "hold") and found > 0:
            by_rank = self.outcome.found.setdefault(fault.kind, {})
            by_rank.setdefault(fault.rank, []).append(found)
        return stepped is False

    def _strike(self, fault: Planned, gang: Gang, watch: Watch) -> float | None:
        """Return when it struck, monotonic seconds, or None if there was nothing to hit."""
        now = time.monotonic()
        if fault.kind == "store":
            self._break_store(fault)
            return now
        rank = gang.ranks.get(fault.rank)
        if rank is None:
            return None
        supervisor, below = rank.child.process.pid, watch.workers.get(fault.rank, ())
        if fault.kind == "hold":
            if not below or not watch.await_step_of(fault.rank):
                return None
            time.sleep(0.01)  # into the next chunk: a worker at the store has half an hour
            return _hold_thread(below[0])
        if fault.kind in ("stop", "pod"):
            hit = (
                _signal(supervisor, signal.SIGTERM)
                if fault.kind == "stop"
                else _wipe_out((supervisor, *reversed(below)))
            )
            return now if hit else None
        if not below or not _signal(below[0], _SIGNALS[fault.kind]):
            return None
        if fault.kind == "port":
            _hold(gang.port + fault.rank, fault.length)
        return now

    def _break_store(self, fault: Planned) -> None:
        dice = random.Random(repr(fault))  # noqa: S311
        how = dice.choice(["down", "error", "lose", "cut", "slow"])
        if how == "down":
            self.store.stop()
            time.sleep(fault.length)
            self.store.start()
            return
        verbs: tuple[Verb, ...] = ("insert", "get", "media", "list", "delete", "start", "chunk")
        some: dict[str, tuple[Verb, ...]] = {
            "cut": ("media", "list"),
            "lose": ("insert", "chunk", "delete"),
        }
        verb = dice.choice(some.get(how, verbs))
        times = dice.randint(1, 3)
        kind: Any = how
        self.store.faults.append(Fault(kind, verb, times=times, seconds=fault.length))

    @contextlib.contextmanager
    def _gang(self, name: str, watch: Watch) -> Iterator[Gang]:
        arguments = [*self.arguments, "--run", f"gs://{BUCKET}/{name}"]
        log = self.folder / f"{name}.log"
        gang = Gang(arguments, self.config, log=log, listen=watch.tell)
        stop = threading.Event()

        def work() -> None:
            try:
                gang.run(stop)
            except UserError as error:
                watch.error = error
                with log.open("a") as file:
                    file.write(f"trainer: {error}\n")
            finally:
                watch.finish()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield gang
        finally:
            if not watch.over:
                for rank in list(gang.ranks.values()):
                    rank.child.signal(signal.SIGCONT)
                gang.kill()
            thread.join()

    def _result(self, name: str) -> dict[str, Any]:
        return run_folder.read_result(open_storage(f"gs://{BUCKET}/{name}")) or {}


class Usage:
    """Files and memory that supervisors hold, once they have loaded all that they use."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, float]] = {}
        self._last: dict[int, tuple[int, float]] = {}
        self._looks: Counter[int] = Counter()

    def look(self, gang: Gang) -> None:
        """Measure all supervisors that have seen some faults."""
        for rank in list(gang.ranks.values()):
            pid = rank.child.process.pid
            with contextlib.suppress(OSError):
                files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                now = (files, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
                self._looks[pid] += 1
                if self._looks[pid] >= WARM:
                    self._first.setdefault(pid, now)
                    self._last[pid] = now

    def growth(self) -> tuple[int, float]:
        """Return the most that any supervisor has grown, in files and MiB."""
        grown = [
            (self._last[pid][0] - files, self._last[pid][1] - mib)
            for pid, (files, mib) in self._first.items()
        ]
        return max((g[0] for g in grown), default=0), max((g[1] for g in grown), default=0.0)


def chaos(
    settings: dict[str, Any],
    workers: int,
    faults: int,
    seed: int,
    kinds: Collection[str] = tuple(KINDS),
    *,
    as_json: bool = False,
) -> None:
    """Run a gang under faults, and tell what became of them.

    Args:
        settings: of the run, besides those that this decides; without data, digits are drawn.
        workers: how many.
        faults: how many to inject.
        seed: of the faults.
        kinds: which ones, of KINDS.
        as_json: print one JSON object at the end, and nothing else.

    Raises:
        ChaosError: a run hung or ended with other weights.
        ConfigError: a kind, a count or a setting is wrong.
    """
    _check(workers, faults, kinds)
    say = (lambda _: None) if as_json else _line
    with tempfile.TemporaryDirectory(prefix="trainyard-chaos-") as name, GCSServer(BUCKET) as store:
        os.environ["STORAGE_EMULATOR_HOST"] = store.url
        folder = Path(name)
        if "data" not in settings:
            sources.put("digits", name + "/data", train_count=10_000, test_count=2_000)
        given = {"data": name + "/data", **settings, "workers": workers, "max_restarts": 10}
        batch = presets.configure({}, given).batch_size
        given["batch_size"] = max(workers, batch - batch % workers)  # the same share for each
        config = presets.configure({}, given)
        arguments = ["train", "--no-report"]
        for key, value in given.items():
            arguments += [f"--{key.replace('_', '-')}", str(value)]
        series = Chaos(config, arguments, store, folder)
        began = time.monotonic()
        result = series.reference()
        series.outcome.fault_free_seconds = time.monotonic() - began
        say(
            f"undisturbed: {result['steps']} steps in {series.outcome.fault_free_seconds:.1f} s, "
            f"weights {result['weights_sha256'][:12]}"
        )
        coming, number = deque(plan(seed, faults, workers, kinds)), 0
        while coming:
            number += 1
            before = series.outcome.faults.total()
            started = time.monotonic()
            bad = series.outcome.hangs + series.outcome.mismatches
            series.disturb(f"run-{number}", coming, result["weights_sha256"])
            wrong = series.outcome.hangs + series.outcome.mismatches > bad
            say(
                f"run {number}: {series.outcome.faults.total() - before} faults, "
                f"{time.monotonic() - started:.1f} s, "
                + ("WRONG: " + _tail(folder / f"run-{number}.log") if wrong else "weights equal")
            )
        if as_json:
            _line(json.dumps(figures(series.outcome, config)))
        else:
            for line in describe(series.outcome, config):
                _line(line)
    if series.outcome.hangs or series.outcome.mismatches:
        raise ChaosError(
            f"{series.outcome.hangs} runs hung, {series.outcome.mismatches} ended with other "
            f"weights; the same seed ({seed}) injects the same faults"
        )


def _check(workers: int, faults: int, kinds: Collection[str]) -> None:
    if unknown := sorted(set(kinds) - KINDS.keys()):
        raise ConfigError(f"kinds: {unknown[0]!r}: must be of {', '.join(KINDS)}")
    for name, value in (("workers", workers), ("faults", faults)):
        if value < 1:
            raise ConfigError(f"{name}: {value}: must be at least 1")


def figures(outcome: Outcome, config: TrainConfig) -> dict[str, Any]:
    """Return what was counted and measured, for programs."""
    return {
        "faults": dict(outcome.faults),
        "runs": outcome.runs,
        "hangs": outcome.hangs,
        "mismatches": outcome.mismatches,
        "recovery_seconds": {
            kind: {
                "count": len(times),
                "p50": round(percentile(times, 50), 2),
                "p95": round(percentile(times, 95), 2),
                "worst": round(max(times), 2),
            }
            for kind, times in outcome.recoveries.items()
        },
        "found_seconds": {
            kind: {
                rank: {"count": len(times), "worst": round(max(times), 2)}
                for rank, times in sorted(by_rank.items())
            }
            for kind, by_rank in outcome.found.items()
        },
        "lost_steps": {
            "total": sum(outcome.lost_steps + outcome.lost_steps_overlapping),
            "worst": max(outcome.lost_steps, default=0),
            "worst_overlapping": max(outcome.lost_steps_overlapping, default=0),
            "chunk_steps": config.chunk_steps,
        },
        "seconds": round(outcome.seconds, 1),
        "effective_training_time": round(
            outcome.runs * outcome.fault_free_seconds / outcome.seconds, 3
        ),
        "seconds_a_fault": round(
            (outcome.seconds - outcome.runs * outcome.fault_free_seconds)
            / max(1, outcome.faults.total()),
            2,
        ),
        "supervisor_growth": {"files": outcome.growth_files, "mib": round(outcome.growth_mib, 1)},
    }


def describe(outcome: Outcome, config: TrainConfig) -> Iterator[str]:
    """Yield the figures in lines for people."""
    told = figures(outcome, config)
    yield f"{outcome.faults.total()} faults in {outcome.runs} runs, {outcome.seconds:.0f} s:"
    for kind in get_args(Kind):
        if outcome.faults[kind]:
            line = f"  {outcome.faults[kind]:>4}  {KINDS[kind]}"
            if recovery := told["recovery_seconds"].get(kind):
                line = (
                    f"{line:<38} back in {recovery['p50']:.1f} s, 95% {recovery['p95']:.1f} s, "
                    f"worst {recovery['worst']:.1f} s"
                )
            yield line
    words = {"freeze": "frozen", "hold": "held"}
    for kind, by_rank in told["found_seconds"].items():
        for rank, found in by_rank.items():
            times = plural(found["count"], "time")
            yield f"rank {rank} {words[kind]} {times}, found within {found['worst']} s"
    yield f"hangs {outcome.hangs}, other weights at the end {outcome.mismatches}"
    lost = told["lost_steps"]
    yield (
        f"finished steps done again: {lost['total']}; at most {lost['worst']} for one fault, "
        f"{lost['worst_overlapping']} for several at once"
    )
    yield (
        f"effective training time {told['effective_training_time']:.0%}, "
        f"{told['seconds_a_fault']} s a fault"
    )
    growth = told["supervisor_growth"]
    yield f"supervisors grew by at most {growth['files']} open files and {growth['mib']} MiB"


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile, linear between the two nearest values."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _hold_thread(pid: int) -> float | None:
    """Stop the main thread of a process and no other; return when, or None if it was gone.

    Raises:
        ChaosError: this machine does not let processes be traced.
    """
    held: queue.SimpleQueue[int] = queue.SimpleQueue()

    def trace() -> None:  # whoever traces a thread has to stay, and to take its end
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2
        failed = libc.ptrace(PTRACE_SEIZE, pid, None, None)
        failed = failed or libc.ptrace(PTRACE_INTERRUPT, pid, None, None)
        held.put(ctypes.get_errno() if failed else 0)
        with contextlib.suppress(ChildProcessError):
            while not failed and os.WIFSTOPPED(os.waitpid(pid, WAIT_ALL)[1]):
                pass

    threading.Thread(target=trace, daemon=True).start()
    error = held.get()
    if error == errno.ESRCH:
        return None
    if error:
        raise ChaosError(
            f"hold: threads cannot be traced here ({os.strerror(error)}); leave it out of --kinds"
        )
    return time.monotonic()


def _wipe_out(pids: tuple[int, ...]) -> bool:
    """SIGKILL them so fast that none can act on another's end."""
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    return [_signal(pid, signal.SIGKILL) for pid in pids].count(True) > 0


def _hold(port: int, seconds: float) -> None:
    """Take a port as soon as it is free, for some time."""
    deadline, host = time.monotonic() + 2, sockets.loopback()
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), sockets.listen(host, port):
            time.sleep(seconds)
            return
        time.sleep(0.001)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
