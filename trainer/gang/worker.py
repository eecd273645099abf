"""The process that trains, forked from one that has already imported everything.

    supervisor (supervisor.py)
      forkserver     imports TensorFlow and loads the data, once; then forks
        worker       one attempt: joins the gang, trains, and ends

Importing takes most of a start, so a broken gang is back in a fraction of that. The forkserver
calls nothing of TensorFlow, which therefore has no threads and no state when it is forked, and
leaves it to another process to talk to the store, whose client has threads, too. It
passes on the supervisor's words: ``start {...}``, then ``stop`` (finish the chunk, commit, leave),
``resize`` (the same, however long the chunk takes) or ``leave`` (commit the last finished chunk at
once).
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trainer import failure, progress
from trainer.cluster_spec import Cluster
from trainer.common.text import plural
from trainer.config import TrainConfig
from trainer.data import fit
from trainer.data.dataset import Dataset
from trainer.errors import PeerLostError, StoppedError, UserError
from trainer.gang import process
from trainer.progress import Reporter
from trainer.runs import run_folder, user_code
from trainer.storage.base import Storage, open_storage
from trainer.train.quick_import import quick_imports
from trainer.worker_events import tell_parent

if TYPE_CHECKING:
    from trainer.train.trainer import Trainer

BEAT = 1.0  # seconds between two signs of life
PATIENCE = 5.0  # seconds that a request to stop waits for the end of the chunk
STORING = 150.0  # seconds to commit at a fault: a store is given 120 to answer
IN_SHORT = ("test_accuracy", "test_loss", "steps", "train_seconds", "images_per_second")
STARTED = "TRAINYARD_STARTED"  # when the run began here, seconds since the epoch

Work = Callable[..., int]  # takes attempt, members and addresses, returns the exit code


def serve(config: TrainConfig, cluster: Cluster) -> None:
    """Load the data and fork a worker for every ``start`` until the supervisor is gone.

    Raises:
        UserError: the data cannot be used, or the run's folder is another run's.
    """
    process.default_signals()
    reporter = _reporter(config, cluster)
    # Opened here, so that no worker has to import their packages again.
    source, storage = open_storage(config.data), open_storage(run_folder.uri(config))

    def prepare() -> tuple[Dataset, dict[str, Any] | None]:
        workers = config.workers if config.min_workers else cluster.workers
        data = fit.load(source, [config], workers)
        given = user_code.given(config)
        if cluster.rank == 0 or run_folder.read_config(storage) is not None:
            _claim(storage, config, data, given, begins=cluster.rank == 0)
        # Else rank 0 sees first whether the store is good, and this one claims before it trains.
        return data, run_folder.find_result(storage, reporter.warn)

    data, result = process.apart(prepare)
    if config.code:
        user_code.import_from(os.environ[user_code.UNPACKED])
    if result is not None:
        reporter.say(f"this run is finished: {storage.uri}")
        _tell(result, storage, reporter)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quick_imports():
        import trainer.train.trainer  # noqa: F401

    tell_parent(event="prepared")

    def work(attempt: int, members: list[int], addresses: list[str]) -> int:
        some = tuple(members) if members != [*range(len(members))] else ()
        rank = members.index(cluster.rank)
        gang = dataclasses.replace(cluster, rank=rank, addresses=tuple(addresses), members=some)
        return _attempt(config, gang, data, attempt)

    _fork_on_demand(work)


def _fork_on_demand(work: Work) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # ignored signals wake nobody
    signal.set_wakeup_fd(writing)
    to_worker, rest = -1, b""
    while True:
        ready, _, _ = select.select([0, reading], [], [])
        if reading in ready:
            os.read(reading, 512)
            _tell_ended()
        if 0 in ready:
            data = os.read(0, 4096)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for word, _, task in (line.decode().partition(" ") for line in lines):
                if word == "start":
                    if to_worker >= 0:
                        os.close(to_worker)
                    to_worker = _fork(work, json.loads(task), (reading, writing))
                else:
                    with contextlib.suppress(OSError):
                        os.write(to_worker, f"{word}\n".encode())


def _fork(work: Work, task: dict[str, Any], to_close: tuple[int, ...]) -> int:
    """Start a worker and return where it listens."""
    theirs, ours = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(theirs)
        tell_parent(event="started", attempt=task["attempt"], pid=pid, parent=os.getpid())
        return ours
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(theirs, 0)
    for descriptor in (theirs, ours, *to_close):
        os.close(descriptor)
    code = 1
    try:
        code = work(**task)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        # TensorFlow's servers wait for peers as they are taken down, perhaps for ever.
        os._exit(code)


def _tell_ended() -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            tell_parent(event="ended", code=os.waitstatus_to_exitcode(ended[1]))


def _attempt(config: TrainConfig, cluster: Cluster, data: Dataset, attempt: int) -> int:
    """Train from the last checkpoint and return the exit code."""
    orders = Orders()
    try:
        _work(config, cluster, data, attempt, orders)
    except UserError as error:
        _report(error)
        return error.exit_code
    return 0


def _work(
    config: TrainConfig, cluster: Cluster, data: Dataset, attempt: int, orders: "Orders"
) -> None:
    reporter = _reporter(config, cluster)
    storage = open_storage(run_folder.uri(config))
    config_digest = _claim(storage, config, data)
    # It is there if the gang broke at the very end.
    result = run_folder.find_result(storage, reporter.warn)
    if result is None:
        with contextlib.closing(reporter):
            from trainer.train.devices import set_threads
            from trainer.train.run import Run
            from trainer.train.trainer import Trainer

            set_threads(config, cluster, data)
            settings = run_folder.config(storage)
            trainer = Trainer(
                Run(config, cluster, data, storage, config_digest, reporter, settings)
            )
            orders.trainer = trainer
            result = trainer.train(
                orders.stop, started=float(os.environ[STARTED]), first=attempt == 1
            )
    _tell(result, storage, reporter)


def _claim(
    storage: Storage,
    config: TrainConfig,
    data: Dataset,
    given: user_code.Archive | None = None,
    *,
    begins: bool = False,
) -> str:
    shown = data.input_shape, data.classes, given, data.class_names
    return run_folder.claim(storage, config, data.sha256, *shown, begins=begins)


def _report(error: UserError) -> None:
    """Report an error to the supervisor, which knows this worker's rank."""
    tell_parent(failure=failure.of(error).record())


def _reporter(config: TrainConfig, cluster: Cluster) -> Reporter:
    if cluster.rank == 0:
        return progress.create(config.log_format)
    return progress.Follower(cluster.name(cluster.rank))


def _tell(result: dict[str, Any], storage: Storage, reporter: Reporter) -> None:
    line = (
        f"test accuracy {result['test_accuracy']:.2%}  loss {result['test_loss']:.4f}  "
        f"{plural(result['steps'], 'step')} in {result['train_seconds']:.1f} s "
        f"({result['images_per_second']:,.0f} images/s)"
    )
    tell_parent(result={"message": line, **{name: result[name] for name in IN_SHORT}})
    reporter.say(line, event="finished", **{k: v for k, v in result.items() if k != "ranks"})
    reporter.say(f"results in {storage.uri}/")


class Orders:
    """Carries out orders of the supervisor while the main thread is inside TensorFlow.

    Attributes:
        stop: set when the run shall stop at the end of a chunk.
        trainer: whose last finished chunk is committed, once there is one.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.trainer: Trainer | None = None
        threading.Thread(target=self._beat, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()

    def _beat(self) -> None:
        while tell_parent(event="beat", **self._pulse()):
            time.sleep(BEAT)

    def _pulse(self) -> dict[str, Any]:
        # TensorFlow refuses to count for a worker whose peer is gone, which is still alive.
        with contextlib.suppress(Exception):
            return dataclasses.asdict(self.trainer.pulse()) if self.trainer else {}
        return {}

    def _listen(self) -> None:
        for word in process.words():
            if word == "leave":
                break
            if word == "flip":  # of ``chaos``
                if self.trainer:
                    self.trainer.flip()
                continue
            self.stop.set()
            if word == "resize":
                continue
            nothing_done = self.trainer is None or self.trainer.saver.finished_step is None
            seconds = 0.0 if nothing_done else PATIENCE
            leaving = threading.Timer(seconds, self._leave, ("stopped", StoppedError))
            leaving.daemon = True
            leaving.start()
        self._leave("left the gang", PeerLostError)

    def _leave(self, what: str, why: type[StoppedError]) -> None:
        """Commit and end the process, wherever its main thread is."""
        code = StoppedError.exit_code
        try:
            tell_parent(event="storing", seconds=STORING)
            step = self.trainer.saver.rescue() if self.trainer else None
            # Perhaps nothing is stored yet, or an earlier attempt stored something.
            next_time = "continues the run" if step is None else "resumes from there"
            done = "before its first chunk" if step is None else f"at step {step}"
            _report(why(f"{what} {done}; the same command {next_time}"))
        except UserError as error:
            _report(error)
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            os._exit(code)
