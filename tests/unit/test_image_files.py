"""Which files of a folder are pictures (case O12), and how a folder with bad files is read (case O13)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.errors import ImageError
from deploykit.image import decode_each, find_images, load_pixels
from deploykit.spec import ImageSpec

SPEC = ImageSpec(32, 32, 40)


def put(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(directory: Path) -> list[str]:
    return [str(p.relative_to(directory)) for p in find_images([directory])]


def test_pictures_are_found_recursively_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    put(tmp_path, "class_a/p0.JPEG", "class_a/p1.JPG", "class_a/deep/p2.PNG", "p3.WebP", "p4.tif", "notes.txt", "jpg")
    assert names(tmp_path) == ["class_a/deep/p2.PNG", "class_a/p0.JPEG", "class_a/p1.JPG", "p3.WebP", "p4.tif"]


def test_numbers_in_names_sort_by_their_value(tmp_path: Path) -> None:
    put(tmp_path, "10.jpg", "2.jpg", "1.jpg", "b10/1.png", "B9/1.png", "a.png", "02.jpg")
    assert names(tmp_path) == ["1.jpg", "02.jpg", "2.jpg", "10.jpg", "a.png", "B9/1.png", "b10/1.png"]


def test_hidden_files_and_directories_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "._a.jpg", ".hidden.png", ".thumbs/b.jpg", ".DS_Store")
    assert names(tmp_path) == ["a.jpg"]


def test_a_named_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    put(tmp_path, "upload.tmp", ".hidden.png")
    assert find_images([tmp_path / "upload.tmp", tmp_path / ".hidden.png"]) == [tmp_path / "upload.tmp", tmp_path / ".hidden.png"]
    assert find_images(str(tmp_path / "upload.tmp")) == [tmp_path / "upload.tmp"]


def test_the_order_of_the_arguments_is_kept(tmp_path: Path) -> None:
    put(tmp_path, "z/1.jpg", "z/2.jpg", "a/1.jpg")
    found = find_images([tmp_path / "z", tmp_path / "a", str(tmp_path / "z" / "2.jpg")])
    assert [str(p.relative_to(tmp_path)) for p in found] == ["z/1.jpg", "z/2.jpg", "a/1.jpg", "z/2.jpg"]


def test_links_are_followed_and_loops_of_links_end(tmp_path: Path) -> None:
    put(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos" / "back").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos" / "other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "photos", target_is_directory=True)
    assert names(tmp_path / "photos") == ["a.jpg", "other/b.jpg"]


def test_a_directory_without_a_picture_says_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path, "only_notes/README.txt", "only_notes/.DS_Store", "only_notes/more/x.txt", "only_notes/more/Makefile")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty: no picture among 0 files and 0 hidden files in 1 directory$"):
        find_images([tmp_path / "empty"])
    with pytest.raises(
        ImageError, match=r"no picture among 3 files \(2 \.txt, 1 no suffix\) and 1 hidden files in 2 directories"
    ) as caught:
        find_images([tmp_path / "only_notes"])
    assert caught.value.hint is not None
    assert ".webp" in caught.value.hint


def test_missing_paths_and_no_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no_such_dir: no such file or directory"):
        find_images([tmp_path / "no_such_dir"])
    with pytest.raises(ImageError, match="no picture and no directory is named"):
        find_images([])


def make_mixed_folder(folder: Path) -> None:
    base = Image.linear_gradient("L").resize((64, 48))
    rgb = Image.merge("RGB", (base, base.rotate(180), base))
    rgb.save(folder / "ok.jpg", quality=95)
    raw = (folder / "ok.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(raw[: len(raw) * 2 // 3])
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>404</html>")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    base.save(folder / "grey.png")
    rgb.quantize(8).save(folder / "palette.png")
    rgb.save(folder / "really_png.jpg", format="PNG")
    Image.new("RGB", (1, 1)).save(folder / "one_pixel.png")


def test_a_mixed_folder_gives_six_pictures_and_three_reasons(tmp_path: Path) -> None:
    make_mixed_folder(tmp_path)
    results = {path.name: result for path, result in decode_each(find_images([tmp_path]), SPEC)}
    reasons = {name: str(result) for name, result in results.items() if isinstance(result, ImageError)}
    assert set(results) - set(reasons) == {"ok.jpg", "cmyk.jpg", "grey.png", "palette.png", "really_png.jpg", "one_pixel.png"}
    assert {name: reason.split(": ", 1)[1].split(" (")[0] for name, reason in reasons.items()} == {
        "cut.jpg": "cannot be decoded",
        "zero.jpg": "is empty",
        "text.jpg": "is an HTML, XML or SVG text, not a picture",
    }
    for name, reason in reasons.items():
        assert name in reason


def test_bad_files_do_not_change_what_the_good_ones_give(tmp_path: Path) -> None:
    make_mixed_folder(tmp_path)
    mixed = [r for _, r in decode_each(find_images([tmp_path]), SPEC) if not isinstance(r, ImageError)]
    good = [p for p in find_images([tmp_path]) if p.name not in ("cut.jpg", "zero.jpg", "text.jpg")]
    assert np.array_equal(mixed, [load_pixels(path, SPEC) for path in good])


def test_pictures_are_read_one_at_a_time_as_they_are_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    stream = decode_each([tmp_path / "a.png", tmp_path / "later.png"], SPEC)
    assert not isinstance(next(stream)[1], ImageError)
    Image.new("RGB", (8, 8)).save(tmp_path / "later.png")
    assert not isinstance(next(stream)[1], ImageError)
