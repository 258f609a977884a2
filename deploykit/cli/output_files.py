"""Files that verbs write for the user: whole or not there, and never over what the verb read. ``--plot`` is one of them."""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from deploykit.errors import DeploykitError, MissingExtraError, UsageError

PLOT_FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class OutputFolder:
    """A folder that is made when the first file goes into it.

    Args:
        path: the folder.
        inputs: files that must never be written to: the pictures themselves.
    """

    path: Path
    inputs: frozenset[Path]

    def write(self, name: str, data: bytes) -> Path:
        """Put a file in place in one step, over one of that name from an earlier run; a killed process leaves the old one.

        Raises:
            UsageError: one of the pictures has this name and lies here.
            DeploykitError: the disk refused.
        """
        target = self.path / name
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if target.resolve() in self.inputs:
                raise UsageError(f"{target} is one of the pictures and would be overwritten", hint="choose another place with -o")
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".deploykit-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(temporary).chmod(0o666 & ~_umask())
                Path(temporary).replace(target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise DeploykitError(
                f"cannot write {target}: {error.strerror or error}", hint="choose another place with -o"
            ) from error
        return target


def write_file(path: Path, data: bytes, *, hint: str, inputs: Collection[Path] = ()) -> None:
    """Write one file into a folder of the user's; see `OutputFolder.write`.

    Args:
        hint: what to do where it cannot be written.
        inputs: files that the verb read.
    """
    try:
        OutputFolder(path.parent, frozenset(one.resolve() for one in inputs)).write(path.name, data)
    except DeploykitError as error:
        error.hint = hint
        raise


def plot_option(text: str) -> Callable[[Any], Any]:
    """``--plot FILE``; ``text`` says what is drawn."""
    names = f".{', .'.join(PLOT_FORMATS[:-1])} or .{PLOT_FORMATS[-1]}"
    return click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help=f"{text}: {names}.")


def check_plot(plot: Path | None) -> None:
    """Refuse before the work what would fail behind it.

    Raises:
        UsageError: a format that is not drawn.
        MissingExtraError: no matplotlib.
    """
    if plot is None:
        return
    if plot_format(plot) not in PLOT_FORMATS:
        raise UsageError(f"--plot is {plot}, expected a name that ends in .{', .'.join(PLOT_FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("--plot needs matplotlib, which is not installed", hint="pip install 'deploykit[plot]'")


def plot_format(plot: Path) -> str:
    """``png``, ``svg`` or ``pdf``."""
    return plot.suffix.lower().removeprefix(".")


def _umask() -> int:
    # It can only be read by setting it; mkstemp makes files that nobody else may read.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
