"""One line a request, and one for each thing that happens, on stderr: as JSON or as text.

A thread writes them, so a reader that has stopped reading never stops the server; beyond 10,000 lines that wait, more are
dropped and counted.
"""

import json
import logging
import queue
import sys
import threading
from datetime import datetime, timezone
from typing import Any, TextIO

FORMATS = ("text", "json")


class Log:
    """Writes lines; `close` it. Threads may share it.

    Args:
        form: one of ``FORMATS``.
        stream: where to; None for stderr.
        quiet: leave out requests that did not fail.
        worker: number of the process, where there are several.
    """

    def __init__(self, form: str, stream: TextIO | None = None, *, quiet: bool = False, worker: int | None = None) -> None:
        self._form, self._stream, self._quiet, self._worker = form, stream or sys.stderr, quiet, worker
        self._lines: queue.Queue[str | None] = queue.Queue(10_000)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, daemon=True, name="log")
        self._thread.start()

    def event(self, event: str, /, **fields: Any) -> None:
        """Note what happened; None fields are left out."""
        if self._quiet and event == "request" and fields.get("error") is None:
            return
        told = {key: value for key, value in {"worker": self._worker, **fields}.items() if value is not None}
        now = datetime.now(timezone.utc)
        if self._form == "json":
            line = json.dumps(
                {"time": now.isoformat(timespec="milliseconds"), "event": event, **told}, ensure_ascii=False, default=str
            )
        else:
            line = f"{now:%H:%M:%S} {event} " + " ".join(f"{key}={_plain(value)}" for key, value in told.items())
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits. Closing twice is harmless."""
        if self._thread.is_alive():
            try:
                self._lines.put(None, timeout=1)
            except queue.Full:
                return
            self._thread.join(timeout=2)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._dropped:
                line, self._dropped = f"{line}\n{self._dropped} lines dropped: stderr was not read", 0
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more
                return


class UvicornLines(logging.Handler):
    """uvicorn's own warnings, as lines of ours."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on."""
        self._log.event("http", level=record.levelname.lower(), message=record.getMessage())


def _plain(value: object) -> str:
    """A value without line breaks and control characters, which would forge lines."""
    if isinstance(value, dict):
        return ",".join(f"{key}:{_plain(inner)}" for key, inner in value.items())
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
