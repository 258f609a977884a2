"""Which class is meant: by index, by label, for one row or for each."""

import numpy as np
import pytest

from deploykit.errors import UsageError
from deploykit.runtime.classes import find_class, find_classes

LABELS = ("tabby", "tiger cat", "crane", "Crane", "crane", "espresso")


def test_a_class_is_found_by_index_and_by_label() -> None:
    assert find_class(2, LABELS, 6) == 2
    assert find_class(np.int64(5), None, 6) == 5
    assert find_class("tiger cat", LABELS, 6) == 1
    assert find_class("Crane", LABELS, 6) == 3
    assert find_class("ESPRESSO", LABELS, 6) == 5
    assert find_class(None, LABELS, 6) == -1


def test_a_label_of_several_classes_is_refused_with_their_indices() -> None:
    with pytest.raises(UsageError, match="'crane' is that of classes 2, 4"):
        find_class("crane", LABELS, 6)


def test_an_unknown_label_is_answered_with_near_ones() -> None:
    with pytest.raises(UsageError, match=r"no class has the label 'expresso'; close: espresso$"):
        find_class("expresso", LABELS, 6)
    with pytest.raises(UsageError, match=r"'cat'; close: .*tiger cat"):
        find_class("cat", LABELS, 6)
    with pytest.raises(UsageError, match=r"no class has the label 'zebra'$"):
        find_class("zebra", LABELS, 6)
    with pytest.raises(UsageError, match="no labels to look for 'tabby' in"):
        find_class("tabby", None, 6)


@pytest.mark.parametrize("wanted", [6, -2, 10**20, np.int64(-7)])
def test_an_index_outside_of_the_classes_is_refused(wanted: int) -> None:
    with pytest.raises(UsageError, match="expected 0 to 5"):
        find_class(wanted, LABELS, 6)


def test_minus_1_is_refused_with_the_way_to_say_it() -> None:
    with pytest.raises(UsageError, match="class index is -1") as caught:
        find_class(-1, LABELS, 6)
    assert "None" in str(caught.value.hint)


@pytest.mark.parametrize("wanted", [True, 1.0, b"tabby", np.array([1.5])])
def test_what_is_neither_index_nor_label_is_refused(wanted: object) -> None:
    with pytest.raises(UsageError, match="expected an index or a label"):
        find_classes(wanted, 1, LABELS, 6)  # type: ignore[arg-type]


def test_one_class_serves_all_rows_and_a_list_needs_one_per_row() -> None:
    assert find_classes("tabby", 3, LABELS, 6) == [0, 0, 0]
    assert find_classes([1, None, "tabby"], 3, LABELS, 6) == [1, -1, 0]
    assert find_classes(np.array([4, 5]), 2, LABELS, 6) == [4, 5]
    for short in ([1], [1, 2, 3], np.array([1]), []):
        with pytest.raises(UsageError, match=f"{len(short)} classes for 2 pictures"):
            find_classes(short, 2, LABELS, 6)
