"""What Prometheus reads at /metrics. Durations in seconds, by stage; names begin with ``deploykit_``."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

STAGES = ("upload", "decode", "queue", "infer", "explain", "draw", "total")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one process. Where several serve together (PROMETHEUS_MULTIPROC_DIR is set), each tells of all of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "deploykit_requests",
            "Requests by what they asked for and how they ended",
            ["endpoint", "model", "status"],
            registry=self.registry,
        )
        self.errors = Counter("deploykit_errors", "Requests that failed, by reason", ["model", "kind"], registry=self.registry)
        self.stages = Histogram(
            "deploykit_stage_seconds",
            "Time in each stage of a request",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_rows = Histogram(
            "deploykit_batch_rows", "Rows of each run", ["model", "graph"], buckets=_ROWS, registry=self.registry
        )
        self.run_seconds = Histogram(
            "deploykit_run_seconds", "Time of each run", ["model", "graph"], buckets=_SECONDS, registry=self.registry
        )
        self.failed_runs = Counter(
            "deploykit_failed_runs", "Runs that a backend failed", ["model", "graph"], registry=self.registry
        )
        self.queue_depth = Gauge(
            "deploykit_queue_depth",
            "Requests that wait for a run",
            ["model", "graph"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.in_flight = Gauge(
            "deploykit_in_flight_requests", "Requests that are worked on", registry=self.registry, multiprocess_mode="livesum"
        )
        self.held_bytes = Gauge(
            "deploykit_held_body_bytes", "Bytes of request bodies in memory", registry=self.registry, multiprocess_mode="livesum"
        )
        self.model_info = Gauge(
            "deploykit_model_info",
            "1 for the bundle that answers, 0 for those before it; digest is the manifest's sha256",
            ["model", "digest", "precisions"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.reloads = Counter(
            "deploykit_reloads", "Replaced bundles, by how that went", ["model", "outcome"], registry=self.registry
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
