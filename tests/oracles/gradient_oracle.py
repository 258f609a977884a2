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
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor, nn

from deploykit.models.export import export_graph
from deploykit.spec import ImageSpec

Array = npt.NDArray[Any]


def export(model: nn.Module, size: int, input_kind: str = "float", opset: int = 18) -> onnx.ModelProto:
    """The predict graph of a module for square images."""
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


def as_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph computed in float64, for `onnx.reference`: no gate flips because a sum was rounded the other way."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    graph = double.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:  # float32 zeros unless told
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    return double


def torch_of(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array))


class Conv(OpRun):
    """By torch, for speed."""

    op_domain = ""

    def _run(
        self, x: Array, w: Array, b: Any = None, *, strides: Any = None, pads: Any = None, dilations: Any = None, **more: Any
    ) -> Any:
        top, left, bottom, right = pads or [0] * 4
        padded = F.pad(torch_of(x), (left, right, top, bottom))
        bias = None if b is None else torch_of(b)
        stride, dilation, groups = list(strides or [1, 1]), list(dilations or [1, 1]), more.get("group") or 1
        return (F.conv2d(padded, torch_of(w), bias, stride=stride, dilation=dilation, groups=groups).numpy(),)


class Sigmoid(OpRun):
    """By torch, for speed: `onnx.reference` goes element by element."""

    op_domain = ""

    def _run(self, x: Array) -> Any:
        return (torch.sigmoid(torch_of(x)).numpy(),)


class AveragePool(OpRun):
    """By torch, for speed."""

    op_domain = ""

    def _run(self, x: Array, kernel_shape: Any = None, strides: Any = None, pads: Any = None, **more: Any) -> Any:
        padding, count = list(pads or [0, 0])[:2], bool(more.get("count_include_pad"))
        ceil_mode = bool(more.get("ceil_mode"))
        return (F.avg_pool2d(torch_of(x), list(kernel_shape), list(strides or [1, 1]), padding, ceil_mode, count).numpy(),)


class Resize(OpRun):
    """By torch, for speed: the bilinear upsampling of segmentation heads."""

    op_domain = ""

    def _run(self, x: Array, _roi: Any, _scales: Any, sizes: Any = None, *, mode: Any = None, **more: Any) -> Any:
        assert mode == "linear"
        assert more["coordinate_transformation_mode"] in {"half_pixel", "pytorch_half_pixel"}
        return (F.interpolate(torch_of(x), sizes[2:].tolist(), mode="bilinear").numpy(),)


class MaxPool(OpRun):
    """By torch: `onnx.reference` 1.23 gives another size for GoogLeNet's 3x3 pooling of stride 1 with ceil_mode."""

    op_domain = ""

    def _run(self, x: Array, kernel_shape: Any = None, strides: Any = None, pads: Any = None, ceil_mode: Any = 0, **_: Any) -> Any:
        padding = list(pads or [0, 0])[:2]
        return (F.max_pool2d(torch_of(x), list(kernel_shape), list(strides), padding, ceil_mode=bool(ceil_mode)).numpy(),)


class ConvTranspose(OpRun):
    """By torch: `onnx.reference` 1.23 fails where groups have several input channels and one output channel."""

    op_domain = ""

    def _run(self, x: Array, w: Array, *_: Any, strides: Any = None, pads: Any = None, dilations: Any = None, **more: Any) -> Any:
        stride, dilation = list(strides or [1, 1]), list(dilations or [1, 1])
        full = F.conv_transpose2d(torch_of(x), torch_of(w), stride=stride, dilation=dilation, groups=more.get("group") or 1)
        top, left, bottom, right = pads or [0] * 4
        extra = more.get("output_padding") or [0, 0]
        return (F.pad(full, (-left, extra[1] - right, -top, extra[0] - bottom)).numpy(),)


def run_double(model: onnx.ModelProto, **feeds: Any) -> dict[str, Array]:
    """All outputs of a graph made by `as_double`, computed in float64."""
    evaluator = ReferenceEvaluator(model, new_ops=[AveragePool, Conv, ConvTranspose, MaxPool, Resize, Sigmoid])
    floats = {k: np.asarray(v, np.float64 if np.asarray(v).dtype.kind == "f" else None) for k, v in feeds.items()}
    return dict(zip((o.name for o in model.graph.output), evaluator.run(None, floats), strict=True))
