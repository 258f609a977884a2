"""Which class a user means: by its index, or by its label."""

import difflib
import operator
from collections.abc import Sequence
from typing import SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from deploykit.errors import UsageError

ClassName: TypeAlias = SupportsIndex | str
"""A class by its index (int, numpy integer) or by its label."""

ClassNames: TypeAlias = ClassName | Sequence[ClassName | None] | npt.NDArray[np.integer] | None
"""One class for every row, or one for each; None for a row's own likeliest."""

OWN_TOP = -1
"""What an explain graph's ``class_index`` takes for the row's own top-1."""


def find_class(wanted: ClassName | None, labels: Sequence[str] | None, num_classes: int) -> int:
    """The index of a class; None means the row's own top-1 and gives -1.

    A label is compared as it is, then without regard to case.

    Raises:
        UsageError: no such label (with the nearest), a label that several classes share, an index outside 0 .. num_classes - 1,
            or something that is neither.
    """
    if wanted is None:
        return OWN_TOP
    if isinstance(wanted, str):
        return _find_label(wanted, labels)
    if isinstance(wanted, bool):
        raise UsageError(f"class is {wanted}, expected an index or a label")
    try:
        index = operator.index(wanted)
    except TypeError:
        raise UsageError(f"class is {wanted!r}, expected an index or a label") from None
    if not 0 <= index < num_classes:
        hint = "None explains each picture's own likeliest class" if index == OWN_TOP else None
        raise UsageError(f"class index is {index}, expected 0 to {num_classes - 1}", hint=hint)
    return index


def find_classes(wanted: ClassNames, rows: int, labels: Sequence[str] | None, num_classes: int) -> list[int]:
    """One index per row: from one class for all rows, or from one per row.

    Raises:
        UsageError: as many classes as rows are needed; or see `find_class`.
    """
    if isinstance(wanted, np.ndarray):
        wanted = wanted.tolist()
    if isinstance(wanted, bytes):
        raise UsageError(f"class is {wanted!r}, expected an index or a label")
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        return [find_class(wanted, labels, num_classes)] * rows
    if len(wanted) != rows:
        raise UsageError(f"{len(wanted)} classes for {rows} pictures, expected one class for all or one for each")
    return [find_class(one, labels, num_classes) for one in wanted]


def _find_label(wanted: str, labels: Sequence[str] | None) -> int:
    if labels is None:
        raise UsageError(f"the bundle has no labels to look for {wanted!r} in", hint="name the class by its index")
    for key in (str, str.casefold):
        matches = [i for i, label in enumerate(labels) if key(label) == key(wanted)]
        if len(matches) > 1:
            raise UsageError(f"label {wanted!r} is that of classes {', '.join(map(str, matches))}", hint="name one by its index")
        if matches:
            return matches[0]
    folded = {label.casefold(): label for label in labels}
    close = [folded[name] for name in difflib.get_close_matches(wanted.casefold(), folded, n=4, cutoff=0.6)]
    inside = [label for label in labels if wanted.casefold() in label.casefold()] if wanted else []
    near = list(dict.fromkeys([*close, *inside]))[:6]
    raise UsageError(
        f"no class has the label {wanted!r}{'; close: ' + ', '.join(near) if near else ''}",
        hint=f"labels.txt in the bundle lists all {len(labels)}",
    )
