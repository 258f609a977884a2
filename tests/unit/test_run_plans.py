"""Which plan of a bundle answers, and why the others do not; classifier and explainer on plans, with a stand-in for the GPU that
computes what the bundle's graphs say.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploykit.bundle import Bundle, extend_bundle
from deploykit.errors import BundleError, EngineError, UsageError
from deploykit.plan import BatchRange, Gpu, PlanFile, PlanRecord
from deploykit.runtime import Classifier, Explainer, OrtSession, Segmenter, TrtSession
from deploykit.runtime.opening import Answering, answering_file, open_session
from deploykit.runtime.plans import find_plan, planned_precisions
from deploykit.runtime.trt import LoadedPlan
from deploykit.spec import Precision
from deploykit.trt import Flavour
from deploykit.trt.engine import PlanTensor
from tests.recording_device import GPU, RecordingDevice
from tests.recording_engine import Arrays, RecordingEngine
from tests.unit.bright_bundle import make_bundle
from tests.unit.bright_segments import make_segments_bundle

VERSION = "1.7.1.116"
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def add_plans(bundle: Bundle, **changes: Any) -> str:
    """Put plans into a bundle that hold nothing but their name, with a record as `deploykit build` writes one; the folder."""
    files = {
        f"{graph}.plan": PlanFile(
            "0" * 64, 1, f"fp32/{graph}.onnx", bundle.manifest.files[f"fp32/{graph}.onnx"].sha256, 0.1, False, {}, {}
        )
        for graph in ("predict", "explain")
    }
    record = PlanRecord("tensorrt-rtx", VERSION, "sm86", None, Precision.FP32, BatchRange(1, 2, 4), files)
    record = replace(record, **changes)
    with extend_bundle(bundle.path) as stage:
        for name in record.files:
            stage.add(f"{record.folder}/{name}", name.encode())
        stage.add(f"{record.folder}/plan.json", record.to_text().encode())
    return record.folder


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle", input_gradients=True)


Add = Callable[..., str]


@pytest.fixture
def add(bundle: Bundle) -> Add:
    return lambda **changes: add_plans(Bundle.open(bundle.path), **changes)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> RecordingDevice:
    """A machine with an A10 and TensorRT-RTX, whose engines compute the graph that their plan was built from."""
    device = RecordingDevice()
    monkeypatch.setattr("deploykit.runtime.plans.find_gpu", lambda ordinal: GPU)
    monkeypatch.setattr("deploykit.runtime.plans.load_flavour", lambda backend: Flavour(backend, VERSION, None))

    def load(path: Path, ordinal: int, plugins: tuple[Path, ...]) -> LoadedPlan:
        session = OrtSession(path.parents[2] / "fp32" / f"{path.stem}.onnx")

        def compute(feeds: Arrays) -> Arrays:
            return session.run(feeds)

        known = session.run({i.name: np.zeros((1, *[int(d) for d in i.shape[1:]]), i.dtype) for i in session.inputs})
        tensors = [PlanTensor(i.name, True, i.dtype, tuple(int(d) for d in i.shape[1:])) for i in session.inputs]
        tensors += [PlanTensor(name, False, array.dtype.name, array.shape[1:]) for name, array in known.items()]
        return LoadedPlan(RecordingEngine(device, tuple(tensors), BatchRange(1, 2, 4), compute), device, GPU)

    monkeypatch.setattr("deploykit.runtime.trt.load_plan", load)
    return device


def find(bundle: Bundle, **options: Any) -> str:
    options = {"graph": "predict", "precision": Precision.FP32, "backend": "tensorrt-rtx"} | options
    return find_plan(Bundle.open(bundle.path), **options).relative_to(bundle.path).as_posix()


def test_the_plan_that_fits_is_taken_and_the_largest_batch_of_several(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    add(sm="sm89")
    folder = add()
    assert find(bundle) == f"{folder}/predict.plan"
    assert find(bundle, graph="explain") == f"{folder}/explain.plan"
    larger = add(batch=BatchRange(1, 8, 32))
    assert find(bundle) == f"{larger}/predict.plan"


def test_of_plans_that_do_not_fit_each_is_named_with_its_reason(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    add(sm="sm89")
    add(version="1.6.0.1")
    with pytest.raises(EngineError, match=r"none of .*'s 2 tensorrt-rtx fp32 plans of predict runs here") as caught:
        find(bundle)
    assert "was built for sm89; the selected GPU is NVIDIA A10, sm86" in str(caught.value)
    assert "was built with tensorrt-rtx 1.6.0.1; here is 1.7.1.116" in str(caught.value)
    assert "deploykit build BUNDLE" in str(caught.value.hint)


def test_a_single_plan_that_does_not_fit_is_told_as_it_is(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    add(sm="sm120")
    with pytest.raises(EngineError, match=r"predict\.plan was built for sm120; the selected GPU is NVIDIA A10, sm86"):
        find(bundle)


def test_without_a_gpu_the_error_names_the_cpu_way(bundle: Bundle, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploykit.runtime.plans.find_gpu", lambda ordinal: None)
    with pytest.raises(BundleError, match="has no tensorrt-rtx fp32 plan of predict; it has none at all") as nothing:
        find(bundle)
    add()
    add(sm="sm89")
    with pytest.raises(EngineError, match="this machine has no NVIDIA GPU") as caught:
        find(bundle)
    for error in (nothing, caught):
        assert "--backend onnxruntime --provider cpu" in str(error.value.hint)


def test_what_is_not_there_is_named_beside_what_is(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    add()
    with pytest.raises(
        BundleError, match="has no tensorrt fp32 plan of predict; it has tensorrt-rtx fp32 explain, tensorrt-rtx fp32 predict"
    ) as caught:
        find(bundle, backend="tensorrt")
    assert "deploykit build" in str(caught.value.hint)
    with pytest.raises(BundleError, match="has no tensorrt-rtx fp16 plan"):
        find(bundle, precision=Precision.FP16)
    assert planned_precisions(Bundle.open(bundle.path), "predict", "tensorrt-rtx") == [Precision.FP32]
    with pytest.raises(BundleError, match="no tensorrt plans of predict"):
        planned_precisions(Bundle.open(bundle.path), "predict", "tensorrt")


def test_a_plan_of_another_graph_is_refused(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    file = PlanFile("0" * 64, 1, "fp32/predict.onnx", "1" * 64, 0.1, False, {}, {})
    folder = add(files={"predict.plan": file})
    for options in ({}, {"folder": Path(folder), "backend": None}):
        with pytest.raises(EngineError, match=r"was built from another graph than the bundle's fp32/predict\.onnx") as caught:
            find(bundle, **options)
        assert "--force" in str(caught.value.hint)


def test_a_folder_is_named_in_the_bundle_or_elsewhere(bundle: Bundle, add: Add, gpu: RecordingDevice, tmp_path: Path) -> None:
    folder = add(sm="sm89")
    opened = Bundle.open(bundle.path)
    elsewhere = (bundle.path / folder).rename(tmp_path / "elsewhere")
    assert find_plan(opened, "predict", Precision.FP32, folder=elsewhere) == elsewhere / "predict.plan"
    elsewhere.rename(bundle.path / folder)
    for name in (Path(folder), Path(folder).relative_to("plans"), bundle.path / folder):
        assert find(bundle, folder=name, backend=None) == f"{folder}/predict.plan"
    with pytest.raises(UsageError, match=r"is no folder with a plan\.json; .* has tensorrt-rtx-1\.7\.1\.116-sm89"):
        find(bundle, folder=tmp_path)
    with pytest.raises(UsageError, match="holds fp32 plans, fp16 is asked for") as caught:
        find(bundle, folder=Path(folder), precision=Precision.FP16)
    assert caught.value.hint == "add --precision fp32"
    with pytest.raises(UsageError, match="holds plans of tensorrt-rtx, tensorrt is asked for"):
        find(bundle, folder=Path(folder), backend="tensorrt")
    alone = add(batch=BatchRange(1, 1, 1), files={})
    with pytest.raises(BundleError, match="has no plan of predict; it has none"):
        find(bundle, folder=Path(alone))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, "backend is 'tensorflow', expected one of onnxruntime, tensorrt, tensorrt-rtx"),
        ({"backend": "onnxruntime", "plan": Path("p")}, "a plan is named, which onnxruntime does not run"),
        ({"backend": "tensorrt", "provider": "cuda"}, "provider cuda and threads 0 are for onnxruntime, and tensorrt is to answer"),
        ({"plan": Path("p"), "threads": 2}, "and a plan is to answer"),
        ({"plugins": (Path("libp.so"),)}, "plugins are named, which onnxruntime does not load"),
    ],
)
def test_options_that_have_no_meaning_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Answering(**options)


def test_a_classifier_answers_from_its_plan_as_from_its_graph(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    folder = add()
    opened = Bundle.open(bundle.path)
    with Classifier.open(opened) as on_cpu, Classifier.open(opened, backend="tensorrt-rtx") as on_gpu:
        assert isinstance(on_gpu.session, TrtSession)
        np.testing.assert_array_equal(on_gpu.logits(PICTURES), on_cpu.logits(PICTURES))
        assert on_gpu.classify_batch(list(PICTURES)) == on_cpu.classify_batch(list(PICTURES))
    assert gpu.left == {}
    answering = Answering(backend="tensorrt-rtx")
    assert answering_file(opened, "predict", answering) == f"{folder}/predict.plan"
    with Classifier.open(opened, plan=Path(folder)) as named:
        assert isinstance(named.session, TrtSession)


def test_an_explainer_shows_from_its_plan_what_it_shows_from_its_graph(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    add()
    opened = Bundle.open(bundle.path)
    with Explainer.open(opened) as on_cpu, Explainer.open(opened, backend="tensorrt-rtx") as on_gpu:
        for method in ("grad-cam", "layer-cam"):
            for here, there in zip(on_cpu.explain(PICTURES, method=method), on_gpu.explain(PICTURES, method=method), strict=True):
                np.testing.assert_array_equal(here.map, there.map)
                assert here.explained == there.explained
        # There is no plan of the tail: several classes are rows of the explain plan.
        one, other = (e.explain_classes(PICTURES[0], [0, 1, 2, 1, 0]) for e in (on_cpu, on_gpu))
        for here, there in zip(one, other, strict=True):
            np.testing.assert_allclose(here.map, there.map, atol=1e-6)  # the tail computes the same in another order
            assert here.explained == there.explained
    assert gpu.left == {}


def test_methods_at_the_picture_say_that_no_plan_has_their_graph(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    add()
    with (
        Explainer.open(Bundle.open(bundle.path), backend="tensorrt-rtx") as explainer,
        pytest.raises(BundleError, match="there are no plans of input_gradients") as caught,
    ):
        explainer.explain(PICTURES, method="guided-backprop")
    assert "--backend onnxruntime" in str(caught.value.hint)


def test_a_plan_that_needs_a_plugin_is_taken_where_it_is_given(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    folder = add(plugins=("libgradcam.so",))
    with pytest.raises(EngineError, match=r"needs the plugin library libgradcam\.so; none loaded") as caught:
        find(bundle)
    assert caught.value.hint == "give it with --plugin"
    assert find(bundle, plugins=("libgradcam.so",)) == f"{folder}/predict.plan"
    with Classifier.open(Bundle.open(bundle.path), backend="tensorrt-rtx", plugins=(Path("lib/libgradcam.so"),)) as classifier:
        assert isinstance(classifier.session, TrtSession)


def test_every_session_is_opened_in_one_place(bundle: Bundle, add: Add, gpu: RecordingDevice) -> None:
    add()
    opened = Bundle.open(bundle.path)
    with open_session(opened, "explain", Answering(backend="tensorrt-rtx")) as session:
        assert session.backend == "recording-rt 1.0 (NVIDIA A10)"
    with open_session(opened, "explain", Answering()) as session:
        assert session.backend.startswith("onnxruntime ")
    with pytest.raises(UsageError, match="expected one of fp32, fp16, int8"):
        open_session(opened, "explain", Answering("fp8", "tensorrt-rtx"))


def test_a_normalized_picture_is_held_to_its_range_on_a_plan_too(tmp_path: Path, gpu: RecordingDevice) -> None:
    bundle = make_bundle(tmp_path / "floats", pixels=False)
    add_plans(bundle)
    with open_session(Bundle.open(bundle.path), "predict", Answering(backend="tensorrt-rtx")) as session:
        assert session.inputs[0].value_range == bundle.manifest.image.normalized_range


def test_a_segmenter_opens_plans_too(tmp_path: Path, gpu: RecordingDevice) -> None:
    bundle = make_segments_bundle(tmp_path / "segments")
    add_plans(bundle)
    opened = Bundle.open(bundle.path)
    with Segmenter.open(opened) as on_cpu, Segmenter.open(opened, backend="tensorrt-rtx") as on_gpu:
        np.testing.assert_array_equal(on_gpu.logits(PICTURES), on_cpu.logits(PICTURES))


def test_the_fit_is_asked_of_the_gpu_that_is_here(
    bundle: Bundle, add: Add, gpu: RecordingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    add()
    monkeypatch.setattr("deploykit.runtime.plans.find_gpu", lambda ordinal: Gpu("NVIDIA L4", "sm89", "CUDA 13.0"))
    with pytest.raises(EngineError, match="the selected GPU is NVIDIA L4, sm89"):
        find(bundle)
