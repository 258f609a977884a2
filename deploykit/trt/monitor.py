"""How far a build is, and stopping it: TensorRT's IProgressMonitor as one share from 0 to 1, and Ctrl-C as a refusal to go on.

An exception inside TensorRT's callback would unwind its C++ frames. So a signal only sets an event that the next step hands on, and
what the caller's own progress function raises is kept until the builder has returned.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

Progress = Callable[[float], None]


@contextlib.contextmanager
def cancel_on_interrupt() -> Iterator[threading.Event]:
    """While it lasts, Ctrl-C sets an event instead of raising; only the main thread hears signals."""
    cancelled = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cancelled
        return
    before = signal.signal(signal.SIGINT, lambda *_: cancelled.set())
    try:
        yield cancelled
    finally:
        signal.signal(signal.SIGINT, before)


def make_monitor(api: Any, progress: Progress | None, cancelled: threading.Event) -> Any:
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
