"""The objects of a kind, kept up to date by one watch instead of lists again and again."""

import threading
from collections.abc import Iterable

from k8s.client.cluster import Cluster
from k8s.client.refusals import ClusterError, Object
from trainer.errors import UnavailableError

PAUSE = 1.0  # seconds before another try where the API server does not answer


class Informer:
    """What matches a label selector, read once in pages and then followed on a thread of its own.

    https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
    """

    def __init__(self, cluster: Cluster, kind: str, labels: str) -> None:
        self._cluster, self._kind, self._labels = cluster, kind, labels
        self._found: dict[str, Object] = {}  # by uid
        self._version = ""  # that of what was found; empty before the first list
        self._trouble: Exception | None = None
        self._answered = threading.Event()
        self._closed = False
        threading.Thread(target=self._run, daemon=True).start()

    def now(self) -> list[Object]:
        """Return the objects as they were last seen, oldest first; they are not to be changed.

        Raises:
            UserError: the API server does not answer at present, or refuses.
        """
        self._answered.wait()
        if self._trouble:
            raise self._trouble
        return list(self._found.values())

    def close(self) -> None:
        """Ask for no more changes."""
        self._closed = True

    def _run(self) -> None:
        pause = threading.Event()
        while not self._closed:
            try:
                if not self._version:
                    items, self._version = self._cluster.snapshot(self._kind, self._labels)
                    self._found = {item["metadata"]["uid"]: item for item in items}
                self._know(None)
                self._follow(self._cluster.watch(self._kind, self._version, self._labels))
            except ClusterError as error:
                self._version = ""  # too old, or what was refused: a list tells
                if error.status != 410:
                    self._know(error)
                    pause.wait(PAUSE)
            except UnavailableError as error:
                self._know(error)
                pause.wait(PAUSE)
            except Exception as error:  # else nobody would learn that nothing is followed
                self._know(error)
                return

    def _know(self, trouble: Exception | None) -> None:
        self._trouble = trouble
        self._answered.set()

    def _follow(self, changes: Iterable[tuple[str, Object]]) -> None:
        for what, item in changes:
            uid = item["metadata"].get("uid")
            if what == "DELETED":
                self._found.pop(uid, None)
            elif what != "BOOKMARK":
                self._found[uid] = item
            self._version = item["metadata"]["resourceVersion"]
