"""The logs of a run's pods as they come, each read by a thread of its own."""

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from k8s.client.cluster import Cluster
from k8s.diagnosis import evidence, run_phase
from trainer.errors import UserError

LOOK = 1.0  # seconds until a log that gave nothing new is asked for again, at first
SLOWEST = 8  # times LOOK, at last
DRAIN = 10.0  # seconds for the rest of the logs when the run has ended
LOG_OF = "log of "  # what the name of a thread that reads one begins with
STREAMS = 32  # ranks whose logs are followed at once; a connection each


def not_all(workers: int) -> str:
    """Say whose logs are shown, where there are more than can be."""
    return f"shows ranks 0 to {STREAMS - 1} of {workers}; --rank K shows another"


@dataclass
class Streams:
    """The logs of a run's pods as they come, each read by a thread of its own.

    A line is rank, RFC 3339 time and text.
    """

    cluster: Cluster
    lines: "queue.SimpleQueue[tuple[int, str, str]]" = field(default_factory=queue.SimpleQueue)
    _threads: dict[str, threading.Thread] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _closed: threading.Event = field(default_factory=threading.Event)

    def follow(self, pods: list[dict[str, Any]]) -> None:
        """Begin with the logs of pods that have one by now."""
        for pod in pods:
            name, rank = pod["metadata"]["name"], evidence.rank(pod)
            if name not in self._threads and run_phase.has_log(pod):
                thread = threading.Thread(
                    target=self._read, args=(name, rank), name=f"{LOG_OF}{name}", daemon=True
                )
                self._threads[name] = thread
                thread.start()

    def finish(self) -> None:
        """Wait for the rest of the logs of pods that have ended."""
        self._over.set()
        until = time.monotonic() + DRAIN
        for thread in self._threads.values():
            thread.join(max(0, until - time.monotonic()))

    def close(self) -> None:
        """Ask for no more lines; a thread ends with the next one, or with its request."""
        self._closed.set()
        self._over.set()

    def _read(self, pod: str, rank: int) -> None:
        last, words, pause, over = "", "", LOOK, False
        while not self._closed.is_set():
            before, was_over = last, over
            try:
                for at, text in self.cluster.log(pod, follow=True, since=last or None):
                    if self._closed.is_set():
                        return
                    if at == last:  # the kubelet's own words, which it may repeat forever
                        if text == words:
                            continue
                        words = text
                    last = at
                    self.lines.put((rank, at, text))
            except UserError:  # the pod is gone, or the API server does not answer for long
                if self._is_over(pod):
                    return
            # The pod has ended, or the connection was cut. Only what is read after the pod's end
            # and brings nothing new is the end of its log.
            if last == before and was_over:
                return
            over = self._over.is_set() or self._is_over(pod)
            pause = LOOK if last != before else min(2 * pause, SLOWEST * LOOK)
            if not over:
                self._over.wait(pause)

    def _is_over(self, pod: str) -> bool:
        """Whether nothing more will come from this pod."""
        try:
            there = self.cluster.get("Pod", pod)
        except UserError:
            return self._over.is_set()
        phase = (there or {}).get("status", {}).get("phase")
        return there is None or phase in ("Succeeded", "Failed")
