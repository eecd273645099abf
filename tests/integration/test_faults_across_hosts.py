"""A gang on four hosts of two ranks each, to which everything happens that can."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import processes, series, switch, warm
from trainer.cluster_spec import environment
from trainer.failure import FINAL
from trainer.runs import checkpoint
from trainer.storage.base import open_storage

SERVICE = "four"
RANKS, EACH = 8, 2  # ranks, and how many of them a host has
FAULTS = series.length(1, 40)
CHUNK = 20
STEPS = 5 * CHUNK * FAULTS
PATIENCE = 300.0  # seconds for the gang to make a step after a fault; it is hung after that
SEED = series.seed("TRAINYARD_HOSTS_SEED")


@dataclass
class Pods:
    """The supervisors of all ranks, which are started again when they end, as a Job does.

    Attributes:
        network: their hosts; each rank has one of the network's.
        started: by rank.
        held: ranks that are not started again for now.
    """

    network: switch.Network
    arguments: list[str]
    log: Path
    started: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)

    def look(self) -> bool:
        """Start what has ended, and return whether all have finished."""
        for rank in range(RANKS):
            ended = self.started[rank].poll() if rank in self.started else -1
            assert ended not in FINAL, self.log.read_text(errors="replace")[-4000:]
            if ended not in (None, 0) and rank not in self.held:
                self._start(rank)
        return all(each.poll() == 0 for each in self.started.values())

    def kill(self, rank: int) -> None:
        """End a rank's pod at once."""
        processes.kill_all(self.started[rank].pid)
        self.started[rank].wait()

    def _start(self, rank: int) -> None:
        place = environment(rank, RANKS, 2222) | {"TRAINYARD_SERVICE": SERVICE}
        with self.log.open("ab") as log:
            self.started[rank] = subprocess.Popen(
                [*self.network.hosts[rank], sys.executable, "-m", "trainer", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=processes.environment(place),
            )


@contextlib.contextmanager
def gang(arguments: list[str], log: Path) -> Iterator[Pods]:
    """Start all ranks, and see that nothing of them is left."""
    with switch.network(SERVICE, RANKS) as network:
        pods = Pods(network, arguments, log)
        try:
            pods.look()
            yield pods
        finally:
            for rank in pods.started:
                pods.kill(rank)


def strike(pods: Pods, dice: random.Random) -> str:
    """Let something happen to a host or a rank, and return what."""
    rank, network = dice.randrange(RANKS), pods.network
    host = [EACH * (rank // EACH) + each for each in range(EACH)]
    other = dice.choice([each for each in range(RANKS) if each not in host])
    seconds = dice.uniform(0.5, 15)
    kind = dice.choice(("worker", "worker", "pod", "host", "cut", "one way", "slow"))
    match kind:
        case "worker":
            with contextlib.suppress(KeyError, ProcessLookupError):
                os.kill(processes.workers(pods.started[rank].pid)[rank], signal.SIGKILL)
            return kind
        case "pod":
            pods.kill(rank)
            return kind
        case "host":  # it is gone for a while, and comes back with other addresses
            pods.held |= {*host}
            for each in host:
                pods.kill(each)
                network.move(each)
        case "cut":
            network.isolate(*host)
        case "one way":
            network.cut |= {(each, other) for each in host}
        case "slow":
            network.delay, seconds = 0.02, seconds / 5
    until = time.monotonic() + seconds
    while time.monotonic() < until and not pods.look():
        time.sleep(0.1)
    network.cut.clear()
    network.delay = 5e-4
    pods.held.clear()
    return kind


def await_that(condition: Callable[[], bool], pods: Pods) -> None:
    """Wait, and start again what ends meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, pods.log.read_text(errors="replace")[-4000:]
        pods.look()
        time.sleep(0.05)


@series.only_long
def test_a_gang_on_four_hosts_survives_any_series_of_faults(digits: Path, tmp_path: Path) -> None:
    switch.need_switch()
    job = (
        "train --model tiny_models:noisy --validation 400 --batch-size 120 --eval-epochs 0 "
        f"--chunk-steps {CHUNK} --checkpoint-steps {CHUNK} --steps {STEPS} "
        f"--xla off --no-report --tensorboard off --data {digits}"
    ).split()
    alone = ("--run", str(tmp_path / "quiet"), "--workers", str(RANKS))
    code, _, err = warm.run(*job, *alone, limit=3600)
    assert (code, err) == (0, "")
    run = tmp_path / "run"
    storage, dice, kinds = open_storage(str(run)), random.Random(SEED), Counter[str]()
    before = 0

    def has_moved() -> bool:
        return max(checkpoint.steps(storage), default=0) > before or pods.look()

    with gang([*job, "--run", str(run)], tmp_path / "log") as pods:
        pods.network.delay = 5e-4
        for _ in range(FAULTS):
            await_that(has_moved, pods)
            before = max(checkpoint.steps(storage))
            assert before < STEPS, (SEED, kinds)
            kinds[strike(pods, dice)] += 1
        while not pods.look():
            before = max(checkpoint.steps(storage))
            await_that(has_moved, pods)
    digests = [
        json.loads((folder / "result.json").read_text())["weights_sha256"]
        for folder in (run, tmp_path / "quiet")
    ]
    assert digests[0] == digests[1], (SEED, kinds)
