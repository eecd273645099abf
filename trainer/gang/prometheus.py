"""A run's metrics for Prometheus, served by rank 0's supervisor if a port is given.

Names follow https://prometheus.io/docs/practices/naming. A metric appears with its first value.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import ThreadingHTTPServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    MetricsHandler,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainer.cluster_spec import LOCAL, Cluster
from trainer.common import sockets
from trainer.config import TrainConfig
from trainer.errors import UnavailableError
from trainer.failure import KINDS, Kind
from trainer.runs import run_folder
from trainer.worker_events import Event

PATIENCE = 10.0  # seconds of silence after which a connection is closed
# Values of a metrics event -> their metrics.
GAUGES = {
    "step": ("steps", "Optimizer steps done."),
    "total": ("target_steps", "Optimizer steps of the whole run."),
    "loss": ("loss", "Mean loss of the newest chunk of steps, nats."),
    "accuracy": ("accuracy_ratio", "Share of the newest chunk's images classified as labelled."),
    "validation_loss": ("validation_loss", "Mean loss of the newest validation, nats."),
    "validation_accuracy": (
        "validation_accuracy_ratio",
        "Share of the validation images classified as labelled, at the newest validation.",
    ),
    "images_per_second": (
        "images_per_second",
        "Images trained on per second by all ranks together, over the newest chunk.",
    ),
}
RANK_GAUGES = {
    "compute_ms": ("rank_compute_seconds", "Time that a rank computed in a step, newest chunk."),
    "wait_ms": ("rank_wait_seconds", "Time that a rank waited for others in a step, newest chunk."),
}


class _Handler(MetricsHandler):
    timeout = PATIENCE


class _Spent(Collector):
    """Where the time of a run went since its first start."""

    def __init__(self) -> None:
        self._share, self._productive = 0.0, 0.0
        self._lost: dict[str, float] = {}

    def take(self, share: float, productive: float, lost: Mapping[str, float]) -> None:
        """Take what is known by now, in seconds; see ``runs.goodput``."""
        # A later chunk may lower an estimate. Prometheus takes a counter that falls for a new one.
        now = {cause: max(seconds, self._lost.get(cause, 0.0)) for cause, seconds in lost.items()}
        self._share, self._productive = share, max(productive, self._productive)
        self._lost = self._lost | now

    def collect(self) -> Iterator[Metric]:
        """Return the metrics, once anything is known; in the server's threads."""
        until = "up to the newest checkpoint"
        if not self._lost:
            return
        text = f"Share of the time in which steps were done that counted, {until}."
        yield GaugeMetricFamily("trainyard_goodput_ratio", text, self._share)
        text = f"Time of steps that counted, {until}."
        yield CounterMetricFamily("trainyard_productive_seconds", text, self._productive)
        text = f"Time in which no steps were done that counted, by cause, {until}."
        causes = CounterMetricFamily("trainyard_lost_seconds", text, labels=["cause"])
        for cause, seconds in self._lost.items():
            causes.add_metric([cause], seconds)
        yield causes


class Exporter:
    """Serves the metrics of a run; on this machine alone unless the gang is in a cluster.

    Raises:
        UnavailableError: the port is taken.
    """

    def __init__(self, config: TrainConfig, cluster: Cluster) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry, self._batch_size = CollectorRegistry(), config.batch_size
        self._gauges: dict[str, Gauge] = {}
        self._spent = _Spent()
        self._registry.register(self._spent)
        self._restarts = Counter(
            "restarts",
            "Restarts of all workers in place, by the cause of the first failure.",
            ["cause"],
            namespace="trainyard",
            registry=self._registry,
        )
        for kind in KINDS:
            self._restarts.labels(kind)
        labels = {"preset": config.model or config.preset, "workers": str(cluster.workers)}
        info = self._gauge("run_info", "The run, always 1.", *labels, "folder")
        info.labels(*labels.values(), run_folder.uri(config)).set(1)
        self._stored = time.time()
        age = "Seconds since the newest checkpoint, or since the start if there is none yet."
        self._gauge("checkpoint_age_seconds", age).set_function(lambda: time.time() - self._stored)
        handler = _Handler.factory(self._registry)
        self._server = ThreadingHTTPServer(("", 0), handler, bind_and_activate=False)
        self._server.socket.close()
        outside = cluster.service == LOCAL  # a gang of one pod is local, too
        host, port = sockets.loopback() if outside else "", config.metrics_port
        try:
            self._server.socket = sockets.listen(host, port)
        except OSError as error:
            raise UnavailableError(
                f"metrics_port: {port}: cannot listen there: {error.strerror}; give another port"
            ) from None
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def take(self, event: Event) -> None:
        """Take an event of rank 0's worker."""
        match event:
            case {"event": "committed", "step": step}:
                self._stored = time.time()
                self._gauge("checkpoint_steps", "Steps done at the newest checkpoint.").set(step)
            case {"event": "goodput", "share": share, "productive": productive, "lost": lost}:
                self._spent.take(share, productive, lost)
            case {"event": "metrics", **values}:
                for name, value in values.items():
                    self._gauge(*GAUGES[name]).set(value)
                if rate := values.get("images_per_second"):
                    text = "Time of a step, mean over the newest chunk."
                    self._gauge("step_seconds", text).set(self._batch_size / rate)
            case {"event": "joined"}:  # perhaps other ranks than before
                for name in self._gauges.keys() & {name for name, _ in RANK_GAUGES.values()}:
                    self._gauges[name].clear()
            case {"event": "ranks", "ranks": ranks, **values}:
                self._set_ranks(ranks, values)

    def restarted(self, cause: Kind) -> None:
        """Count a restart of the gang in place."""
        self._restarts.labels(cause).inc()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _set_ranks(self, ranks: Sequence[int], values: Mapping[str, Sequence[float]]) -> None:
        for name, milliseconds in values.items():
            gauge = self._gauge(*RANK_GAUGES[name], "rank")
            for rank, value in zip(ranks, milliseconds, strict=True):
                gauge.labels(rank).set(value / 1e3)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(
                name, text, labels, namespace="trainyard", registry=self._registry
            )
        return self._gauges[name]
