"""Plans of graphs that resize photos, behind classifier, explainer and the server's batcher: they answer as their graphs do."""

import io
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from deploykit.bundle import Bundle, extend_bundle
from deploykit.cli.build_timing import plan_timing
from deploykit.errors import ImageError, InputError
from deploykit.image import DecodeLimits
from deploykit.plan import BatchRange, PlanFile, PlanRecord, SideRange, read_record
from deploykit.runtime import Classifier, Explainer, OrtSession, TrtSession
from deploykit.runtime.opening import Answering, open_session
from deploykit.server.app import make_app
from deploykit.server.batcher import Batcher
from deploykit.server.settings import BatchSettings
from deploykit.spec import Precision
from tests.recording_device import RecordingDevice
from tests.unit.photo_bundle import PHOTOS, make_photo_bundle, stand_in_for_gpu
from tests.unit.served import SETTINGS, start

VERSION = "1.7.1.116"
RTX = "tensorrt-rtx"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With plans for photos of 33 to 96 pixels a side, which hold nothing but their name."""
    made = make_photo_bundle(tmp_path_factory.mktemp("photos") / "photos")
    files = {
        f"{graph}.plan": PlanFile(
            "0" * 64, 1, f"fp32/{graph}.onnx", made.manifest.files[f"fp32/{graph}.onnx"].sha256, 0.1, False, {}, {}
        )
        for graph in ("predict", "explain")
    }
    record = PlanRecord(RTX, VERSION, "sm86", None, Precision.FP32, BatchRange(1, 1, 1), files, sides=SideRange(33, 64, 96))
    with extend_bundle(made.path) as stage:
        for name in files:
            stage.add(f"{record.folder}/{name}", name.encode())
        stage.add(f"{record.folder}/plan.json", record.to_text().encode())
    return Bundle.open(made.path)


@pytest.fixture
def gpu(bundle: Bundle) -> Iterator[RecordingDevice]:
    with pytest.MonkeyPatch.context() as patch:
        yield stand_in_for_gpu(patch, bundle, VERSION)


@pytest.mark.parametrize("graph", ["predict", "explain"])
def test_a_plan_describes_itself_as_its_graph_does(graph: str, bundle: Bundle, gpu: RecordingDevice) -> None:
    with (
        open_session(bundle, graph, Answering(backend=RTX)) as plan,
        OrtSession(bundle.file(f"fp32/{graph}.onnx")) as graph_session,
    ):
        assert isinstance(plan, TrtSession)
        assert [replace(info, sides=None) for info in plan.inputs] == list(graph_session.inputs)
        assert plan.outputs == graph_session.outputs
        assert str(plan.inputs[0]) == "image uint8 [1, H, W, 3]"
        assert [info.sides for info in plan.inputs] == [(33, 96), None][: len(plan.inputs)]


def test_a_classifier_answers_photos_of_several_sizes_from_its_plan(bundle: Bundle, gpu: RecordingDevice) -> None:
    with Classifier.open(bundle) as here, Classifier.open(bundle, backend=RTX) as there:
        np.testing.assert_array_equal(there.logits(PHOTOS), here.logits(PHOTOS))
        assert there.classify_batch(PHOTOS) == here.classify_batch(PHOTOS)
        assert there.classify(Image.fromarray(PHOTOS[1])) == here.classify(Image.fromarray(PHOTOS[1]))
    assert gpu.left == {}


def test_an_explainer_shows_photos_of_several_sizes_from_its_plan(bundle: Bundle, gpu: RecordingDevice) -> None:
    with Explainer.open(bundle) as here, Explainer.open(bundle, backend=RTX) as there:
        for one, other in zip(here.explain(PHOTOS), there.explain(PHOTOS), strict=True):
            np.testing.assert_array_equal(one.map, other.map)
            assert (one.explained, one.photo_size, one.box) == (other.explained, other.photo_size, other.box)
        # There is no plan of the tail: each class is a run of the explain plan, which takes one photo.
        for one, other in zip(here.explain_classes(PHOTOS[0], [0, 1, 2]), there.explain_classes(PHOTOS[0], [0, 1, 2]), strict=True):
            np.testing.assert_allclose(one.map, other.map, atol=1e-6)  # the tail computes the same in another order
            assert one.explained == other.explained
    assert gpu.left == {}


def test_requests_are_not_put_together_and_each_gets_its_own_photos_answer(bundle: Bundle, gpu: RecordingDevice) -> None:
    with Classifier.open(bundle) as here:
        expected = here.logits(PHOTOS)
    batcher = Batcher(open_session(bundle, "predict", Answering(backend=RTX)), BatchSettings(max_batch_size=8, instances=2))
    try:
        assert batcher.max_batch_size == 1
        waiting = [batcher.submit({"image": photo[None]}, ["logits"], time.monotonic() + 60) for photo in PHOTOS * 4]
        for number, answer in enumerate(waiting):
            np.testing.assert_array_equal(answer.result(60).outputs["logits"][0], expected[number % len(PHOTOS)])
        with pytest.raises(InputError, match=r"image has shape \[1, 97, 50, 3\], a photo of 50 x 97 pixels"):
            batcher.submit({"image": np.zeros((1, 97, 50, 3), np.uint8)}, None, time.monotonic() + 60).result(60)
    finally:
        batcher.close()
    assert gpu.left == {}


def test_a_photo_that_the_graph_takes_and_the_plan_does_not_is_refused_with_the_way_on(
    bundle: Bundle, gpu: RecordingDevice
) -> None:
    large = np.zeros((120, 50, 3), np.uint8)
    with (
        Classifier.open(bundle) as here,
        Classifier.open(bundle, backend=RTX) as there,
        Explainer.open(bundle, backend=RTX) as shows,
    ):
        assert here.classify(large)
        for refuse in (there.classify, lambda photo: shows.explain([photo])):
            for photo in (large, large[:32]):
                with pytest.raises(ImageError, match=r"50 x (120|32) pixels, width and height may be 33 to 96 pixels") as caught:
                    refuse(photo)
                assert "--photo-size" in str(caught.value.hint)
        with pytest.raises(InputError, match=r"\[1, 120, 50, 3\], .*; the plan takes \[1, 33 to 96, 33 to 96, 3\]"):
            there.logits([large])


def test_limits_that_are_narrower_than_the_plans_stay(bundle: Bundle, gpu: RecordingDevice) -> None:
    with Classifier.open(bundle, backend=RTX, limits=DecodeLimits(min_side=40, max_side=64)) as classifier:
        assert (classifier.limits.min_side, classifier.limits.max_side) == (40, 64)
    with Classifier.open(bundle, limits=DecodeLimits(max_side=5000)) as classifier:
        assert (classifier.limits.min_side, classifier.limits.max_side) == (8, 4096)


def test_a_server_names_the_sides_of_its_plan_and_decodes_no_photo_beyond_them(bundle: Bundle, gpu: RecordingDevice) -> None:
    settings = replace(SETTINGS, backend=RTX)
    with TestClient(make_app(start({"photos": bundle.path}, settings)), raise_server_exceptions=False) as client:
        for verb in ("predict", "explain"):
            for photo, status in ((PHOTOS[0], 200), (np.zeros((97, 50, 3), np.uint8), 422)):
                packed = io.BytesIO()
                Image.fromarray(photo).save(packed, "PNG")
                answer = client.post(f"/v1/models/photos:{verb}", content=packed.getvalue(), headers={"content-type": "image/png"})
                assert answer.status_code == status, answer.text
            assert "50 x 97 pixels, width and height may be 33 to 96 pixels" in answer.json()["error"]
    assert gpu.left == {}


def test_a_photos_own_bytes_go_in_and_its_logits_come_back(bundle: Bundle, gpu: RecordingDevice) -> None:
    with Classifier.open(bundle, backend=RTX) as classifier:
        for photo in PHOTOS:
            classifier.classify(photo)
    assert [size for _, what, size in gpu.calls if what == "copy_in"] == [photo.nbytes for photo in PHOTOS]
    assert [size for _, what, size in gpu.calls if what == "copy_out"] == [3 * 4] * len(PHOTOS)


def test_builds_are_timed_with_the_photo_that_their_profile_is_fastest_at(bundle: Bundle, gpu: RecordingDevice) -> None:
    record = read_record(next(bundle.path.glob("plans/*")))
    assert record is not None
    timing = plan_timing(bundle, replace(record, files={}), "predict")
    assert timing.gpu_time_ms is not None
    assert timing.gpu_time_ms(b"ftrt") == 2  # steps of the stand-in's clock: the run, and the event behind it
    assert {size for _, what, size in gpu.calls if what == "copy_in"} == {64 * 64 * 3}
