"""Pictures of explanations: what is coloured, what stays, what is marked as not seen; the sheet."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.errors import InputError, UsageError
from deploykit.image import CropBox
from deploykit.runtime import Explanation, Prediction
from deploykit.runtime.colours import colour_table
from deploykit.runtime.overlay import draw_explanation, draw_input_gradients, draw_map, draw_overlay, overlay
from deploykit.runtime.sheet import TILE, draw_sheet, shorten

BOX = CropBox(10, 0, 50, 40)


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def explanation(
    network_map: np.ndarray | None = None,
    *,
    box: CropBox = BOX,
    size: tuple[int, int] = (60, 40),
    label: str = "cat",
    has_evidence: bool = True,
    input_gradients: np.ndarray | None = None,
) -> Explanation:
    """One explanation; by default a ramp from left to right."""
    if network_map is None:
        network_map = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1))
    prediction = Prediction(3, label, 0.25, 1.5)
    return Explanation(
        (prediction,), prediction, network_map, network_map, has_evidence, "grad-cam", "features", box, size, input_gradients
    )


def test_a_photo_stays_as_it_is_where_the_map_is_0_and_is_still_legible_where_it_is_1() -> None:
    picture, values = photo(), np.zeros((40, 60), np.float32)
    values[:, 30:] = 1
    found = np.asarray(overlay(picture, values, outline=False)).astype(int)
    before = np.asarray(picture).astype(int)
    np.testing.assert_array_equal(found[:, :30], before[:, :30])
    contrast = found[:, 30:].std((0, 1)) / before[:, 30:].std((0, 1))
    np.testing.assert_allclose(contrast, 1 - 0.72, atol=0.01)  # whole grey levels
    assert (np.abs(found[:, 30:].mean((0, 1)) - colour_table()[255]) < np.abs(before.mean((0, 1)) - colour_table()[255])).all()


def test_a_line_runs_where_the_map_passes_half() -> None:
    values = np.tile(np.linspace(0, 1, 61, dtype=np.float32), (40, 1))
    black = Image.new("RGB", (61, 40))
    difference = np.asarray(overlay(black, values)).astype(int) - np.asarray(overlay(black, values, outline=False))
    assert difference.sum(axis=(0, 2)).argmax() == 30
    assert (difference[:, :28] == 0).all()
    assert (difference[:, 33:] == 0).all()


def test_without_evidence_the_overlay_equals_the_photo() -> None:
    """Case O24."""
    picture = photo()
    for has_evidence in (False, True):  # none, and the same everywhere
        found = draw_overlay(picture, explanation(np.zeros((8, 8), np.float32), has_evidence=has_evidence))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(picture))
        assert found is not picture


def test_what_the_network_did_not_see_is_darkened_behind_a_frame() -> None:
    white = Image.new("RGB", (60, 40), "white")
    found = np.asarray(draw_overlay(white, explanation(np.pad(np.ones((2, 2), np.float32), 3))))
    assert (found[:, :9] < 140).all()
    assert (found[:, 51:] < 140).all()
    assert (found[:, [9, 50]] == 255).all()
    assert (found[0, 10:50] == 255).all()  # seen, without evidence


@pytest.mark.parametrize("size", [(60, 40), (30, 20), (240, 160)])
def test_a_photo_at_another_size_carries_the_same_picture(size: tuple[int, int]) -> None:
    found = draw_overlay(Image.new("RGB", size, "white"), explanation())
    assert found.size == size
    levels = np.asarray(found.resize((60, 40), Image.Resampling.BOX)).astype(int)
    reference = np.asarray(draw_overlay(Image.new("RGB", (60, 40), "white"), explanation())).astype(int)
    # Inside of the frame; line and frame are a pixel wide at every size.
    assert np.abs(levels - reference)[3:-3, 40:47].max() < 12


def test_the_map_alone_shows_its_colours_in_the_box_and_grey_outside() -> None:
    found = np.asarray(draw_map(explanation(np.ones((8, 8), np.float32))))
    assert found.shape == (40, 60, 3)
    assert (found[:, 10:50] == colour_table()[255]).all()
    assert len(np.unique(found[:, :10].reshape(-1, 3), axis=0)) == 1


def test_gradients_at_the_input_are_grey_where_they_are_0() -> None:
    gradients = np.zeros((3, 40, 40), np.float32)
    gradients[0, 10:20, 10:20], gradients[2, 30:, 30:] = 2, -2
    found = np.asarray(draw_input_gradients(explanation(input_gradients=gradients)))
    assert found[5, 15].tolist() == [128, 128, 128]
    assert found[15, 25].tolist() == [255, 128, 128]
    assert found[35, 45].tolist() == [128, 128, 0]
    np.testing.assert_array_equal(found, np.asarray(draw_explanation(photo(), explanation(input_gradients=gradients))))
    with pytest.raises(InputError, match="grad-cam has no gradients at the input"):
        draw_input_gradients(explanation())


def test_one_strong_pixel_does_not_leave_the_other_gradients_grey() -> None:
    gradients = np.tile(np.array([1, -1], np.float32), (3, 40, 20))
    gradients[:, 0, 0] = 1e6
    found = np.asarray(draw_input_gradients(explanation(input_gradients=gradients)))[:, 10:50]
    assert set(np.unique(found)) == {0, 255}
    still = np.asarray(draw_input_gradients(explanation(input_gradients=np.zeros((3, 40, 40), np.float32))))[:, 10:50]
    assert set(np.unique(still)) == {128}


@pytest.mark.parametrize(
    ("picture", "values", "message"),
    [
        (Image.new("L", (4, 2)), np.zeros((2, 4)), "photo has mode L, expected RGB"),
        (Image.new("RGB", (4, 2)), np.zeros((4, 2)), r"map has shape \[4, 2\], expected \[2, 4\]"),
        (Image.new("RGB", (4, 2)), np.full((2, 4), 1.5), "map goes from 1.5 to 1.5, expected 0 to 1"),
        (Image.new("RGB", (4, 2)), np.full((2, 4), np.nan), "expected 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(picture: Image.Image, values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        overlay(picture, values.astype(np.float32))


def ink(sheet: Image.Image, left: int, right: int, top: int) -> int:
    """How many pixels of a sheet's part differ from its paper."""
    part = np.asarray(sheet)[top:, left:right].astype(int)
    return int((np.abs(part - np.asarray(sheet)[0, 0]).max(-1) > 8).sum())


def test_a_sheet_holds_the_photo_and_every_explanation_at_a_readable_size() -> None:
    for count, (wide, high) in {1: (2, 1), 3: (4, 1), 5: (3, 2), 7: (4, 2)}.items():
        found = draw_sheet(photo(), [explanation()] * count, title="cat.png")
        assert found.width == 24 + wide * (TILE + 24)
        assert (found.height - 54) % high == 0
        assert np.asarray(found)[0, 0].min() > 240  # light paper


def test_a_sheet_of_classes_and_methods_keeps_the_photo_in_its_own_column() -> None:
    found = draw_sheet(photo(), [explanation()] * 6, columns=2)
    assert found.width == 24 + 3 * (TILE + 24)
    below = ink(found.crop((24, found.height // 2, 24 + TILE, found.height - 40)), 0, TILE, 0)
    assert below == 0


def test_long_labels_are_shortened_and_touch_no_other_column() -> None:
    long = "electric ray, crampfish, numbfish, torpedo " * 4
    found = draw_sheet(photo(), [explanation(label=long), explanation()], title="a_very_long_file_name_" * 9 + ".png")
    for column in range(3):
        gap = 24 + TILE + column * (TILE + 24)
        assert ink(found.crop((gap, 0, gap + 24, found.height - 40)), 0, 24, 0) == 0


def test_the_sheet_says_that_there_is_no_positive_evidence() -> None:
    plain, none = (
        draw_sheet(photo(), [explanation(np.zeros((8, 8), np.float32), has_evidence=has_evidence)])
        for has_evidence in (True, False)
    )
    assert np.asarray(plain).tobytes() != np.asarray(none).tobytes()
    captions = [ink(sheet, 24 + TILE + 24, sheet.width, 24 + 253 + 8 + 50) for sheet in (plain, none)]
    assert min(captions) > 100  # both say something there; with evidence the third line is empty
    assert ink(draw_sheet(photo(), [explanation()]).crop((24 + TILE + 24, 335, 800, 358)), 0, 380, 0) == 0


def test_text_is_cut_only_where_it_must_be() -> None:
    class Monospace:
        def getlength(self, text: str) -> float:
            return 10.0 * len(text)

    font = Monospace()
    assert shorten("tabby", font, 50) == "tabby"  # type: ignore[arg-type]
    assert shorten("tiger cat", font, 70) == "tiger…"  # type: ignore[arg-type]
    assert shorten("a\nb  c", font, 500) == "a b c"  # type: ignore[arg-type]
    assert shorten("tabby", font, 5) == "…"  # type: ignore[arg-type]


def test_photos_of_any_shape_make_a_sheet(tmp_path: Path) -> None:
    for width, height in [(1, 1), (2000, 20), (20, 2000)]:
        side = min(width, height)
        box = CropBox((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        draw_sheet(photo(width, height), [explanation(box=box, size=(width, height))]).save(tmp_path / "sheet.png")


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a sheet of 0 explanations"):
        draw_sheet(photo(), [])
