"""What tests share: the command line as a user runs it, and bundles that are slow to make, made once."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage
from onnx import TensorProto, helper

from deploykit.bundle import Bundle
from deploykit.cli.main import run
from deploykit.graph.pixels import add_pixel_input
from deploykit.graph.versions import set_ir_version
from deploykit.spec import ImageSpec

PHOTOS = Path(skimage.__path__[0]) / "data"

Deploykit = Callable[..., subprocess.CompletedProcess[str]]


def pytest_report_header() -> str:
    """A full disk fails tests in ways that do not name it, so the report does."""
    folder = tempfile.gettempdir()
    return f"free in {folder}: {shutil.disk_usage(folder).free / 1e9:.1f} GB (a whole run takes up to 4 GB)"


@pytest.fixture(scope="session")
def deploykit() -> Deploykit:
    """Run ``deploykit ARGUMENT...`` in a process of its own."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploykit", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=280)

    return run


@pytest.fixture
def deploykit_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Deploykit:
    """The same in this process, which has torch already: for the many runs that export something."""

    def call(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            if cwd is not None:
                patch.chdir(cwd)
            code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(list(arguments), code, out, err)

    return call


@pytest.fixture
def idle_process() -> None:
    """Wait until no thread of this process works: those of sessions that earlier tests left spin on for a while.

    CPU time is that of the whole process, so a test that judges it begins here.
    """
    for _ in range(200):
        start = time.process_time()
        time.sleep(0.05)
        if time.process_time() - start < 0.002:
            return
    pytest.fail("a thread of this process has been busy for ten seconds: some test leaves it running")


@pytest.fixture(scope="session")
def coffee() -> Path:
    """A photo of a cup of espresso, 400 x 600."""
    return PHOTOS / "coffee.png"


@pytest.fixture(scope="session")
def chelsea() -> Path:
    """A photo of a cat's face, 300 x 451."""
    return PHOTOS / "chelsea.png"


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of EfficientNet-Lite0 with its published weights. Tests that change it work on a copy."""
    path = tmp_path_factory.mktemp("lite0") / "efficientnet_lite0"
    assert run(["export", "efficientnet_lite0", "--pretrained", "-o", str(path)]) == 0
    return Bundle.open(path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of an untrained ResNet-18 with 6 classes. Tests that change it work on a copy."""
    path = tmp_path_factory.mktemp("small") / "resnet18"
    assert run(["export", "resnet18", "--num-classes", "6", "-o", str(path)]) == 0
    return Bundle.open(path)


def channel_means(spec: ImageSpec, *, pixels: bool = True) -> onnx.ModelProto:
    """A graph whose three logits are the means of the three channels as the network gets them."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, spec.height, spec.width])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    axes = onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    node = helper.make_node("ReduceMean", ["image", "axes"], ["logits"], name="mean", keepdims=0)
    graph = helper.make_model(
        helper.make_graph([node], "channel_means", [image], [logits], [axes]), opset_imports=[helper.make_opsetid("", 18)]
    )
    set_ir_version(graph)
    if pixels:
        add_pixel_input(graph, spec)
    return graph
