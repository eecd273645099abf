"""A sweep: the runs of a search trained one after the other, and compared.

Every run is a ``python -m trainer train`` of its own in a folder named after its settings, so
whatever ends a sweep, the same command resumes it: it skips finished runs, and continues an
interrupted one from its checkpoint.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from trainer.common.text import duration, printable
from trainer.config import TrainConfig
from trainer.data import fit
from trainer.errors import ConfigError, DataError, StoppedError, UserError
from trainer.failure import parse
from trainer.gang import process
from trainer.gang.sweep_decision import Known, Phase, Scores, decide, stopped_early
from trainer.gang.sweep_file import Halving, Planned, Sweep, arguments, plan
from trainer.gang.time_limits import RUN_GRACE
from trainer.progress import write
from trainer.report import compare, compare_page
from trainer.report.compare import shown
from trainer.runs import reader, run_folder
from trainer.storage.base import open_storage

PAGE = "compare.html"
READERS = 8  # folders that are read at the same time
WATCH = 1.0  # seconds between two looks at the metrics of a run that may be stopped early


class SweepFailedError(UserError):
    """Some runs failed; the exit code is theirs where they agree."""

    def __init__(self, message: str, codes: set[int]) -> None:
        super().__init__(message)
        self.exit_code = min(codes) if len(codes) == 1 and min(codes) > 0 else 1


def as_text(runs: Sequence[Planned]) -> str:
    """Return a plan for people, a line for each run."""
    return "".join(f"{head(place, runs)}{runs[place].config.run}\n" for place in range(len(runs)))


def head(place: int, runs: Sequence[Planned]) -> str:
    """Return the beginning of a line about one run."""
    varied = (f"{name} {shown(value)}" for name, value in runs[place].varied.items())
    return f"{place + 1:>{len(str(len(runs)))}}/{len(runs)}  {printable(', '.join(varied))}  "


def execute(sweep: Sweep, stop: threading.Event, width: int = 80) -> None:
    """Train the runs that are not finished, and print and store a comparison of all.

    Raises:
        ConfigError: a combination is refused, alone or by the data, or the folder has runs on other
            data.
        DataError: the data are no dataset, or what is in the folder is damaged.
        StoppedError: asked to stop; the run in progress has stored a checkpoint.
        SweepFailedError: runs failed; the others are trained and compared.
    """
    runs = plan(sweep)
    failed = _Here(sweep, runs, stop).train_all()
    conclude(sweep, runs, width)
    if failed:
        raise SweepFailedError(
            f"{len(failed)} of {len(runs)} runs failed, see above; fix the sweep file, or run "
            "the same command to try them again",
            set(failed),
        )


def conclude(sweep: Sweep, runs: Sequence[Planned], width: int) -> None:
    """Print and store the comparison of all runs that were begun."""
    if there := begun(sweep, runs):
        comparison = compare.compare(there, lambda message: write(f"warning: {message}\n"))
        open_storage(sweep.folder).replace(PAGE, compare_page.as_page(comparison))
        write(f"\n{compare.as_text(comparison, width)}\npage: {sweep.folder}/{PAGE}\n")


def scores(uri: str, metric: str) -> Scores:
    """Return step and score of a run's validations, as far as they are stored; higher is better.

    They are stored with each checkpoint.

    Raises:
        DataError: the run's metrics are damaged.
        UnavailableError: they cannot be read now.
    """
    try:
        records = reader.read(uri).records
    except ConfigError:  # it has not begun
        return ()
    if metric == "loss":
        found = [(each.step, each.validation_loss) for each in records]
        return tuple((step, -loss) for step, loss in found if loss is not None)
    shares = [(each.step, each.validation_accuracy) for each in records]
    return tuple((step, share) for step, share in shares if share is not None)


def accuracy(uri: str) -> float | None:
    """Return the test accuracy of a run, None if it has not finished.

    Raises:
        DataError: its result is damaged.
    """
    result = run_folder.read_result(open_storage(uri))
    if result is None:
        return None
    found = result.get("test_accuracy")
    if not isinstance(found, float):
        raise DataError(f"{uri}/{run_folder.RESULT}: damaged: no test accuracy; delete it")
    return found


def early(known: Known, halving: Halving) -> str:
    """Return how good a run was that was stopped early, for people.

    It trained on for a while after its last validation.
    """
    step, score = known.scores[-1]
    value = f"loss {-score:.4f}" if halving.metric == "loss" else f"{score:.2%}"
    return f"{value} in its last validation, at step {step:,}"


def train(config: TrainConfig, stop: threading.Event) -> tuple[int, str]:
    """Train one run in a process of its own; ``stop`` has it store a checkpoint and stop.

    Returns:
        Its exit code, negative for a signal, and what it said of an error.
    """
    code, record, said = process.run_child(arguments(config), stop, RUN_GRACE)
    found = parse(record)
    return code, found.sentence(config.workers) if found else " | ".join(said) or "it said nothing"


class _Here:
    """Trains the runs of a sweep on this machine, one after the other, until ``stop`` is set."""

    def __init__(self, sweep: Sweep, runs: Sequence[Planned], stop: threading.Event) -> None:
        self._halving, self._runs, self._stop = sweep.halving, runs, stop
        self._known = [Known("waiting")] * len(runs)
        self._failed: list[int] = []
        self._spent: list[float] = []
        finished = _finished(sweep, runs)
        for place, each in enumerate(runs):
            uri = each.config.run
            if uri in finished:
                write(f"{head(place, runs)}{finished[uri]:.2%}  finished before\n")
            self._note(place, "finished" if uri in finished else "waiting")

    def train_all(self) -> list[int]:
        """Train what is not finished, and return the exit codes of the runs that failed.

        Raises:
            StoppedError: asked to stop.
        """
        while start := decide(self._known, 1, self._halving).start:
            self._train(start[0])
        for place in sorted(stopped_early(self._known, self._halving)):
            assert self._halving
            how = early(self._known[place], self._halving)
            write(f"{head(place, self._runs)}stopped early: {how}\n")
        return self._failed

    def _train(self, place: int) -> None:
        config = self._runs[place].config
        write(head(place, self._runs))
        began = time.monotonic()
        with self._watched(place) as stop:
            code, error = train(config, stop)
        self._spent.append(time.monotonic() - began)
        if self._stop.is_set():
            write("stopped\n")
            raise StoppedError(
                f"stopped at run {place + 1} of {len(self._runs)}; the same command resumes from "
                "there"
            )
        if code == StoppedError.exit_code and stop.is_set():
            self._note(place, "waiting")
            write(f"paused in the worse half  {self._spent[-1]:.1f} s\n")
        elif code:
            self._note(place, "failed")
            self._failed.append(code)
            how = f"with exit code {code}" if code > 0 else f"by signal {-code}"
            write(f"failed {how}: {printable(error)}\n")
        else:
            self._note(place, "finished")
            found = accuracy(config.run)
            assert found is not None, f"{config.run} finished without a result"
            write(f"{found:.2%}  {self._spent[-1]:.1f} s{self._remaining()}\n")

    def _note(self, place: int, phase: Phase) -> None:
        halving, uri = self._halving, self._runs[place].config.run
        self._known[place] = Known(phase, scores(uri, halving.metric) if halving else ())

    def _remaining(self) -> str:
        left = sum(known.phase == "waiting" for known in self._known)
        left -= len(stopped_early(self._known, self._halving))
        mean = sum(self._spent) / len(self._spent)
        return f"  {duration(left * mean)} left" if left else ""

    @contextlib.contextmanager
    def _watched(self, place: int) -> Iterator[threading.Event]:
        """Yield what is set when the run shall stop: early, or with all others."""
        if self._halving is None:
            yield self._stop
            return
        over, stop = threading.Event(), threading.Event()

        def watch() -> None:
            while not over.wait(WATCH) and not stop.is_set():
                with contextlib.suppress(UserError):  # looked at again, or told at its end
                    self._note(place, "running")
                if self._stop.is_set() or place in decide(self._known, 1, self._halving).stop:
                    stop.set()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield stop
        finally:
            over.set()
            watching.join()


def _finished(sweep: Sweep, runs: Sequence[Planned]) -> dict[str, float]:
    """Return the test accuracy of every run that is finished, by its folder.

    Raises:
        ConfigError: settings do not fit the data, or a folder belongs to a run on other data.
        DataError: the data are no dataset, or what is in a folder is damaged.
    """
    first = runs[0].config  # data and workers are those of all: only what decides weights is varied
    data, configs = first.data, [each.config for each in runs]
    sha256 = fit.load(open_storage(data), configs, first.workers).sha256

    def look(uri: str) -> float | None:
        stored = run_folder.read_config(open_storage(uri)) or {}
        if stored.get("data_sha256") != sha256:
            raise ConfigError(f"{uri}: is a run on other data than {data}; give another folder")
        return accuracy(uri)

    there = begun(sweep, runs)
    with ThreadPoolExecutor(READERS) as pool:
        found = zip(there, pool.map(look, there), strict=True)
        return {uri: share for uri, share in found if share is not None}


def begun(sweep: Sweep, runs: Sequence[Planned]) -> list[str]:
    """Return the folders of those runs that have been begun."""
    objects = {f"{sweep.folder}/{entry.name}" for entry in open_storage(sweep.folder).list()}
    return [each.config.run for each in runs if f"{each.config.run}/{run_folder.CONFIG}" in objects]
