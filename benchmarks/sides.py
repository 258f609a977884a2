"""The sides of the comparison of runtimes, each made in a process of its own (`benchmarks.worker`): a network in, its calls out.

All take the same pictures: pixels with the statistics of photos, which all but ``deploykit, pixels`` get normalized to float32
[N, 3, H, W], so that what is compared is the network alone. Every call gives the logits as a numpy array.

What only one side needs is imported by that side, in its own process: torch beside ONNX Runtime is a second thread pool.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.worker import SideAbsent
from deploykit.benchmark.timing import Call
from deploykit.bundle import Bundle
from deploykit.image import normalize
from deploykit.parity import sample_pictures

BATCHES = (1, 8)

Calls = Mapping[str, Call]
Array = npt.NDArray[Any]


def prepare_network(folder: Path, name: str) -> Calls:
    """Export a network with both kinds of input, and keep its weights for the sides that run in torch.

    The weights are the registry's random ones, whose normalization statistics were measured when they were made: with unmeasured
    ones activations vanish or overflow layer by layer, and arithmetic on such numbers has another speed.
    """
    import torch

    from benchmarks.load import export_network
    from deploykit.cli.export_bundle import Choices
    from deploykit.models.registry import load_model

    for kind in ("float", "pixels"):
        export_network(name, bundle_path(folder, name, kind), Choices(input_kind=kind, explain=False))
    torch.save(load_model(name).model.state_dict(), weights_path(folder, name))  # the seed is fixed: the same as in the bundles
    return {}


def bundle_path(folder: Path, name: str, kind: str) -> Path:
    """Where `prepare_network` puts the bundle whose graph takes ``float`` or ``pixels``."""
    return folder / f"{name}-{kind}"


def weights_path(folder: Path, name: str) -> Path:
    """Where `prepare_network` puts the state_dict."""
    return folder / f"{name}.pt"


def make_deploykit(folder: Path, name: str, threads: int, kind: str) -> Calls:
    """deploykit's session on its own graph."""
    from deploykit.runtime.classifier import open_predict

    session = open_predict(Bundle.open(bundle_path(folder, name, kind)), "fp32", threads=threads)

    def answer(pictures: Array) -> Array:
        return session.run({"image": pictures}, ["logits"])["logits"]

    return _by_batch(answer, _pictures(folder, name, kind))


def make_torch(folder: Path, name: str, threads: int, compiled: bool) -> Calls:
    """The model in eager mode; or compiled by inductor with its weights frozen in and the batch fixed, which is its best.

    Raises:
        SideAbsent: to be compiled, and there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if compiled and shutil.which(compiler) is None:
        raise SideAbsent(f"inductor needs a C++ compiler, and {compiler} is not on the path")
    import torch
    import torch._inductor.config as inductor

    from deploykit.models.registry import load_model

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)  # and not inference_mode, under which inductor does not freeze
    inductor.freezing = compiled
    model = load_model(name).model
    run: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model, dynamic=False) if compiled else model
    calls = _by_batch(lambda pictures: np.asarray(run(torch.from_numpy(pictures))), _pictures(folder, name, "float"))
    for call in calls.values():
        call()  # compiles
    return calls


def make_openvino(folder: Path, name: str, threads: int) -> Calls:
    """OpenVINO on deploykit's graph with the batch fixed, which is its best, in float32: left alone it takes bfloat16 where it can.

    Raises:
        SideAbsent: it is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise SideAbsent("openvino is not installed")
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_HYPER_THREADING": True,  # or it leaves every second core of a virtual machine idle
    }
    calls: dict[str, Call] = {}
    for batch, pictures in _pictures(folder, name, "float").items():
        graph = core.read_model(Bundle.open(bundle_path(folder, name, "float")).file("fp32/predict.onnx"))
        graph.reshape(list(pictures.shape))
        request = core.compile_model(graph, "CPU", settings).create_infer_request()
        calls[batch] = partial(_infer, request, pictures)
    return calls


def _infer(request: Any, pictures: Array) -> Array:
    """One answer, with neither the input nor the output copied."""
    return np.asarray(request.infer([pictures], share_inputs=True, share_outputs=True)[0])


def _pictures(folder: Path, name: str, kind: str) -> dict[str, Array]:
    """The input of every batch size."""
    spec = Bundle.open(bundle_path(folder, name, kind)).manifest.image
    pixels = sample_pictures(max(BATCHES), spec.height, spec.width, seed=1)
    pictures = normalize(pixels, spec) if kind == "float" else pixels
    return {f"batch {n}": np.ascontiguousarray(pictures[:n]) for n in BATCHES}


def _by_batch(answer: Callable[[Array], Array], pictures: Mapping[str, Array]) -> Calls:
    return {batch: partial(answer, array) for batch, array in pictures.items()}
