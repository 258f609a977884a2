"""Calibration pictures: found, read in full, split by content; bad ones are named, and too many of them stop the work."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from deploykit.errors import ImageError, UsageError
from deploykit.image import load_pixels, normalize
from deploykit.quantization.pictures import Photo, Pictures, find_pictures, read_batches, require_apart, split_photos
from deploykit.spec import ImageSpec

SPEC = ImageSpec(height=24, width=32, resize_size=36)


def _photo(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for seed in range(10):
        _photo(tmp_path / "album" / "abc"[seed % 3] / f"{seed}.png", seed)
    return tmp_path / "album"


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    """The folder of case O13."""
    folder = tmp_path / "mix"
    folder.mkdir()
    base = Image.linear_gradient("L").resize((64, 48))
    rgb = Image.merge("RGB", (base, base.rotate(180), base))
    rgb.save(folder / "ok.jpg", quality=95)
    raw = (folder / "ok.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(raw[: len(raw) * 2 // 3])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("<html>404</html>")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    base.save(folder / "grey.png")
    rgb.quantize(8).save(folder / "palette.png")
    rgb.save(folder / "really_png.jpg", format="PNG")
    Image.new("RGB", (1, 1)).save(folder / "one_pixel.png")
    return folder


def _pixels(pictures: Pictures) -> np.ndarray:
    photos = (*pictures.calibration, *pictures.held_out)
    return np.concatenate([batch.feeds["image"] for batch in read_batches(photos, SPEC, 4)])


@pytest.mark.parametrize("name", ["empty", "only_notes", "only_folders", "all_broken", "no_such_dir"])
def test_a_folder_without_a_usable_picture_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """Case O12."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "only_folders" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "only_notes").mkdir()
    (tmp_path / "only_notes" / "README.txt").write_text("no pictures yet")
    (tmp_path / "only_notes" / ".DS_Store").write_bytes(b"\0" * 10)
    (tmp_path / "all_broken").mkdir()
    (tmp_path / "all_broken" / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "all_broken" / "b.png").touch()
    with pytest.raises(ImageError) as caught:
        find_pictures([tmp_path / name], SPEC)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or "none of 2 pictures can be read; for one, a.jpg" in str(caught.value)
    assert caught.value.exit_code == 1


def test_suffixes_in_capitals_are_found_at_any_depth_and_few_are_warned_of(tmp_path: Path) -> None:
    """Case O12: folders of .JPEG files."""
    for i, suffix in enumerate(("JPEG", "JPG", "PNG", "WebP")):
        path = tmp_path / "upper" / "class_a" / f"p{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (i * 60, 9, 9)).save(path)
    pictures = find_pictures([tmp_path / "upper"], SPEC, held_out_share=0)
    assert sorted(p.name for p in pictures.calibration) == [
        "class_a/p0.JPEG",
        "class_a/p1.JPG",
        "class_a/p2.PNG",
        "class_a/p3.WebP",
    ]
    assert pictures.warnings == ("only 4 photos to calibrate with; 32 or more are advised",)
    assert not pictures.held_out


def test_a_mixed_folder_gives_its_good_pictures_and_names_the_others(mix: Path, tmp_path: Path) -> None:
    """Case O13."""
    setting = ImageFile.LOAD_TRUNCATED_IMAGES
    pictures = find_pictures([mix], SPEC)
    used = {p.name for p in (*pictures.calibration, *pictures.held_out)}
    assert used == {"ok.jpg", "cmyk.jpg", "grey.png", "palette.png", "really_png.jpg", "one_pixel.png"}
    assert {s.name: bool(s.reason) for s in pictures.skipped} == {"cut.jpg": True, "zero.jpg": True, "text.jpg": True}
    assert not any(str(tmp_path) in s.reason for s in pictures.skipped)
    assert setting == ImageFile.LOAD_TRUNCATED_IMAGES
    good = tmp_path / "good"
    good.mkdir()
    for name in used:
        shutil.copy(mix / name, good / name)
    np.testing.assert_array_equal(_pixels(pictures), _pixels(find_pictures([good], SPEC)))


def test_more_bad_pictures_than_the_share_allows_stop_the_work(mix: Path) -> None:
    with pytest.raises(ImageError, match=r"3 of 9 pictures cannot be read, more than 30% of them; for one, cut\.jpg") as caught:
        find_pictures([mix], SPEC, most_bad_share=0.3)
    assert caught.value.hint


def test_pictures_are_those_that_serving_would_see(album: Path) -> None:
    pictures = find_pictures([album], SPEC)
    (batch,) = read_batches(pictures.calibration, SPEC, 100)
    assert batch.names == tuple(p.name for p in pictures.calibration)
    for photo, pixels in zip(pictures.calibration, batch.feeds["image"], strict=True):
        np.testing.assert_array_equal(pixels, load_pixels(photo.path, SPEC))
    (normalized,) = read_batches(pictures.calibration, SPEC, 100, input_kind="float")
    np.testing.assert_array_equal(normalized.feeds["image"], normalize(batch.feeds["image"], SPEC))


def test_a_fifth_is_held_out_whatever_the_files_are_called(album: Path, tmp_path: Path) -> None:
    pictures = find_pictures([album], SPEC)
    assert (len(pictures.calibration), len(pictures.held_out)) == (8, 2)
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(album.rglob("*.png"), reverse=True)):
        shutil.copy(path, flat / f"other{i}.png")
    again = find_pictures([flat], SPEC)
    for one, other in ((pictures.calibration, again.calibration), (pictures.held_out, again.held_out)):
        assert [p.sha256 for p in one] == [p.sha256 for p in other]


@given(st.sets(st.integers(0, 10**6), max_size=30), st.floats(0, 0.99))
def test_no_content_is_on_both_sides_and_none_is_lost(contents: set[int], share: float) -> None:
    photos = [Photo(Path(str(i)), str(i), f"{i:064x}") for i in contents]
    calibration, held_out = split_photos(photos + photos, share)
    assert {p.sha256 for p in calibration} | {p.sha256 for p in held_out} == {p.sha256 for p in photos}
    assert len(calibration) + len(held_out) == len(photos)
    assert bool(calibration) == bool(photos)
    assert bool(held_out) == (len(photos) > 1 and share > 0)


def test_a_second_copy_of_a_picture_is_left_out_and_named(album: Path) -> None:
    shutil.copy(album / "a" / "0.png", album / "c" / "copy.png")
    pictures = find_pictures([album], SPEC)
    assert len(pictures.calibration) + len(pictures.held_out) == 10
    assert [(s.name, s.reason) for s in pictures.skipped] == [("c/copy.png", "has the same content as a/0.png")]


def test_a_single_picture_calibrates_and_leaves_none_to_judge_by(tmp_path: Path) -> None:
    _photo(tmp_path / "one.png", 1)
    pictures = find_pictures([tmp_path / "one.png"], SPEC)
    assert [p.name for p in pictures.calibration] == ["one.png"]
    assert not pictures.held_out
    assert "a single photo leaves none to judge by" in pictures.warnings


def test_crops_make_up_the_number_and_are_the_same_every_time(album: Path) -> None:
    pictures = find_pictures([album], SPEC, crops=20)
    assert pictures.views == 3
    assert any("each photo makes 3 pictures, by crops: 24 in all" in line for line in pictures.warnings)
    first, second = ([*read_batches(pictures.calibration, SPEC, size, views=3)] for size in (5, 7))
    assert [len(b.names) for b in first] == [5, 5, 5, 5, 4]
    one, other = (np.concatenate([b.feeds["image"] for b in batches]) for batches in (first, second))
    np.testing.assert_array_equal(one, other)
    assert len({view.tobytes() for view in one}) == 24
    name = pictures.calibration[0].name
    assert first[0].names[:3] == (name, f"{name} (view 1)", f"{name} (view 2)")
    np.testing.assert_array_equal(one[0], load_pixels(pictures.calibration[0].path, SPEC))


@pytest.mark.parametrize("size", [(1, 1), (3, 270), (270, 3)])
def test_crops_of_extreme_photos_have_the_networks_size(tmp_path: Path, size: tuple[int, int]) -> None:
    _photo(tmp_path / "odd.png", 1, size)
    pictures = find_pictures([tmp_path], SPEC, crops=6)
    (batch,) = read_batches(pictures.calibration, SPEC, 10, views=pictures.views)
    assert batch.feeds["image"].shape == (6, 24, 32, 3)


def test_enough_photos_need_no_crops(album: Path) -> None:
    assert find_pictures([album], SPEC, crops=8).views == 1


def test_of_many_files_so_many_as_wanted_are_taken_evenly(album: Path) -> None:
    pictures = find_pictures([album], SPEC, at_most=4, held_out_share=0)
    assert sorted(p.name for p in pictures.calibration) == ["a/0.png", "a/6.png", "b/4.png", "c/2.png"]


def test_a_file_that_changed_since_it_was_listed_is_refused(album: Path) -> None:
    pictures = find_pictures([album], SPEC)
    _photo(pictures.calibration[3].path, 99)
    with pytest.raises(ImageError, match="has changed since the pictures were listed"):
        list(read_batches(pictures.calibration, SPEC, 4))


def test_pictures_that_were_calibrated_with_do_not_judge(album: Path) -> None:
    pictures = find_pictures([album], SPEC)
    calibrated = [p.sha256 for p in pictures.calibration]
    require_apart(calibrated, pictures.held_out)
    with pytest.raises(UsageError, match=f"1 pictures to be judged by were calibrated with: {pictures.calibration[0].name}"):
        require_apart(calibrated, [*pictures.held_out, pictures.calibration[0]])
    with pytest.raises(UsageError, match="calibrated with"):
        Pictures(pictures.calibration, pictures.calibration[:1], ())


def test_progress_counts_every_file(mix: Path) -> None:
    told: list[tuple[int, int]] = []
    find_pictures([mix], SPEC, on_file=lambda done, total: told.append((done, total)))
    assert told == [(i, 9) for i in range(1, 10)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"at_most": 0}, "at_most is 0"),
        ({"crops": -1}, "crops is -1"),
        ({"held_out_share": 1}, "held out is 1"),
        ({"most_bad_share": 2}, "bad pictures is 2"),
    ],
)
def test_numbers_out_of_range_are_refused(album: Path, options: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_pictures([album], SPEC, **options)  # type: ignore[arg-type]


def test_no_path_is_refused() -> None:
    with pytest.raises(ImageError, match="no picture and no directory is named"):
        find_pictures([], SPEC)
