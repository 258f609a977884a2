"""Pictures in, ranked predictions out, on a graph whose logits are the means of the channels."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.bundle import Bundle, ModelRecord, WeightsRecord, new_bundle
from deploykit.errors import BundleError, ImageError, InputError, UsageError
from deploykit.image import DecodeLimits, Source
from deploykit.runtime import Classifier
from deploykit.runtime.classifier import softmax
from deploykit.spec import ImageSpec
from tests.conftest import channel_means

SPEC = ImageSpec(8, 8, 8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
RED = np.full((20, 10, 3), (255, 0, 0), np.uint8)


@pytest.fixture(scope="module", params=["pixels", "float"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / request.param
    model = ModelRecord("means", "means", 3, 0)
    weights = WeightsRecord("none", "0" * 64, True, "float32", "none")
    with new_bundle(path, model=model, weights=weights, image=SPEC, input=request.param, labels_source="test") as stage:
        stage.add("fp32/predict.onnx", channel_means(SPEC, pixels=request.param == "pixels").SerializeToString())
        stage.add("labels.txt", b"red\ngreen\nblue\n")
    return Bundle.open(path)


def test_every_kind_of_picture_gets_the_same_answer(bundle: Bundle, tmp_path: Path) -> None:
    Image.fromarray(RED).save(tmp_path / "red.png")
    kinds: list[Source] = [
        tmp_path / "red.png",
        str(tmp_path / "red.png"),
        (tmp_path / "red.png").read_bytes(),
        Image.fromarray(RED),
        RED,
    ]
    with Classifier.open(bundle) as classifier:
        for predictions in classifier.classify_batch(kinds):
            assert [p.label for p in predictions] == ["red", "green", "blue"]  # green and blue are equal: class order
            assert [p.logit for p in predictions] == pytest.approx([1, -1, -1], abs=1e-6)
            assert predictions[0].probability == pytest.approx(np.e**2 / (np.e**2 + 2), abs=1e-6)
            assert sum(p.probability for p in predictions) == pytest.approx(1, abs=1e-6)


def test_top_limits_the_answers_and_more_than_there_are_gives_all(bundle: Bundle) -> None:
    with Classifier.open(bundle) as classifier:
        assert [p.class_index for p in classifier.classify(RED, top=1)] == [0]
        assert len(classifier.classify(RED, top=99)) == 3
        with pytest.raises(UsageError, match="top is 0"):
            classifier.classify(RED, top=0)


def test_no_pictures_give_no_answers(bundle: Bundle) -> None:
    with Classifier.open(bundle) as classifier:
        assert classifier.classify_batch([]) == []


def test_logits_take_pixels_of_the_networks_size_and_nothing_else(bundle: Bundle) -> None:
    with Classifier.open(bundle) as classifier:
        assert classifier.logits(np.full((2, 8, 8, 3), 255, np.uint8)) == pytest.approx(np.ones((2, 3)), abs=1e-6)
        with pytest.raises(InputError, match="float32, expected uint8"):
            classifier.logits(np.zeros((1, 8, 8, 3), np.float32))
        with pytest.raises(InputError):
            classifier.logits(np.zeros((1, 9, 8, 3), np.uint8))


def test_a_bad_picture_is_named_and_a_huge_one_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    with Classifier.open(bundle, limits=DecodeLimits(max_pixels=100)) as classifier:
        with pytest.raises(ImageError, match=r"text\.jpg"):
            classifier.classify_batch([tmp_path / "text.jpg"])
        with pytest.raises(ImageError, match="200"):
            classifier.classify(RED)


def test_classes_without_names_are_numbered(bundle: Bundle) -> None:
    with Classifier.open(bundle) as classifier:
        unnamed = Classifier(classifier.session, classifier.manifest)
        assert unnamed.classify(RED, top=1)[0].label == "class 0"


def test_a_precision_that_is_not_there_and_one_that_does_not_exist_are_told_apart(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has no fp16 predict graph; it has fp32"):
        Classifier.open(bundle, precision="fp16")
    with pytest.raises(UsageError, match="'fp8', expected one of fp32, fp16, int8"):
        Classifier.open(bundle, precision="fp8")


def test_a_segmentation_model_is_no_classifier(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, model=replace(bundle.manifest.model, task="segmentation"))
    with pytest.raises(UsageError, match="holds a segmentation model"):
        Classifier.open(replace(bundle, manifest=manifest))


def test_threads_share_a_classifier_and_each_gets_its_own_answer(bundle: Bundle) -> None:
    wrong: list[int] = []

    def ask(classifier: Classifier, channel: int) -> None:
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[..., channel] = 255
        wrong.extend(channel for _ in range(50) if classifier.classify(picture)[0].class_index != channel)

    with Classifier.open(bundle) as classifier:
        threads = [threading.Thread(target=ask, args=(classifier, i % 3)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_softmax_does_not_overflow() -> None:
    assert softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32)).tolist() == [[1.0, 0.0], [0.5, 0.5]]
