"""What the tests of explain graphs compare with: torch autograd at a module's output, and ONNX Runtime to run the graphs."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deploykit.models.export import export_graph
from deploykit.spec import ImageSpec

Array = npt.NDArray[Any]


class _PoolToOneIsMean(TorchFunctionMode):
    """Exported as it is, adaptive pooling of a channels-last tensor becomes Gather with computed indices, which has no gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.adaptive_avg_pool2d and args[1] in (1, (1, 1)):
            return args[0].mean((2, 3), keepdim=True)
        return func(*args, **(kwargs or {}))


def export(model: nn.Module, size: int, input_kind: str = "float", opset: int = 18) -> onnx.ModelProto:
    """The predict graph of a module for square images."""
    with _PoolToOneIsMean():
        return export_graph(model, ImageSpec(size, size, size), input_kind=input_kind, opset=opset)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(model: onnx.ModelProto | onnxruntime.InferenceSession, **feeds: Any) -> dict[str, Array]:
    """All outputs by name."""
    opened = model if isinstance(model, onnxruntime.InferenceSession) else session(model)
    names = [o.name for o in opened.get_outputs()]
    return dict(zip(names, opened.run(names, {k: np.asarray(v) for k, v in feeds.items()}), strict=True))


def autograd_at(model: nn.Module, layer: str, images: Array, classes: Array) -> tuple[Array, Array, Array]:
    """Logits, activations and gradients in float64, the layer's output cloned so that nothing behind it can change it in place."""
    double = copy.deepcopy(model).double().eval()
    with kept_output(double, layer) as kept:
        logits = double(torch.from_numpy(images).double())
    logits = logits["out"] if isinstance(logits, dict) else logits
    score = logits[torch.arange(len(images)), torch.as_tensor(classes)].sum()
    (gradient,) = torch.autograd.grad(score, kept[0])
    return logits.detach().numpy(), kept[0].detach().numpy(), gradient.numpy()


@contextmanager
def kept_output(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """The output of a module while a forward pass runs, as a leaf."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_(True))
        return kept[0].clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give normalization layers statistics and weights that matter; a fresh model has means of 0 and variances of 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return model.eval()


def pictures(rows: int, size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, 3, size, size)).astype(np.float32)


def relative(found: Array, expected: Array) -> float:
    """Largest difference, relative to the largest expected value."""
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def grad_cam(activations: Array, gradients: Array) -> Array:
    """relu(sum_c mean_hw(g_c) A_c), in numpy."""
    return np.asarray(np.maximum((gradients.mean((2, 3), keepdims=True) * activations).sum(1), 0))
