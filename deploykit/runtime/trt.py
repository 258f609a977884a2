"""A session over a TensorRT plan, of either product. In: a plan beside its plan.json. Out: `TrtSession`.

The plan is looked at before TensorRT sees it (`deploykit.plan`) and loaded once. Each run takes a lane of its own from a pool, so
threads share a session. A batch below the plan's range is filled up, one above it goes through in several runs. Photos that the
plan resizes itself come one a run, each at its own size.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.errors import EngineError, InputError, UsageError
from deploykit.plan import ON_CPU, BatchRange, Gpu, read_content, read_header, read_plan, read_record
from deploykit.runtime.device import Device, open_device
from deploykit.runtime.device_arrays import DeviceArray
from deploykit.runtime.lane import Lane, Rows, plan_capturing
from deploykit.runtime.lane_pool import LanePool
from deploykit.runtime.plan_inputs import check_plan_feeds, describe_tensors
from deploykit.runtime.session import Array, TensorInfo, check_output_names
from deploykit.trt import find_gpu, load_flavour
from deploykit.trt.engine import Engine, load_engine
from deploykit.trt.flavour import load_plugins


@dataclass(frozen=True)
class LoadedPlan:
    """A plan on its GPU: what `TrtSession` runs."""

    engine: Engine
    device: Device
    gpu: Gpu


class TrtSession:
    """A plan on TensorRT; see `deploykit.runtime.session.Session`. Inputs may stand on the GPU already (DLPack, or
    ``__cuda_array_interface__``): those are read where they are, and their values are not checked.

    Args:
        plan: predict.plan or explain.plan; its plan.json stands beside it.
        device: the GPU, as ``CUDA_VISIBLE_DEVICES`` counts.
        cuda_graphs: capture a batch size that comes again, which starts it with one launch.
        lanes: how many runs can be under way at once; each has memory of its own for activations, inputs and outputs.
        value_ranges: the least and greatest value of an input, where a normalized picture is expected.
        plugins: shared libraries that the plan needs.
        load: how a plan gets onto a GPU; a test puts a stand-in here.

    Raises:
        UsageError: ``lanes`` below 1.
        EngineError: the plan is damaged, stripped, or for something else than what is here; without a GPU, how to go on.
        MissingExtraError: TensorRT is not installed, or neither pycuda nor cuda-core is.
        SessionError: CUDA or TensorRT fails.
    """

    def __init__(
        self,
        plan: str | Path,
        *,
        device: int = 0,
        cuda_graphs: bool = True,
        lanes: int = 4,
        value_ranges: Mapping[str, tuple[float, float]] | None = None,
        plugins: tuple[Path, ...] = (),
        load: Callable[[Path, int, tuple[Path, ...]], LoadedPlan] | None = None,
    ) -> None:
        if lanes < 1:
            raise UsageError(f"lanes is {lanes}, expected 1 or more")
        loaded = (load or load_plan)(Path(plan), device, plugins)
        engine, self._device = loaded.engine, loaded.device
        self._batch = engine.batch
        self._backend = f"{engine.name} ({loaded.gpu.name})"
        self._tensors = engine.tensors
        self._inputs, self._outputs = describe_tensors(engine, value_ranges or {})
        self._capturing = capturing = plan_capturing(engine, is_wanted=cuda_graphs)
        # The pool outlives the session by a moment, so nothing that it holds may refer to the session.
        self._pool = LanePool(loaded.device, lambda: Lane(engine, loaded.device, capturing), lanes, engine.close)
        # Also where nobody closes it: when it is collected, or when the interpreter ends and CUDA is still there.
        self._finalize = weakref.finalize(self, self._pool.close)

    @property
    def backend(self) -> str:
        """What answers, with its version, such as ``tensorrt 11.4.0.106 (NVIDIA A10)``."""
        return self._backend

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that `run` takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that `run` can give."""
        return self._outputs

    @property
    def batch(self) -> BatchRange:
        """The batch sizes that the plan itself takes."""
        return self._batch

    @property
    def not_captured(self) -> str | None:
        """Why batch sizes are not captured as CUDA graphs although they should be; None where they are, or nobody asked."""
        return self._capturing.refused

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; see `deploykit.runtime.session.Session.run`. More rows than the plan takes go through in several runs."""
        names = check_output_names(outputs, self._outputs)
        rows, arrays = check_plan_feeds(feeds, self._inputs, self._tensors, self._device.ordinal)
        with self._pool.take() as lane:
            parts = [self._run_part(lane, arrays, start, stop, names) for start, stop in _parts(rows, self._batch.max)]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in names}

    @contextlib.contextmanager
    def prepare(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> Iterator["PreparedCall"]:
        """One call to be made many times over, as `deploykit.benchmark.timing.Device` wants it; it keeps a lane meanwhile.

        Raises:
            InputError: what `run` refuses, or more rows than the plan takes at once.
            SessionError: the session is closed.
        """
        names = check_output_names(outputs, self._outputs)
        rows, arrays = check_plan_feeds(feeds, self._inputs, self._tensors, self._device.ordinal)
        if rows > self._batch.max:
            raise InputError(f"{rows} rows are prepared, the plan takes {self._batch.max} at once")
        with self._pool.take() as lane:
            padded = max(rows, self._batch.min)
            yield PreparedCall(lane, self._device, arrays, (rows, padded), names)
            lane.synchronize()

    def close(self) -> None:
        """Free the session; memory of runs that are under way is freed when they end. Closing twice is harmless."""
        self._finalize()

    def __enter__(self) -> "TrtSession":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run_part(self, lane: Lane, arrays: Mapping[str, Rows], start: int, stop: int, names: Sequence[str]) -> dict[str, Array]:
        part = {n: a.rows(start, stop) if isinstance(a, DeviceArray) else a[start:stop] for n, a in arrays.items()}
        padded = max(stop - start, self._batch.min)
        lane.start(part, lane.load(part, padded), padded, names)
        lane.synchronize()
        return lane.read(names, stop - start)


class PreparedCall:
    """A call whose arrays are checked and in pinned memory. What is timed: copy in, run, copy of the wanted outputs back."""

    def __init__(
        self, lane: Lane, device: Device, feeds: Mapping[str, Rows], rows: tuple[int, int], outputs: Sequence[str]
    ) -> None:
        self._lane, self._device, self._feeds, self._outputs = lane, device, feeds, outputs
        self._rows, self._padded = rows
        self._addresses = lane.load(feeds, self._padded)

    def enqueue(self) -> None:
        """Start one call; it returns before the GPU is done."""
        # Another thread than the one that prepared it may call.
        with self._device.activate():
            self._lane.start(self._feeds, self._addresses, self._padded, self._outputs, timed=True)

    def synchronize(self) -> None:
        """Wait until the call is done."""
        with self._device.activate():
            self._lane.synchronize()

    def is_idle(self) -> bool:
        """Whether the GPU has nothing left to do for it."""
        with self._device.activate():
            return self._lane.is_idle()

    def spans_ms(self) -> Mapping[str, float]:
        """``h2d``, ``gpu`` and ``d2h`` of the last call, by the GPU's clock."""
        with self._device.activate():
            return self._lane.spans_ms()

    def results(self) -> dict[str, npt.NDArray[Any]]:
        """What the last call gave, after `synchronize`."""
        return self._lane.read(self._outputs, self._rows)


def load_plan(path: Path, ordinal: int = 0, plugins: tuple[Path, ...] = ()) -> LoadedPlan:
    """A plan on a GPU, after every refusal.

    Raises:
        EngineError, MissingExtraError, SessionError: see `TrtSession`.
    """
    record, gpu = read_record(path.parent), find_gpu(ordinal)
    if record is not None:
        backend, built_with = record.backend, record.version
    elif header := read_header(read_content(path)):
        backend, built_with = header.backend, header.version
    else:
        backend, built_with = "tensorrt", "0.0"  # no plan at all, as `read_plan` will say
    # Without a GPU that is what counts, whatever else is missing here.
    flavour = load_flavour(backend) if gpu is not None else None
    version = flavour.version if flavour else built_with
    names = tuple(library.name for library in plugins)
    data = read_plan(path, backend=backend, version=version, gpu=gpu, plugins=names)
    if gpu is None or flavour is None:
        raise EngineError(
            f"{path} cannot run here: this machine has no NVIDIA GPU that the CUDA driver can use",
            hint=ON_CPU,
        )
    device = open_device(ordinal)
    with device.activate():
        load_plugins(flavour, plugins)
        return LoadedPlan(load_engine(flavour, data, version_compatible=bool(record and record.version_compatible)), device, gpu)


def _parts(rows: int, most: int) -> list[tuple[int, int]]:
    """Where the runs of so many rows begin and end: ``(0, 32), (32, 64), (64, 67)``."""
    return [(start, min(start + most, rows)) for start in range(0, rows, most)]
