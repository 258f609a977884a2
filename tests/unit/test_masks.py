"""Pictures of segmentations: colours that are told apart, masks that lie where the classes are, legends, and index files."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.errors import InputError
from deploykit.runtime import Segmenter
from deploykit.runtime.class_colours import class_colours, seen_as
from deploykit.runtime.explainer import Explainer
from deploykit.runtime.masks import borders, colour_classes, draw_class_map, draw_masks
from deploykit.runtime.overlay import draw_outline, draw_overlay, shrink
from deploykit.runtime.segmenter import Segmentation, read_segmentation
from deploykit.runtime.sheet import draw_sheet
from deploykit.spec import ImageSpec
from tests.unit.bright_segments import CROPPED, make_segments_bundle, spotted


def segmented(
    class_map: list[list[int]], labels: tuple[str, ...], photo_size: tuple[int, int], spec: ImageSpec | None = None
) -> Segmentation:
    """An answer with these classes, one pixel of the network each."""
    classes = np.array(class_map)
    logits = (np.arange(len(labels))[:, None, None] == classes).astype(np.float32)
    return read_segmentation(
        logits, photo_size, spec or ImageSpec(len(class_map), len(class_map[0]), None, resize_rule="exact"), labels
    )


@pytest.mark.parametrize(("count", "least"), [(8, 0.075), (21, 0.07), (40, 0.05)])
def test_colours_are_told_apart_by_everyone_protanopes_and_deuteranopes(count: int, least: float) -> None:
    # In Oklab 0.02 is about what is just noticed side by side.
    seen = seen_as(class_colours(count))
    distances = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1) + 9 * np.eye(count)
    assert seen.shape == (3, count, 3)
    assert (distances.min((1, 2)) > least).all()


def test_dichromats_confuse_what_they_are_said_to_confuse() -> None:
    # A red and a green of one lightness are the same to them, and blue and yellow are not.
    red, green, blue, yellow = ((200, 90, 70), (125, 130, 70), (60, 90, 220), (230, 220, 60))
    seen = seen_as(np.array([red, green, blue, yellow], np.uint8))
    apart = np.linalg.norm(seen[:, 0] - seen[:, 1], axis=-1)
    assert apart[2] < 0.4 * apart[0]
    assert (np.linalg.norm(seen[:, 2] - seen[:, 3], axis=-1) > 0.2).all()


def test_a_class_keeps_its_colour_however_many_classes_there_are() -> None:
    assert class_colours(300)[:21].tolist() == class_colours(21).tolist()
    assert len({tuple(colour) for colour in class_colours(300).tolist()}) == 300
    assert class_colours(0).shape == (0, 3)
    assert class_colours(2).shape == (2, 3)


def test_a_class_is_coloured_where_it_is_and_the_background_stays_as_it_is() -> None:
    photo = Image.new("RGB", (40, 40), (100, 100, 100))
    found = segmented([[0, 0], [0, 1]], ("background", "cat"), photo.size)
    drawn = np.asarray(colour_classes(photo, found)).astype(int)
    assert (drawn[:18, :18] == 100).all()
    expected = 100 + 0.55 * (class_colours(2)[1].astype(float) - 100)
    np.testing.assert_allclose(drawn[25:, 25:], np.broadcast_to(expected, (15, 15, 3)), atol=0.51)
    assert (drawn[30, 19] > 200).all()  # the white line where the two meet


def test_without_a_background_among_the_labels_every_class_is_coloured() -> None:
    photo = Image.new("RGB", (40, 40), (100, 100, 100))
    drawn = np.asarray(colour_classes(photo, segmented([[0, 0], [0, 1]], ("road", "car"), photo.size)))
    assert not (drawn == 100).all(-1).any()


def test_what_the_network_did_not_see_is_darkened_and_not_coloured() -> None:
    photo = Image.new("RGB", (60, 20), (200, 200, 200))
    spec = ImageSpec(2, 2, 2)
    drawn = np.asarray(colour_classes(photo, segmented([[1, 1], [1, 1]], ("background", "cat"), photo.size, spec)))
    assert (drawn[:, :15] == 100).all()
    assert not (drawn[5:15, 25:35] == 200).all(-1).any()


def test_the_legend_names_classes_with_their_colour_and_grows_with_them() -> None:
    photo = Image.new("RGB", (400, 100), (100, 100, 100))
    one = draw_masks(photo, segmented([[0]], ("cat",), photo.size))
    many = draw_masks(photo, segmented([[i * 4 + j for j in range(4)] for i in range(4)], tuple("abcdefghijklmnop"), photo.size))
    titled = draw_masks(photo, segmented([[0]], ("cat",), photo.size), title="photo.png")
    assert one.width == many.width == 400
    assert 100 < one.height < titled.height < many.height
    legend = np.asarray(one)[100:]
    assert (legend == class_colours(1)[0]).all(-1).sum() > 100
    narrow = draw_masks(photo.resize((40, 10)), segmented([[0]], ("cat",), (40, 10)))
    assert narrow.width == 320  # names need room


def test_more_classes_than_a_legend_holds_are_counted() -> None:
    names = tuple(f"class {i}" for i in range(64))
    photo = Image.new("RGB", (500, 100))
    drawn = draw_masks(photo, segmented(np.arange(64).reshape(8, 8).tolist(), names, photo.size))
    assert drawn.height < 100 + 23 * 26 + 40  # 40 names in two columns, and one line for the rest


def test_the_file_of_indices_is_read_back_as_they_are(tmp_path: Path) -> None:
    found = segmented([[0, 2], [1, 1]], ("background", "cat", "dog"), (4, 2))
    draw_class_map(found).save(tmp_path / "classes.png")
    with Image.open(tmp_path / "classes.png") as read:
        assert read.mode == "P"
        assert np.asarray(read).tolist() == [[0, 0, 2, 2], [1, 1, 1, 1]]
        assert np.asarray(read.convert("RGB"))[1, 0].tolist() == class_colours(3)[1].tolist()


def test_the_file_of_indices_of_many_classes_has_sixteen_bits(tmp_path: Path) -> None:
    logits = np.zeros((300, 1, 2), np.float32)
    logits[299, 0, 1] = 1
    data = io.BytesIO()
    draw_class_map(read_segmentation(logits, (2, 1), ImageSpec(1, 2, None, resize_rule="exact"), None)).save(data, "PNG")
    with Image.open(data) as read:
        assert np.asarray(read).tolist() == [[0, 299]]


@pytest.mark.parametrize(("width", "columns"), [(1, [2]), (2, [2, 3]), (3, [1, 2, 3]), (4, [1, 2, 3, 4])])
def test_a_border_is_as_wide_as_it_is_asked_for(width: int, columns: list[int]) -> None:
    class_map = np.array([[0, 0, 0, 1, 1, 1]] * 3, np.uint8)
    edge = borders(class_map, width)
    assert np.flatnonzero(edge[1]).tolist() == columns


def test_a_mask_shrinks_from_its_edge_and_not_from_the_pictures() -> None:
    mask = np.zeros((5, 6), np.bool_)
    mask[:, :4] = True
    assert shrink(mask, 2).any(0).tolist() == [True, True, False, False, False, False]
    assert shrink(mask, 2)[:, 0].all()
    assert not shrink(mask, 4).any()


def test_the_outline_runs_inside_the_mask() -> None:
    photo = Image.new("RGB", (20, 20), (100, 100, 100))
    mask = np.zeros((20, 20), np.bool_)
    mask[5:15, 5:15] = True
    drawn = np.asarray(draw_outline(photo, mask))
    assert (drawn[~mask] == 100).all()
    assert drawn[5, 10].tolist() == [70, 215, 255]
    assert drawn[6, 10].tolist() == [10, 40, 60]
    assert drawn[10, 10].tolist() == [100, 100, 100]


def test_an_explanation_of_a_segmentation_shows_its_classs_outline(tmp_path: Path) -> None:
    photo = Image.fromarray(spotted((200, 100), (80, 20, 120, 60)))
    with Explainer.open(make_segments_bundle(tmp_path / "segments", CROPPED)) as explainer:
        (bright,) = explainer.explain([photo], "bright")
        (dark,) = explainer.explain([photo], "dark")
        sheet = draw_sheet(photo, [bright, dark], title="photo.png")
    outline = (np.asarray(draw_overlay(photo, bright)) == (70, 215, 255)).all(-1)
    rows, columns = np.nonzero(outline)
    # Round the spot, up to a cell of 4 network pixels (12.5 of the photo's) outside.
    assert 80 - 13 <= columns.min() <= 80
    assert 119 <= columns.max() <= 119 + 13
    assert 20 - 13 <= rows.min() <= 20
    assert not (np.asarray(draw_overlay(photo, dark)) != np.asarray(photo)).any()
    assert sheet.width > 3 * 380


def test_a_photo_of_another_shape_is_refused(tmp_path: Path) -> None:
    with Segmenter.open(make_segments_bundle(tmp_path / "segments")) as segmenter:
        found = segmenter.segment(spotted((40, 20), (0, 0, 10, 10)))
    with pytest.raises(InputError, match="20 x 20 is not the explained photo of 40 x 20"):
        draw_masks(Image.new("RGB", (20, 20)), found)
    with pytest.raises(InputError, match="mode L, expected RGB"):
        draw_masks(Image.new("L", (40, 20)), found)
