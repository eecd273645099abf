"""A sweep: the runs of a search trained one after the other, and compared.

Every run is a ``python -m trainer train`` of its own in a folder named after its settings, so
whatever ends a sweep, the same command resumes it: it skips finished runs, and continues an
interrupted one from its checkpoint.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from trainer.config import TrainConfig
from trainer.data import dataset
from trainer.errors import ConfigError, DataError, StoppedError, UserError
from trainer.failure import parse
from trainer.gang import process
from trainer.gang.sweep_file import Planned, Sweep, arguments, plan
from trainer.gang.time_limits import RUN_GRACE
from trainer.progress import write
from trainer.report import compare, compare_page
from trainer.report.compare import shown
from trainer.runs import run_folder
from trainer.storage.base import open_storage
from trainer.text import duration, printable

PAGE = "compare.html"
READERS = 8  # folders that are read at the same time


class SweepFailedError(UserError):
    """Some runs failed; the exit code is theirs where they agree."""

    def __init__(self, message: str, codes: set[int]) -> None:
        super().__init__(message)
        self.exit_code = min(codes) if len(codes) == 1 and min(codes) > 0 else 1


def as_text(runs: Sequence[Planned]) -> str:
    """Return a plan for people, a line for each run."""
    return "".join(f"{_head(place, runs)}{runs[place].config.run}\n" for place in range(len(runs)))


def execute(sweep: Sweep, stop: threading.Event, width: int = 80) -> None:
    """Train the runs that are not finished, and print and store a comparison of all.

    Raises:
        ConfigError: a combination is refused, or the folder has runs on other data.
        DataError: the data are no dataset, or what is in the folder is damaged.
        StoppedError: asked to stop; the run in progress has stored a checkpoint.
        SweepFailedError: runs failed; the others are trained and compared.
    """
    runs = plan(sweep)
    failed = _train_all(runs, _finished(sweep, runs), stop)
    if there := _there(sweep, runs):
        comparison = compare.compare(there, lambda message: write(f"warning: {message}\n"))
        open_storage(sweep.folder).replace(PAGE, compare_page.as_page(comparison))
        write(f"\n{compare.as_text(comparison, width)}\npage: {sweep.folder}/{PAGE}\n")
    if failed:
        raise SweepFailedError(
            f"{len(failed)} of {len(runs)} runs failed, see above; fix the sweep file, or run "
            "the same command to try them again",
            set(failed),
        )


def train(config: TrainConfig, stop: threading.Event) -> tuple[int, str]:
    """Train one run in a process of its own; ``stop`` has it store a checkpoint and stop.

    Returns:
        Its exit code, negative for a signal, and what it said of an error.
    """
    code, record, said = process.run_child(arguments(config), stop, RUN_GRACE)
    found = parse(record)
    return code, found.sentence(config.workers) if found else " | ".join(said) or "it said nothing"


def _train_all(
    runs: Sequence[Planned], finished: Mapping[str, float], stop: threading.Event
) -> list[int]:
    """Train what is not finished, and return the exit codes of the runs that failed."""
    failed: list[int] = []
    spent: list[float] = []
    for place, each in enumerate(runs):
        uri = each.config.run
        if uri in finished:
            write(f"{_head(place, runs)}{finished[uri]:.2%}  finished before\n")
            continue
        write(_head(place, runs))
        began = time.monotonic()
        code, error = train(each.config, stop)
        spent.append(time.monotonic() - began)
        if stop.is_set():
            write("stopped\n")
            raise StoppedError(
                f"stopped at run {place + 1} of {len(runs)}; the same command resumes from there"
            )
        left = sum(later.config.run not in finished for later in runs[place + 1 :])
        remaining = f"  {duration(left * sum(spent) / len(spent))} left" if left else ""
        if code:
            failed.append(code)
            how = f"with exit code {code}" if code > 0 else f"by signal {-code}"
            write(f"failed {how}: {printable(error)}\n")
        else:
            accuracy = _accuracy(uri)
            assert accuracy is not None, f"{uri} finished without a result"
            write(f"{accuracy:.2%}  {spent[-1]:.1f} s{remaining}\n")
    return failed


def _finished(sweep: Sweep, runs: Sequence[Planned]) -> dict[str, float]:
    """Return the test accuracy of every run that is finished, by its folder.

    Raises:
        ConfigError: a folder belongs to a run on other data.
        DataError: the data are no dataset, or what is in a folder is damaged.
    """
    data = runs[0].config.data  # of all of them: only what decides the weights is varied
    sha256 = dataset.load(data, 0).sha256

    def look(uri: str) -> float | None:
        stored = run_folder.read_config(open_storage(uri)) or {}
        if stored.get("data_sha256") != sha256:
            raise ConfigError(f"{uri}: is a run on other data than {data}; give another folder")
        return _accuracy(uri)

    there = _there(sweep, runs)
    with ThreadPoolExecutor(READERS) as pool:
        found = zip(there, pool.map(look, there), strict=True)
        return {uri: accuracy for uri, accuracy in found if accuracy is not None}


def _there(sweep: Sweep, runs: Sequence[Planned]) -> list[str]:
    """Return the folders of those runs that have been begun."""
    objects = {f"{sweep.folder}/{entry.name}" for entry in open_storage(sweep.folder).list()}
    return [each.config.run for each in runs if f"{each.config.run}/{run_folder.CONFIG}" in objects]


def _accuracy(uri: str) -> float | None:
    result = run_folder.read_result(open_storage(uri))
    if result is None:
        return None
    accuracy = result.get("test_accuracy")
    if not isinstance(accuracy, float):
        raise DataError(f"{uri}/{run_folder.RESULT}: damaged: no test accuracy; delete it")
    return accuracy


def _head(place: int, runs: Sequence[Planned]) -> str:
    varied = (f"{name} {shown(value)}" for name, value in runs[place].varied.items())
    return f"{place + 1:>{len(str(len(runs)))}}/{len(runs)}  {printable(', '.join(varied))}  "
