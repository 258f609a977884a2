"""Several processes on one socket: each has all models, and one that ends is replaced while the others go on.

The kernel holds connections that nobody has accepted, so a worker that is killed loses what it was working on and nothing else.
Each worker looks for replaced bundles by itself, so for about a second two may answer with different ones.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from deploykit.errors import DeploykitError, SessionError
from deploykit.server.app import make_state
from deploykit.server.logs import Log
from deploykit.server.metrics import Metrics
from deploykit.server.repository import Repository
from deploykit.server.run import serve
from deploykit.server.settings import Settings
from deploykit.server.stopping import refuse_connections

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's variable: where the processes' counters are, so that each can tell of all."""

_SHORT_S, _MOST_SHORT = 5.0, 5
"""So many workers one after the other that live no longer are a reason to give up, instead of starting them for ever."""

_LOOK_S = 0.2
_EXTRA_S = 5.0
"""For a worker to end by itself behind its grace period."""


@dataclass(frozen=True)
class Served:
    """What every worker serves.

    Args:
        paths: bundles by name.
        settings: of each worker.
        log_format, quiet: see `Log`.
    """

    paths: Mapping[str, Path]
    settings: Settings
    log_format: str
    quiet: bool


def serve_alone(
    served: Served, listening: socket.socket, on_ready: Callable[[Repository], None], worker: int | None = None
) -> None:
    """Open the models and answer in this process, until a signal says to stop.

    Raises:
        DeploykitError: a bundle cannot be served.
    """
    metrics, log = Metrics(), Log(served.log_format, quiet=served.quiet, worker=worker)
    try:
        repository = Repository(served.paths, served.settings, metrics, log)
        repository.open_all()
        state = make_state(served.settings, repository, metrics, log)
        state.shares_socket = worker is not None
        serve(state, listening, lambda: on_ready(repository))
    finally:
        log.close()


def serve_by_workers(served: Served, listening: socket.socket, count: int, on_ready: Callable[[], None]) -> None:
    """Answer in ``count`` processes, until a signal says to stop. A worker that ends is replaced.

    Raises:
        DeploykitError: a bundle cannot be served; or workers end as soon as they are started.
    """
    folder = tempfile.mkdtemp(prefix="deploykit-metrics-")
    os.environ[METRICS_FOLDER] = folder
    supervisor = _Supervisor(served, listening, count)
    try:
        supervisor.run(on_ready)
    finally:
        supervisor.kill()
        del os.environ[METRICS_FOLDER]
        shutil.rmtree(folder, ignore_errors=True)


class _Supervisor:
    """Owns the workers."""

    def __init__(self, served: Served, listening: socket.socket, count: int) -> None:
        self._served, self._listening, self._count = served, listening, count
        self._workers: dict[BaseProcess, tuple[int, float]] = {}  # number, and when it was started
        self._log = Log(served.log_format, quiet=served.quiet)
        self._signals, self._short = 0, 0

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start the workers and keep them at their number until a signal comes; then wait until they have finished."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            readers = [self._start(number) for number in range(self._count)]
            for reader in readers:
                self._await_ready(reader)
            if not self._signals:
                on_ready()
            while not self._signals:
                self._replace_ended()
            self._finish()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._log.close()

    def kill(self) -> None:
        """End what is left."""
        for worker in self._workers:
            worker.kill()
            worker.join()

    def _on_signal(self, number: int, frame: object) -> None:
        self._signals += 1

    def _start(self, number: int) -> Connection:
        context = multiprocessing.get_context("spawn")
        reader, writer = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(number, self._served, self._listening, writer), name=f"worker-{number}")
        worker.start()
        writer.close()
        self._workers[worker] = (number, time.monotonic())
        return reader

    def _await_ready(self, reader: Connection) -> None:
        """Wait until a worker takes requests.

        Raises:
            DeploykitError: what it could not do.
            SessionError: it ended without a word.
        """
        with reader:
            while not self._signals:
                if not reader.poll(_LOOK_S):
                    continue
                try:
                    told: object = reader.recv()
                except EOFError:
                    raise SessionError("a worker ended while it started", hint="its own lines say why") from None
                if isinstance(told, DeploykitError):
                    raise told
                return

    def _replace_ended(self) -> None:
        wait([worker.sentinel for worker in self._workers], timeout=_LOOK_S)
        for worker, (number, started) in [pair for pair in self._workers.items() if not pair[0].is_alive()]:
            if self._signals:
                return
            del self._workers[worker]
            mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
            self._short = self._short + 1 if time.monotonic() - started < _SHORT_S else 0
            self._log.event("worker_ended", worker=number, pid=worker.pid, exit_code=worker.exitcode)
            if self._short >= _MOST_SHORT:
                raise SessionError(
                    f"{self._short} workers in a row ended within {_SHORT_S:g} s, the last with exit code {worker.exitcode}",
                    hint="their own lines say why; start with --workers 1 to see more",
                )
            self._start(number).close()

    def _finish(self) -> None:
        """Pass the signal on and wait; a second one is passed on too, which ends the workers at once."""
        refuse_connections(self._listening)
        self._listening.close()  # or its connections would wait for nobody
        passed, end = 0, time.monotonic() + self._served.settings.grace_s + _EXTRA_S
        while any(worker.is_alive() for worker in self._workers) and time.monotonic() < end:
            if passed < min(self._signals, 2):
                passed += 1
                for worker in self._workers:
                    worker.terminate()
            wait([worker.sentinel for worker in self._workers if worker.is_alive()], timeout=_LOOK_S)
        if self._signals > 1:
            raise SessionError("stopped at once by a second signal")


def _work(number: int, served: Served, listening: socket.socket, ready: Connection) -> None:
    """A worker's process."""
    # Ctrl-C reaches every process of the terminal's group. The parent alone shall hear it, and pass it on once.
    os.setpgrp()
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 it was started by one
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    def on_ready(repository: Repository) -> None:
        with contextlib.suppress(OSError):  # nobody waits for one that replaces another
            ready.send(None)

    try:
        serve_alone(served, listening, on_ready, worker=number)
    except DeploykitError as error:
        ready.send(error)
        raise SystemExit(error.exit_code) from None


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
