"""What every session is: inputs and outputs described, `run`, `close`. And the one check of arrays before any backend sees them.

A session is one graph or plan ready to run. Backends differ; what they refuse and what they convert does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deploykit.errors import InputError

Array = npt.NDArray[Any]

# Conversions that keep every value, or lose only digits that the graph would not use. uint8 -> float32 is not here although it is
# exact: whoever sends pixels to a graph that takes normalized floats has skipped the normalization.
_CONVERTIBLE: Mapping[str, frozenset[str]] = {
    "float32": frozenset({"float16", "float64"}),
    "float16": frozenset(),
    "float64": frozenset({"float16", "float32"}),
    "int64": frozenset({"int8", "int16", "int32", "uint8", "uint16", "uint32"}),
    "int32": frozenset({"int8", "int16", "uint8", "uint16"}),
    "uint8": frozenset(),
}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output.

    Args:
        name: as the graph calls it.
        dtype: numpy's name, such as ``uint8``.
        shape: a number where the dimension is fixed, its name (``N``) where it is dynamic.
        value_range: the least and greatest value of a normalized picture, where the graph takes one and says so.
        sides: the least and greatest height and width of a photo, where a plan resizes it.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    value_range: tuple[float, float] | None = None
    sides: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


class Session(Protocol):
    """One graph or plan ready to run. Threads may share a session."""

    @property
    def backend(self) -> str:
        """What answers, with its version, such as ``onnxruntime 1.32.0 (CPU)``."""
        ...

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that `run` takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that `run` can give."""
        ...

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: one array for every input, by name. See `check_feeds` for what is converted and what is refused.
            outputs: names of the outputs to compute and copy back; None for all.

        Returns:
            New arrays by output name; nothing of the caller's memory is kept.

        Raises:
            InputError: a name, dtype, rank, dimension or value that the graph does not take.
            SessionError: the session is closed, or the backend failed.
        """
        ...

    def close(self) -> None:
        """Free what the session holds. Closing twice is harmless; running afterwards is an error."""
        ...

    def __enter__(self) -> "Session":
        """Itself; a ``with`` block closes it."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        ...


def check_feeds(feeds: Mapping[str, Array], inputs: Sequence[TensorInfo]) -> dict[str, Array]:
    """Arrays as a backend may read them: right name, dtype, rank and dimensions, native byte order, C-contiguous.

    Equal values give equal answers whatever the memory layout: views, Fortran order, negative and zero strides, read-only,
    unaligned and big-endian arrays are copied. float16 and float64 are converted for a float32 input, narrower integers for an
    int64 one. Anything that numpy can read as an array (a torch tensor on the CPU) counts as one.

    Raises:
        InputError: anything else; NaN or infinity; values that no normalized picture can have, where the graph says what those
            are. The message has what was seen and what is expected.
    """
    names = [i.name for i in inputs]
    if set(feeds) != set(names):
        raise InputError(f"inputs are {_quoted(feeds)}, the graph takes {_quoted(names)}")
    checked = {info.name: _check_array(feeds[info.name], info) for info in inputs}
    sizes = {(dim, array.shape[i]) for info in inputs for array in [checked[info.name]] for i, dim in enumerate(info.shape)}
    # "?" is a dimension without a name: two of them have nothing to do with each other.
    for dim in {d for d, _ in sizes if isinstance(d, str) and d != "?"}:
        if len(seen := sorted(size for d, size in sizes if d == dim)) > 1:
            raise InputError(f"inputs disagree about {dim}: {', '.join(map(str, seen))}; {_shapes(checked)}")
    return checked


def check_output_names(outputs: Sequence[str] | None, known: Sequence[TensorInfo]) -> list[str]:
    """The names of the outputs to compute.

    Raises:
        InputError: none, or one that the graph does not have.
    """
    names = [o.name for o in known]
    if outputs is None:
        return names
    if not outputs or not set(outputs) <= set(names):
        raise InputError(f"outputs asked for are {_quoted(outputs)}, the graph has {_quoted(names)}")
    return list(outputs)


def _check_array(value: object, info: TensorInfo) -> Array:
    source = _as_array(value, info)
    _check_shape(source, info)
    seen = source.dtype.newbyteorder("=").name
    if seen != info.dtype and seen not in _CONVERTIBLE.get(info.dtype, frozenset()):
        raise InputError(f"{info.name} has dtype {source.dtype.name}, expected {info}", hint=_dtype_hint(seen, info))
    if source.dtype == info.dtype and source.flags.carray:  # most are; the numpy calls below cost more than all other checks
        array = source
    else:
        # A misaligned array counts as contiguous, and a backend may read it with aligned loads.
        with np.errstate(over="ignore"):
            array = np.require(np.ascontiguousarray(source, dtype=info.dtype), requirements="A")
    if array.dtype.kind == "f":
        _check_values(array, info)
    return array


def _as_array(value: object, info: TensorInfo) -> Array:
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # a subclass such as a masked array becomes a plain one
    if hasattr(value, "__array__"):
        try:
            return np.asarray(value)
        except Exception as error:  # foreign code: torch raises RuntimeError or TypeError, others what they like
            raise InputError(f"{info.name}: {type(value).__name__} does not become a numpy array: {error}") from error
    raise InputError(f"{info.name} is a {type(value).__name__}, expected a numpy array: {info}")


def _check_values(array: Array, info: TensorInfo) -> None:
    # One pass each, and NaN or infinity in the array shows in its least or greatest value.
    least, greatest = float(array.min()), float(array.max())
    if not (np.isfinite(least) and np.isfinite(greatest)):
        raise InputError(f"{info.name} holds NaN or infinity (or a float64 beyond float32), expected finite numbers")
    if info.value_range is not None:
        low, high = info.value_range
        slack = (high - low) / 2  # bicubic overshoot and augmentation stay within; raw pixels and a second normalization do not
        if least < low - slack or greatest > high + slack:
            raise InputError(
                f"{info.name} has values from {least:.4g} to {greatest:.4g}, a normalized picture has {low:.4g} to {high:.4g}",
                hint="normalize exactly once: deploykit.image.normalize(pixels, spec)",
            )


def _check_shape(value: Array, info: TensorInfo) -> None:
    wrong = len(value.shape) != len(info.shape) or any(
        seen == 0 or (isinstance(expected, int) and seen != expected)
        for seen, expected in zip(value.shape, info.shape, strict=True)
    )
    if wrong:
        raise InputError(f"{info.name} has shape {list(value.shape)}, expected {info}", hint=_shape_hint(value, info))


def _shape_hint(value: Array, info: TensorInfo) -> str | None:
    expected = info.shape
    if len(value.shape) == len(expected) - 1:
        return "add the batch axis: array[None]"
    if value.size == 0:
        return "an empty batch has no answer; leave the call out"
    if len(value.shape) == 4 and len(expected) == 4:
        n, a, b, c = value.shape
        for turned, axes in (((n, c, a, b), (0, 3, 1, 2)), ((n, b, c, a), (0, 2, 3, 1))):
            if all(not isinstance(e, int) or e == s for e, s in zip(expected, turned, strict=True)):
                return f"the axes look swapped: array.transpose{axes} (not reshape)"
    return None


def _dtype_hint(seen: str, info: TensorInfo) -> str | None:
    if info.dtype == "uint8":
        return "send RGB pixels, 0 to 255, as they are; the graph normalizes them"
    if info.dtype == "float32" and seen == "uint8":
        return "pixels must be normalized first: deploykit.image.normalize(pixels, spec)"
    return None


def _quoted(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"


def _shapes(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
