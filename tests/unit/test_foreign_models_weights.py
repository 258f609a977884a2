"""What other people's models are given and what is said of it: precisions, heads, assumptions, image specs, class names."""

from pathlib import Path

import pytest
import torch
from torch import nn

from deploykit.cli.export_image import chosen_image
from deploykit.cli.import_options import ImageOptions
from deploykit.errors import UsageError
from deploykit.models.fitting import head_classes
from deploykit.models.foreign import ForeignChoices, Reference, load_foreign
from deploykit.models.foreign.libraries import describe_weights
from deploykit.models.labels import Labels, find_checkpoint_labels
from deploykit.spec import ImageSpec

SPEC = ImageSpec(32, 32, 32)
SMALL = ForeignChoices(image=lambda *_: SPEC)

NET = """
import torch
from torch import nn
def net(dtype="float32", num_classes=3):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head).to(getattr(torch, dtype))
"""


@pytest.fixture
def net(tmp_path: Path) -> Reference:
    (tmp_path / "net.py").write_text(NET)
    return Reference(str(tmp_path / "net.py"), "net")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_case_o06_a_function_whose_module_is_not_float32_gives_a_float32_model_and_that_is_said(dtype: str, net: Reference) -> None:
    loaded = load_foreign(net, ForeignChoices({"dtype": dtype}, image=SMALL.image))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.weights.stored_dtype == dtype
    assert any(f"are {dtype} and used as float32" in note for note in loaded.notes)


def test_a_checkpoint_is_not_rounded_on_its_way_through_a_module_in_half_precision(net: Reference, tmp_path: Path) -> None:
    state = load_foreign(net, SMALL).model.state_dict()
    state["0.weight"] = torch.full_like(state["0.weight"], 1 / 3)  # float16 would make it 0.33325
    torch.save(state, tmp_path / "w.pth")
    loaded = load_foreign(net, ForeignChoices({"dtype": "float16"}, image=SMALL.image), weights_file=tmp_path / "w.pth")
    assert torch.equal(loaded.model.state_dict()["0.weight"], state["0.weight"])


def test_the_arguments_stand_in_the_record_beside_the_function(net: Reference) -> None:
    assert load_foreign(net, ForeignChoices({"num_classes": 5}, image=SMALL.image)).entry.family == f"{net}(num_classes=5)"
    assert load_foreign(net, SMALL).entry.family == str(net)


class TwoHeads(nn.Module):
    def __init__(self, classes: int, auxiliary: int) -> None:
        super().__init__()
        self.fc, self.aux = nn.Linear(6, classes), nn.Linear(4, auxiliary)


def test_auxiliary_heads_have_the_width_of_the_head() -> None:
    model = TwoHeads(10, 10)
    assert head_classes(model, TwoHeads(5, 5).state_dict()) == 5
    assert head_classes(model, TwoHeads(5, 7).state_dict()) is None
    assert head_classes(TwoHeads(10, 8), TwoHeads(5, 5).state_dict()) is None


def test_a_checkpoint_for_inception_is_told_of_what_nobody_can_see_in_it(tmp_path: Path) -> None:
    """Published and fine-tuned weights need ``transform_input``, which no key of a checkpoint shows."""
    pytest.importorskip("torchvision")
    reference = Reference("torchvision", "googlenet")
    choices = ForeignChoices(image=lambda *_: ImageSpec(64, 64, 64))
    torch.save(load_foreign(reference, choices, num_classes=4).model.state_dict(), tmp_path / "w.pth")
    loaded = load_foreign(reference, choices, weights_file=tmp_path / "w.pth")
    assert loaded.num_classes == 4  # of the head and of both auxiliary heads
    assert any("transform_input=true" in note for note in loaded.notes)
    said = ForeignChoices({"transform_input": True}, image=choices.image)
    assert not any("transform_input" in note for note in load_foreign(reference, said, weights_file=tmp_path / "w.pth").notes)


def test_a_checkpoint_for_a_librarys_model_says_how_its_pictures_are_assumed_to_be_prepared(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    reference = Reference("timm", "test_resnet")
    torch.save(load_foreign(reference, SMALL, num_classes=4).model.state_dict(), tmp_path / "w.pth")
    notes = load_foreign(reference, ForeignChoices(), weights_file=tmp_path / "w.pth").notes
    assert any("assumed to be prepared as those of timm test_resnet" in note for note in notes)
    assert not any("assumed" in note for note in load_foreign(reference, SMALL, weights_file=tmp_path / "w.pth").notes)


def test_torchvisions_weights_are_chosen_by_name_with_their_own_image_spec() -> None:
    pytest.importorskip("torchvision")
    reference = Reference("torchvision", "resnet50")
    first = describe_weights(reference, nn.Identity(), "IMAGENET1K_V1")
    default = describe_weights(reference, nn.Identity())
    assert first.source.endswith("IMAGENET1K_V1")
    assert first.image is not None
    assert default.image is not None
    assert (first.image.resize_size, default.image.resize_size) == (256, 232)
    with pytest.raises(UsageError, match="has no weights 'IMAGENET1K_V9'") as caught:
        describe_weights(reference, nn.Identity(), "IMAGENET1K_V9")
    assert "IMAGENET1K_V1, IMAGENET1K_V2" in str(caught.value.hint)


PROBLEMS = {"interpolation": "resize with lanczos", "crop": "crop by 'border', with 0.9 of the picture"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (ImageOptions(), "resize with lanczos"),
        (ImageOptions(resize=40), "resize with lanczos"),
        (ImageOptions(resize_rule="exact"), "resize with lanczos"),
        (ImageOptions(interpolation="bicubic"), "crop by 'border'"),
    ],
)
def test_an_option_of_another_concern_does_not_excuse_what_is_replaced(options: ImageOptions, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        chosen_image(options, SPEC, PROBLEMS, "timm:net")


def test_what_is_replaced_is_taken_once_every_concern_is_answered() -> None:
    image = chosen_image(ImageOptions(interpolation="bicubic", resize=40), SPEC, PROBLEMS, "timm:net")
    assert (image.interpolation, image.resize_size) == ("bicubic", 40)


@pytest.mark.parametrize("as_text", [False, True])
def test_an_inverse_class_map_is_read_by_its_numbers(as_text: bool) -> None:
    names = tuple("abcdefghijkl")  # 12 of them: as text '10' stands before '2'
    inverse = {str(i) if as_text else i: name for i, name in enumerate(names)}
    assert find_checkpoint_labels(({"idx_to_class": inverse},), 12, "run.pth") == Labels(names, "idx_to_class of run.pth")
    assert find_checkpoint_labels(({"idx_to_class": inverse},), 11, "run.pth") is None
