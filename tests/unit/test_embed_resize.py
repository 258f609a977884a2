"""The resize in front of a graph and away from it again, and the proof that goes before it is written."""

import numpy as np
import onnx
import pytest
from PIL import Image

from deploykit.cli import embed_resize as embedding
from deploykit.cli.embed_resize import asked_pictures, prove_embedded
from deploykit.errors import GraphError, ParityError
from deploykit.graph.pixels import IMAGE_NAME, embed_resize, remove_resize, resizes
from deploykit.graph.resize_normalize import make_resize_graph
from deploykit.image import resize_and_crop
from deploykit.models.registry import MODELS
from deploykit.parity import sample_pictures
from deploykit.runtime.ort import OrtSession
from deploykit.spec import ImageSpec
from tests.conftest import channel_means

SPEC = ImageSpec(24, 20, 28, interpolation="bicubic", colour_order="bgr")
PHOTO = sample_pictures(1, 61, 47)
CATALOGUE = sorted({entry.image for entry in MODELS.values()}, key=repr)


def logits(graph: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    with OrtSession(graph.SerializeToString(), threads=1) as session:
        return session.run({"image": image})["logits"]


def test_a_graph_gets_the_resize_and_gives_it_back() -> None:
    plain = channel_means(SPEC)
    photo = embed_resize(plain, SPEC)
    assert resizes(photo)
    assert not resizes(plain)
    onnx.checker.check_model(photo, full_check=True)
    back = remove_resize(photo, SPEC)
    assert back.graph.SerializeToString(deterministic=True) == plain.graph.SerializeToString(deterministic=True)
    assert list(back.functions) == list(plain.functions)


def test_the_resized_photo_is_normalized_as_pixels_are_in_the_networks_colour_order() -> None:
    plain = channel_means(SPEC)
    levels = resize_and_crop(Image.fromarray(PHOTO[0]), SPEC)[None]
    # The same levels through the same float32 product and sum, in means of 480 values each.
    np.testing.assert_allclose(logits(embed_resize(plain, SPEC), PHOTO), logits(plain, levels), rtol=0, atol=1e-5)


def test_a_graph_that_normalizes_in_its_own_way_is_given_the_resized_bytes() -> None:
    plain = channel_means(SPEC)
    for node in plain.graph.node:
        node.name = f"own/{node.name}"
    photo = embed_resize(plain, SPEC)
    assert [n.op_type for n in photo.graph.node][:3] == ["ResizeNormalize", "Transpose", "Cast"]
    levels = resize_and_crop(Image.fromarray(PHOTO[0]), SPEC)[None]
    np.testing.assert_array_equal(logits(photo, PHOTO), logits(plain, levels))


def test_an_input_that_is_not_the_specs_pixels_is_refused() -> None:
    with pytest.raises(GraphError, match=rf"{IMAGE_NAME} is \['N', 24, 20, 3\], expected uint8 \[N, 32, 32, 3\]"):
        embed_resize(channel_means(SPEC), ImageSpec(32, 32, 32))
    with pytest.raises(GraphError, match="expected uint8"):
        embed_resize(channel_means(SPEC, pixels=False), SPEC)
    with pytest.raises(GraphError, match="no resize to remove"):
        remove_resize(channel_means(SPEC), SPEC)


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda s: f"{s.height}-{s.resize_size}-{s.interpolation}-{s.mean[0]:.2f}")
def test_every_spec_of_the_catalogue_gives_the_levels_that_the_host_feeds(spec: ImageSpec) -> None:
    photo = sample_pictures(1, 97, 131)[0]
    with OrtSession(make_resize_graph(spec).SerializeToString(), threads=1) as session:
        levels = session.run({"image": photo[None]})["levels"][0].transpose(1, 2, 0)
    # The host folds the crop into the resize, whose box Pillow takes in 32-bit floats: a level, rarely (`deploykit.image.resize`).
    apart = np.abs(levels - resize_and_crop(Image.fromarray(photo), spec))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


def test_photos_of_one_pixel_and_of_one_row_are_resized_too() -> None:
    for spec in (ImageSpec(16, 16, 16), ImageSpec(16, 16, None, "exact", "bicubic")):
        with OrtSession(make_resize_graph(spec).SerializeToString(), threads=1) as session:
            for height, width in ((1, 1), (1, 40), (40, 1)):
                photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
                levels = session.run({"image": photo[None]})["levels"][0].transpose(1, 2, 0)
                np.testing.assert_array_equal(levels, resize_and_crop(Image.fromarray(photo), spec))


def test_the_proof_names_what_it_compared() -> None:
    found = prove_embedded({"predict.onnx": channel_means(SPEC)}, SPEC, asked_pictures(SPEC, embed_resize=True))
    assert found["max_level_difference"] <= 1
    assert found["max_difference"] <= found["one_level_moves"]
    assert len(found["sizes"]) == 8


def test_a_resize_that_is_not_the_hosts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(image: Image.Image, spec: ImageSpec) -> np.ndarray:
        return resize_and_crop(image.resize((image.width // 2, image.height // 2)), spec)

    asked = asked_pictures(SPEC, embed_resize=True)
    monkeypatch.setattr(embedding, "resize_and_crop", other)
    with pytest.raises(ParityError, match="grey levels from the host's resize, 1 is allowed"):
        prove_embedded({"predict.onnx": channel_means(SPEC)}, SPEC, asked)


def test_a_graph_that_normalizes_otherwise_behind_its_resize_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    brighter = ImageSpec(24, 20, 28, interpolation="bicubic", colour_order="bgr", mean=(0.1, 0.1, 0.1))
    asked = asked_pictures(SPEC, embed_resize=True)
    monkeypatch.setattr(embedding, "embed_resize", lambda graph, spec: embed_resize(channel_means(brighter), brighter))
    with pytest.raises(ParityError, match=r"logits of the predict\.onnx that resizes differs from that of the pixel graph"):
        prove_embedded({"predict.onnx": channel_means(SPEC)}, SPEC, asked)
