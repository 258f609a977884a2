"""The explain graph, the tail graph and the input-gradient graph of small nets."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from deploykit.errors import GraphError, UsageError
from deploykit.graph.explain import make_explain_graph
from deploykit.graph.input_gradients import make_input_gradients_graph
from deploykit.graph.tail import make_tail_graph
from tests.oracles.gradient_oracle import autograd_at, export, grad_cam, pictures, randomize, relative, run, session

SIZE = 24


class Mixed(nn.Module):
    """Ties in max-pooling, a residual, squeeze and excitation, branches, depthwise and strided convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 1, 1))
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.SiLU(inplace=True), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        )
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.wide = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.Hardswish())
        self.branch = nn.AvgPool2d(3, 1, 1)
        self.last = nn.Sequential(nn.Conv2d(24, 16, 3, padding=2, dilation=2), nn.BatchNorm2d(16), nn.GELU())
        self.head = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(x)
        x = x + y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = self.wide(x)
        x = self.last(torch.cat([x, self.branch(x)], 1))
        return torch.as_tensor(self.head(x.mean((2, 3))))


class DenseLike(nn.Module):
    """A functional in-place ReLU behind the features, as in torchvision's DenseNet."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.fc = nn.Linear(6, 3)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.fc(F.relu(self.features(x), inplace=self.inplace).mean((2, 3))))


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.Tanh())
        self.classifier = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.backbone(x))

    def tail(self, x: Tensor) -> Tensor:
        return F.interpolate(self.classifier(x), (SIZE, SIZE), mode="bilinear", align_corners=False)


class ChannelsLast(nn.Module):
    """ConvNeXt's order of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.norm, self.inner, self.outer = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).permute(0, 2, 3, 1))
        x = x + self.outer(F.gelu(self.inner(x)))
        return torch.as_tensor(self.head(x.permute(0, 3, 1, 2).mean((2, 3))))


def made(kind: type[nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return randomize(kind(**options))


@pytest.fixture(scope="module")
def mixed() -> nn.Module:
    return made(Mixed)


@pytest.fixture(scope="module")
def predict(mixed: nn.Module) -> onnx.ModelProto:
    return export(mixed, SIZE)


@pytest.fixture(scope="module")
def segmenter() -> tuple[Segmenter, onnx.ModelProto]:
    torch.manual_seed(0)
    model = Segmenter().eval()
    return model, export(model, SIZE)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("layer", ["last", "wide", "stem.2", "stem"])
def test_activations_and_gradients_are_those_of_autograd_at_every_layer(
    mixed: nn.Module, predict: onnx.ModelProto, layer: str, rows: int
) -> None:
    images, classes = pictures(rows, SIZE), np.arange(rows) % 7
    answer = run(make_explain_graph(predict, layer), image=images, class_index=classes)
    logits, activations, gradients = autograd_at(mixed, layer, images, classes)
    # float32 against float64: a few hundred roundings of 6e-8.
    assert relative(answer["logits"], logits) < 1e-5
    assert relative(answer["activations"], activations) < 1e-5
    assert relative(answer["gradients"], gradients) < 1e-5
    assert relative(answer["cam"], grad_cam(activations, gradients)) < 1e-5
    assert answer["explained_class"].tolist() == classes.tolist()


def test_a_fresh_explain_graph_has_the_promised_inputs_and_outputs(predict: onnx.ModelProto) -> None:
    explain = make_explain_graph(predict)
    onnx.checker.check_model(explain, full_check=True)
    opened = session(explain)
    assert {i.name: (i.type, i.shape) for i in opened.get_inputs()} == {
        "image": ("tensor(float)", ["N", 3, SIZE, SIZE]),
        "class_index": ("tensor(int64)", ["N"]),
    }
    assert {o.name: (o.type, o.shape) for o in opened.get_outputs()} == {
        "logits": ("tensor(float)", ["N", 7]),
        "explained_class": ("tensor(int64)", ["N"]),
        "activations": ("tensor(float)", ["N", 16, 6, 6]),
        "gradients": ("tensor(float)", ["N", 16, 6, 6]),
        "cam": ("tensor(float)", ["N", 6, 6]),
    }
    assert [(f.domain, f.name) for f in explain.functions] == [("deploykit", "GradCam")]


def test_the_predict_graph_is_left_alone_and_its_nodes_and_weights_are_those_of_the_explain_graph(predict: onnx.ModelProto) -> None:
    before = predict.SerializeToString(deterministic=True)
    explain = make_explain_graph(predict, "stem")
    assert predict.SerializeToString(deterministic=True) == before
    assert list(explain.graph.node)[: len(predict.graph.node)] == list(predict.graph.node)
    assert list(explain.graph.initializer)[: len(predict.graph.initializer)] == list(predict.graph.initializer)


def test_logits_are_those_of_the_predict_graph_to_the_last_bit(predict: onnx.ModelProto) -> None:
    images = pictures(3, SIZE)
    answer = run(make_explain_graph(predict, "stem"), image=images, class_index=[-1] * 3)
    np.testing.assert_array_equal(answer["logits"], run(predict, image=images)["logits"])


def test_minus_one_explains_the_top_class_of_each_row_and_a_class_that_does_not_exist_gives_zeros_and_minus_one(
    predict: onnx.ModelProto,
) -> None:
    images = pictures(5, SIZE)
    answer = run(make_explain_graph(predict), image=images, class_index=[-1, 3, -1, 7, -2])
    top = answer["logits"].argmax(1)
    assert answer["explained_class"].tolist() == [top[0], 3, top[2], -1, -1]
    assert np.abs(answer["gradients"][:3]).max(axis=(1, 2, 3)).min() > 0
    assert not answer["gradients"][3:].any()
    assert not answer["cam"][3:].any()


def test_several_layers_come_out_of_one_sweep_under_numbered_names(mixed: nn.Module, predict: onnx.ModelProto) -> None:
    images, classes = pictures(2, SIZE), np.array([1, 4])
    answer = run(make_explain_graph(predict, ["stem", "last"]), image=images, class_index=classes)
    for layer, suffix in (("stem", ""), ("last", "_2")):
        _, activations, gradients = autograd_at(mixed, layer, images, classes)
        assert relative(answer[f"gradients{suffix}"], gradients) < 1e-5
        assert relative(answer[f"cam{suffix}"], grad_cam(activations, gradients)) < 1e-5


@pytest.mark.parametrize("opset", [18, 21])
def test_pixels_in_and_another_opset_give_the_same_kind_of_graph(mixed: nn.Module, opset: int) -> None:
    graph = export(mixed, SIZE, input_kind="pixels", opset=opset)
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    normalized = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images = normalized.transpose(0, 3, 1, 2).astype(np.float32)
    answer = run(make_explain_graph(graph, "wide"), image=pixels, class_index=[2, 3])
    _, _, gradients = autograd_at(mixed, "wide", images, np.array([2, 3]))
    assert relative(answer["gradients"], gradients) < 1e-5


def test_o24_only_negative_evidence_gives_a_finite_map_of_zeros_beside_a_real_one() -> None:
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    head = nn.Linear(4, 2)
    with torch.no_grad():
        head.weight[0].fill_(-1.0)
        head.weight[1].fill_(1.0)
    net = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    graph = make_explain_graph(export(net, SIZE), "0")
    image = pictures(1, SIZE)
    both = run(graph, image=np.concatenate([image, image]), class_index=[0, 1])["cam"]
    assert not both[0].any()
    assert both[1].max() > 0
    assert np.isfinite(both).all()
    np.testing.assert_allclose(run(graph, image=image, class_index=[1])["cam"][0], both[1], rtol=1e-5)


def test_o25_an_in_place_relu_behind_the_layer_changes_nothing() -> None:
    images, classes = pictures(2, SIZE), np.array([0, 2])
    answers = [
        run(make_explain_graph(export(made(DenseLike, inplace=inplace), SIZE), "features"), image=images, class_index=classes)
        for inplace in (True, False)
    ]
    assert (answers[0]["activations"] < 0).any()
    for name in ("activations", "gradients", "cam"):
        np.testing.assert_allclose(answers[0][name], answers[1][name], atol=1e-6)
    model = made(DenseLike)
    _, activations, gradients = autograd_at(model, "features", images, classes)
    assert relative(answers[0]["cam"], grad_cam(activations, gradients)) < 1e-5
    assert not any(m._forward_hooks for m in model.modules())


def test_a_channels_last_layer_is_explained_as_channels_first() -> None:
    model, images, classes = made(ChannelsLast), pictures(2, SIZE), np.array([0, 3])
    answer = run(make_explain_graph(export(model, SIZE), "norm"), image=images, class_index=classes)
    _, activations, gradients = autograd_at(model, "norm", images, classes)
    assert relative(answer["activations"], activations.transpose(0, 3, 1, 2)) < 1e-5
    assert relative(answer["gradients"], gradients.transpose(0, 3, 1, 2)) < 1e-5


def segmentation_score(logits: Tensor, classes: list[int], weights: Tensor | None) -> Tensor:
    rows = torch.stack([logits[i, c] for i, c in enumerate(classes)])
    if weights is None:
        weights = torch.stack([logits[i].argmax(0) == c for i, c in enumerate(classes)]).float()
    return (rows * weights).sum()


def test_a_segmentation_score_sums_the_logits_over_the_pixels_predicted_as_the_class(
    segmenter: tuple[Segmenter, onnx.ModelProto],
) -> None:
    model, graph = segmenter
    images = pictures(3, SIZE)
    answer = run(make_explain_graph(graph, "backbone"), image=images, class_index=[-1, 2, 9])
    counts = [np.bincount(row.argmax(0).ravel(), minlength=5) for row in answer["logits"]]
    assert answer["explained_class"].tolist() == [int(counts[0].argmax()), 2, -1]
    assert not answer["gradients"][2].any()
    hidden = model.backbone(torch.from_numpy(images)).detach().requires_grad_()
    score = segmentation_score(model.tail(hidden[:2]), [int(counts[0].argmax()), 2], None)
    (gradient,) = torch.autograd.grad(score, hidden)
    assert relative(answer["gradients"][:2], gradient.numpy()[:2]) < 1e-5


def test_a_segmentation_mask_weights_the_pixels(segmenter: tuple[Segmenter, onnx.ModelProto]) -> None:
    model, graph = segmenter
    images, mask = pictures(2, SIZE), np.random.default_rng(0).random((2, SIZE, SIZE)).astype(np.float32)
    answer = run(make_explain_graph(graph, "backbone", with_mask=True), image=images, class_index=[1, 4], mask=mask)
    hidden = model.backbone(torch.from_numpy(images)).detach().requires_grad_()
    score = segmentation_score(model.tail(hidden), [1, 4], torch.from_numpy(mask))
    (gradient,) = torch.autograd.grad(score, hidden)
    assert relative(answer["gradients"], gradient.numpy()) < 1e-5


def test_a_mask_for_a_classifier_is_refused(predict: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="mask needs segmentation logits"):
        make_explain_graph(predict, with_mask=True)


def test_an_explain_graph_cannot_be_explained_again(predict: onnx.ModelProto) -> None:
    with pytest.raises(GraphError, match="already has tensors named activations, cam, class_index"):
        make_explain_graph(make_explain_graph(predict))


@pytest.mark.parametrize("layer", ["last", "wide"])
def test_the_tail_graph_gives_the_gradients_of_the_explain_graph_for_every_class_at_once(
    predict: onnx.ModelProto, layer: str
) -> None:
    explain = make_explain_graph(predict, layer)
    image = pictures(1, SIZE)
    activations = run(explain, image=image, class_index=[-1])["activations"]
    full = run(explain, image=np.repeat(image, 7, 0), class_index=np.arange(7))
    for source in (predict, explain):
        tail = make_tail_graph(source, layer)
        onnx.checker.check_model(tail, full_check=True)
        answer = run(tail, activations=np.repeat(activations, 7, 0), class_index=np.arange(7))
        for name in ("logits", "explained_class", "gradients", "cam"):
            assert relative(answer[name], full[name]) < 1e-5


def test_a_tail_whose_layer_is_bypassed_is_refused_by_name(predict: onnx.ModelProto) -> None:
    with pytest.raises(GraphError, match="cannot be computed from depthwise"):
        make_tail_graph(predict, "depthwise")


def test_a_tail_of_a_channels_last_layer_takes_channels_first_activations() -> None:
    graph = export(made(ChannelsLast), SIZE)
    explain, image = make_explain_graph(graph, "norm"), pictures(2, SIZE)
    full = run(explain, image=image, class_index=[0, 2])
    answer = run(make_tail_graph(graph, "norm"), activations=full["activations"], class_index=[0, 2])
    assert relative(answer["gradients"], full["gradients"]) < 1e-5


def test_the_input_gradient_is_that_of_the_normalized_image(mixed: nn.Module) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    normalized = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    leaf = torch.from_numpy(normalized.transpose(0, 3, 1, 2).astype(np.float32)).requires_grad_()
    (expected,) = torch.autograd.grad(mixed(leaf)[[0, 1], [2, 5]].sum(), leaf)
    for kind, image in (("pixels", pixels), ("float", leaf.detach().numpy())):
        graph = make_input_gradients_graph(export(mixed, SIZE, input_kind=kind), {"gradients": "standard"})
        answer = run(graph, image=image, class_index=[2, 5])
        assert relative(answer["gradients"], expected.numpy()) < 1e-4  # pixels are normalized in float32


@pytest.mark.parametrize("rectifier", ["Relu", "Clip"])
def test_the_rules_for_relu_and_relu6_let_only_positive_gradients_pass(rectifier: str) -> None:
    bounds = ["zero", "six"] if rectifier == "Clip" else []
    nodes = [
        helper.make_node(rectifier, ["image", *bounds], ["r"]),
        helper.make_node("Mul", ["r", "w"], ["m"]),
        helper.make_node("ReduceSum", ["m", "hw"], ["logits"], keepdims=0),
    ]
    weights = np.array([[[[1.0]], [[-1.0]]]], np.float32)
    graph = helper.make_graph(
        nodes,
        "relu",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, 1, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [
            onnx.numpy_helper.from_array(weights, "w"),
            onnx.numpy_helper.from_array(np.array([2, 3]), "hw"),
            *(onnx.numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("zero", 0), ("six", 6)) if n in bounds),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    image = np.array([[[[2.0, -3.0]], [[4.0, -5.0]]]] * 2, np.float32)
    gradients = {
        rule: run(make_input_gradients_graph(model, {"gradients": rule}), image=image, class_index=[0, 1])["gradients"]
        .reshape(2, 4)
        .tolist()
        for rule in ("standard", "guided", "deconvnet")
    }
    # Row 0 explains the channel of weight 1, row 1 that of weight -1.
    assert gradients["standard"] == [[1, 0, 0, 0], [0, 0, -1, 0]]
    assert gradients["guided"] == [[1, 0, 0, 0], [0, 0, 0, 0]]
    assert gradients["deconvnet"] == [[1, 1, 0, 0], [0, 0, 0, 0]]


def test_an_unknown_relu_rule_is_refused(predict: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="'lrp', expected one of standard, guided, deconvnet"):
        make_input_gradients_graph(predict, {"gradients": "lrp"})


class CumulativeHead(nn.Module):
    """An operator without a rule between two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.late(torch.cumsum(self.early(x), 1)).mean((2, 3))))


def test_an_operator_without_a_rule_is_refused_with_a_layer_that_works() -> None:
    graph = export(made(CumulativeHead), SIZE)
    with pytest.raises(GraphError, match="CumSum") as info:
        make_explain_graph(graph, "early")
    assert info.value.hint is not None
    assert "late = " in info.value.hint
    make_explain_graph(graph, "late")


def test_rules_for_relu_are_refused_where_there_is_none() -> None:
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    with pytest.raises(GraphError, match="no Relu and no Clip at 0"):
        make_input_gradients_graph(export(smooth, 16))
    rectified = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    answer = run(make_input_gradients_graph(export(rectified, 16)), image=pictures(2, 16), class_index=[0, 1])
    assert answer["guided_backprop"].shape == answer["deconvnet"].shape == (2, 3, 16, 16)
    assert not np.array_equal(answer["guided_backprop"], answer["deconvnet"])
