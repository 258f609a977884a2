"""Predictions and maps from one run, on a network whose evidence is known: it sees where a picture is bright."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploykit.errors import BundleError, ImageError, InputError, SessionError, UsageError
from deploykit.image import placement
from deploykit.runtime import Classifier, Explainer, map_on_photo
from deploykit.runtime.classifier import Prediction
from deploykit.runtime.explain_graphs import ALL_METHODS
from deploykit.runtime.ort import OrtSession
from tests.unit.bright_bundle import LABELS, SPEC, make_bundle

SIZES = [(90, 60), (60, 90), (70, 70), (300, 64), (33, 200)]
RAW = ("grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam", "cam")


def photo(size: tuple[int, int], spot: tuple[float, float], *, level: int = 255, ground: int = 120) -> Image.Image:
    """A flat photo with a square spot of an eighth of its shorter side, centred at a point."""
    picture = Image.new("RGB", size, (ground,) * 3)
    (x, y), half = spot, min(size) / 16
    picture.paste((level,) * 3, (round(x - half), round(y - half), round(x + half), round(y + half)))
    return picture


def centre(weights: np.ndarray) -> tuple[float, float]:
    """The centre of mass of a map, in pixels."""
    y, x = np.indices(weights.shape) + 0.5
    return float((x * weights).sum() / weights.sum()), float((y * weights).sum() / weights.sum())


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explainer]:
    bundle = make_bundle(tmp_path_factory.mktemp("bright") / "bright", layers=("features", "signed"), input_gradients=True)
    with Explainer.open(bundle) as opened:
        yield opened


@pytest.mark.parametrize("method", RAW)
@pytest.mark.parametrize("size", SIZES)
def test_the_evidence_lies_on_the_photo_where_it_was_put(explainer: Explainer, size: tuple[int, int], method: str) -> None:
    box = placement(*size, SPEC)
    side = box.right - box.left
    for across, down in [(0.25, 0.25), (0.75, 0.3), (0.5, 0.8)]:
        spot = (box.left + across * side, box.top + down * (box.bottom - box.top))
        (found,) = explainer.explain([photo(size, spot)], "bright", method)
        placed = map_on_photo(found)
        assert placed.shape == (size[1], size[0])
        x, y = centre(np.where(placed > 0.5, placed, 0))
        # A pixel of the network's 32 across the box, and half a pixel of the photo where the spot was rounded to.
        assert abs(x - spot[0]) < side / 32 + 0.5
        assert abs(y - spot[1]) < side / 32 + 0.5


def test_nothing_lies_outside_of_the_crop_even_if_the_evidence_is_there(explainer: Explainer) -> None:
    (found,) = explainer.explain([photo((300, 64), (20, 32), ground=60)], "bright")
    assert not found.has_evidence  # the spot is beyond the crop, so the network saw dark alone
    assert not map_on_photo(found).any()


def test_a_class_without_positive_evidence_gives_zeros_and_says_so_beside_one_that_has_it(explainer: Explainer) -> None:
    """Case O24, alone and in a batch of both."""
    picture = photo((64, 64), (30, 20))
    without, bright = explainer.explain([picture, picture], ["neither", "bright"])
    assert not without.has_evidence
    assert not without.map.any()
    assert np.isfinite(without.map).all()
    assert bright.has_evidence
    assert (bright.map.min(), bright.map.max()) == (0, 1)
    for row, name in ((without, "neither"), (bright, "bright")):
        (alone,) = explainer.explain([picture], name)
        np.testing.assert_array_equal(alone.map, row.map)
        assert alone.has_evidence == row.has_evidence


def test_an_even_picture_has_evidence_of_no_place(explainer: Explainer) -> None:
    (found,) = explainer.explain([Image.new("RGB", (40, 40), (255, 255, 255))], "bright")
    assert (found.has_evidence, found.is_even) == (True, True)
    assert not found.map.any()


def test_each_row_explains_its_own_class_and_none_means_its_own_top(explainer: Explainer) -> None:
    pictures = [photo((64, 64), (20, 20), level=0, ground=255), photo((64, 64), (20, 20), level=255, ground=0)]
    found = explainer.explain([*pictures, *pictures], ["dark", None, 0, np.int64(1)])
    assert [f.explained.label for f in found] == ["dark", "dark", "bright", "dark"]
    assert [f.predictions[0].label for f in found] == ["bright", "dark", "bright", "dark"]
    for f, picture, name in zip(found, [*pictures, *pictures], ["dark", "dark", "bright", "dark"], strict=True):
        np.testing.assert_array_equal(f.map, explainer.explain([picture], name)[0].map)


def test_predictions_are_those_of_the_classifier(explainer: Explainer) -> None:
    pictures = [photo(size, (30, 30)) for size in SIZES]
    with Classifier.open(explainer.graphs.bundle) as classifier:
        expected = classifier.classify_batch(pictures, top=2)
    found = explainer.explain(pictures, top=2)
    for f, predictions in zip(found, expected, strict=True):
        assert [p.label for p in f.predictions] == [p.label for p in predictions]
        # The same nodes; ONNX Runtime may fuse them otherwise where a tensor between them is an output.
        assert [p.logit for p in f.predictions if isinstance(p, Prediction)] == pytest.approx(
            [p.logit for p in predictions], abs=1e-6
        )
        assert f.explained == f.predictions[0]
        assert f.photo_size in SIZES


@pytest.mark.parametrize("method", ALL_METHODS)
def test_many_classes_of_one_picture_equal_one_run_each(explainer: Explainer, method: str) -> None:
    picture = photo((80, 50), (40, 20))
    found = explainer.explain_classes(picture, [2, "bright", 1], method)
    assert [f.explained.label for f in found] == ["neither", "bright", "dark"]
    for f in found:
        (alone,) = explainer.explain([picture], f.explained.class_index, method)
        np.testing.assert_allclose(f.map, alone.map, atol=1e-6)  # batches may be summed in another order
        assert f.explained.probability == pytest.approx(alone.explained.probability)
        assert (f.has_evidence, f.layer, f.box) == (alone.has_evidence, alone.layer, alone.box)


def test_without_classes_the_likeliest_are_explained_best_first(explainer: Explainer) -> None:
    picture = photo((50, 50), (25, 25))
    found = explainer.explain_classes(picture, top=2)
    assert [f.explained for f in found] == list(explainer.explain([picture], top=2)[0].predictions)
    assert len(explainer.explain_classes(picture, top=9)) == len(LABELS)
    assert explainer.explain_classes(picture, []) == []


def test_classes_are_explained_by_the_whole_graph_where_there_is_no_tail(explainer: Explainer, tmp_path: Path) -> None:
    picture = photo((50, 50), (25, 25))
    with Explainer.open(make_bundle(tmp_path / "no_tail", tail=False)) as without:
        for a, b in zip(without.explain_classes(picture), explainer.explain_classes(picture), strict=True):
            np.testing.assert_allclose(a.map, b.map, atol=1e-6)
            assert a.explained.label == b.explained.label


def test_another_layer_is_named_as_the_manifest_names_it(explainer: Explainer) -> None:
    picture = photo((64, 64), (20, 40), level=0, ground=200)
    (signed,) = explainer.explain([picture], "dark", layer="signed")
    assert signed.layer == "signed"
    x, y = centre(signed.map)
    assert (x, y) != (16, 16)
    for a, b in zip(explainer.explain_classes(picture, ["dark"], layer="signed"), [signed], strict=True):
        np.testing.assert_allclose(a.map, b.map, atol=1e-6)
    with pytest.raises(UsageError, match="explains no layer 'feature'; close: features; it has features, signed"):
        explainer.explain([picture], layer="feature")
    with pytest.raises(UsageError, match="guided-backprop looks at the picture itself and takes no layer"):
        explainer.explain([picture], method="guided-backprop", layer="features")


def test_normalized_float_input_gives_the_same_maps(explainer: Explainer, tmp_path: Path) -> None:
    picture = photo((64, 48), (20, 20))
    with Explainer.open(make_bundle(tmp_path / "floats", pixels=False)) as floats:
        (found,) = floats.explain([picture])
    np.testing.assert_allclose(found.map, explainer.explain([picture])[0].map, atol=1e-6)


def test_gradients_at_the_input_come_back_whole_and_as_a_map_of_their_magnitude(explainer: Explainer) -> None:
    picture = photo((64, 64), (20, 20))
    (guided,) = explainer.explain([picture], "bright", "guided-backprop")
    assert guided.input_gradients is not None
    assert guided.input_gradients.shape == (3, 32, 32)
    # d logit / d pixel = 1/3 of a mean over 1,024 places where the picture is bright, 0 where it is dark.
    assert np.unique(guided.input_gradients).tolist() == pytest.approx([0, 1 / 3072])
    assert guided.layer == "input"
    (product,) = explainer.explain([picture], "bright", "guided-grad-cam")
    (cam,) = explainer.explain([picture], "bright")
    assert product.input_gradients is not None
    np.testing.assert_allclose(product.input_gradients, guided.input_gradients * cam.map, atol=1e-9)


def test_methods_at_the_input_say_how_to_get_their_graph(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "plain")
    with Explainer.open(bundle) as plain, pytest.raises(BundleError, match="no fp32 input_gradients graph") as caught:
        plain.explain([photo((40, 40), (20, 20))], method="guided-grad-cam")
    assert "--input-gradients" in str(caught.value.hint)


def test_a_precision_without_explain_graph_is_refused_with_those_that_have_one(explainer: Explainer) -> None:
    with pytest.raises(BundleError, match="no int8 explain graph; it has fp32") as caught:
        Explainer.open(explainer.graphs.bundle, precision="int8")
    assert "--no-explain" in str(caught.value.hint)


def test_one_picture_where_a_list_is_expected_is_refused(explainer: Explainer, tmp_path: Path) -> None:
    for single in ("cat.png", tmp_path, b"\x89PNG", photo((9, 9), (4, 4)), np.zeros((9, 9, 3), np.uint8)):
        with pytest.raises(UsageError, match="expected a list of pictures"):
            explainer.explain(single)  # type: ignore[arg-type]
    assert len(explainer.explain(np.zeros((2, 9, 9, 3), np.uint8))) == 2
    assert explainer.explain([]) == []


def test_a_method_that_does_not_exist_and_a_bad_picture_are_named(explainer: Explainer) -> None:
    with pytest.raises(UsageError, match=r"method is 'score-cam', expected one of grad-cam, grad-cam\+\+, "):
        explainer.explain([photo((9, 9), (4, 4))], method="score-cam")
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file"):
        explainer.explain(["nowhere.png"])
    with pytest.raises(UsageError, match="top is 0"):
        explainer.explain_classes(photo((9, 9), (4, 4)), top=0)


def test_a_photo_of_another_shape_cannot_carry_the_map(explainer: Explainer) -> None:
    (found,) = explainer.explain([photo((64, 48), (20, 20))])
    assert map_on_photo(found, (32, 24)).shape == (24, 32)
    with pytest.raises(InputError, match="48 x 64 is not the explained photo of 64 x 48"):
        map_on_photo(found, (48, 64))


def test_only_what_a_method_needs_is_copied_back(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    run = OrtSession.run

    def spy(session: OrtSession, feeds: Any, outputs: Any = None) -> Any:
        asked.append(list(outputs))
        return run(session, feeds, outputs)

    monkeypatch.setattr(OrtSession, "run", spy)
    picture = photo((40, 40), (20, 20))
    explainer.explain([picture, picture])
    explainer.explain([picture], method="eigen-cam", layer="signed")
    explainer.explain_classes(picture, ["bright", "dark"])
    assert asked == [
        ["logits", "explained_class", "cam"],
        ["logits", "explained_class", "activations_2"],
        ["logits", "activations"],
        ["explained_class", "cam"],
    ]


def test_threads_share_one_explainer(explainer: Explainer) -> None:
    pictures = [photo((64, 64), (8 + 4 * i, 50 - 3 * i)) for i in range(12)]
    expected = [explainer.explain([picture], "bright")[0].map for picture in pictures]
    with Explainer.open(explainer.graphs.bundle) as shared, ThreadPoolExecutor(6) as pool:
        # The tail is opened by whoever comes first.
        found = list(pool.map(lambda p: shared.explain_classes(p, ["bright"])[0].map, pictures))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_closed_explainer_says_so(tmp_path: Path) -> None:
    explainer = Explainer.open(make_bundle(tmp_path / "closed"))
    explainer.close()
    explainer.close()
    with pytest.raises(SessionError, match="closed"):
        explainer.explain([photo((9, 9), (4, 4))])
