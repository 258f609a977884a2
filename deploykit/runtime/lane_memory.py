"""A lane's memory: of every input and output a place on the device, and pinned memory from which and to which it is copied.

In: how many rows a run has, and how large they are. Out: addresses, and views of pinned memory. What a batch of fixed rows needs
grows with the batch, to powers of two, so that it is moved a few times at most. An input whose rows differ in size, as photos do,
has memory of its own size that grows to powers of two as well: a plan for photos of up to 4096 x 4096 pixels would take 100 MB a
lane before the first one came.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.runtime.device import Bytes, Device, DeviceMemory, PinnedMemory
from deploykit.trt.engine import Engine, PlanTensor

ALIGNMENT = 256  # of what TensorRT reads; all memory of the driver has it

Shape = tuple[int, ...]


@dataclass(frozen=True)
class PinnedRows:
    """Rows in pinned memory: as bytes and as what they are. The same memory."""

    raw: Bytes
    values: npt.NDArray[Any]


class LaneMemory:
    """See above. Every method wants the device to be active, and nothing that uses the memory to be under way. After an error it
    is freed and another one made.

    Args:
        engine: whose tensors they are.
        device: where.
    """

    def __init__(self, engine: Engine, device: Device) -> None:
        self._device, self._most_rows = device, engine.batch.max
        self._tensors = {t.name: t for t in engine.tensors}
        self._memory: dict[str, DeviceMemory] = {}
        self._pinned: dict[str, PinnedMemory] = {}
        self._views: dict[tuple[str, int], PinnedRows] = {}
        self._rows = 0

    def holds(self, rows: int) -> bool:
        """Whether there is room for so many rows already; if not, `reserve` moves all memory."""
        return rows <= self._rows

    def reserve(self, rows: int, sized: Mapping[str, Shape]) -> None:
        """Make room.

        Args:
            rows: of every tensor.
            sized: the shape of a row of each input that differs in size and will stand here; others need no room.
        """
        if not self.holds(rows):
            self.free()
            capacity = min(_power_of_two(rows), self._most_rows)
            for name, tensor in self._tensors.items():
                size = 0 if tensor.varies else capacity * tensor.row_bytes
                self._memory[name] = self._device.allocate(max(size, ALIGNMENT))
            self._rows = capacity
        for name, row_shape in sized.items():
            self._grow(self._tensors[name], rows, row_shape)

    def address(self, name: str) -> int:
        """Where a tensor stands on the device."""
        return self._memory[name].address

    def pinned(self, name: str, rows: int, row_shape: Shape | None = None) -> PinnedRows:
        """The first rows of a tensor's pinned memory, which is made when it is first asked for, as large as its device memory.

        Args:
            row_shape: where rows differ in size; otherwise it is the tensor's.
        """
        tensor = self._tensors[name]
        found = None if tensor.varies else self._views.get((name, rows))
        if found is None:
            if name not in self._pinned:
                self._pinned[name] = self._device.allocate_pinned(self._memory[name].size_bytes)
            shape = (rows, *(row_shape or tensor.row_shape))
            raw = self._pinned[name].array[: _bytes(tensor, shape)]
            found = PinnedRows(raw, raw.view(tensor.dtype).reshape(shape))
            if not tensor.varies:  # photos have more sizes than anybody could keep views of
                self._views[name, rows] = found
        return found

    def free(self) -> None:
        """Free everything, and begin anew. Nothing is left even where CUDA refuses some of it."""
        self._rows = 0
        self._free(list(self._tensors))

    def _grow(self, tensor: PlanTensor, rows: int, row_shape: Shape) -> None:
        size_bytes = _bytes(tensor, (rows, *row_shape))
        if size_bytes > self._memory[tensor.name].size_bytes:
            self._free([tensor.name])
            most = self._most_rows * tensor.row_bytes
            self._memory[tensor.name] = self._device.allocate(min(_power_of_two(size_bytes), most))

    def _free(self, names: list[str]) -> None:
        owned: list[Callable[[], None]] = [self._memory.pop(name).free for name in names if name in self._memory]
        owned += [self._pinned.pop(name).free for name in names if name in self._pinned]
        for key in [key for key in self._views if key[0] in names]:
            del self._views[key]
        with ExitStack() as freeing:
            for free in reversed(owned):
                freeing.callback(free)


def _bytes(tensor: PlanTensor, shape: Shape) -> int:
    return math.prod(shape) * np.dtype(tensor.dtype).itemsize


def _power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()
