"""Writing a bundle in one step: everything is prepared in a folder beside it, which then takes the bundle's place.

A process that is killed at any moment leaves the old bundle or the new one, never a mixture: files are never changed in place, and
one system call swaps the folders (``renameat2`` with ``RENAME_EXCHANGE`` on Linux, since kernel 3.15; ``renameatx_np`` with
``RENAME_SWAP`` on macOS). Where neither exists the swap is two renames, and a kill between them leaves the old bundle under its
staging name.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploykit.bundle.manifest import (
    MANIFEST_NAME,
    FileRecord,
    LayerRecord,
    Manifest,
    ModelRecord,
    WeightsRecord,
    check_file_name,
    sha256_of,
)
from deploykit.bundle.reader import Bundle
from deploykit.errors import BundleError
from deploykit.interruption import stop_if_interrupted
from deploykit.spec import ImageSpec

_AT_FDCWD = {"linux": -100, "darwin": -2}
_RENAME_EXCHANGE = 2  # the same number on Linux (RENAME_EXCHANGE) and macOS (RENAME_SWAP)


class Stage:
    """A bundle in preparation. Made by `new_bundle` and `extend_bundle`, which put it in place when their block ends."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def add(
        self,
        name: str,
        data: bytes | Path,
        *,
        made_from: Mapping[str, str] | None = None,
        made_with: Mapping[str, str] | None = None,
        parity: Mapping[str, Any] | None = None,
    ) -> FileRecord:
        """Write one file and note it in the manifest.

        Args:
            name: path inside the bundle, with forward slashes.
            data: the content, or a file to copy.
            made_from, made_with, parity: see `FileRecord`.
        """
        check_file_name(name)
        path = self.folder / name
        with _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # An earlier file of this name may be a hard link into the bundle in use: take the name away, never write through it.
            path.unlink(missing_ok=True)
            if isinstance(data, bytes):
                path.write_bytes(data)
            else:
                shutil.copyfile(data, path)
            _flush(path)
        record = FileRecord(sha256_of(path), path.stat().st_size, made_from or {}, made_with or {}, parity)
        self.manifest = replace(self.manifest, files={**self.manifest.files, name: record})
        return record


def check_target(path: Path, *, replace: bool) -> None:
    """Say early whether a new bundle may be put at ``path``; nothing is written.

    Raises:
        BundleError: something is there that is not a bundle; or a bundle is, and ``replace`` is False.
    """
    path = _resolve(path)
    if not path.parent.is_dir():
        raise BundleError(f"{path.parent} is not a folder", hint="make it first, or choose another place with -o")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / MANIFEST_NAME).is_file():
        raise BundleError(
            f"{path} exists and is not a bundle", hint="choose another place with -o; deploykit replaces only bundles"
        )
    if not replace:
        raise BundleError(f"{path} exists", hint="replace it with --force, or choose another place with -o")


@contextmanager
def new_bundle(
    path: str | Path,
    *,
    model: ModelRecord,
    weights: WeightsRecord,
    image: ImageSpec,
    input: str = "pixels",  # noqa: A002 the manifest's word
    labels_source: str | None = None,
    layers: tuple[LayerRecord, ...] = (),
    replace: bool = False,
) -> Iterator[Stage]:
    """Make a bundle at ``path``. When the block ends without an error the bundle is in place; otherwise nothing has changed.

    Files in a replaced bundle that its manifest does not list (a user's notes) are carried over.

    Raises:
        BundleError: see `check_target`; or the disk refused.
    """
    target = _resolve(Path(path))
    check_target(target, replace=replace)
    manifest = Manifest(model, weights, image, input, labels_source, files={}, layers=layers)
    with _staging(target) as folder:
        stage = Stage(folder, manifest)
        yield stage
        check_target(target, replace=replace)
        if (target / MANIFEST_NAME).is_file():
            listed = _listed_or_none(target)
            with _disk_errors(target):
                _link_tree(target, folder, skip={MANIFEST_NAME, *listed, *stage.manifest.files})
        with _disk_errors(target):
            _commit(stage, target)


@contextmanager
def extend_bundle(path: str | Path) -> Iterator[Stage]:
    """Add files to the bundle at ``path``. When the block ends without an error they are in place; otherwise nothing has changed.

    Earlier files are not copied: the new folder holds hard links to them (copies where the file system has no links).

    Raises:
        BundleError: not a bundle; or somebody else changed it meanwhile; or the disk refused.
    """
    target = _resolve(Path(path))
    before = Bundle.open(target).manifest
    with _staging(target) as folder:
        stage = Stage(folder, replace(before, deploykit_version=Manifest.deploykit_version))
        with _disk_errors(target):
            _link_tree(target, folder, skip={MANIFEST_NAME})
        yield stage
        if Bundle.open(target).manifest != before:
            raise BundleError(f"{target} was changed by another process meanwhile", hint="run the command again")
        with _disk_errors(target):
            _commit(stage, target)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Prepare a folder that is no bundle, in the same way: it takes the place of what is at ``path`` when the block ends well.

    Whether what is there may go is the caller's to say, before and inside the block.

    Yields:
        An empty folder beside ``path``.

    Raises:
        BundleError: the disk refused, in the block too.
    """
    target = _resolve(Path(path))
    with _staging(target) as folder, _disk_errors(target):
        yield folder
        for file in (p for p in folder.rglob("*") if p.is_file()):
            _flush(file)
        _put_in_place(folder, target)


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{path} cannot be resolved: {error}") from error


def _listed_or_none(target: Path) -> list[str]:
    """The files that the bundle in place says are its own; none when its manifest cannot be read."""
    try:
        return list(Bundle.open(target).manifest.files)
    except BundleError:
        return []


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A locked folder beside the target, gone afterwards whatever happens."""
    with _disk_errors(target):
        _sweep(target)
        folder, lock = _make_locked_folder(target)
    try:
        yield folder
    finally:
        # After the swap the old bundle stands under this name.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_locked_folder(target: Path) -> tuple[Path, int]:
    while True:
        folder = target.parent / f"{_staging_prefix(target)}{secrets.token_hex(4)}"
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        # Another process swept it between mkdir and flock.
        os.close(lock)


def _sweep(target: Path) -> None:
    """Remove staging folders whose process is gone. The lock ends with the process, so a free one has no owner."""
    for folder in target.parent.iterdir():
        if not folder.name.startswith(_staging_prefix(target)):
            continue
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _staging_prefix(target: Path) -> str:
    return f".{target.name}.partial-"


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror or error}", hint="choose another place with -o") from error


def _link_tree(source: Path, destination: Path, skip: set[str]) -> None:
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if name in skip or (path.is_dir() and not path.is_symlink()):
            continue
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, destination / name, follow_symlinks=False)
        except OSError:
            shutil.copy2(path, destination / name, follow_symlinks=False)


def _commit(stage: Stage, target: Path) -> None:
    manifest = stage.folder / MANIFEST_NAME
    manifest.write_text(stage.manifest.to_text(), encoding="utf-8")
    _flush(manifest)
    _put_in_place(stage.folder, target)


def _put_in_place(prepared: Path, target: Path) -> None:
    """Flush the folders and swap; the old content then stands under the prepared folder's name."""
    stop_if_interrupted()
    for folder in [prepared, *(p for p in prepared.rglob("*") if p.is_dir())]:
        _flush(folder)
    if target.exists() and any(target.iterdir()):
        _exchange(prepared, target)
    else:
        # rename(2) replaces an empty folder and refuses one that has been filled meanwhile.
        prepared.rename(target)
    _flush(target.parent)


def _exchange(a: Path, b: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    if name is not None and hasattr(library, name):
        cwd = _AT_FDCWD[sys.platform]
        if getattr(library, name)(cwd, os.fsencode(a), cwd, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(b))
    aside = a.with_name(a.name + "-old")
    b.rename(aside)
    a.rename(b)
    aside.rename(a)


def _flush(path: Path) -> None:
    """Have the disk keep what was written, so that a power cut right after the swap does not leave empty files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
