"""What a plan takes and gives, in the words of sessions; and the check of arrays before TensorRT sees them.

In: a loaded engine; arrays of the host or of the GPU. Out: `TensorInfo` as a session over the plan's graph has it; arrays that may
be read, or a clear error. TensorRT keeps no names of dimensions: the batch is N, a photo's sides are H and W.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from deploykit.errors import InputError
from deploykit.runtime.device_arrays import is_on_device, read_device_array
from deploykit.runtime.lane import Rows
from deploykit.runtime.session import TensorInfo, check_feeds
from deploykit.spec import PHOTO_SIDES
from deploykit.trt.engine import Engine, PlanTensor


def describe_tensors(
    engine: Engine, value_ranges: Mapping[str, tuple[float, float]]
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs, each in the plan's order.

    A plan takes any number of rows, in several runs if need be, so the batch is N even where the plan's own is fixed. Only where
    inputs differ in size and the plan takes one row a run, it is 1, as in the graph: photos do not make an array together.
    """
    is_single = engine.batch.max == 1 and any(t.varies for t in engine.tensors)
    rows = 1 if is_single else "N"
    return (
        tuple(
            TensorInfo(t.name, t.dtype, (rows, *_row_dims(t)), value_ranges.get(t.name), _sides(t))
            for t in engine.tensors
            if t.is_input
        ),
        tuple(TensorInfo(t.name, t.dtype, (rows, *t.row_shape)) for t in engine.tensors if not t.is_input),
    )


def check_plan_feeds(
    feeds: Mapping[str, Any], inputs: Sequence[TensorInfo], tensors: Sequence[PlanTensor], ordinal: int
) -> tuple[int, dict[str, Rows]]:
    """How many rows there are, and arrays that may be read; those on the GPU are described and stay there.

    Args:
        inputs, tensors: what the plan takes, as described and as it is.
        ordinal: of the GPU that will read them.

    Raises:
        InputError: what `check_feeds` and `read_device_array` refuse; numbers of rows that differ; a size outside of the profile.
    """
    on_device = {info.name for info in inputs if info.name in feeds and is_on_device(feeds[info.name])}
    if not on_device or set(feeds) != {info.name for info in inputs}:
        arrays: dict[str, Rows] = dict(check_feeds(feeds, inputs))
    else:
        here = [info for info in inputs if info.name not in on_device]
        arrays = dict(check_feeds({info.name: feeds[info.name] for info in here}, here))
        for info in inputs:
            if info.name in on_device:
                arrays[info.name] = read_device_array(feeds[info.name], info, ordinal)
    sizes = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"inputs disagree about N: {', '.join(f'{name} has {size} rows' for name, size in sizes.items())}")
    for tensor in tensors:
        if tensor.varies:
            _check_size(tensor, arrays[tensor.name].shape)
    return next(iter(sizes.values())), arrays


def _check_size(tensor: PlanTensor, shape: tuple[int, ...]) -> None:
    """Refuse a photo outside of the plan's profile, which TensorRT would refuse without saying what to do."""
    ranges = list(zip(tensor.least_shape or tensor.row_shape, tensor.row_shape, strict=True))
    if all(low <= size <= high for size, (low, high) in zip(shape[1:], ranges, strict=True)):
        return
    taken = ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in ranges)
    seen = f"{tensor.name} has shape {list(shape)}"
    if not _is_photo(tensor):
        raise InputError(f"{seen}, the plan takes [{shape[0]}, {taken}]", hint="build the plan for such sizes")
    least, greatest = PHOTO_SIDES
    is_large = any(size > high for size, (_, high) in zip(shape[1:], ranges, strict=True))
    raise InputError(
        f"{seen}, a photo of {shape[2]} x {shape[1]} pixels; the plan takes [{shape[0]}, {taken}]",
        hint=f"send a {'smaller' if is_large else 'larger'} photo, or build the plan for such photos: deploykit build --photo-size "
        f"MIN:OPT:MAX, within {least} and {greatest}",
    )


def _row_dims(tensor: PlanTensor) -> tuple[int | str, ...]:
    """The dimensions behind the batch: a number where one is fixed, otherwise its name; ``?`` where it has none."""
    if tensor.least_shape is None:
        return tensor.row_shape
    if _is_photo(tensor):
        return ("H", "W", tensor.row_shape[-1])
    return tuple("?" if low < high else high for low, high in zip(tensor.least_shape, tensor.row_shape, strict=True))


def _sides(tensor: PlanTensor) -> tuple[int, int] | None:
    """The least and greatest height and width of photos; None where an input is none."""
    if tensor.least_shape is None or not _is_photo(tensor):
        return None
    return max(tensor.least_shape[:2]), min(tensor.row_shape[:2])


def _is_photo(tensor: PlanTensor) -> bool:
    """Whether an input is photos [N, H, W, 3] that the plan resizes itself."""
    return tensor.varies and tensor.dtype == "uint8" and len(tensor.row_shape) == 3 and tensor.row_shape[-1] == 3
