"""``watch``: a page that shows a run in the cluster while it trains, and becomes its report."""

import argparse
import shlex
import threading
import time
from typing import TYPE_CHECKING, Any

from k8s.client.cluster import Cluster
from k8s.client.informer import Informer
from k8s.commands import status
from k8s.run import gather_evidence, which_run
from k8s.run.claim_folder import ClaimFolder
from trainer.common.command_line import add_port
from trainer.common.text import called
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.report.live_view import Seen

EVERY = 3.0  # seconds between two looks at the cluster: each is a few requests, and a pod's log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = (
        "Serve a page, only to this machine, that shows a run while it trains, with the states of "
        "its pods. At the run's end the page becomes the report."
    )
    which_run.add_run(parser, nargs="?")
    parser.add_argument(
        "--folder",
        "--run",
        dest="folder",
        metavar="URI",
        help="Watch the run in this folder, without a cluster.",
    )
    parser.add_argument(
        "--storage-endpoint", metavar="URL", help="Reach the store at this address from here."
    )
    add_port(parser)


def run(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: nothing names a run; its folder is seen by pods alone; the port cannot be had.
    """
    from trainer.report import live_server
    from trainer.report.live import Live
    from trainer.report.live_view import Seen

    storage, _ = which_run.folder(options)
    if isinstance(storage, ClaimFolder):
        program, run = called("k8s"), shlex.quote(options.run)
        raise ConfigError(
            f"{storage.uri}: is on a claim, which only pods see; {program} logs {run} -f follows "
            f"the run, and {program} result {run} --download DIR copies its folder for "
            f"{called('trainer')} watch --run DIR"
        )
    cluster, name = (None, "") if options.folder else which_run.find(options)[:2]
    pods = Pods(cluster, name) if cluster else None
    watcher = live_server.Watcher(Live(storage), pods.look if pods else Seen)
    stop = threading.Event()
    try:
        live_server.serve(watcher, storage.uri, options.port, stop, which_run.say)
    except KeyboardInterrupt:
        which_run.say("")
    finally:
        if pods:
            pods.close()


class Pods:
    """What the cluster says of a run, asked at most every EVERY seconds."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._watched: tuple[str, Informer] | None = None  # the pods of the Job of this uid
        self._looked = float("-inf")
        self._values: dict[str, Any] | None = None

    def look(self) -> "Seen":
        """Return its phase, its pods, and what is wrong.

        Raises:
            UserError: the cluster does not answer.
        """
        from trainer.report.live_view import Pod, Seen

        if time.monotonic() - self._looked > EVERY:
            self._looked = time.monotonic()
            job = self._cluster.get("Job", self._name)
            self._values = status.look(self._cluster, job, self._pods(job)) if job else None
        if self._values is None:
            return Seen("Gone", "it is not in the cluster")
        phase, cause = self._values["phase"], self._values["cause"]
        pods = [Pod(r["rank"], r["pod"], r["state"], r["node"]) for r in self._values["ranks"]]
        return Seen(phase, cause, pods, failed=phase in ("Failed", "DeadlineExceeded"))

    def _pods(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        uid = job["metadata"]["uid"]
        if self._watched is None or self._watched[0] != uid:  # it was submitted again
            self.close()
            self._watched = uid, Informer(self._cluster, "Pod", gather_evidence.owner(job))
        return self._watched[1].now()

    def close(self) -> None:
        """Watch no pods."""
        if self._watched:
            self._watched[1].close()
