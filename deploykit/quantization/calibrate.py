"""Calibration: images through a graph, histograms out. In: a way to run the graph, and batches. Out: a `Histogram` per tensor.

Only histograms are kept. The activations of one batch are all there is in memory at a time, so memory depends on the batch size
(`deploykit.graph.exposure`) and not on the number of images.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from deploykit.errors import GraphError, UsageError
from deploykit.graph.scopes import with_only_outputs
from deploykit.quantization.histogram import Histogram, add_values, empty_histogram

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Histograms = dict[str, Histogram]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images to run at once.

    Args:
        names: one per row, for messages; such as ``cats/1.jpg`` or ``cats/1.jpg (crop 2)``.
        feeds: one array per input of the graph, images along the first axis.
    """

    names: tuple[str, ...]
    feeds: Mapping[str, Array]

    def __post_init__(self) -> None:
        wrong = [f"{name} has {len(array)}" for name, array in self.feeds.items() if len(array) != len(self.names)]
        if wrong or not self.names:
            raise ValueError(f"a batch of {len(self.names)} images: {', '.join(wrong) or 'expected at least one'}")


def expose(graph: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A copy of a graph that gives the tensors to be calibrated and nothing else; an input among them is known without that.

    Raises:
        UsageError: a tensor that the graph does not make.
    """
    inputs = {i.name for i in graph.graph.input}
    made = {name for node in graph.graph.node for name in node.output}
    unknown = [name for name in tensors if name not in made | inputs]
    if unknown:
        raise UsageError(f"the graph has no tensors {', '.join(unknown[:5])} to calibrate", hint="place again from this graph")
    return with_only_outputs(graph, tensors)


def collect(
    run: Run,
    tensors: Sequence[str],
    batches: Iterable[Batch],
    *,
    on_batch: Callable[[int], None] | None = None,
    threads: int = 0,
) -> Histograms:
    """Run every batch once and count the values of every tensor.

    Args:
        run: gives the exposed tensors (`expose`) of a batch by name, float32 [N, ...].
        tensors: what to calibrate, such as ``Placement.calibrated``. A graph input may be among them.
        batches: the images; asked for one at a time.
        on_batch: told after each batch how many images it had.
        threads: for the counting, which numpy does outside of Python's lock; 0 takes every core of this process.

    Returns:
        A histogram per tensor, in the order of ``tensors``. It depends on the images alone, not on batch sizes or threads.

    Raises:
        GraphError: NaN or infinity in a tensor, naming the first tensor and image; or ``run`` left a tensor out.
        UsageError: no tensors, or no batches.
    """
    names = list(dict.fromkeys(tensors))
    if not names:
        raise UsageError("no tensor is named to calibrate")
    histograms = dict.fromkeys(names, empty_histogram())
    images = 0
    with ThreadPoolExecutor(threads or _cores()) as pool:
        for batch in batches:
            # Values are popped one by one as threads take them up: an activation's memory goes back as soon as it is counted.
            outputs = dict(run(batch.feeds))
            missing = [name for name in names if name not in outputs and name not in batch.feeds]
            if missing:
                raise GraphError(f"the run gave no {', '.join(missing[:5])}", hint="run the graph that `expose` makes")
            tasks = [pool.submit(_count, name, histograms[name], outputs, batch) for name in names]
            del outputs
            histograms = {name: task.result() for name, task in zip(names, tasks, strict=True)}
            images += len(batch.names)
            if on_batch is not None:
                on_batch(len(batch.names))
    if not images:
        raise UsageError("there is no image to calibrate with", hint="name a directory that holds photos like those to come")
    return histograms


def _count(name: str, histogram: Histogram, outputs: dict[str, Array], batch: Batch) -> Histogram:
    values = outputs.pop(name) if name in outputs else batch.feeds[name]
    if not np.issubdtype(values.dtype, np.floating):
        raise GraphError(f"tensor {name!r} is {values.dtype}; only floating point tensors can be calibrated")
    try:
        return add_values(histogram, values)
    except FloatingPointError as error:
        raise GraphError(
            f"tensor {name!r} has {error}, first in {_first_image(values, batch.names)}",
            hint="the float graph itself overflows there: check its weights, and the image's preprocessing",
        ) from error


def _first_image(values: Array, names: tuple[str, ...]) -> str:
    """The first image with a value that is not finite in float32."""
    if values.shape[:1] != (len(names),):
        return f"a batch of {len(names)} from {names[0]}"
    with np.errstate(over="ignore"):
        is_bad = ~np.isfinite(values.astype(np.float32)).reshape(len(names), -1).all(axis=1)
    return names[int(np.argmax(is_bad))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
