"""Rank 0's part in its gang: it holds the rendezvous, and keeps the record of attempts."""

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from trainer.cluster_spec import Cluster
from trainer.common import sockets
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.gang import elastic
from trainer.gang.attempts import AttemptLog
from trainer.gang.coordinator import Coordinator
from trainer.gang.gang_key import Keyring
from trainer.gang.rank_states import RankStates
from trainer.gang.wire import Host
from trainer.progress import Reporter
from trainer.runs import run_folder
from trainer.storage.base import open_storage
from trainer.worker_events import Event, tell_parent

STORING = 3.0  # seconds at the end for a slow store


class RendezvousHost:
    """Holds the rendezvous of a gang, once it is open.

    Args:
        config: of the run.
        cluster: the gang.
        keyring: gives the gang's key.
        reporter: takes warnings.
        later: returns what puts a call into the supervisor's queue, from any thread.
        obey: called with each order for rank 0, after those for others are sent: it may raise.
    """

    def __init__(
        self,
        config: TrainConfig,
        cluster: Cluster,
        keyring: Keyring,
        reporter: Reporter,
        later: Callable[[Callable[..., None]], Callable[..., None]],
        obey: Callable[[Event], None],
    ) -> None:
        self._config, self._cluster = config, cluster
        self._keyring, self._reporter = keyring, reporter
        self._later, self._obey = later, obey
        self._key: bytes | None = None
        self._making_key: threading.Thread | None = None
        self._host: Host | None = None
        self._coordinator: Coordinator | None = None
        self._log: AttemptLog | None = None
        self._states: RankStates | None = None

    @property
    def is_open(self) -> bool:
        """Whether the rendezvous is held."""
        return self._coordinator is not None

    @property
    def all_finished(self) -> bool:
        """Whether no rank has work left."""
        return self._coordinator is None or self._coordinator.all_finished

    def open(self) -> None:
        """Hold the rendezvous if the other ranks can call by now; else try again later.

        Raises:
            OSError: the port cannot be listened on.
        """
        if self._cluster.workers > 1:
            if self._making_key is None:
                self._making_key = threading.Thread(target=self._make_key, daemon=True)
                self._making_key.start()
            if self._key is None:
                return
            self._host = self._listen(self._key)
        open_store = partial(open_storage, run_folder.uri(self._config))
        self._log = AttemptLog(open_store, self._reporter.warn)
        self._coordinator = Coordinator(
            self._cluster.workers, self._config.max_restarts, elastic.of(self._config)
        )
        self._states = RankStates(open_store, self._coordinator.states)
        self.tell(event="here")

    def tell(self, **event: Any) -> None:
        """Report an event of rank 0."""
        if self._coordinator:
            self._hear(0, event)

    def look(self) -> None:
        """Do what the clock demands."""
        if self._config.min_workers:
            self.tell(event="tick")

    def close(self, *, finished: bool) -> None:
        """End all connections, and store what is to be kept; a finished run's key has no use."""
        if self._host:
            self._host.close()
        if finished and self._cluster.workers > 1:
            removing = threading.Thread(target=self._remove_key, daemon=True)
            removing.start()
            removing.join(STORING)
        if self._coordinator and self._log and self._states:
            self._coordinator.close(time.time())
            self._write_attempts()
            until = time.monotonic() + STORING
            self._log.close(STORING)
            self._states.close(max(0.0, until - time.monotonic()))

    def _listen(self, key: bytes) -> Host:
        host, port = sockets.split_endpoint(self._cluster.rendezvous)
        address = (host if self._cluster.local else "", port)
        # On the supervisor's thread: a terminal that takes no more must not stop the host.
        called = (self._later(each) for each in (self._hear, self._reporter.warn, _fail))
        may_grow = self._config.min_workers > 0 and not self._cluster.local
        return Host(address, self._cluster.workers, key, *called, may_grow=may_grow)

    def _make_key(self) -> None:
        """Make the gang's key, on a thread of its own: a store may take its time."""
        try:
            key = self._keyring.make()
        except Exception as error:
            self._later(_fail)(error)
        else:
            self._later(partial(setattr, self, "_key"))(key)

    def _remove_key(self) -> None:
        with contextlib.suppress(UserError):  # a key that stays there opens nothing
            self._keyring.remove()

    def _hear(self, rank: int, event: Event) -> None:
        """Take an event of any rank, and send the orders that follow from it."""
        assert self._coordinator
        orders = self._coordinator.handle(rank, event, time.time())
        self._write_attempts()
        for to, order in sorted(orders, key=lambda each: -each[0]):
            if order["order"] == "start":
                hosts = self._host.hosts if self._host else {}
                order = {**order, "addresses": self._cluster.seen_at(hosts, order["members"])}
            if to == 0:
                self._obey(order)
            elif self._host:
                self._host.send(to, order)

    def _write_attempts(self) -> None:
        assert self._coordinator
        assert self._log
        for attempt in self._coordinator.closed:
            self._log.add(attempt)
            tell_parent(event="attempt", **attempt)
        self._coordinator.closed.clear()


def _fail(error: Exception) -> None:
    raise error
