"""The image spec of a graph from elsewhere: what is known, what is asked for, what is assumed and said so."""

from dataclasses import replace
from typing import Any

import pytest

from deploykit.cli.import_image import described_image, resolve_image
from deploykit.cli.import_options import PRESETS, ImageOptions
from deploykit.errors import UsageError
from deploykit.graph.foreign import ForeignInput
from deploykit.spec import IMAGENET_MEAN, IMAGENET_STD, ImageSpec

SQUARE = ForeignInput("x", "float32", "nchw", None, 224, 224)
OPEN = replace(SQUARE, height=None, width=None)
KNOWN = ImageSpec(224, 224, 248, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), colour_order="bgr")


def resolve(
    source: ForeignInput = SQUARE, known: ImageSpec | None = None, *, takes_pixels: bool = False, **options: Any
) -> ImageSpec:
    return resolve_image(ImageOptions(**options), source, known, takes_pixels=takes_pixels)[0]


def test_an_unknown_normalization_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="confident wrong answers") as caught:
        resolve()
    assert "--normalize imagenet" in str(caught.value.hint)
    assert "--mean R,G,B --std R,G,B" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("preset", "black", "white"),
    [
        ("imagenet", -2.1179, 2.2489),
        ("0..1", 0, 1),
        ("-1..1", -1, 1),
        ("0..255", 0, 255),
        ("none", 0, 255),
        ("caffe", -123.68, 131.32),
    ],
)
def test_a_preset_sends_black_and_white_where_its_name_says(preset: str, black: float, white: float) -> None:
    image = resolve(normalize=preset)
    assert ((0 - image.mean[0]) / image.std[0], (1 - image.mean[0]) / image.std[0]) == pytest.approx((black, white), abs=1e-3)
    assert image.colour_order == ("bgr" if preset == "caffe" else "rgb")


def test_mean_and_std_may_be_in_units_of_0_to_255() -> None:
    image = resolve(mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0), pixel_scale="255", colour_order="bgr")
    assert image.mean == pytest.approx((123 / 255, 117 / 255, 104 / 255))
    assert image.std == pytest.approx((1 / 255,) * 3)
    small = resolve(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert (small.mean, small.std) == (IMAGENET_MEAN, IMAGENET_STD) == PRESETS["imagenet"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "--std is missing"),
        ({"std": (0.5, 0.5, 0.5)}, "--mean is missing"),
        ({"mean": (123.0, 117.0, 104.0), "std": (58.0, 57.0, 57.0)}, "mean is 123, and a white pixel counts 1"),
        ({"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "pixel_scale": "255"}, "values up to 1,138"),
        ({"normalize": "0..1", "mean": (0.0, 0.0, 0.0)}, "--normalize excludes"),
        ({"normalize": "0..1", "image_size": (192, 224)}, "takes 224 x 224 pixels, and 192 x 224 were asked for"),
        ({"normalize": "0..1", "resize": 200}, "resize_size is 200, expected at least 224"),
        ({"normalize": "0..1", "resize": 256, "resize_rule": "exact"}, "expected none under the exact rule"),
        ({"mean": (0.0, 0.0, 0.0), "std": (0.0, 1.0, 1.0)}, "expected positive numbers"),
    ],
)
def test_options_that_contradict_the_graph_or_each_other_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        resolve(**options)


def test_an_open_size_must_be_given() -> None:
    with pytest.raises(UsageError, match="takes pictures of any x any pixels") as caught:
        resolve(OPEN, normalize="0..1")
    assert "--image-size" in str(caught.value.hint)
    wide = resolve(OPEN, normalize="0..1", image_size=(48, 192))
    assert (wide.height, wide.width, wide.resize_rule, wide.resize_size) == (48, 192, "exact", None)


def test_what_the_graph_says_of_itself_is_the_default_and_options_go_before_it() -> None:
    assert resolve(known=KNOWN) == KNOWN
    assert resolve(OPEN, KNOWN) == KNOWN
    changed = resolve(known=KNOWN, resize=224, colour_order="rgb", normalize="imagenet")
    assert changed == replace(KNOWN, resize_size=224, colour_order="rgb", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    larger = resolve(OPEN, KNOWN, image_size=(256, 256))
    assert (larger.height, larger.resize_size, larger.mean) == (256, 256, KNOWN.mean)


def test_assumptions_are_said_and_only_where_something_was_assumed() -> None:
    said = resolve_image(ImageOptions(normalize="0..1"), SQUARE, None, takes_pixels=False)[1]
    assert [text.partition(" is assumed")[0] for text in said] == ["resizing", "colour order"]
    assert not resolve_image(ImageOptions(), SQUARE, KNOWN, takes_pixels=False)[1]
    asked = ImageOptions(normalize="caffe", resize=256)
    assert not resolve_image(asked, SQUARE, None, takes_pixels=False)[1]


def test_a_uint8_input_takes_pixels_as_they_are_and_nothing_else() -> None:
    image = resolve(replace(SQUARE, dtype="uint8"))
    assert image.normalized_range == pytest.approx((0, 255))
    with pytest.raises(UsageError, match="input x is uint8"):
        resolve(replace(SQUARE, dtype="uint8"), normalize="imagenet")


def test_a_graph_that_normalizes_itself_takes_no_other_normalization() -> None:
    pixels = replace(SQUARE, dtype="uint8")
    assert resolve(pixels, KNOWN, takes_pixels=True) == KNOWN
    for options in ({"normalize": "imagenet"}, {"colour_order": "rgb"}):
        with pytest.raises(UsageError, match="normalizes pixels itself"):
            resolve(pixels, KNOWN, takes_pixels=True, **options)


def test_a_damaged_description_is_an_error() -> None:
    assert described_image({}) is None
    for text in ("{", "[]", '{"height": 3}'):
        with pytest.raises(UsageError):
            described_image({"deploykit.image": text})
