"""The plugins' kernels and the plugins themselves on a GPU: the host library's bits, the bodies' answers, and what each costs.

The kernels need nvcc (or DEPLOYKIT_PLUGINS, a build of plugins/ from elsewhere); the plugins need TensorRT and its headers too.
"""

import ctypes
import io
import logging
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deploykit.graph.explain import grad_cam_function
from deploykit.graph.resize_normalize import make_resize_graph
from deploykit.plan import BatchRange
from deploykit.runtime import TrtSession
from deploykit.spec import ImageSpec
from deploykit.trt import BuildOptions, build_plan, load_flavour
from tests.gpu.conftest import installed_backends
from tests.plugins.building import build_folder, plugin_library
from tests.plugins.calls import (
    Attributes,
    grad_cam_bound,
    grad_cam_error_units,
    host_grad_cam,
    host_resize_normalize,
    host_resize_workspace,
    launch_library,
)

CALLS = 200
SPEC = ImageSpec(224, 224, 256, interpolation="bicubic")
Call = Callable[[], object]


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    return launch_library(build_folder() / "libdeploykit_kernels.so")


class Resize:
    """ResizeNormalize on the GPU's current stream: its arrays, and a call."""

    def __init__(self, kernels: ctypes.CDLL, photo: NDArray[np.uint8], attributes: Attributes) -> None:
        self._launch, self._spec = kernels.deploykit_launch_resize_normalize, attributes.as_structure()
        self._photo = torch.from_numpy(photo).cuda()
        size = host_resize_workspace(photo.shape[0], photo.shape[1], attributes)
        self._workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
        self.result = torch.full((3, attributes.height, attributes.width), torch.nan, device="cuda")

    def __call__(self) -> None:
        height, width, _ = self._photo.shape
        where = (self._workspace.data_ptr(), self.result.data_ptr(), torch.cuda.current_stream().cuda_stream)
        assert self._launch(self._photo.data_ptr(), height, width, ctypes.addressof(self._spec), *where) == 0


class Cam:
    """GradCam alike."""

    def __init__(self, kernels: ctypes.CDLL, activations: NDArray[np.float32], gradients: NDArray[np.float32]) -> None:
        self._launch = kernels.deploykit_launch_grad_cam
        self._activations, self._gradients = torch.from_numpy(activations).cuda(), torch.from_numpy(gradients).cuda()
        count, channels, height, width = activations.shape
        self._workspace = torch.empty(count * channels, device="cuda")
        self.result = torch.full((count, height, width), torch.nan, device="cuda")

    def __call__(self) -> None:
        count, channels, height, width = self._activations.shape
        where = (self._workspace.data_ptr(), self.result.data_ptr(), torch.cuda.current_stream().cuda_stream)
        status = self._launch(self._activations.data_ptr(), self._gradients.data_ptr(), count, channels, height * width, *where)
        assert status == 0


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


def maps(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(sum(shape))
    return rng.normal(size=shape).astype(np.float32), (rng.normal(size=shape) * 1e-6).astype(np.float32)


RESIZES = [
    (1, 1, Attributes(1, 1)),
    (37, 41, Attributes(20, 24)),
    (11, 1201, Attributes(33, 31, 35)),
    (1201, 11, Attributes(33, 31, 35)),
    (900, 91, Attributes(30, 30)),
    (61, 4000, Attributes(8, 9)),
    (480, 640, Attributes(224, 192, 256)),
    (2160, 3840, Attributes(224, 224, 256)),
]


@pytest.mark.parametrize("cubic", [0, 1], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "attributes"), RESIZES)
def test_resize_kernels_give_the_host_librarys_bits(
    kernels: ctypes.CDLL, height: int, width: int, attributes: Attributes, cubic: int
) -> None:
    attributes = Attributes(
        attributes.height, attributes.width, attributes.resize_size, cubic, scale=(0.1, 0.2, 0.3), bias=(-1, 0, 1)
    )
    photo = noise(height, width)
    resize = Resize(kernels, photo, attributes)
    resize()
    np.testing.assert_array_equal(resize.result.cpu().numpy(), host_resize_normalize(photo, attributes))


CAMS = [(1, 1, 1, 1), (3, 9, 7, 7), (8, 1280, 7, 7), (2, 130, 3, 3), (1, 512, 32, 32), (2, 64, 25, 41), (1, 256, 64, 64)]


@pytest.mark.parametrize("shape", CAMS)
def test_cam_kernels_give_the_host_librarys_bits(kernels: ctypes.CDLL, shape: tuple[int, ...]) -> None:
    activations, gradients = maps(shape)
    cam = Cam(kernels, activations, gradients)
    cam()
    np.testing.assert_array_equal(cam.result.cpu().numpy(), host_grad_cam(activations, gradients))


def test_two_streams_do_not_disturb_each_other(kernels: ctypes.CDLL) -> None:
    photos = [noise(1080, 1920), noise(1081, 1919)]
    resizes = [Resize(kernels, photo, Attributes(224, 224, 256)) for photo in photos]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for _ in range(20):
        for resize, stream in zip(resizes, streams, strict=True):
            with torch.cuda.stream(stream):
                resize()
    torch.cuda.synchronize()
    for resize, photo in zip(resizes, photos, strict=True):
        np.testing.assert_array_equal(resize.result.cpu().numpy(), host_resize_normalize(photo, Attributes(224, 224, 256)))


def test_a_captured_graph_replays_them(kernels: ctypes.CDLL) -> None:
    photo, (activations, gradients) = noise(480, 640), maps((2, 64, 7, 7))
    resize, cam = Resize(kernels, photo, Attributes(224, 224, 256)), Cam(kernels, activations, gradients)
    for call in (resize, cam):
        call()  # a kernel's code is loaded at its first launch, which a capture may not contain
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        resize()
        cam()
    for result in (resize.result, cam.result):
        result.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    np.testing.assert_array_equal(resize.result.cpu().numpy(), host_resize_normalize(photo, Attributes(224, 224, 256)))
    np.testing.assert_array_equal(cam.result.cpu().numpy(), host_grad_cam(activations, gradients))


def test_what_the_kernels_take(kernels: ctypes.CDLL, capsys: pytest.CaptureFixture[str]) -> None:
    calls: dict[str, Call] = {}
    for height, width in ((480, 640), (1080, 1920), (2160, 3840)):
        calls[f"ResizeNormalize {height} x {width}"] = Resize(kernels, noise(height, width), Attributes(224, 224, 256))
    for shape in ((1, 1280, 7, 7), (32, 1280, 7, 7), (1, 2048, 7, 7), (1, 256, 56, 56)):
        calls[f"GradCam {' x '.join(map(str, shape))}"] = Cam(kernels, *maps(shape))
    times = {name: time_on_stream(call) for name, call in calls.items()}
    with capsys.disabled():
        sys.stdout.write(f"\n  {torch.cuda.get_device_name()}\n" + "".join(f"  {n:32} {us:8.1f} us\n" for n, us in times.items()))
    assert all(us > 0 for us in times.values())


def time_on_stream(call: Call) -> float:
    """Microseconds of GPU time per call, in a captured graph, which leaves out what the host needs to launch; the median of ten."""
    call()  # a kernel's code is loaded at its first launch, which a capture may not contain
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    times: list[float] = []
    for _ in range(10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / CALLS)
    return statistics.median(times)


def cam_graph() -> onnx.ModelProto:
    """The operator GradCam alone, for maps of 1280 x 7 x 7."""
    value = helper.make_tensor_value_info
    shape: list[int | str] = ["N", 1280, 7, 7]
    graph = helper.make_graph(
        [helper.make_node("GradCam", ["activations", "gradients"], ["cam"], domain="deploykit")],
        "cam",
        [value("activations", TensorProto.FLOAT, shape), value("gradients", TensorProto.FLOAT, shape)],
        [value("cam", TensorProto.FLOAT, ["N", 7, 7])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("deploykit", 1)]
    return helper.make_model(graph, functions=[grad_cam_function(18)], opset_imports=opsets, ir_version=8)


def resize_graph(height: int, width: int) -> onnx.ModelProto:
    """The operator ResizeNormalize alone, for photos of one size."""
    graph = make_resize_graph(SPEC)
    for dim, size in zip(graph.graph.input[0].type.tensor_type.shape.dim[1:3], (height, width), strict=True):
        dim.Clear()
        dim.dim_value = size
    return graph


@dataclass(frozen=True)
class Built:
    """A plan on disk, and what TensorRT said while it was built."""

    path: Path
    log: str


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Each operator as a plan, from its body and from the plugin; in this order, since a registered plugin stays."""
    if "tensorrt" not in installed_backends():
        pytest.skip("tensorrt is not installed, and tensorrt_rtx takes no plugins")
    folder = tmp_path_factory.mktemp("plans")
    made = {}
    for way, plugins in (("body", ()), ("plugin", (plugin_library(),))):
        for name, graph, batch in (
            ("cam", cam_graph(), BatchRange(1, 8, 32)),
            ("resize", resize_graph(1080, 1920), BatchRange(1, 1, 1)),
        ):
            path = folder / name / way / "predict.plan"
            path.parent.mkdir(parents=True)
            made[f"{name} {way}"] = build(path, graph, BuildOptions(batch, plugins=plugins))
    return made


def build(path: Path, graph: onnx.ModelProto, options: BuildOptions) -> Built:
    log = io.StringIO()
    handler, logger = logging.StreamHandler(log), logging.getLogger("deploykit.trt")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        path.write_bytes(build_plan(load_flavour("tensorrt"), graph.SerializeToString(), options).data)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return Built(path, log.getvalue())


def run_both(
    plans: dict[str, Built], name: str, feeds: dict[str, NDArray[np.generic]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """What the body and the plugin answer, and a line with the median time of each, copies included."""
    answers, times = [], []
    for way, plugins in (("body", ()), ("plugin", (plugin_library(),))):
        with TrtSession(plans[f"{name} {way}"].path, lanes=1, plugins=plugins) as session:
            answers.append(next(iter(session.run(feeds).values())))
            took = []
            for _ in range(CALLS):
                start = time.perf_counter()
                session.run(feeds)
                took.append(time.perf_counter() - start)
            times.append(statistics.median(took) * 1e6)
    return answers[0], answers[1], f"{name}: body {times[0]:.1f} us, plugin {times[1]:.1f} us, host to host"


@pytest.mark.parametrize(("name", "operator"), [("cam", "GradCam"), ("resize", "ResizeNormalize")])
def test_the_parser_takes_a_registered_plugin_instead_of_the_body(plans: dict[str, Built], name: str, operator: str) -> None:
    assert f"Successfully created plugin: {operator}" in plans[f"{name} plugin"].log
    assert "created plugin" not in plans[f"{name} body"].log


@pytest.mark.parametrize("rows", [1, 8])
def test_grad_cams_plugin_and_body_agree(plans: dict[str, Built], rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    activations, gradients = maps((rows, 1280, 7, 7))
    body, plugin, line = run_both(plans, "cam", {"activations": activations, "gradients": gradients})
    with capsys.disabled():
        sys.stdout.write(f"\n  {rows} x {line}\n")
    np.testing.assert_array_equal(plugin, host_grad_cam(activations, gradients))
    # The body's sums have an order of their own: at most as many roundings as addends.
    units = grad_cam_error_units(1280, 49)
    assert np.all(np.abs(plugin - body) <= grad_cam_bound(activations, gradients) * (units + 1280 + 49) / units)


def test_resize_normalizes_plugin_and_body_agree(plans: dict[str, Built], capsys: pytest.CaptureFixture[str]) -> None:
    photo = noise(1080, 1920)
    body, plugin, line = run_both(plans, "resize", {"image": photo[np.newaxis]})
    with capsys.disabled():
        sys.stdout.write(f"\n  {line}\n")
    attributes = Attributes.of_node(resize_graph(1080, 1920).graph.node[0])
    np.testing.assert_array_equal(plugin[0], host_resize_normalize(photo, attributes))
    assert np.abs(plugin - body).max() <= 2  # grey levels, under bicubic: see deploykit/graph/resize_normalize.py
