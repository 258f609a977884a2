"""Maps of published weights lie where people see what the class names: boxes drawn by hand on two photos."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploykit.bundle import Bundle
from deploykit.runtime import Explainer, map_on_photo
from deploykit.runtime.cam import METHODS


@pytest.fixture(scope="module")
def explainer(lite0: Bundle) -> Iterator[Explainer]:
    with Explainer.open(lite0) as opened:
        yield opened


@pytest.mark.parametrize("method", METHODS)
def test_evidence_for_coffee_lies_on_the_cup_and_for_a_cat_on_its_face(
    explainer: Explainer, coffee: Path, chelsea: Path, method: str
) -> None:
    # Boxes drawn by hand on the photos: the cup without saucer and table; the face from the brow to the chin.
    cup, face = (170, 15, 410, 270), (110, 70, 370, 275)
    for photo, label, (left, top, right, bottom), share in ((coffee, "espresso", cup, 0.48), (chelsea, "tabby", face, 0.73)):
        (found,) = explainer.explain([photo], label, method)
        placed = map_on_photo(found)
        inside = placed[top:bottom, left:right]
        # The box has that share of what the network saw; chance would put as much of the map there.
        assert inside.sum() > (share + 0.05) * placed.sum()
        assert (inside > 0.5).sum() > 0.95 * (placed > 0.5).sum()
