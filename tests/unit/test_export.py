"""torch -> ONNX (cases O01: training mode, O02: custom activations, O03: frozen batch, O06: half precision)."""

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploykit.cli.parity import locate_difference
from deploykit.errors import ExportError, GraphError, UsageError
from deploykit.image import normalize
from deploykit.models.export import eval_mode, export_graph, module_outputs, reference_logits, training_modules
from deploykit.parity import sample_pictures
from deploykit.runtime.ort import OrtSession
from deploykit.spec import ImageSpec

SPEC = ImageSpec(24, 24, 24)
PIXELS = sample_pictures(5, 24, 24)


class SwishOp(torch.autograd.Function):
    """The memory-saving swish of EfficientNet-PyTorch."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, t: Tensor) -> Tensor:
        ctx.save_for_backward(t)
        return t * torch.sigmoid(t)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors  # type: ignore[attr-defined]
        s = torch.sigmoid(t)
        slope: Tensor = s * (1 + t * (1 - s))
        return g * slope


class LeanSwish(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        return SwishOp.apply(t)  # type: ignore[no-any-return]


class NumpySwish(nn.Module):
    """The same values, computed outside of torch: a trace would freeze them."""

    def forward(self, t: Tensor) -> Tensor:
        v = t.detach().numpy()
        return torch.from_numpy(v / (1 + np.exp(-v)))


class Tail(nn.Module):
    """A convolution, its mean, what a test does with it, a linear layer."""

    def __init__(self, between: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.c, self.f, self.between = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), between

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.between(x, self.c(x).mean((2, 3))))  # type: ignore[no-any-return]


def tiny(activation: nn.Module | None = None) -> nn.Sequential:
    """Eight channels, BatchNorm with statistics that matter, dropout, five classes."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), activation or nn.ReLU(), nn.Dropout2d(0.5)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    net.get_buffer("1.running_mean").add_(torch.randn(8))
    net.get_buffer("1.running_var").mul_(torch.rand(8) + 0.5)
    return net


def answers(graph: onnx.ModelProto, pixels: npt.NDArray[np.uint8] = PIXELS) -> npt.NDArray[np.float32]:
    with OrtSession(graph.SerializeToString()) as session:
        return session.run({"image": pixels})["logits"]


def assert_equal(graph: onnx.ModelProto, model: nn.Module) -> None:
    expected = reference_logits(model, PIXELS, SPEC)
    for rows in (slice(0, 1), slice(0, 2), slice(0, 5)):
        # float32 sums in another order: 1e-6 of logits around 1.
        assert answers(graph, PIXELS[rows]) == pytest.approx(expected[rows], abs=1e-5)


def one_dropout_live(net: nn.Sequential) -> nn.Sequential:
    net.eval()
    net[3].train()
    return net


@pytest.mark.parametrize("mode", [nn.Sequential.train, one_dropout_live, nn.Sequential.eval])
def test_the_inference_graph_is_exported_whatever_the_mode_and_every_flag_is_put_back(
    mode: Callable[[nn.Module], nn.Module],
) -> None:
    net = tiny()
    mode(net)
    flags, weights = [m.training for m in net.modules()], copy.deepcopy(net.state_dict())
    graph = export_graph(net, SPEC)
    assert [m.training for m in net.modules()] == flags
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), weights.values(), strict=True))
    assert not {n.op_type for n in graph.graph.node} & {"Dropout", "BatchNormalization", "RandomUniformLike"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert_equal(graph, net.eval())


def test_modes_that_matter_are_reported() -> None:
    net = tiny().eval()
    assert training_modules(net) == []
    net[3].train()
    net[2].train()  # a ReLU does the same in both modes
    assert training_modules(net) == ["3"]


def test_flags_are_put_back_after_an_error() -> None:
    net = tiny(NumpySwish()).train()
    with pytest.raises(ExportError):
        export_graph(net, SPEC)
    assert all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with pytest.raises(ZeroDivisionError), eval_mode(net):
        raise ZeroDivisionError
    assert all(m.training for m in net.modules())


def test_the_memory_saving_swish_becomes_sigmoid_and_mul() -> None:
    net = tiny(LeanSwish()).eval()
    graph = export_graph(net, SPEC)
    assert_equal(graph, net)
    assert [n.op_type for n in graph.graph.node][5:7] == ["Sigmoid", "Mul"]


def test_an_activation_that_leaves_torch_is_named_with_the_cure() -> None:
    with pytest.raises(ExportError, match=r"cannot capture 2 \(NumpySwish\): .*numpy") as caught:
        export_graph(tiny(NumpySwish()).eval(), SPEC)
    assert "x * torch.sigmoid(x)" in str(caught.value.hint)


BETWEEN: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str | None]] = {
    "symbolic shape": (lambda x, y: y.reshape(x.shape[0], 6), None),
    "flatten": (lambda x, y: y.flatten(1), None),
    "int(batch)": (lambda x, y: y.reshape(int(x.shape[0]), 6), "fixed number"),
    "literal batch": (lambda x, y: y.reshape(2, 6), "fixed number"),
    "one row": (lambda x, y: y.view(1, -1), r"cannot capture f \(Linear\)"),
    "repeat by the batch": (lambda x, y: y[:1].repeat(int(x.shape[0]), 1) + 0 * y, "fixed number"),
    "branch on a value": (lambda x, y: y * 2 if y.mean() > 0 else y, "data-dependent"),
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_a_frozen_batch_is_exported_rightly_or_refused_by_name(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    between, refusal = BETWEEN[kind]
    net = Tail(between).eval()
    if refusal is None:
        assert_equal(export_graph(net, SPEC), net)
    else:
        with pytest.raises(ExportError, match=refusal) as caught:
            export_graph(net, SPEC)
        assert caught.value.hint
        out, err = capfd.readouterr()
        assert out + err == ""  # torch's own reports stay off the terminal


def test_dropout_that_forward_forces_is_refused() -> None:
    with pytest.raises(GraphError, match="random"):
        export_graph(Tail(lambda x, y: F.dropout(y, 0.5, training=True)).eval(), SPEC)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_module_gives_a_float32_graph_and_stays_half(dtype: torch.dtype) -> None:
    net = tiny().eval().to(dtype)
    graph = export_graph(net, SPEC, input_kind="float")
    assert {net[0].weight.dtype, net[6].bias.dtype} == {dtype}
    assert net[1].num_batches_tracked.dtype == torch.int64
    types = {v.type.tensor_type.elem_type for v in [*graph.graph.input, *graph.graph.output]}
    assert types == {onnx.TensorProto.FLOAT}
    assert not {t.data_type for t in graph.graph.initializer} & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    with OrtSession(graph.SerializeToString()) as session:
        logits = session.run({"image": normalize(PIXELS, SPEC)})["logits"]
    with torch.no_grad():
        upcast = copy.deepcopy(net).float()(torch.from_numpy(normalize(PIXELS, SPEC))).numpy()
    assert logits == pytest.approx(upcast, abs=1e-5)


class Outputs(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.c, self.kind = nn.Conv2d(3, 4, 3), kind

    def forward(self, x: Tensor) -> object:
        y = self.c(x)
        return {"map": y, "vector": y.mean((2, 3)), "two": (y.mean((2, 3)), y), "three": y.mean(3), "pooled": y.mean((0, 2, 3))}[
            self.kind
        ]


@pytest.mark.parametrize(("kind", "seen"), [("two", "2 outputs"), ("three", r"gives \[N, 4, 22\]"), ("pooled", r"gives \[4\]")])
def test_a_model_that_gives_no_logits_is_refused(kind: str, seen: str) -> None:
    with pytest.raises(ExportError, match=seen):
        export_graph(Outputs(kind).eval(), SPEC)


@pytest.mark.parametrize("kind", ["map", "vector"])
def test_logits_may_be_vectors_or_maps(kind: str) -> None:
    net = Outputs(kind).eval()
    graph = export_graph(net, SPEC)
    assert_equal(graph, net)
    assert graph.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (19, 9), (20, 9), (21, 10)])
def test_opset_and_ir_version_are_the_ones_asked_for(opset: int, ir_version: int) -> None:
    net = tiny().eval()
    graph = export_graph(net, SPEC, opset=opset)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", opset)]
    assert graph.ir_version == ir_version
    assert_equal(graph, net)


def test_an_opset_or_input_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="opset is 12, expected one of 18"):
        export_graph(tiny(), SPEC, opset=12)
    with pytest.raises(UsageError, match="'rgb', expected pixels or float"):
        export_graph(tiny(), SPEC, input_kind="rgb")


def test_a_graph_carries_no_paths_of_the_machine_that_exported_it() -> None:
    graph = export_graph(tiny().eval(), SPEC)
    assert b"site-packages" not in graph.SerializeToString()
    assert b"tests/unit" not in graph.SerializeToString()


def test_a_graph_that_departs_from_the_model_is_located() -> None:
    net = tiny().eval()
    graph = export_graph(net, SPEC)
    assert "No inner module differs" in locate_difference(net, graph, PIXELS[:2], SPEC, "pixels")
    net.get_parameter("6.bias").data.add_(1)
    assert "They part at module 6, node" in locate_difference(net, graph, PIXELS[:2], SPEC, "pixels")
    net.get_parameter("1.bias").data.add_(1)
    assert "They part at module 1, node" in locate_difference(net, graph, PIXELS[:2], SPEC, "pixels")


def test_module_outputs_are_those_before_an_in_place_change() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)).eval()
    seen = module_outputs(net, PIXELS[:1], SPEC)
    assert seen["0"].min() < 0 <= seen["1"].min()
    assert not net[0]._forward_hooks
