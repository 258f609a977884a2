"""An interruption that Python drops is heard all the same, before anything is put in place."""

import signal
import threading
from pathlib import Path

import pytest

from deploykit.bundle.writer import new_folder
from deploykit.interruption import remember_interrupts, stop_if_interrupted

# What a finalizer raises is dropped, and told as a warning.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Interrupting:
    """As Ctrl-C does that falls into a finalizer."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def lose_one() -> None:
    Interrupting()


def test_an_interruption_that_python_dropped_is_raised_between_two_steps() -> None:
    with remember_interrupts():
        stop_if_interrupted()
        lose_one()
        with pytest.raises(KeyboardInterrupt):
            stop_if_interrupted()
    stop_if_interrupted()  # it is forgotten with the block


def test_one_that_python_does_not_drop_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), remember_interrupts():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_takes_its_place_after_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), remember_interrupts(), new_folder(tmp_path / "made") as folder:
        (folder / "file").write_text("whole")
        lose_one()
    assert list(tmp_path.iterdir()) == []


def test_a_handler_of_the_calling_program_and_other_threads_are_left_alone() -> None:
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("theirs"))
    try:
        with remember_interrupts():
            signal.raise_signal(signal.SIGINT)
            stop_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["theirs"]

    def elsewhere() -> None:
        with remember_interrupts():
            seen.append("another thread")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == ["theirs", "another thread"]
