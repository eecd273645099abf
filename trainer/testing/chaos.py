"""Faults at random moments, and whether runs survive them: ``python -m trainer chaos``.

A gang trains on this machine, first undisturbed, then again and again while processes are killed,
frozen and asked to stop, ports are taken, and the store, which is reached through a proxy, fails.
Each run must end with the undisturbed weights.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer import presets
from trainer.common.text import plural
from trainer.config import TrainConfig, flag
from trainer.data import sources
from trainer.errors import ConfigError, UserError
from trainer.gang.local_gang import Gang
from trainer.runs import run_folder
from trainer.storage.base import Storage, open_storage
from trainer.testing import outcome
from trainer.testing.faults import KINDS, Planned, plan
from trainer.testing.gang_history import Usage, Watch
from trainer.testing.inject import ChaosError, strike
from trainer.testing.outcome import Outcome
from trainer.testing.proxy import Proxy

#: The variable that leads to another server, by the scheme of a store.
ENDPOINTS = {
    "gs": "STORAGE_EMULATOR_HOST",
    "s3": "AWS_ENDPOINT_URL_S3",
    "az": "AZURE_STORAGE_ENDPOINT",
}


class Chaos:
    """A series of runs, undisturbed and under faults; ``arguments`` mean the same as ``config``.

    ``runs`` is the URI that they are below, ``proxy`` stands on the way there, None in front of a
    folder of this machine, and ``folder`` takes the gangs' output.
    """

    def __init__(
        self,
        config: TrainConfig,
        arguments: list[str],
        runs: str,
        proxy: Proxy | None,
        folder: Path,
    ) -> None:
        self.outcome = Outcome(config.chunk_steps)
        self._config, self._arguments = config, arguments
        self._runs, self._proxy, self._folder = runs, proxy, folder

    def reference(self) -> dict[str, Any]:
        """Train undisturbed and return the result.

        Raises:
            UserError: the run failed with it.
        """
        watch, began = Watch(), time.monotonic()
        with self._gang("reference", watch):
            hung = _await_end(watch)
        if watch.error:
            raise watch.error
        if hung:
            raise ChaosError("the undisturbed run hung")
        self.outcome.fault_free_seconds = time.monotonic() - began
        return self._result("reference")

    def disturb(self, name: str, faults: deque[Planned], digest: str) -> str:
        """Train once under faults, taking away those injected; return in words how it ended."""
        watch, began, usage = Watch(), time.monotonic(), Usage()
        before = self.outcome.faults.total()
        with self._gang(name, watch) as gang:
            hung = self._inject(faults, gang, watch, usage) or _await_end(watch)
        seconds = time.monotonic() - began
        wrong = not hung and self._result(name).get("weights_sha256") != digest
        self.outcome.count_run(seconds, watch.lost, usage.growth(), hung=hung, wrong=wrong)
        count = self.outcome.faults.total() - before
        said = self._log(name).read_text(errors="replace").strip().splitlines()
        last = said[-1] if said else "it printed nothing"
        end = f"WRONG: {last}" if hung or wrong else "weights equal"
        return f"{plural(count, 'fault')}, {seconds:.1f} s, {end}"

    def _inject(self, faults: deque[Planned], gang: Gang, watch: Watch, usage: Usage) -> bool:
        """Inject faults until none is left or the run ends; return whether the gang hangs."""
        alone = hung = False
        while faults and not hung and watch.wait(faults[0].delay):
            alone = alone and not (self._proxy and any(f.times for f in self._proxy.faults))
            struck = strike(faults[0], gang, watch, self._proxy)
            if struck is None:
                hung = watch.hangs()
            else:
                fault = faults.popleft()
                hung = self._recover(fault, watch, struck, alone=alone)
                alone = not fault.overlap and fault.kind != "store"
            usage.look(gang)
        return hung

    def _recover(self, fault: Planned, watch: Watch, struck: float, *, alone: bool) -> bool:
        """Count a fault and wait until the gang steps again; return whether it hangs."""
        watch.struck += 1
        if fault.kind == "store" or fault.overlap:
            self.outcome.count_fault(fault)
            return False
        stepped = watch.wait_for_step(struck)
        self.outcome.count_fault(
            fault,
            recovered=time.monotonic() - struck if stepped and alone else 0.0,
            found=watch.killed.get(fault.rank, 0.0) - struck,
        )
        return stepped is False

    @contextlib.contextmanager
    def _gang(self, name: str, watch: Watch) -> Iterator[Gang]:
        arguments = [*self._arguments, "--run", f"{self._runs}/{name}"]
        log = self._log(name)
        gang = Gang(arguments, self._config, log=log, listen=watch.tell)
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
        return run_folder.read_result(open_storage(f"{self._runs}/{name}")) or {}

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def chaos(
    settings: dict[str, Any],
    workers: int,
    faults: int,
    seed: int,
    kinds: Collection[str],
    *,
    store: str | None = None,
    as_json: bool = False,
) -> None:
    """Train under faults, and print how the runs ended.

    Args:
        settings: of the run, except the ones that this sets; without data, digits are drawn.
        workers: number of workers.
        faults: number of faults to inject.
        seed: of the faults.
        kinds: the kinds of faults, of KINDS.
        store: URI of a bucket, reached by plain http, that takes the runs for the time of the
            series; None: a folder of this machine, without the kind ``store``.
        as_json: print one JSON object at the end, and nothing else.

    Raises:
        ChaosError: a run hung or ended with other weights.
        ConfigError: a kind, a count or a setting is wrong.
    """
    _check(workers, faults, kinds)
    if not store and "store" in kinds:
        raise ConfigError("kinds: 'store': needs a bucket; give --store URI, or other --kinds")
    with (
        tempfile.TemporaryDirectory(prefix="trainyard-chaos-") as name,
        _place(store) if store else contextlib.nullcontext((f"{name}/runs", None)) as (runs, proxy),
    ):
        folder = Path(name)
        series = Chaos(*_configure(settings, workers, folder), runs, proxy, folder)
        for line in _run(series, deque(plan(seed, faults, workers, kinds))):
            if not as_json:
                _print(line)
        if as_json:
            _print(json.dumps(outcome.as_json(series.outcome)))
        else:
            _print("\n".join(outcome.as_text(series.outcome)))
    if series.outcome.hangs or series.outcome.mismatches:
        raise ChaosError(
            f"{series.outcome.hangs} runs hung, {series.outcome.mismatches} ended with other "
            f"weights; the same seed ({seed}) injects the same faults"
        )


@contextlib.contextmanager
def _place(store: str) -> Iterator[tuple[str, Proxy]]:
    """Lead this process and its children to a store through a proxy; empty it in the end."""
    runs = f"{store.rstrip('/')}/chaos-{uuid.uuid4().hex[:8]}"
    folder: Storage = open_storage(runs)
    where = urlsplit(getattr(folder, "endpoint", ""))
    variable = ENDPOINTS.get(store.partition("://")[0].lower(), "")
    if where.scheme != "http" or not variable:
        remedy = f"set {variable} to http://HOST" if variable else "give gs://, s3:// or az://"
        raise ConfigError(
            f"store: {store}: must be a bucket that is reached by plain http, since requests to "
            f"it are made to fail; {remedy}"
        )
    with Proxy(f"http://{where.netloc}") as proxy:
        os.environ[variable] = proxy.url + where.path
        try:
            yield runs, proxy
        finally:
            for entry in folder.list():
                folder.delete(entry.name)


def _check(workers: int, faults: int, kinds: Collection[str]) -> None:
    if unknown := sorted(set(kinds) - KINDS.keys()):
        raise ConfigError(f"kinds: {unknown[0]!r}: must be of {', '.join(KINDS)}")
    for name, value in (("workers", workers), ("faults", faults)):
        if value < 1:
            raise ConfigError(f"{name}: {value}: must be at least 1")


def _configure(
    settings: dict[str, Any], workers: int, folder: Path
) -> tuple[TrainConfig, list[str]]:
    """Return the configuration of every run, and the arguments of ``trainer`` that mean it."""
    given = {"data": str(folder / "data"), **settings, "workers": workers, "max_restarts": 10}
    batch = presets.configure({}, given).batch_size
    given["batch_size"] = max(workers, batch - batch % workers)  # the same share for each
    if "data" not in settings:
        sources.put("digits", given["data"], train_count=10_000, test_count=2_000)
    flags = (flag(name, value) for name, value in given.items())
    return presets.configure({}, given), ["train", "--no-report", *flags]


def _run(series: Chaos, faults: deque[Planned]) -> Iterator[str]:
    """Run until all faults are injected; yield a line about each run."""
    result = series.reference()
    yield (
        f"undisturbed: {plural(result['steps'], 'step')} in "
        f"{series.outcome.fault_free_seconds:.1f} s, weights {result['weights_sha256'][:12]}"
    )
    number = 0
    while faults:
        number += 1
        end = series.disturb(f"run-{number}", faults, result["weights_sha256"])
        yield f"run {number}: {end}"


def _await_end(watch: Watch) -> bool:
    """Wait for the run's end; return whether the gang hangs."""
    while watch.wait(1.0):
        if watch.hangs():
            return True
    return False


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
