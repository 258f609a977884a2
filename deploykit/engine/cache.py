"""Engines kept by their content: the same graph, options, TensorRT and GPU are built once on a machine.

In: a key and a function that builds. Out: the engine, built or read back. Every entry has a lock file, so of several processes that
want the same engine one builds and the others wait for it; a lock ends with its process. A damaged entry is built again.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deploykit.errors import EngineError

Entry = tuple[bytes, dict[str, Any]]
"""A plan, and facts about it that JSON can hold."""

_LAYOUT = 2  # part of the key: raise it when plans are built otherwise from the same options


def default_cache() -> Path:
    """``$DEPLOYKIT_CACHE/engines``, else ``$XDG_CACHE_HOME/deploykit/engines``, else ``~/.cache/deploykit/engines``."""
    if own := os.environ.get("DEPLOYKIT_CACHE"):
        return Path(own).expanduser() / "engines"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "deploykit" / "engines"


def cache_key(facts: Mapping[str, Any]) -> str:
    """The digest of everything that decides what a plan is."""
    return hashlib.sha256(json.dumps({"layout": _LAYOUT, **facts}, sort_keys=True).encode()).hexdigest()


def get_or_build(
    folder: Path, key: str, build: Callable[[], Entry], *, on_wait: Callable[[], None] | None = None
) -> tuple[Entry, bool]:
    """The entry of a key, and whether it was there.

    Args:
        folder: of the cache; made where it is missing.
        build: called under the entry's lock; what it raises passes through and leaves nothing.
        on_wait: called once when another process has the lock.

    Raises:
        EngineError: the folder cannot be written.
    """
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(lock, on_wait)
        if (found := read_entry(folder, key)) is not None:
            return found, True
        plan, facts = build()
        with _disk_errors(folder):
            replace_file(folder / f"{key}.plan", plan)
            digest = {"sha256": hashlib.sha256(plan).hexdigest(), "facts": facts}
            replace_file(folder / f"{key}.json", json.dumps(digest, indent=2).encode())
        return (plan, facts), False
    finally:
        os.close(lock)


def read_entry(folder: Path, key: str) -> Entry | None:
    """An entry that is whole; None where there is none, or where a plan is not the one that was written."""
    try:
        described = json.loads((folder / f"{key}.json").read_bytes())
        plan = (folder / f"{key}.plan").read_bytes()
        if hashlib.sha256(plan).hexdigest() == described["sha256"]:
            return plan, dict(described["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def replace_file(path: Path, data: bytes) -> None:
    """Put a file in place in one step; whoever reads sees the old content or the new one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _lock(lock: int, on_wait: Callable[[], None] | None) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if on_wait is not None:
            on_wait()
        fcntl.flock(lock, fcntl.LOCK_EX)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"cannot write the engine cache {folder}: {error.strerror or error}",
            hint="name another folder in DEPLOYKIT_CACHE, or build with --no-cache",
        ) from error
