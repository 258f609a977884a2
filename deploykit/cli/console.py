"""How the command line talks: results on stdout, everything else on stderr, errors as ``error:`` and ``hint:``."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import click

from deploykit.errors import DeploykitError
from deploykit.interruption import stop_if_interrupted


def result(text: str) -> None:
    """Print what was asked for."""
    click.echo(text)


def note(text: str) -> None:
    """Say what is going on, unless --quiet. Between two steps, so an interruption that was lost is heard here."""
    stop_if_interrupted()
    if not _is_quiet():
        click.echo(text, err=True)


def warn(text: str) -> None:
    """Say what the user should know although the command goes on."""
    click.echo(f"{_style('warning:', 'yellow')} {text}", err=True)


def show_error(error: DeploykitError | str, hint: str | None = None) -> None:
    """Say what went wrong and what to do."""
    click.echo(f"{_style('error:', 'red')} {error}", err=True)
    hint = hint or (error.hint if isinstance(error, DeploykitError) else None)
    if hint:
        click.echo(f"{_style('hint:', 'cyan')} {hint}", err=True)


@contextlib.contextmanager
def progress(label: str, total: float | None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr where that is a terminal, one line where it is not, nothing with --quiet.

    Args:
        label: what is being done.
        total: how many steps; None where that is not known (yet).

    Yields:
        ``advance(steps=1)``, or ``advance(to=done, total=total)`` where the work itself counts.
    """
    if _is_quiet() or not sys.stderr.isatty():
        note(label)
        yield lambda *_, **__: None
        return
    # Imported here: it costs 60 ms that --help and --json need not pay.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)

        def advance(steps: float = 1, *, to: float | None = None, total: float | None = None) -> None:
            if to is None:
                bar.update(task, advance=steps)
            else:
                bar.update(task, completed=to, total=total)

        yield advance
        total = bar.tasks[0].total or 1
        bar.update(task, total=total, completed=total)


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().meta.get("quiet"))


def _style(text: str, colour: str) -> str:
    # click drops colours when stderr is no terminal; NO_COLOR is left to its callers (https://no-color.org).
    return text if os.environ.get("NO_COLOR") or not sys.stderr.isatty() else click.style(text, fg=colour, bold=True)
