"""torch -> ONNX: the inference graph of a module, whatever mode the module is in, with a dynamic batch.

In: a module and the image spec of its weights. Out: a graph with input ``image`` and output ``logits``
(shared tensor names: ARCHITECTURE.md). The module is left exactly as it was.

Capture is ``torch.export`` without strict mode (it runs the Python of ``forward`` on symbolic tensors), translation is torch's ONNX
exporter, which folds BatchNorm into the convolution before it. Both are judged afterwards by parity, never trusted.
"""

import contextlib
import copy
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deploykit.errors import ExportError, UsageError
from deploykit.graph.describe import check_deterministic, strip_exporter_notes
from deploykit.graph.pixels import IMAGE_NAME, add_pixel_input
from deploykit.graph.scopes import name_nodes
from deploykit.graph.versions import DEFAULT_OPSET, OPSETS, opset_of, set_ir_version
from deploykit.image import normalize
from deploykit.spec import ImageSpec

LOGITS_NAME = "logits"

ModulePath = str


def export_graph(model: nn.Module, image: ImageSpec, *, input_kind: str = "pixels", opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Export the inference graph of a module.

    Args:
        model: takes float32 [N, 3, H, W], gives logits [N, K] or [N, K, h, w]. Its training flags, weights and hooks are untouched.
        image: the size for the graph, and the normalization for the pixel input.
        input_kind: ``pixels`` or ``float``.
        opset: one of `OPSETS`; the IR version follows from it.

    Raises:
        UsageError: another opset or input kind.
        ExportError: the module cannot be captured; the message names the innermost module that ran.
        GraphError: the captured graph is random.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset is {opset}, expected one of {', '.join(map(str, OPSETS))}")
    if input_kind not in ("pixels", "float"):
        raise UsageError(f"input is {input_kind!r}, expected pixels or float")
    with eval_mode(model):
        # Batch 2: a batch of one is the size at which tracing confuses broadcasting with a fixed dimension.
        program = _capture(_as_float32(model), torch.zeros(2, 3, image.height, image.width))
        graph = _translate(program, opset)
    if opset_of(graph) != opset:
        raise ExportError(f"torch's exporter wrote opset {opset_of(graph)} where {opset} was asked for", hint="update torch")
    strip_exporter_notes(graph)
    name_nodes(graph)
    check_deterministic(graph)
    _name_tensors(graph)
    if input_kind == "pixels":
        add_pixel_input(graph, image)
    set_ir_version(graph)
    return graph


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and each one's own flag back afterwards, whatever it was."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training


def training_modules(model: nn.Module) -> list[ModulePath]:
    """Paths of the modules in training mode for which the mode makes a difference: dropout and normalization."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    return [path for path, module in model.named_modules() if module.training and isinstance(module, kinds)]


def reference_logits(
    model: nn.Module, pixels: npt.NDArray[np.uint8], image: ImageSpec, on_picture: Callable[[], None] | None = None
) -> npt.NDArray[np.float32]:
    """The logits that the module itself gives in eval mode: what every later stage is compared with.

    Args:
        pixels: uint8 [N, H, W, 3]; pictures go through one by one, so that no row can depend on another.
        on_picture: called after each picture.

    Returns:
        float32 [N, K] or [N, K, h, w].
    """
    rows = []
    with eval_mode(model), torch.no_grad():
        reference = _as_float32(model)
        for picture in pixels:
            rows.append(_logits(reference(torch.from_numpy(normalize(picture[None], image)))).float().numpy())
            if on_picture:
                on_picture()
    return np.concatenate(rows)


def module_outputs(model: nn.Module, pixels: npt.NDArray[np.uint8], image: ImageSpec) -> dict[ModulePath, npt.NDArray[np.float32]]:
    """What each module gives for a batch, in the order in which they finish; for finding where a graph departs.

    Modules that run more than once, or give something else than one tensor, are left out.
    """
    seen: dict[ModulePath, list[npt.NDArray[np.float32]]] = {}

    def note(path: ModulePath) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            # A copy: an in-place operator that follows would change what is kept here.
            seen.setdefault(path, []).extend([output.detach().float().numpy().copy()] if isinstance(output, Tensor) else [])

        return hook

    reference = _as_float32(model)
    handles = [module.register_forward_hook(note(path)) for path, module in reference.named_modules() if path]
    try:
        with eval_mode(model), eval_mode(reference), torch.no_grad():
            reference(torch.from_numpy(normalize(pixels, image)))
    finally:
        for handle in handles:
            handle.remove()
    return {path: arrays[0] for path, arrays in seen.items() if len(arrays) == 1}


def layer_gradients(
    model: nn.Module,
    pixels: npt.NDArray[np.uint8],
    image: ImageSpec,
    path: ModulePath,
    class_index: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What autograd says of one layer: the activations that a module returns, and the gradient of the class scores.

    The score of a row is the logit of its class; for segmentation, the sum of the class's logits over the pixels where it is
    predicted. What an in-place operator does to the module's output later is not seen.

    Args:
        pixels: uint8 [N, H, W, 3].
        path: of a module that runs once and returns one tensor.
        class_index: [N]; None takes each row's own top-1.

    Returns:
        activations and gradients, float32 [N, C, h, w].

    Raises:
        ExportError: the module does not run exactly once, or gives something else.
    """
    reference = _as_float32(model)
    with eval_mode(model), eval_mode(reference):
        rows = [
            # One by one: autograd keeps every activation, of a segmentation net at full size 2 GB a picture.
            _gradients_of(reference, pixels[i : i + 1], image, path, None if class_index is None else class_index[i : i + 1])
            for i in range(len(pixels))
        ]
    activations, gradients = zip(*rows, strict=True)
    return np.concatenate(activations), np.concatenate(gradients)


def _gradients_of(
    reference: nn.Module,
    pixels: npt.NDArray[np.uint8],
    image: ImageSpec,
    path: ModulePath,
    class_index: npt.NDArray[np.int64] | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """`layer_gradients` of a module in eval mode and float32, in one pass."""
    kept: list[Tensor] = []

    def hook(_module: nn.Module, _args: object, output: object) -> Tensor:
        kept.append(_logits(output).detach().requires_grad_())
        return kept[-1].clone()

    handle = reference.get_submodule(path).register_forward_hook(hook)
    try:
        with torch.enable_grad():
            logits = _logits(reference(torch.from_numpy(normalize(pixels, image))))
            if len(kept) != 1:
                raise ExportError(f"module {path} runs {len(kept)} times, expected once")
            gradients = torch.autograd.grad(_class_scores(logits, class_index).sum(), kept[0])[0]
    finally:
        handle.remove()
    return kept[0].detach().numpy(), gradients.numpy()


def _class_scores(logits: Tensor, class_index: npt.NDArray[np.int64] | None) -> Tensor:
    predicted = logits.argmax(1)
    if logits.ndim == 2:
        chosen = predicted if class_index is None else torch.from_numpy(class_index)
        return logits.gather(1, chosen[:, None])
    if class_index is None:
        chosen = torch.stack([torch.bincount(row.flatten(), minlength=logits.shape[1]).argmax() for row in predicted])
    else:
        chosen = torch.from_numpy(class_index)
    mask = predicted == chosen[:, None, None]
    return logits[torch.arange(len(logits)), chosen] * mask


def _as_float32(model: nn.Module) -> nn.Module:
    """The module itself where all its numbers are float32, otherwise a converted copy."""
    numbers = [*model.parameters(), *model.buffers()]
    if all(n.dtype == torch.float32 for n in numbers if n.is_floating_point()):
        return model
    return copy.deepcopy(model).float()


def _capture(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    running: list[str] = []
    handles: list[torch.utils.hooks.RemovableHandle] = []
    for path, module in model.named_modules():
        where = f"{path or 'the model'} ({type(module).__name__})"
        handles.append(module.register_forward_pre_hook(lambda *_, where=where: running.append(where)))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with torch.no_grad(), _quiet(), _PoolToOneIsMean():
            batch = torch.export.Dim("N", min=1)
            return torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # whatever forward() and torch.export raise
        raise _capture_error(error, running) from error
    finally:
        for handle in handles:
            handle.remove()


class _PoolToOneIsMean(TorchFunctionMode):
    """Pooling to one pixel is a mean, and is captured as one.

    Left alone, adaptive pooling of a channels-last tensor (ConvNeXt, Swin) becomes Gather with computed indices, which has no
    gradient rule and slows the predict graph as well.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.adaptive_avg_pool2d and len(args) > 1 and args[1] in (1, (1, 1), [1, 1]):
            return args[0].mean((-2, -1), keepdim=True)
        return func(*args, **(kwargs or {}))


def _capture_error(error: Exception, running: list[str]) -> ExportError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "specialized it to be a constant" in str(error):
        return ExportError(
            "forward() turns the batch size into a fixed number, so the graph would only take that batch",
            hint="use x.shape[0] directly, x.flatten(1) or x.reshape(-1, ...) instead of int(x.shape[0]) or a literal",
        )
    where = running[-1] if running else "the model"
    if "data-dependent" in reason:
        hint = "forward() branches on values; use torch.where, or move the branch out of forward()"
    elif ".numpy()" in reason:
        hint = "forward() leaves torch there; write it with torch operators (a swish is x * torch.sigmoid(x))"
    else:
        hint = "run the module on a batch of 2; if that works, replace what it does there by plain torch operators"
    return ExportError(f"cannot capture {where}: {reason}", hint=hint)


def _translate(program: torch.export.ExportedProgram, opset: int) -> onnx.ModelProto:
    try:
        with _quiet():
            translated = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[IMAGE_NAME],
                output_names=[LOGITS_NAME],
                opset_version=opset,
            )
    except Exception as error:  # the exporter raises its own classes and onnxscript's
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(
            f"torch's ONNX exporter cannot translate the model: {reason}", hint="see all of it with --debug"
        ) from error
    if translated is None:
        raise ExportError("torch's ONNX exporter gave no graph")
    graph: onnx.ModelProto = translated.model_proto
    inputs, outputs = len(graph.graph.input), len(graph.graph.output)
    if inputs != 1 or outputs != 1:
        raise ExportError(
            f"the model has {inputs} inputs and {outputs} outputs, expected one image and its logits",
            hint="wrap it in a module whose forward(image) returns the logits alone",
        )
    return graph


def _name_tensors(graph: onnx.ModelProto) -> None:
    """Call the batch N everywhere, and check the ranks."""
    symbol = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in [*graph.graph.input, *graph.graph.output, *graph.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_param = "N"
    shape = graph.graph.output[0].type.tensor_type.shape.dim
    if len(shape) not in (2, 4) or shape[0].dim_param != "N":
        dims = ", ".join(d.dim_param or str(d.dim_value) for d in shape)
        raise ExportError(f"the model gives [{dims}], expected logits [N, K], or [N, K, h, w] for segmentation")


def _logits(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise ExportError(f"the model gives a {type(output).__name__}, expected one tensor of logits")
    return output


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own reports of a failed capture off the terminal; the error that follows has the reason."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
