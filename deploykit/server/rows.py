"""Batches are rows: put together, taken apart, and checked. Arrays by name, all with the same first dimension."""

from collections.abc import Mapping, Sequence

import numpy as np

from deploykit.errors import SessionError
from deploykit.runtime.session import Array


def join(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One batch of several, in their order."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(batch: Mapping[str, Array], most: int) -> list[dict[str, Array]]:
    """A batch in parts of so many rows at most, which are views; an empty batch is one part."""
    rows = max((len(array) for array in batch.values()), default=0)
    return [{name: array[start : start + most] for name, array in batch.items()} for start in range(0, max(rows, 1), most)]


def check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    """Refuse answers that cannot be told apart by row.

    Raises:
        SessionError: an output's first dimension is not the batch's.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise SessionError(f"output {name} has shape {list(array.shape)} for a batch of {rows}")
