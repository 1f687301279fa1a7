"""Metrics of one server for Prometheus. Each app has its own registry, so two apps in one process stay apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """The counters of one app. The app calls `request` once for each answer."""

    def __init__(self, queue_depths: dict[str, Callable[[], int]]) -> None:
        """Register the metrics.

        Args:
            queue_depths: queue name -> a function that returns how many requests wait in it.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "corerec_requests", "Answers by route, method and status.", ["route", "method", "status"],
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "corerec_request_seconds", "From a request's headers to its answer.", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._batches = Histogram(
            "corerec_batch_size", "Requests handled together.", ["queue"], buckets=SIZES, registry=self.registry
        )
        self.events = Counter("corerec_events", "Observed events taken.", registry=self.registry)
        self.reloads = Counter("corerec_reloads", "Model reloads by outcome.", ["outcome"], registry=self.registry)
        self._model = Gauge(
            "corerec_model", "The model that serves now.", ["name", "items", "max_seq_len"], registry=self.registry
        )
        waiting = Gauge("corerec_queue_depth", "Requests that wait.", ["queue"], registry=self.registry)
        for queue, depth in queue_depths.items():
            waiting.labels(queue).set_function(depth)
        # labels() checks and locks at each call: a tenth of a request's time.
        self._counter, self._timer = cache(self._requests.labels), cache(self._seconds.labels)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._counter(route, method, str(status)).inc()
        self._timer(route).observe(seconds)

    def batch(self, queue: str) -> Callable[[int], None]:
        return self._batches.labels(queue).observe

    def model(self, name: str, num_items: int, max_seq_len: int) -> None:
        self._model.clear()
        self._model.labels(name, num_items, max_seq_len).set(1)

    def text(self) -> bytes:
        return generate_latest(self.registry)
