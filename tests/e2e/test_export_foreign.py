"""``deploykit export`` of other people's models: timm's, torchvision's, a function's; and the public faults they come with."""

import json
from pathlib import Path

import pytest
import timm

from deploykit.bundle import Bundle
from tests.conftest import Deploykit

SMALL = ("--image-size", "64")
OWN = ("--image-size", "32", "--normalize", "imagenet")


def write(folder: Path, body: str) -> Path:
    path = folder / "net.py"
    path.write_text(f"import torch\nfrom torch import nn\nimport torch.nn.functional as F\n\n{body}")
    return path


@pytest.mark.parametrize("name", ["timm:regnetx_002", "torchvision:shufflenet_v2_x0_5", "timm:test_resnet"])
def test_a_librarys_model_becomes_a_bundle_that_answers_and_explains(name: str, deploykit_here: Deploykit, tmp_path: Path) -> None:
    done = deploykit_here("export", name, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stderr
    bundle = Bundle.open(tmp_path / name.partition(":")[2])
    assert bundle.manifest.model.family == name
    assert bundle.manifest.files["fp32/explain.onnx"].parity["reference"] == "torch autograd"  # type: ignore[index]
    assert deploykit_here("verify", bundle.path).returncode == 0


def test_torchvisions_image_spec_is_that_of_its_weights(deploykit_here: Deploykit, tmp_path: Path) -> None:
    done = deploykit_here("export", "torchvision:shufflenet_v2_x0_5", "--no-explain", "--json", cwd=tmp_path)
    image = json.loads(done.stdout)["image"]
    assert (image["height"], image["resize_size"], image["interpolation"]) == (224, 256, "bilinear")


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("timm:resnet1", 2, "timm has no model 'resnet1'; did you mean resnet18"),
        ("torchvision:resnet19", 2, "torchvision has no model 'resnet19'; did you mean resnet1"),
        ("nowhere.to.be.found:make", 2, "there is no module 'nowhere.to.be.found' here"),
        ("gone.py:make", 2, "there is no file gone.py"),
        ("torchvision:fasterrcnn_resnet50_fpn", 2, "is no classifier or segmentation net"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_is_written(
    name: str, code: int, says: str, deploykit_here: Deploykit, tmp_path: Path
) -> None:
    done = deploykit_here("export", name, "--normalize", "imagenet", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (code, [])
    assert says in done.stderr


def test_weights_that_resize_otherwise_need_a_word(
    deploykit_here: Deploykit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that an image spec cannot hold is replaced in silence."""
    theirs = vars(timm.data)["resolve_data_config"]
    monkeypatch.setattr(timm.data, "resolve_data_config", lambda *a, **k: theirs(*a, **k) | {"interpolation": "lanczos"})
    command = ("export", "timm:test_resnet", "--no-explain", "--json")
    refused = deploykit_here(*command, cwd=tmp_path)
    assert refused.returncode == 2
    assert "the weights of timm:test_resnet resize with lanczos, which deploykit does not do" in refused.stderr
    told = deploykit_here(*command, "--interpolation", "bilinear", cwd=tmp_path)
    assert json.loads(told.stdout)["image"]["interpolation"] == "bilinear"


def test_a_function_without_a_normalization_is_asked_for_it(deploykit_here: Deploykit, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "def make():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n",
    )
    done = deploykit_here("export", f"{path}:make", cwd=tmp_path)
    assert done.returncode == 2
    assert "does not say how its pictures are normalized" in done.stderr


SWISH = """
class SwishOp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t):
        ctx.save_for_backward(t)
        return t * torch.sigmoid(t)
    @staticmethod
    def backward(ctx, g):
        (t,) = ctx.saved_tensors
        s = torch.sigmoid(t)
        return g * s * (1 + t * (1 - s))

class LeanSwish(nn.Module):
    def forward(self, t):
        return SwishOp.apply(t)

class NumpySwish(nn.Module):
    def forward(self, t):
        v = t.detach().numpy()
        return torch.from_numpy(v / (1 + __import__("numpy").exp(-v)))

def make(act):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), globals()[act](), *head)
"""


def test_case_o02_a_swish_of_its_own_exports_or_is_named_with_the_cure(deploykit_here: Deploykit, tmp_path: Path) -> None:
    path = write(tmp_path, SWISH)
    lean = deploykit_here("export", f"{path}:make", *OWN, "--kwargs", '{"act": "LeanSwish"}', cwd=tmp_path)
    assert lean.returncode == 0, lean.stderr
    lost = deploykit_here("export", f"{path}:make", *OWN, "--kwargs", '{"act": "NumpySwish"}', "--force", cwd=tmp_path)
    assert lost.returncode == 1
    assert "2 (NumpySwish)" in lost.stderr
    assert "x * torch.sigmoid(x)" in lost.stderr


@pytest.mark.parametrize("how", ["y.reshape(int(x.shape[0]), 6)", "y.view(1, -1)", "y.view(2, 6)"])
def test_case_o03_a_frozen_batch_is_exported_rightly_or_refused(how: str, deploykit_here: Deploykit, tmp_path: Path) -> None:
    body = f"""
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.f = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
    def forward(self, x):
        y = self.c(x).mean((2, 3))
        return self.f({how})
"""
    done = deploykit_here("export", f"{write(tmp_path, body)}:Frozen", *OWN, "--no-explain", "-o", "b", cwd=tmp_path)
    if done.returncode == 0:
        assert deploykit_here("verify", tmp_path / "b").returncode == 0  # at batches of 1, 2, 5 and 8
    else:
        assert "batch" in done.stderr
        assert not (tmp_path / "b").exists()


def test_cases_o01_and_o25_live_dropout_and_a_relu_in_place_give_the_inference_graph(
    deploykit_here: Deploykit, tmp_path: Path
) -> None:
    body = """
class DenseLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6, 3)
        self.train()
    def forward(self, x):
        return self.fc(self.drop(F.relu(self.features(x), inplace=True).mean((2, 3))))
"""
    path = write(tmp_path, body)
    done = deploykit_here("export", f"{path}:DenseLike", *OWN, "--layer", "features", "-o", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Bundle.open(tmp_path / "b").manifest.files["fp32/explain.onnx"].parity["reference"] == "torch autograd"  # type: ignore[index]


def test_case_o09_a_folder_in_another_order_than_the_checkpoints_is_caught(deploykit_here: Deploykit, tmp_path: Path) -> None:
    import torch

    from deploykit.models.registry import load_model

    folders = ["0", "1", "2", "10", "11", "100"]
    for name in folders:
        (tmp_path / "data" / name).mkdir(parents=True)
    state = load_model("resnet18", num_classes=6).model.state_dict()
    torch.save({"state_dict": state, "class_to_idx": {name: i for i, name in enumerate(sorted(folders))}}, tmp_path / "w.pth")
    common = ("export", "resnet18", "--weights", "w.pth", "--labels", "data", "--no-explain", "--image-size", "64")
    wrong = deploykit_here(*common, "--label-order", "natural", "-o", "wrong", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "puts '2' at class 2, and class_to_idx of w.pth puts '10' there" in wrong.stderr
    right = deploykit_here(*common, "--label-order", "text", "-o", "right", cwd=tmp_path)
    assert right.returncode == 0, right.stderr
    assert Bundle.open(tmp_path / "right").labels() == tuple(sorted(folders))
