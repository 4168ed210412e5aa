"""What is counted of a server, for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from involution.serve.settings import COUNTERS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of a worker; those of all workers are shown together."""

    def __init__(self) -> None:
        # when a counter began says nothing that a scrape does not
        disable_created_metrics()
        self._registry = CollectorRegistry()
        name, registry = "involution_serve", self._registry
        self.requests = Counter(
            f"{name}_requests", "Requests, by the status of the answer", ["status"], registry=registry
        )
        self.errors = Counter(f"{name}_errors", "Answers that are errors, by kind", ["kind"], registry=registry)
        self.stages = Histogram(
            f"{name}_stage_seconds",
            "Seconds of a prediction: read (of the request), queue, run (of its batch), whole",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            f"{name}_batch_images", "Images of a batch", ["model"], buckets=_SIZES, registry=registry
        )
        self.active = Gauge(
            f"{name}_active_requests",
            "Predictions that are read, wait or are worked on",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.waiting = Gauge(
            f"{name}_waiting_images",
            "Images that wait for a network",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        registry = self._registry
        if COUNTERS in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return bytes(generate_latest(registry))
