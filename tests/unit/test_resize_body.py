"""deploykit.ResizeNormalize as standard operators: Pillow's grey levels, whatever the photo's size."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deploykit.graph.resize_normalize import make_resize_graph
from deploykit.image import resize_and_crop
from deploykit.image.resize import resized_size
from deploykit.runtime.ort import OrtSession
from deploykit.spec import ImageSpec

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SPECS = {
    "bilinear": ImageSpec(24, 24, 28),
    "bicubic": ImageSpec(24, 24, 24, interpolation="bicubic"),
    "exact": ImageSpec(20, 31, None, resize_rule="exact", interpolation="bicubic"),
    "oblong": ImageSpec(16, 27, 30),
}

Photo = npt.NDArray[np.uint8]


@cache
def session(name: str) -> OrtSession:
    return OrtSession(make_resize_graph(SPECS[name]).SerializeToString(), threads=1)


def made(name: str, photo: Photo) -> Photo:
    """The grey levels that the graph makes of a photo [H, W, 3]: [height, width, 3]."""
    (output,) = (o.name for o in session(name).outputs)
    levels = np.asarray(session(name).run({"image": photo[None]})[output])[0]
    assert np.array_equal(levels, np.rint(levels))
    return np.asarray(levels if levels.shape[-1] == 3 else levels.transpose(1, 2, 0), np.uint8)


def whole(name: str, photo: Photo) -> Photo:
    """The reference: the whole photo resized by Pillow, then its centre."""
    spec = SPECS[name]
    width, height = resized_size(photo.shape[1], photo.shape[0], spec)
    resized = np.asarray(Image.fromarray(photo).resize((width, height), FILTERS[spec.interpolation]))
    top, left = round((height - spec.height) / 2), round((width - spec.width) / 2)
    return resized[top : top + spec.height, left : left + spec.width]


def noise(height: int, width: int) -> Photo:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=25, deadline=None)
@given(height=st.integers(8, 160), width=st.integers(8, 160))
def test_every_size_gives_pillows_levels_to_the_last_bit(name: str, height: int, width: int) -> None:
    photo = noise(height, width)
    np.testing.assert_array_equal(made(name, photo), whole(name, photo))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [(8, 8), (8, 900), (900, 8), (24, 24), (28, 28), (9, 4096), (701, 333)])
def test_small_square_very_wide_and_odd_photos_too(name: str, size: tuple[int, int]) -> None:
    photo = noise(*size)
    np.testing.assert_array_equal(made(name, photo), whole(name, photo))


@pytest.mark.parametrize("name", SPECS)
def test_a_photo_is_within_one_level_of_what_the_host_feeds(name: str) -> None:
    """The host folds the crop into the resize, so that single values round otherwise."""
    ramp = np.add.outer(np.linspace(0, 200, 131), np.linspace(0, 55, 97))
    photo = np.stack([ramp, ramp[::-1], 255 - ramp], 2).astype(np.uint8)
    host = resize_and_crop(Image.fromarray(photo), SPECS[name])
    apart = np.abs(made(name, photo).astype(int) - host)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01
