"""Folders that deploykit writes for other tools, and whether what stands in their place is deploykit's.

A folder is prepared beside its place and swapped in by one step. Its record, deploykit.json, lists the files that deploykit wrote
with their digests; a folder without one is somebody else's, and is never replaced.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploykit import __version__
from deploykit.bundle import new_folder, sha256_of
from deploykit.errors import BundleError

RECORD_NAME = "deploykit.json"
ELSEWHERE = "choose another place with -o"

Content = bytes | Path
"""A file's bytes, or the file to copy."""


@dataclass(frozen=True)
class Kind:
    """What such a folder is.

    Args:
        name: in its record. title: in messages, such as ``C++ project``.
        takes_others: whether files that deploykit did not write may stand in it.
        hint: what else to do where the place is somebody else's.
    """

    name: str
    title: str
    takes_others: bool
    hint: str = ELSEWHERE


def write_folder(
    path: Path,
    kind: Kind,
    contents: Mapping[str, Content],
    facts: Mapping[str, Any],
    *,
    replace: bool,
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a folder.

    Args:
        contents: by path below it.
        facts: for the record, beside the files.
        replace: one that deploykit wrote may go.
        finish: sees the finished folder before it is put in place; what it raises leaves everything as it was.

    Raises:
        BundleError: see `check_place`; or the disk refused.
    """
    check_place(path, kind, replace=replace)
    with new_folder(path) as folder:
        for name, content in contents.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
        digests = {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(all_files(folder))}
        record = {"kind": kind.name, "deploykit_version": __version__, **facts, "files": digests}
        (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        finish(folder)
        check_place(path, kind, replace=replace)


def check_place(path: Path, kind: Kind, *, replace: bool) -> None:
    """Say whether a folder of a kind may be put at ``path``; nothing is written.

    Raises:
        BundleError: something is there that deploykit did not write; or one of deploykit's is, and ``replace`` is False.
    """
    if not path.absolute().parent.is_dir():
        raise BundleError(f"{path.absolute().parent} is not a folder", hint=f"make it first, or {ELSEWHERE}")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    own = own_files(path, kind)
    if own is None:
        raise BundleError(f"{path} exists and is no {kind.title} of deploykit's", hint=kind.hint)
    foreign = sorted(file.relative_to(path).as_posix() for file in all_files(path))
    foreign = [name for name in foreign if name not in own and name != RECORD_NAME]
    if foreign and not kind.takes_others:
        more = f" and {len(foreign) - 1} more files" if len(foreign) > 1 else ""
        raise BundleError(f"{path} holds {foreign[0]}{more}, which deploykit did not write", hint=f"move it away, or {ELSEWHERE}")
    if not replace:
        raise BundleError(f"{path} exists", hint=f"replace it with --force, or {ELSEWHERE}")


def own_files(path: Path, kind: Kind) -> set[str] | None:
    """What the record says that deploykit wrote; None where there is no record of this kind."""
    try:
        record = json.loads((path / RECORD_NAME).read_text(encoding="utf-8"))
        return set(record["files"]) if record["kind"] == kind.name else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def all_files(folder: Path) -> Iterator[Path]:
    """Files and links below a folder."""
    return (file for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())
