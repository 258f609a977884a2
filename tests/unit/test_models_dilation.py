"""Dilation8 against its paper: receptive fields, identity initialization, alignment, and the release's names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploykit.errors import UsageError
from deploykit.models.families import dilation
from deploykit.models.families.dilation import ContextModule, Dilation8, FrontEnd, reflect
from deploykit.models.layouts import name_modules
from deploykit.models.registry import MODELS, load_model

DILATION = [name for name, entry in MODELS.items() if entry.family == "dilation"]


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG-16's layers with two channels each, so that the network of full depth takes milliseconds."""
    monkeypatch.setattr(dilation, "BLOCKS", tuple((2,) * len(block) for block in dilation.BLOCKS))
    monkeypatch.setattr(dilation, "HIDDEN", 3)


def make_positive(model: nn.Module) -> None:
    """No gradient may vanish by a ReLU or cancel out, where its support is asked for."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)) + 0.1)


def support(gradient: Tensor) -> tuple[int, int, int, int]:
    """Rows and columns, first and last, of the box round what is not 0; all within it must be other than 0."""
    rows, columns = np.nonzero(gradient.abs().sum((0, 1)).numpy())
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "the receptive field has holes"
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.mark.parametrize("size", ["basic", "large"])
@pytest.mark.parametrize(("layer", "side"), list(enumerate([3, 5, 9, 17, 33, 65, 67, 67], 1)))  # table 1
def test_a_layer_of_the_context_module_sees_as_much_as_table_1_says(size: str, layer: int, side: int) -> None:
    context = ContextModule(2, size)
    make_positive(context)
    x = torch.ones(1, 2, 75, 75, dtype=torch.float64, requires_grad=True)
    out = nn.Sequential(*list(context.double())[: 2 * layer])(x)  # convolution and ReLU; the eighth has no ReLU
    row, column = (length // 2 for length in out.shape[2:])
    (gradient,) = torch.autograd.grad(out[0, :, row, column].sum(), x)
    top, bottom, left, right = support(gradient)
    assert (bottom - top + 1, right - left + 1) == (side, side)
    assert (top + bottom, left + right) == (74, 74)  # centred: the middle output looks at the middle of the picture


@pytest.mark.parametrize(("size", "widths"), [("basic", [1] * 8), ("large", [2, 2, 4, 8, 16, 32, 32, 1])])
def test_the_context_module_has_the_widths_of_table_1_and_keeps_the_maps_size(size: str, widths: list[int]) -> None:
    context = ContextModule(3, size)
    convolutions = [m for m in context if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [3 * width for width in widths]
    assert [m.kernel_size for m in convolutions] == [(3, 3)] * 7 + [(1, 1)]
    assert [type(m) for m in context][-2:] == [nn.ReLU, nn.Conv2d]  # all layers are truncated but the last
    assert context(torch.rand(2, 3, 5, 9)).shape == (2, 3, 5, 9)


@pytest.mark.parametrize("size", ["basic", "large"])
def test_an_identity_initialized_context_module_passes_its_input_through(size: str) -> None:
    x = torch.randn(2, 21, 12, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        passed = ContextModule(21, size, noise=0)(x)
    # Up to the first layer's truncation; sums of up to 32 equal parts, so float32 rounding alone is left.
    torch.testing.assert_close(passed, x.clamp(min=0), rtol=1e-6, atol=1e-6)


def test_the_large_modules_noise_tells_the_maps_of_a_group_apart_and_hardly_changes_the_answer() -> None:
    context = ContextModule(21, "large")
    x = torch.rand(1, 21, 12, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        inner, out = nn.Sequential(*list(context)[:2])(x), context(x)
    assert float((inner[:, 0] - inner[:, 1]).abs().max()) > 1e-4  # two maps of group 0
    assert float((out - x).abs().max()) < 0.3  # sigma is a thousandth of the weights beside it


def test_equation_5_puts_c_over_c_out_on_the_paths_within_a_group() -> None:
    convolution = nn.Conv2d(4, 8, 3)
    dilation.start_as_identity(convolution, 2, noise=0)
    centre = convolution.weight[:, :, 1, 1]
    assert centre.tolist() == [[0.25, 0.25, 0, 0]] * 4 + [[0, 0, 0.25, 0.25]] * 4
    assert float(convolution.weight.detach().abs().sum()) == float(centre.detach().abs().sum())


def test_the_front_end_uses_up_its_margin_and_looks_straight_at_its_block(thin: None) -> None:
    front = FrontEnd(2)
    make_positive(front)
    for name in ("pool1", "pool2", "pool3"):
        front.set_submodule(name, nn.AvgPool2d(2, 2))  # a maximum lets one of four gradients through
    front.double().eval()
    with pytest.raises(RuntimeError):
        front(torch.ones(1, 3, 371, 379, dtype=torch.float64))  # no place is left for a logit
    x = torch.ones(1, 3, 380, 388, dtype=torch.float64, requires_grad=True)
    out = front(x)
    assert out.shape == (1, 2, 1, 2)
    for column in (0, 1):
        (gradient,) = torch.autograd.grad(out[0, :, 0, column].sum(), x, retain_graph=True)
        seen = support(gradient)
        # The first block of the picture is rows 186 to 193: the middle of what the logit sees.
        assert (seen[0] + seen[1]) / 2 == 186 + 3.5
        assert (seen[2] + seen[3]) / 2 == 186 + 8 * column + 3.5


@pytest.mark.parametrize("margin", [0, 3, 5, 17])
def test_the_margin_is_numpys_reflection_however_small_the_picture(margin: int) -> None:
    x = torch.arange(2 * 3 * 6 * 5, dtype=torch.float32).reshape(2, 3, 6, 5)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    assert reflect(x, margin).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("name", DILATION)
def test_logits_have_an_eighth_of_the_pictures_size_and_21_classes(name: str) -> None:
    entry = MODELS[name]
    features: list[Tensor] = []
    with torch.device("meta"):
        model = entry.build(entry.num_classes, entry.conventions)
        model.get_submodule(entry.cam_layer).register_forward_hook(lambda _m, _i, output: features.append(output))
        assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 21, 8, 12)
    assert features[0].shape == (2, 4096, 8, 12)  # without margin, so that its map lies on the picture
    assert (entry.task, entry.num_classes) == ("segmentation", 21)
    assert isinstance(model.get_submodule(entry.head), nn.Conv2d)


def test_a_picture_that_no_whole_number_of_blocks_fits_is_refused(thin: None) -> None:
    with pytest.raises(UsageError, match="picture is 64 x 60, expected multiples of 8"):
        Dilation8(3, None)(torch.zeros(1, 3, 64, 60))


def test_pictures_are_prepared_as_the_release_does() -> None:
    # datasets/pascal_voc.json: mean 102.93, 111.36, 116.52 of blue, green, red in grey levels; nothing is divided.
    image = MODELS["dilation8_large"].image
    assert image.colour_order == "bgr"
    assert [round(255 * mean, 2) for mean in image.mean] == [116.52, 111.36, 102.93]
    assert [255 * std for std in image.std] == [1, 1, 1]


def test_every_layer_of_the_prototxt_has_its_place(thin: None, tmp_path: Path) -> None:
    entry = MODELS["dilation8_large"]
    model = entry.build(3, entry.conventions)
    ours = {key.rpartition(".")[0] for key in model.state_dict()}
    table = name_modules(entry.layouts[1], sorted(ours))
    assert set(table.values()) == ours
    assert {"conv1_1", "conv5_3", "fc6", "fc7", "fc-final", "ct_conv1_1", "ct_conv5_1", "ct_fc1", "ct_final"} <= set(table)
    back = {mine: theirs for theirs, mine in table.items()}
    state = {f"{back[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": t for key, t in model.state_dict().items()}
    torch.save(state, tmp_path / "converted.pth")
    loaded = load_model("dilation8_large", weights_file=tmp_path / "converted.pth")
    assert (loaded.weights.layout, loaded.num_classes) == ("caffe", 3)
    x = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        assert loaded.model(x).equal(model.eval()(x))


def test_random_weights_tell_pictures_and_classes_apart(thin: None) -> None:
    model = load_model("dilation8", num_classes=4, seed=3).model
    x = 100 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(x)
    assert torch.isfinite(logits).all()
    assert float((logits[0] - logits[1]).abs().max()) > 1e-3 * float(logits.abs().max())
