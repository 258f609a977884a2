"""torchvision's and timm's evaluation transforms on Pillow pictures are the reference of deploykit.image."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deploykit.image import decode, load_pixels, normalize, resize_and_crop
from deploykit.spec import ImageSpec

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

# Pillow takes the crop box in 32-bit floats, so a value next to a rounding boundary may fall to its other side: 1 level, rarely.
MAX_LEVELS = 1
MAX_MEAN = 0.003


def by_torchvision(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    mode = InterpolationMode(spec.interpolation)
    if spec.resize_size is None:
        return np.asarray(Resize((spec.height, spec.width), mode)(image))
    return np.asarray(Compose([Resize(spec.resize_size, mode), CenterCrop((spec.height, spec.width))])(image))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes and grain, so that both flat and sharp places occur."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 25, (height, width, 3))
    return Image.fromarray((np.asarray(small) + grain).clip(0, 255).astype(np.uint8))


def differences(image: Image.Image, spec: ImageSpec) -> NDArray[np.int64]:
    result: NDArray[np.int64] = np.abs(resize_and_crop(image, spec).astype(np.int64) - by_torchvision(image, spec))
    return result


specs = st.one_of(
    st.builds(
        lambda h, w, more, i: ImageSpec(h, w, max(h, w) + more, interpolation=i),
        st.integers(1, 130),
        st.integers(1, 130),
        st.integers(0, 120),
        st.sampled_from(["bilinear", "bicubic"]),
    ),
    st.builds(
        lambda h, w, i: ImageSpec(h, w, None, "exact", i),
        st.integers(1, 130),
        st.integers(1, 130),
        st.sampled_from(["bilinear", "bicubic"]),
    ),
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(1, 420), st.integers(1, 420), specs, st.integers(0, 9))
@example(240, 300, ImageSpec(240, 240, 274, interpolation="bicubic"), 0)
@example(240, 777, ImageSpec(240, 240, 274, interpolation="bicubic"), 0)
@example(480, 2000, ImageSpec(240, 240, 274, interpolation="bicubic"), 0)
@example(150, 300, ImageSpec(32, 32, 130, interpolation="bicubic"), 0)
@example(1, 1, ImageSpec(224, 224, 256), 0)
@example(1, 400, ImageSpec(64, 64, 65), 0)
@example(400, 1, ImageSpec(64, 64, 65, interpolation="bicubic"), 0)
@example(256, 256, ImageSpec(224, 224, 256), 0)
@example(255, 257, ImageSpec(223, 224, 225), 0)
def test_any_size_is_torchvisions_result_within_one_level(width: int, height: int, spec: ImageSpec, seed: int) -> None:
    levels = differences(photo(width, height, seed), spec)
    assert levels.max() <= MAX_LEVELS


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 420), st.integers(1, 420), st.integers(1, 130), st.integers(1, 130), st.sampled_from(["bilinear", "bicubic"]))
def test_the_exact_rule_is_torchvisions_result_to_the_last_level(
    width: int, height: int, high: int, wide: int, interpolation: str
) -> None:
    assert differences(photo(width, height), ImageSpec(high, wide, None, "exact", interpolation)).max() == 0


def test_the_shorter_side_of_common_specs_costs_no_exactness() -> None:
    # 384 x 256, 455 x 320 and 342 x 342 have edges that 32-bit floats hold, or are computed whole.
    for size, sizes in (((600, 400), (224, 256)), ((512, 512), (300, 320)), ((300, 300), (299, 342)), ((733, 733), (224, 232))):
        assert differences(photo(*size), ImageSpec(sizes[0], sizes[0], sizes[1])).max() == 0


def test_a_strip_is_resized_without_making_the_whole_strip() -> None:
    strip = Image.new("RGB", (1, 400_000), (9, 8, 7))  # resized whole it would be 256 x 102,400,000
    assert (resize_and_crop(strip, ImageSpec(224, 224, 256)) == (9, 8, 7)).all()
    assert (resize_and_crop(strip.transpose(Image.Transpose.ROTATE_90), ImageSpec(224, 224, 256)) == (9, 8, 7)).all()


def test_a_square_photo_that_is_not_cropped_is_equal_to_the_last_level() -> None:
    for size in (100, 224, 500):
        assert differences(photo(size, size), ImageSpec(224, 224, 224)).max() == 0


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sizes", [(224, 256), (300, 320), (299, 342)])
def test_real_photos_are_torchvisions_and_timms(interpolation: str, sizes: tuple[int, int]) -> None:
    spec = ImageSpec(sizes[0], sizes[0], sizes[1], interpolation=interpolation)
    for path in real_photos():
        mine = load_pixels(path, spec).astype(int)
        with Image.open(path) as image:
            reference = by_torchvision(image.convert("RGB"), spec)
            second = np.asarray(timm_transform(spec)(image.convert("RGB"))).transpose(1, 2, 0)
        for other in (reference, second):
            assert np.abs(mine - other).max() <= MAX_LEVELS, path
            assert np.abs(mine - other).mean() <= MAX_MEAN, path


@pytest.mark.parametrize("crop_pct", [0.875, 0.904, 1.0])
def test_normalized_input_is_timms(crop_pct: float) -> None:
    from timm.data.transforms_factory import create_transform

    size = 240
    spec = ImageSpec(size, size, int(size / crop_pct), interpolation="bicubic")
    transform = create_transform((3, size, size), mean=spec.mean, std=spec.std, interpolation="bicubic", crop_pct=crop_pct)
    for width, height in ((500, 400), (240, 777), (97, 60)):
        image = photo(width, height)
        mine = normalize(load_pixels(image, spec)[None], spec)[0]
        theirs = transform(image).numpy()
        assert np.abs(mine - theirs).max() <= 1.01 / 255 / min(spec.std)  # one grey level
        assert np.abs(mine - theirs).mean() <= MAX_MEAN / 255 / min(spec.std) + 1e-6


def timm_transform(spec: ImageSpec) -> Any:
    """timm's evaluation transform up to its pixels: as uint8, before normalization."""
    from timm.data.transforms_factory import transforms_imagenet_eval

    assert spec.resize_size is not None
    return transforms_imagenet_eval(
        img_size=spec.height,
        crop_pct=spec.height / spec.resize_size,
        interpolation=spec.interpolation,
        use_prefetcher=True,
    )


def real_photos() -> list[Path]:
    skimage = pytest.importorskip("skimage")
    sklearn = pytest.importorskip("sklearn")
    found = [Path(skimage.__file__).parent / "data" / n for n in ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")]
    found += [Path(sklearn.__file__).parent / "datasets" / "images" / n for n in ("china.jpg", "flower.jpg")]
    return [path for path in found if path.exists()]


def test_every_real_photo_is_there() -> None:
    assert len(real_photos()) >= 4


MODES = {
    "JPEG": ("RGB", "L", "CMYK", "1", "YCbCr"),
    "PNG": ("RGB", "L", "P", "1"),
    "WEBP": ("RGB", "L", "P", "CMYK", "1", "YCbCr"),
    "TIFF": ("RGB", "L", "P", "CMYK", "1", "YCbCr"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("RGB", "L", "P", "1"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_opaque_pictures_are_decoded_as_pillow_and_torchvision_do(kind: str, mode: str) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(61, 47).convert(mode).save(buffer, kind, **({} if kind in ("BMP", "GIF") else {"exif": exif}))
    with Image.open(buffer) as image, warnings.catch_warnings():
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(decode(buffer.getvalue())), np.asarray(expected))
