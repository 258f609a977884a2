"""What a server is told when it starts: limits, times, batching. Frozen, and checked when made."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from deploykit.errors import UsageError
from deploykit.image import DEFAULT_LIMITS, DecodeLimits
from deploykit.runtime.opening import ONNXRUNTIME
from deploykit.spec import Precision

_MOST_INSTANCES = 8
"""Beyond it a run gets more threads instead, so that a lone caller does not wait for one core of many."""

CPU_ROWS_AT_ONCE = 2
"""`BatchSettings.rows_at_once` where each run has one core."""


@dataclass(frozen=True)
class BatchSettings:
    """How requests are put together. The words and their meaning are those of Triton's model configuration.

    Args:
        max_batch_size: rows of one run at most; a request of more is refused. 4 is Triton's own default for ONNX Runtime; a GPU
            wants more.
        max_queue_delay_us: how long the oldest request may wait for others while a run could start. 0 takes what is there:
            what arrives during a run shares the next one, so a busy server batches and an idle one does not wait.
        max_queue_size: requests that may wait; one more is answered with 503.
        max_queue_bytes: of arrays that may wait; graphs that take photos at their own size hold megabytes for each.
        instances: runs at the same time.
        rows_at_once: that a run computes at a time, and then the next; its answers are given together. 0 for all of them. On a CPU
            the activations of many rows push each other out of the caches.
    """

    max_batch_size: int = 4
    max_queue_delay_us: int = 0
    max_queue_size: int = 256
    max_queue_bytes: int = 512 << 20
    instances: int = 1
    rows_at_once: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("max_batch_size", 1),
            ("max_queue_delay_us", 0),
            ("max_queue_size", 1),
            ("max_queue_bytes", 1),
            ("instances", 1),
            ("rows_at_once", 0),
        ):
            _check_least(name, getattr(self, name), least)


@dataclass(frozen=True)
class Settings:
    """All of it.

    Args:
        batch: see `BatchSettings`.
        limits: what a picture may cost to decode.
        max_upload_bytes: of a request's body, compressed and unpacked.
        max_held_bytes: of all bodies that are held at once; beyond it new ones are answered with 503.
        max_requests: that are worked on or read at once; one more is answered with 503.
        max_connections: open at once.
        timeout_s: from the end of the upload to the answer.
        upload_timeout_s: for a request's body.
        header_timeout_s, max_header_bytes: for a request's first line and headers.
        keep_alive_s: how long a connection may be idle.
        grace_s: how long a stopped server goes on with what it has accepted.
        poll_s: how often bundles are looked at for a new manifest.
        workers_of_pool: threads that draw, that convert large requests, and that decode where those that run do not.
        shared_cores: on which the same threads decode and run (`deploykit.server.batcher`); 0 gives decoding threads of its own.
        api_key: that requests must carry; None for none.
        backend, provider, threads: what answers; see `deploykit.runtime.opening.Answering`.
        precisions: to serve, the first is the default; empty for all that a bundle has.
        samples: a folder of pictures that the page offers.
        allow_untrained: serve random weights too.
    """

    batch: BatchSettings = field(default_factory=BatchSettings)
    limits: DecodeLimits = DEFAULT_LIMITS
    max_upload_bytes: int = 32 << 20
    max_held_bytes: int = 512 << 20
    max_requests: int = 512
    max_connections: int = 1024
    timeout_s: float = 30.0
    upload_timeout_s: float = 30.0
    header_timeout_s: float = 10.0
    max_header_bytes: int = 32 << 10
    keep_alive_s: int = 75
    grace_s: int = 30
    poll_s: float = 1.0
    workers_of_pool: int = field(default_factory=lambda: count_cores())
    shared_cores: int = 0
    api_key: str | None = field(default=None, repr=False)
    backend: str | None = None
    provider: str = "cpu"
    threads: int = 0
    precisions: tuple[Precision, ...] = ()
    samples: Path | None = None
    allow_untrained: bool = False

    def __post_init__(self) -> None:
        for name in ("max_upload_bytes", "max_held_bytes", "max_requests", "max_connections", "workers_of_pool"):
            _check_least(name, getattr(self, name), 1)
        for name in ("timeout_s", "upload_timeout_s", "header_timeout_s", "poll_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"server: {name} is {getattr(self, name)}, expected more than 0 seconds")
        if self.max_held_bytes < self.max_upload_bytes:
            raise UsageError(
                f"server: all bodies may hold {self.max_held_bytes:,} bytes and one {self.max_upload_bytes:,}; "
                "expected room for one at least"
            )
        if self.api_key is not None and (len(self.api_key) < 8 or not self.api_key.isascii() or not self.api_key.isprintable()):
            raise UsageError("server: the API key must have at least 8 printable ASCII characters")
        if self.samples is not None and not self.samples.is_dir():
            raise UsageError(f"server: {self.samples} is no folder of sample pictures")


def runs_on_cpu(backend: str | None, provider: str) -> bool:
    """Whether runs take this process's own cores, and no GPU; see `deploykit.runtime.opening.Answering`."""
    return provider == "cpu" and backend in (None, ONNXRUNTIME)


def count_cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(cores: int, instances: int | None, threads: int | None, *, on_cpu: bool) -> tuple[int, int]:
    """How many runs go on at once, and on how many CPU threads each; what is given stays.

    Several runs on few threads do more than one run on all: threads that wait for each other spin. Measured on 2 cores with
    EfficientNet-Lite0 and 32 callers: 9 ms of CPU time a picture on two times one thread, 14 ms on one time two. A lone caller is
    answered sooner with ``instances=1``.

    Args:
        cores: of this process.
        instances, threads: what the user says; ``threads`` 0 takes every core.
        on_cpu: False where a GPU computes, which runs one batch at a time.
    """
    if not on_cpu:
        return instances or 1, threads or 0
    if instances is None:
        instances = 1 if threads == 0 else max(1, min(_MOST_INSTANCES, cores // (threads or 1)))
    return instances, max(1, cores // instances) if threads is None else threads


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"server: {name} is {value}, expected {least} or more")
