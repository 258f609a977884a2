"""Threads for tests."""

import threading
from collections.abc import Callable


def in_thread(work: Callable[[], object]) -> None:
    """Do something in a thread that is gone afterwards."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
