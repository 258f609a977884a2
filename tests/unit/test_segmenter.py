"""Segmentation without torch: the class of every pixel, shares, probabilities, and the way back onto the photo."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.errors import ImageError, InputError, SessionError, UsageError
from deploykit.image import Source
from deploykit.runtime import Classifier, Explainer, Segmenter, class_map_on_photo
from deploykit.runtime.segmenter import enlarge, read_segmentation, unseen_value
from deploykit.spec import ImageSpec
from tests.unit.bright_bundle import make_bundle
from tests.unit.bright_segments import CROPPED, LABELS, WHOLE, make_segments_bundle, spotted

# The left half of a picture of 64 x 32 pixels is white: half of what the network sees of it.
HALF = spotted((64, 32), (0, 0, 32, 32))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_segments_bundle(tmp_path_factory.mktemp("segments") / "whole")


@pytest.fixture(scope="module")
def cropped(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_segments_bundle(tmp_path_factory.mktemp("segments") / "cropped", CROPPED)


def test_every_pixel_has_the_class_of_its_place(bundle: Bundle) -> None:
    with Segmenter.open(bundle) as segmenter:
        found = segmenter.segment(HALF)
    assert found.class_map.shape == (32, 32)
    assert found.class_map.dtype == np.uint8
    # Between the halves the logits are interpolated: there, white's 4 sinks to the background's 0.25 within four pixels.
    assert (found.class_map[:, :14] == 1).all()
    assert (found.class_map[:, 18:] == 0).all()
    assert found.photo_size == (64, 32)


def test_classes_are_named_with_their_share_and_probability_largest_first(bundle: Bundle) -> None:
    picture = spotted((32, 32), (0, 0, 32, 20))
    picture[28:] = 0
    with Segmenter.open(bundle) as segmenter:
        found = segmenter.segment(picture)
    assert [one.label for one in found.classes] == ["bright", "dark", "background"]
    assert [one.class_index for one in found.classes] == [1, 2, 0]
    assert sum(one.share for one in found.classes) == pytest.approx(1)
    assert found.classes[0].share == pytest.approx(20 / 32, abs=2 / 32)  # the border lies within two rows of row 20
    for one in found.classes:
        mine = found.class_map == one.class_index
        assert one.share == pytest.approx(mine.mean())
        assert one.probability == pytest.approx(float(found.confidence[mine].mean()), rel=1e-6)


def test_the_confidence_is_the_probability_of_each_pixels_own_class(bundle: Bundle) -> None:
    with Segmenter.open(bundle) as segmenter:
        found = segmenter.segment(HALF)
    probabilities = found.probabilities()
    assert probabilities.shape == (3, 32, 32)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities.max(0), found.confidence, atol=1e-6)
    assert (probabilities.argmax(0) == found.class_map).all()
    # softmax of 0.25, 4 and 0 in the middle of the white
    assert float(found.confidence[16, 4]) == pytest.approx(np.exp(4) / (np.exp(4) + np.exp(0.25) + 1), rel=1e-5)


def test_a_class_that_no_pixel_has_is_not_named(bundle: Bundle) -> None:
    with Segmenter.open(bundle) as segmenter:
        assert [one.label for one in segmenter.segment(spotted((40, 30), (0, 0, 0, 0))).classes] == ["background"]


def test_pictures_of_a_batch_are_answered_each_by_itself(bundle: Bundle) -> None:
    pictures: list[Source] = [HALF, HALF[:, ::-1], Image.fromarray(np.zeros((50, 40, 3), np.uint8))]
    with Segmenter.open(bundle) as segmenter:
        together = segmenter.segment_batch(pictures)
        alone = [segmenter.segment(picture) for picture in pictures]
        assert segmenter.segment_batch([]) == []
    assert [one.classes for one in together] == [one.classes for one in alone]
    assert (together[0].class_map == together[1].class_map[:, ::-1]).all()
    assert together[2].classes[0].label == "dark"


def test_on_a_photo_that_is_seen_whole_the_spot_lies_where_it_is(bundle: Bundle) -> None:
    photo = spotted((300, 200), (60, 40, 180, 120))
    with Segmenter.open(bundle) as segmenter:
        placed = class_map_on_photo(segmenter.segment(photo))
    assert placed.shape == (200, 300)
    rows, columns = np.nonzero(placed == 1)
    # A logit stands for 4 x 4 pixels of the network, 37.5 columns and 25 rows of the photo: so far a border may lie outside.
    assert 60 - 37.5 <= columns.min() <= 60
    assert 180 <= columns.max() + 1 <= 180 + 37.5
    assert 40 - 25 <= rows.min() <= 40
    assert 120 <= rows.max() + 1 <= 120 + 25
    assert not (placed == unseen_value(placed)).any()


def test_on_a_photo_that_is_cropped_the_rest_is_marked_as_not_seen(cropped: Bundle) -> None:
    with Segmenter.open(cropped) as segmenter:
        found = segmenter.segment(spotted((64, 32), (16, 0, 32, 32)))  # the left half of the middle square
    placed = class_map_on_photo(found)
    assert (placed[:, :16] == 255).all()
    assert (placed[:, 48:] == 255).all()
    assert (placed[:, 16:30] == 1).all()
    assert (placed[:, 34:48] == 0).all()
    assert class_map_on_photo(found, (32, 16)).shape == (16, 32)
    with pytest.raises(InputError, match="32 x 32 is not the explained photo of 64 x 32"):
        class_map_on_photo(found, (32, 32))


def test_the_class_map_is_what_torch_makes_of_enlarged_logits() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(size=(5, 7, 9)).astype(np.float32)
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (56, 72), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(enlarge(logits, 56, 72), enlarged.numpy(), atol=1e-5)
    found = read_segmentation(logits, (72, 56), ImageSpec(56, 72, None, resize_rule="exact"), None)
    assert (found.class_map == enlarged.argmax(0).numpy()).mean() > 0.999  # a tie in float32 may go the other way
    assert found.classes[0].label == f"class {found.classes[0].class_index}"


def test_more_classes_than_a_byte_holds_make_a_wider_map() -> None:
    logits = np.zeros((300, 2, 2), np.float32)
    logits[299] = 1
    found = read_segmentation(logits, (2, 2), ImageSpec(2, 2, None, resize_rule="exact"), None)
    assert found.class_map.dtype == np.uint16
    assert unseen_value(found.class_map) == 65535
    assert found.class_map.tolist() == [[299, 299], [299, 299]]


def test_logits_that_are_no_numbers_are_refused(bundle: Bundle) -> None:
    class Broken:
        def run(self, feeds: object, outputs: object = None) -> dict[str, np.ndarray]:
            return {"logits": np.full((1, 3, 8, 8), np.nan, np.float32)}

    broken = Segmenter(Broken(), bundle.manifest, LABELS)  # type: ignore[arg-type]
    with pytest.raises(SessionError, match="NaN or infinite logits"):
        broken.segment(HALF)


def test_a_picture_that_cannot_be_used_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    with Segmenter.open(bundle) as segmenter, pytest.raises(ImageError, match=r"text\.jpg"):
        segmenter.segment(tmp_path / "text.jpg")


def test_the_wrong_kind_of_model_is_refused_with_the_one_that_answers(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a segmentation model, expected classification") as caught:
        Classifier.open(bundle)
    assert caught.value.hint == "deploykit.runtime.Segmenter answers with it"
    with pytest.raises(UsageError, match="holds a classification model, expected segmentation") as caught:
        Segmenter.open(make_bundle(tmp_path / "classifier"))
    assert caught.value.hint == "deploykit.runtime.Classifier answers with it"


def test_a_float_graph_gives_the_same_answer_as_a_pixel_graph(bundle: Bundle, tmp_path: Path) -> None:
    with Segmenter.open(make_segments_bundle(tmp_path / "float", pixels=False)) as other, Segmenter.open(bundle) as segmenter:
        assert (other.segment(HALF).class_map == segmenter.segment(HALF).class_map).all()


def test_threads_share_a_segmenter_and_each_gets_its_own_answer(bundle: Bundle) -> None:
    wrong: list[int] = []

    def ask(segmenter: Segmenter, level: int) -> None:
        expected = {0: "dark", 128: "background", 255: "bright"}[level]
        picture = np.full((8, 8, 3), level, np.uint8)
        wrong.extend(level for _ in range(20) if segmenter.segment(picture).classes[0].label != expected)

    with Segmenter.open(bundle) as segmenter:
        threads = [threading.Thread(target=ask, args=(segmenter, level)) for level in (0, 128, 255) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_an_explanation_speaks_for_the_pixels_of_its_class(bundle: Bundle) -> None:
    with Explainer.open(bundle) as explainer:
        (own,) = explainer.explain([HALF[:, :40]])
        (dark,) = explainer.explain([HALF], "dark")
    assert own.explained.label == "bright"  # the class with most pixels: 32 of 40 columns
    assert own.predictions[0] == own.explained
    assert own.mask is not None
    assert own.mask[:, :24].all()
    assert not own.mask[:, 31:].any()
    assert own.map[16, 8] == 1  # white counts where it is predicted white
    assert own.map[16, 31] == 0
    # A class that no pixel has: nothing speaks for it.
    assert (dark.explained.label, dark.has_evidence) == ("dark", False)
    assert dark.mask is not None
    assert not dark.mask.any()


def test_the_score_explained_is_the_sum_of_the_classs_logits_over_its_pixels(bundle: Bundle) -> None:
    # d score / d features is 4 / 16 per pixel under a predicted cell and 0 under the others; the map is the mean gradient times the
    # activation: of the first picture half of the cells count.
    with Explainer.open(bundle) as explainer:
        (found,) = explainer.explain([HALF], "bright")
        (all_white,) = explainer.explain([spotted((32, 32), (0, 0, 32, 32))])
    assert found.cam.shape == (32, 32)
    assert float(all_white.cam.max()) == pytest.approx(4 / 16, rel=1e-3)
    assert found.cam[0, 0] / all_white.cam[0, 0] == pytest.approx(1 / 2, rel=1e-3)


def test_several_classes_of_a_picture_are_explained_from_one_run_and_by_their_share(bundle: Bundle) -> None:
    picture = spotted((32, 32), (0, 0, 32, 16))
    picture[28:] = 0
    with Explainer.open(bundle) as explainer:
        found = explainer.explain_classes(picture, top=5)
        named = explainer.explain_classes(picture, ["dark", 1])
        singly = [explainer.explain([picture], c)[0] for c in ("dark", 1)]
    assert [e.explained.label for e in found] == ["bright", "background", "dark"]  # three are there, though five are asked for
    assert [e.explained for e in named] == [e.explained for e in singly]
    for one, other in zip(named, singly, strict=True):
        np.testing.assert_allclose(one.map, other.map, atol=1e-6)
        assert one.mask is not None
        assert (one.mask == other.mask).all()


def test_without_a_tail_graph_several_classes_are_explained_alike(bundle: Bundle, tmp_path: Path) -> None:
    other = make_segments_bundle(tmp_path / "no-tail", tail=False)
    with Explainer.open(bundle) as a, Explainer.open(other) as b:
        for one, two in zip(a.explain_classes(HALF), b.explain_classes(HALF), strict=True):
            np.testing.assert_allclose(one.map, two.map, atol=1e-6)


def test_a_bundle_without_labels_numbers_its_classes(tmp_path: Path) -> None:
    with Segmenter.open(make_segments_bundle(tmp_path / "unnamed", labels=None)) as segmenter:
        assert segmenter.segment(HALF).classes[0].label == "class 1"


def test_the_manifest_decides_the_task(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, model=replace(bundle.manifest.model, task="classification"))
    with pytest.raises(UsageError, match="expected segmentation"):
        Segmenter.open(replace(bundle, manifest=manifest))


def test_the_photo_is_upright_as_decoded(bundle: Bundle) -> None:
    assert WHOLE.resize_rule == "exact"
    tall = HALF.transpose(1, 0, 2)
    with Segmenter.open(bundle) as segmenter:
        found = segmenter.segment(tall)
    assert found.photo_size == (32, 64)
    assert (class_map_on_photo(found)[:26] == 1).all()
