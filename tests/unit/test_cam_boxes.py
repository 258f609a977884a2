"""The file of boxes: which picture a name means, and what is refused."""

from pathlib import Path

import pytest

from deploykit.cli.cam_boxes import read_boxes
from deploykit.errors import UsageError


def boxes_file(folder: Path, text: str) -> Path:
    (folder / "boxes.json").write_text(text)
    return folder / "boxes.json"


def test_a_picture_is_named_by_its_path_or_by_its_name_and_others_may_stand_in_the_file(tmp_path: Path) -> None:
    file = boxes_file(tmp_path, '{"x/a.png": [[1, 2, 3, 4.5]], "b.png": [[0, 0, 9, 9], [5, 5, 6, 6]], "z.png": [[0, 0, 1, 1]]}')
    pictures = [Path("x/a.png"), Path("y/b.png"), Path("y/c.png")]
    assert read_boxes(file, pictures) == {pictures[0]: ((1, 2, 3, 4.5),), pictures[1]: ((0, 0, 9, 9), (5, 5, 6, 6))}


def test_a_name_that_two_pictures_have_needs_whole_paths(tmp_path: Path) -> None:
    pictures = [Path("x/a.png"), Path("y/a.png")]
    with pytest.raises(UsageError, match=r"has boxes of a.png, the name of x/a.png and y/a.png") as caught:
        read_boxes(boxes_file(tmp_path, '{"a.png": [[0, 0, 9, 9]]}'), pictures)
    assert caught.value.hint == "write their whole paths"
    found = read_boxes(boxes_file(tmp_path, '{"a.png": [[0, 0, 9, 9]], "y/a.png": [[1, 1, 2, 2]]}'), pictures)
    assert found == {pictures[0]: ((0, 0, 9, 9),), pictures[1]: ((1, 1, 2, 2),)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "is no JSON text"),
        ("[]", "holds a list"),
        ("{}", "names none of the pictures; it names nothing"),
        ('{"other.png": []}', "it names other.png"),
        ('{"a.png": 3}', "has 3 for a.png"),
        ('{"a.png": [[1, 2, 3]]}', "has [1, 2, 3] for a.png"),
        ('{"a.png": [[true, 2, 3, 4]]}', "has [True, 2, 3, 4] for a.png"),
        ('{"a.png": [[1, 2, 3, NaN]]}', "has [1, 2, 3, nan] for a.png"),
        ('{"a.png": [[1, 2, 3, 1e400]]}', "has [1, 2, 3, inf] for a.png"),
        ('{"a.png": [[5, 2, 3, 4]]}', "has the box [5, 2, 3, 4] for a.png"),
        ('{"a.png": [[1, 4, 3, 4]]}', "top below bottom"),
    ],
)
def test_another_form_is_refused_with_the_right_one(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_boxes(boxes_file(tmp_path, text), [Path("a.png")])
    assert message in str(caught.value)
    assert "[[left, top, right, bottom], ...]" in f"{caught.value} {caught.value.hint}"
