"""TensorRT's messages in Python's logging, under ``deploykit.trt``; the last errors are kept, because the builder returns None for
a reason that stands only there.

TensorRT keeps the first logger that it gets and ignores any other, so a process has one per flavour.
"""

import logging
import re
from functools import cache
from typing import Any

LOGGER = logging.getLogger("deploykit.trt")
# Silent unless somebody asks: Python would print a library's warnings on stderr.
LOGGER.addHandler(logging.NullHandler())

_LEVELS = {
    "INTERNAL_ERROR": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}
_KEPT = 20
_NOISE = re.compile(r"^.*?: Error Code \d+: | In \w+ at /\S+:\d+")


@cache
def find_log(api: Any) -> Any:
    """The logger to give to TensorRT. Its ``errors`` are the last error messages, oldest first, without names of its own files."""

    class Log(api.ILogger):  # type: ignore[misc]  # TensorRT takes nothing but a subclass
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            # An exception here would unwind TensorRT's own frames, so nothing in here may raise.
            level = _LEVELS.get(getattr(severity, "name", ""), logging.ERROR)
            # A failed build is an exception with these lines in it; as log records they would be said twice.
            LOGGER.log(min(level, logging.INFO) if level >= logging.ERROR else level, "%s", message)
            if level >= logging.ERROR:
                self.errors.append(plain(message))
                del self.errors[:-_KEPT]

    return Log()


def plain(message: str) -> str:
    """A message of TensorRT without the names of its own functions and files, in one line."""
    return " ".join(_NOISE.sub("", message).split())
