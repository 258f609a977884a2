"""The repository on disk: every model's folder, what stands beside them, and whose folder it is.

    REPO/NAME/config.pbtxt, 1/..., warmup/..., labels.txt      one folder per model, which is all that Triton looks at
    REPO/README.md, REPO/deploykit.json                        what it is and how to start it; which files deploykit wrote
    REPO/kserve.yaml, REPO/kubernetes.yaml                     where asked for

Written beside its place and swapped in by one step. A folder that deploykit did not write, or to which something was added since,
is never replaced.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from deploykit import __version__
from deploykit.bundle import new_folder, sha256_of
from deploykit.errors import BundleError
from deploykit.integrations.triton.models import Content, Model

RECORD_NAME = "deploykit.json"
_KIND = "triton model repository"


def write_repository(
    path: Path,
    models: Sequence[Model],
    beside: Mapping[str, bytes],
    check: Callable[[Path], None],
    *,
    made_from: Mapping[str, str],
    replace: bool,
) -> None:
    """Write a repository.

    Args:
        models: at least one. beside: further files, by name.
        check: looks at the finished folder before it is put in place, and raises where it is wrong.
        made_from: the bundle's graphs or plans with their digests, for the record.
        replace: a repository that deploykit wrote may go.

    Raises:
        BundleError: see `check_place`; or the disk refused.
    """
    check_place(path, replace=replace)
    with new_folder(path) as folder:
        for name, content in _files(models, beside):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
        digests = {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(_all_files(folder))}
        record = {"kind": _KIND, "deploykit_version": __version__, "made_from": dict(made_from), "files": digests}
        (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        check(folder)
        check_place(path, replace=replace)


def check_place(path: Path, *, replace: bool) -> None:
    """Say whether a repository may be put at ``path``; nothing is written.

    Raises:
        BundleError: something is there that deploykit did not write; or a repository is, and ``replace`` is False.
    """
    elsewhere = "choose another place with -o"
    if not path.absolute().parent.is_dir():
        raise BundleError(f"{path.absolute().parent} is not a folder", hint=f"make it first, or {elsewhere}")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    own = _own_files(path)
    if own is None:
        raise BundleError(
            f"{path} exists and is no model repository of deploykit's",
            hint=f"{elsewhere}; Triton takes several repositories: --model-repository A --model-repository B",
        )
    foreign = sorted(file.relative_to(path).as_posix() for file in _all_files(path))
    foreign = [name for name in foreign if name not in own and name != RECORD_NAME]
    if foreign:
        more = f" and {len(foreign) - 1} more files" if len(foreign) > 1 else ""
        raise BundleError(f"{path} holds {foreign[0]}{more}, which deploykit did not write", hint=f"move it away, or {elsewhere}")
    if not replace:
        raise BundleError(f"{path} exists", hint=f"replace it with --force, or {elsewhere}")


def _files(models: Sequence[Model], beside: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
    for model in models:
        yield f"{model.config.name}/config.pbtxt", model.config.to_text().encode()
        for name, content in model.files.items():
            yield f"{model.config.name}/{name}", content
    yield from beside.items()


def _own_files(path: Path) -> set[str] | None:
    """What the record says that deploykit wrote; None where there is no such record."""
    try:
        record = json.loads((path / RECORD_NAME).read_text(encoding="utf-8"))
        return set(record["files"]) if record["kind"] == _KIND else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _all_files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())
