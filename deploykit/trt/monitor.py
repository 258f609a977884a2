"""How far a build is, and stopping it: TensorRT's IProgressMonitor as one share from 0 to 1, and Ctrl-C as a refusal to go on.

An exception inside TensorRT's callback would unwind its C++ frames. So a signal is only noted, and the next step hands it on, and
what the caller's own progress function raises is kept until the builder has returned.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

Progress = Callable[[float], None]


class Cancellation:
    """Whether Ctrl-C was pressed. Made by `cancel_on_interrupt`."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._event = threading.Event()

    def set(self) -> None:
        """Note that it was."""
        self._event.set()

    def close(self) -> None:
        """Let go of the descriptor; what was noted stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_set(self) -> bool:
        """Ask, from any thread."""
        if self._descriptor is not None and not self._event.is_set():
            with contextlib.suppress(BlockingIOError):
                if signal.SIGINT in os.read(self._descriptor, 64):
                    self._event.set()
        return self._event.is_set()


@contextlib.contextmanager
def cancel_on_interrupt() -> Iterator[Cancellation]:
    """While it lasts, Ctrl-C is noted instead of raised; only the main thread hears signals.

    Python runs a signal's handler between two steps of the main thread, which stands in TensorRT for minutes while other threads
    report the build's steps. So the signal's number is also read from the descriptor that Python's own C handler writes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Cancellation()
        return
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    cancelled = Cancellation(reader)
    handler = signal.signal(signal.SIGINT, lambda *_: cancelled.set())
    descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield cancelled
        cancelled.is_set()  # read what is left, for whoever asks afterwards
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGINT, handler)
        cancelled.close()
        os.close(writer)


def make_monitor(api: Any, progress: Progress | None, cancelled: Cancellation) -> Any:
    """TensorRT's progress as one share: each phase has its steps, and a phase inside another takes one step of it."""

    class Monitor(api.IProgressMonitor):  # type: ignore[misc]  # TensorRT takes nothing but a subclass
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, steps done
            self._share = 0.0
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = (parent_phase, max(num_steps, 1), 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                parent, steps, _ = self._phases.get(phase_name, (None, step + 1, 0))
                self._phases[phase_name] = (parent, steps, min(step + 1, steps))
                self._tell(phase_name)
            return not cancelled.is_set() and self.error is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _tell(self, name: str | None) -> None:
            share = 0.0
            while name in self._phases:
                name, steps, done = self._phases[name]
                share = min((done + share) / steps, 1.0)
            self._share = max(self._share, share)
            if progress is None or self.error is not None:
                return
            try:
                progress(self._share)
            except BaseException as error:  # kept, and raised once TensorRT's frames are gone
                self.error = error

    return Monitor()
