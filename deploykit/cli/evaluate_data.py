"""Labelled pictures: a directory with a folder per class, or a CSV file. In: where they are. Out: `Samples`.

Which folder is which class is never guessed from an order where two orders are usual: torchvision sorts folder names as text, so
"10" stands before "2"; others sort them as numbers; nothing fails when the wrong one is taken, and every answer is then wrong.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit.errors import ImageError, UsageError
from deploykit.image import find_images
from deploykit.runtime.classes import find_class

FOLDER_RULES = ("names", "numbers", "text", "natural")
"""Folders are called like the labels; are class numbers; are in class order when sorted as text; or sorted as people do."""

_PATH_COLUMNS = ("path", "file", "filename", "image", "picture")
_CLASS_COLUMNS = ("label", "class", "class_index", "index", "target")


@dataclass(frozen=True)
class Sample:
    """A picture and its right class."""

    path: Path
    class_index: int


@dataclass(frozen=True)
class Samples:
    """What was found.

    Args:
        samples: at least one.
        rule: how classes were told, for the user.
    """

    samples: tuple[Sample, ...]
    rule: str


def read_samples(data: Path, labels: Sequence[str] | None, num_classes: int, folders: str | None = None) -> Samples:
    """The labelled pictures of a directory or a CSV file.

    Args:
        labels: of the bundle, in class order; None where it has none.
        folders: one of `FOLDER_RULES`; None takes the one that is certain.

    Raises:
        ImageError: nothing there, or no pictures.
        UsageError: classes that are not the bundle's, or that can be told in two ways.
    """
    if data.is_dir():
        return _read_folders(data, labels, num_classes, folders)
    if not data.exists():
        raise ImageError(f"{data}: no such file or directory")
    if folders is not None:
        raise UsageError("--folders goes with a directory, and --data is a file")
    return _read_csv(data, labels, num_classes)


def _read_folders(data: Path, labels: Sequence[str] | None, num_classes: int, rule: str | None) -> Samples:
    names = sorted(p.name for p in data.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise ImageError(f"{data} has no folders, expected one for each class", hint="or name a CSV file with lines of: path,label")
    classes, told = _classes_of_folders(names, labels, num_classes, rule)
    samples = []
    for name in names:
        try:
            samples += [Sample(path, classes[name]) for path in find_images([data / name])]
        except ImageError:  # noqa: PERF203 opening files costs more
            continue  # a class without pictures; other errors come again when a picture is opened
    if not samples:
        raise ImageError(f"{data}: no picture in any of its {len(names)} folders")
    return Samples(tuple(samples), told)


def _classes_of_folders(
    names: list[str], labels: Sequence[str] | None, num_classes: int, rule: str | None
) -> tuple[dict[str, int], str]:
    """The class of every folder, and how it was told."""
    by_name = _by_name(names, labels)
    unknown = [name for name in names if name not in by_name]
    if rule == "names" or (rule is None and labels is not None and not unknown):
        if unknown:
            raise UsageError(
                f"{len(unknown)} of {len(names)} folders are no labels of the bundle: {', '.join(unknown[:5])}",
                hint="labels.txt lists them; or tell with --folders how folders stand for classes",
            )
        return by_name, "folders are called like the bundle's labels"
    if rule in ("text", "natural"):
        return _in_order(
            names, num_classes, rule
        ), f"folders sorted as {'text' if rule == 'text' else 'people do'} are in class order"
    is_numbers = all(name.isdecimal() for name in names)
    if rule == "numbers" and not is_numbers:
        raise UsageError(f"folder {next(n for n in names if not n.isdecimal())!r} is no class number")
    if is_numbers:
        return _by_number(names, num_classes, is_asked=rule == "numbers"), "folders are class numbers"
    if labels is not None:
        raise UsageError(
            f"{len(unknown)} of {len(names)} folders are no labels of the bundle: {', '.join(unknown[:5])}",
            hint=f"if the {num_classes} folders in order are the classes, say so with --folders text (as torchvision sorts them)",
        )
    text, natural = (_in_order(names, num_classes, order) for order in ("text", "natural"))
    if text != natural:
        raise UsageError(_two_orders(text, natural), hint="say which was used in training: --folders text (torchvision) or natural")
    return text, "folders in order are the classes"


def _by_name(names: list[str], labels: Sequence[str] | None) -> dict[str, int]:
    """Folders whose name is a label: as it is, with spaces for underscores, or the first of several names; never of two classes."""
    found: dict[str, int] = {}
    keys: dict[str, set[int]] = {}
    for index, label in enumerate(labels or ()):
        for key in {_plain(label), _plain(label.split(",")[0])}:
            keys.setdefault(key, set()).add(index)
    for name in names:
        exact = [i for i, label in enumerate(labels or ()) if label == name]
        matches = set(exact) if len(exact) == 1 else keys.get(_plain(name), set())
        if len(matches) > 1:
            raise UsageError(
                f"folder {name!r} may be class {', '.join(map(str, sorted(matches)))}: they have that label",
                hint="name pictures and classes by number in a CSV file",
            )
        if matches:
            found[name] = next(iter(matches))
    return found


def _plain(text: str) -> str:
    return " ".join(re.split(r"[\s_]+", text.strip())).casefold()


def _by_number(names: list[str], num_classes: int, *, is_asked: bool) -> dict[str, int]:
    numbers = {name: int(name) for name in names}
    if len(set(numbers.values())) < len(names):
        raise UsageError("two folders have the same number", hint="rename one of them")
    high = max(names, key=int)
    if int(high) >= num_classes:
        raise UsageError(f"folder {high} is no class: the bundle has classes 0 to {num_classes - 1}")
    if not is_asked and len(names) == num_classes:
        # Every class has a folder, so a training run may have numbered them by their order as text.
        text = {name: i for i, name in enumerate(names)}
        if text != numbers:
            raise UsageError(
                _two_orders(text, numbers), hint="say which the network was trained with: --folders numbers, or --folders text"
            )
    return numbers


def _in_order(names: list[str], num_classes: int, order: str) -> dict[str, int]:
    if len(names) != num_classes:
        raise UsageError(
            f"{len(names)} folders for {num_classes} classes; an order tells classes only where each has its folder",
            hint="call folders like the labels, or number them and give --folders numbers",
        )
    ordered = names if order == "text" else sorted(names, key=_natural)
    return {name: i for i, name in enumerate(ordered)}


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"([0-9]+)", name)]


def _two_orders(a: dict[str, int], b: dict[str, int]) -> str:
    names = [name for name in a if a[name] != b[name]]
    return (
        f"folder {names[0]!r} is class {a[names[0]]} when names are sorted as text and class {b[names[0]]} when sorted as numbers; "
        f"{len(names)} of {len(a)} folders differ"
    )


def _read_csv(data: Path, labels: Sequence[str] | None, num_classes: int) -> Samples:
    """Lines of path and class; a first line of column names may say which is which. Paths are relative to the file."""
    try:
        with data.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"{data} cannot be read as CSV: {error}", hint="expected lines of: path,label") from error
    path_at, class_at, is_index = 0, 1, False
    if rows and (header := _header(rows[0][1])) is not None:
        path_at, class_at, is_index = header
        rows = rows[1:]
    if not rows:
        raise ImageError(f"{data} has no lines, expected lines of: path,label")
    samples = []
    for number, row in rows:
        if len(row) <= max(path_at, class_at):
            raise UsageError(f"{data}, line {number}: {row} has no class, expected: path,label")
        try:
            class_index = _class_of_cell(row[class_at].strip(), labels, num_classes, is_index=is_index)
        except UsageError as error:
            raise UsageError(f"{data}, line {number}: {error}", hint=error.hint) from error
        samples.append(Sample(data.parent / row[path_at].strip(), class_index))
    return Samples(tuple(samples), f"classes as {data.name} has them")


def _header(row: list[str]) -> tuple[int, int, bool] | None:
    cells = [cell.strip().casefold() for cell in row]
    path_at = next((i for i, cell in enumerate(cells) if cell in _PATH_COLUMNS), None)
    class_at = next((i for i, cell in enumerate(cells) if cell in _CLASS_COLUMNS), None)
    if path_at is None or class_at is None:
        return None
    return path_at, class_at, cells[class_at] in ("class_index", "index", "target")


def _class_of_cell(cell: str, labels: Sequence[str] | None, num_classes: int, *, is_index: bool) -> int:
    """A class by label or by number; where a number is also the label of another class it must be said which is meant."""
    if not cell.isdecimal():
        if is_index:
            raise UsageError(f"class is {cell!r}, expected a number from 0 to {num_classes - 1}")
        return find_class(cell, labels, num_classes)
    named = [] if is_index or labels is None else [i for i, label in enumerate(labels) if label == cell]
    if named and named != [int(cell)]:
        raise UsageError(
            f"{cell} is the label of class {named[0]} and the number of class {cell}",
            hint="name the column class_index and give numbers",
        )
    return find_class(int(cell), labels, num_classes)
