"""Ctrl-C that is not lost: what is raised in a finalizer, or in a callback of C++ code that asks no more, Python drops.

`remember_interrupts` writes every SIGINT down, and `stop_if_interrupted` raises again what was dropped. It is called between
steps, and before a bundle takes its place.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_asked = threading.Event()


@contextlib.contextmanager
def remember_interrupts() -> Iterator[None]:
    """Write down SIGINT inside the block, besides raising KeyboardInterrupt as ever.

    Nothing changes in another thread than the main one, which Python gives no signals, nor where SIGINT is not Python's to handle:
    ignored, as of a command in the background, or taken by the program that calls.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        yield
        return
    _asked.clear()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _asked.clear()


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt if one was asked for inside `remember_interrupts`, whatever became of it."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt
