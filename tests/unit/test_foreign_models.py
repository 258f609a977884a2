"""References to other people's models, factories, outputs and checkpoints: what is taken, and what is refused by name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploykit.errors import ExportError, UsageError, WeightsError
from deploykit.models.fitting import fit_weights, head_classes
from deploykit.models.foreign import ForeignChoices, Reference, load_foreign, parse_reference
from deploykit.models.foreign.factory import call_factory, find_factory
from deploykit.models.foreign.outputs import choose_output
from deploykit.models.registry import load_model
from deploykit.spec import ImageSpec

SMALL = ForeignChoices(image=lambda *_: ImageSpec(32, 32, 32))

NET = '''
import torch
from torch import nn
from dataclasses import dataclass

@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor

class Net(nn.Module):
    """A small net whose activation works in place."""
    def __init__(self, width=4, num_classes=3, kind="tensor"):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, num_classes)
        self.kind = kind
    def forward(self, x):
        hidden = self.features(x)
        logits = self.head(hidden.mean((2, 3)))
        return {"tensor": logits, "dict": {"hidden": hidden, "logits": logits}, "tuple": (logits, hidden),
                "dataclass": Answer(logits, hidden), "nested": {"out": [hidden, logits]}}[self.kind]

def broken():
    raise RuntimeError("no such weights here")

def number():
    return 3

made = Net()
word = "resnet"
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet18", None),
        ("timm:resnet18.a1_in1k", Reference("timm", "resnet18.a1_in1k")),
        ("torchvision:resnet18", Reference("torchvision", "resnet18")),
        ("my.package.nets:make", Reference("my.package.nets", "make")),
        ("nets/mine.py:Net", Reference("nets/mine.py", "Net")),
    ],
)
def test_a_reference_is_taken_apart(text: str, expected: Reference | None) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize("text", ["timm:", ":resnet18", "my package:make", "nets/mine.txt:Net"])
def test_what_is_no_reference_is_refused_with_the_ways_to_write_one(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert caught.value.hint is not None
    assert "path/to/file.py:function" in caught.value.hint


def test_a_factory_is_found_in_a_file_and_called_with_arguments(file: Path) -> None:
    reference = Reference(str(file), "Net")
    loaded = load_foreign(reference, ForeignChoices({"width": 6}, image=SMALL.image), num_classes=7)
    assert loaded.num_classes == 7
    assert loaded.model.state_dict()["features.0.weight"].shape[0] == 6
    assert not loaded.weights.trained
    assert "--trained" in loaded.notes[0]
    assert load_foreign(reference, ForeignChoices(trained=True, image=SMALL.image)).weights.trained


@pytest.mark.parametrize(
    ("name", "arguments", "error", "says"),
    [
        ("Nett", {}, UsageError, "has no 'Nett'"),
        ("word", {}, UsageError, "is a str, expected a function"),
        ("Net", {"depth": 3}, UsageError, "cannot be called with"),
        ("broken", {}, ExportError, "RuntimeError: no such weights here"),
        ("number", {}, ExportError, "something of type int, expected a torch module"),
    ],
)
def test_a_factory_that_makes_no_model_is_refused_by_name(
    name: str, arguments: dict[str, int], error: type[Exception], says: str, file: Path
) -> None:
    reference = Reference(str(file), name)
    with pytest.raises(error, match=says):
        call_factory(find_factory(reference), arguments, reference)


def test_a_module_that_exists_already_is_taken_as_it_is(file: Path) -> None:
    assert load_foreign(Reference(str(file), "made"), SMALL).num_classes == 3


def test_missing_files_modules_and_their_own_missing_imports_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        find_factory(Reference(str(tmp_path / "gone.py"), "Net"))
    with pytest.raises(UsageError, match=r"there is no module 'no_such_package\.nets'"):
        find_factory(Reference("no_such_package.nets", "Net"))
    (tmp_path / "needs.py").write_text("import no_such_dependency\n")
    with pytest.raises(ExportError, match="no_such_dependency"):
        find_factory(Reference(str(tmp_path / "needs.py"), "Net"))


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("tensor", None), ("dict", None), ("dataclass", None), ("tuple", "0"), ("nested", "out.1"), ("dict", "logits")],
)
def test_one_output_is_chosen_and_the_model_itself_stays_as_it_is(kind: str, wanted: str | None, file: Path) -> None:
    model = call_factory(find_factory(Reference(str(file), "Net")), {"kind": kind}, Reference("net.py", "Net")).eval()
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    chosen = choose_output(model, x, wanted, "net.py:Net")
    assert chosen(x).shape == (2, 3)
    assert type(model(x)) is type(before)
    assert [name for name, _ in chosen.named_modules()] == [name for name, _ in model.named_modules()]


@pytest.mark.parametrize(("kind", "wanted", "says"), [
    ("tuple", None, r"a tuple with 0 \[2, 3\], 1 \[2, 4, 8, 8\], and which are the logits is not clear"),
    ("dict", "scores", r"--scores is 'scores', and .* returns hidden \[2, 4, 8, 8\], logits \[2, 3\]"),
    ("tensor", "0", "returns a single tensor"),
])  # fmt: skip
def test_an_output_that_is_not_clear_or_not_there_lists_what_there_is(kind: str, wanted: str | None, says: str, file: Path) -> None:
    model = call_factory(find_factory(Reference(str(file), "Net")), {"kind": kind}, Reference("net.py", "Net"))
    with pytest.raises(UsageError, match=says):
        choose_output(model, torch.randn(2, 3, 8, 8), wanted, "net.py:Net")


def test_a_checkpoint_is_fitted_whole_or_not_at_all(file: Path, tmp_path: Path) -> None:
    """Case O04 for somebody else's model: prefixes, nested dictionaries, and no key left out in silence."""
    reference = Reference(str(file), "Net")
    state = call_factory(find_factory(reference), {"num_classes": 5}, reference).state_dict()
    torch.save(
        {"epoch": 3, "state_dict": {f"model.net.{key}": value for key, value in state.items()}}, tmp_path / "lightning.ckpt.pth"
    )
    loaded = load_foreign(reference, SMALL, weights_file=tmp_path / "lightning.ckpt.pth")
    assert loaded.num_classes == 5
    assert any("begins with 'model.net.'" in note for note in loaded.notes)
    torch.testing.assert_close(loaded.model.state_dict()["head.weight"], state["head.weight"])
    torch.save({key: value for key, value in state.items() if key != "features.0.bias"}, tmp_path / "less.pth")
    with pytest.raises(WeightsError, match=r"1 missing \(features.0.bias\)"):
        load_foreign(reference, SMALL, weights_file=tmp_path / "less.pth")
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"1 unexpected \(extra.weight\)"):
        load_foreign(reference, SMALL, weights_file=tmp_path / "more.pth")


def test_the_names_in_a_checkpoint_are_taken_where_they_are_as_many_as_the_logits(file: Path, tmp_path: Path) -> None:
    reference = Reference(str(file), "Net")
    state = call_factory(find_factory(reference), {"num_classes": 3}, reference).state_dict()
    for names, expected in ((["cat", "dog", "fox"], ("cat", "dog", "fox")), (["cat", "dog"], None)):
        torch.save({"state_dict": state, "classes": names}, tmp_path / "w.pth")
        assert load_foreign(reference, SMALL, weights_file=tmp_path / "w.pth").labels == expected


def test_half_precision_checkpoints_become_float32(file: Path, tmp_path: Path) -> None:
    """Case O06 for somebody else's model."""
    reference = Reference(str(file), "Net")
    state = call_factory(find_factory(reference), {}, reference).half().state_dict()
    torch.save(state, tmp_path / "half.pth")
    loaded = load_foreign(reference, SMALL, weights_file=tmp_path / "half.pth")
    assert loaded.weights.stored_dtype == "float16"
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())


def test_a_hostile_checkpoint_never_runs(file: Path, tmp_path: Path) -> None:
    """Case O05 for somebody else's model."""
    marker = tmp_path / "was_run"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(marker), "w")

    torch.save({"state_dict": {"head.weight": torch.zeros(1)}, "extra": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError):
        load_foreign(Reference(str(file), "Net"), SMALL, weights_file=tmp_path / "trap.pth")
    assert not marker.exists()


def test_a_prefix_of_all_keys_is_left_out_for_deploykits_own_models_too(tmp_path: Path) -> None:
    state = load_model("resnet18", num_classes=4).model.state_dict()
    torch.save({f"model.{key}": value for key, value in state.items()}, tmp_path / "w.pth")
    loaded = load_model("resnet18", weights_file=tmp_path / "w.pth")
    assert loaded.num_classes == 4
    assert any("begins with 'model.'" in note for note in loaded.notes)


def test_the_width_of_the_head_is_the_checkpoints() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    state: dict[str, Tensor] = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 9)).state_dict()
    assert head_classes(model, state) == 9
    assert head_classes(model, model.state_dict()) is None
    assert head_classes(model, nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 9)).state_dict()) is None
    with pytest.raises(WeightsError, match="of another shape"):
        fit_weights(model, state, where="w.pth", model_name="net")
