"""Graphs on disk (case O07: side files; case O08: versions) and the pixel input (case O10)."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from deploykit.errors import GraphError, UsageError
from deploykit.graph.describe import check_deterministic, describe_graph, description_of
from deploykit.graph.files import check_well_formed, read_graph, read_structure, side_files, write_graph
from deploykit.graph.pixels import add_pixel_input
from deploykit.graph.versions import check_readable, oldest_onnx_runtime, opset_of, set_ir_version
from deploykit.image import load_pixels, normalize
from deploykit.runtime.ort import OrtSession
from deploykit.spec import ImageSpec
from tests.conftest import channel_means

PLAIN = ImageSpec(8, 8, 8, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
"""A normalization that changes nothing: pixels 0 to 255 arrive as they are."""


def weighted(seed: int = 0) -> onnx.ModelProto:
    """A graph y = x w with w [64, 64]: 16 KB of weights."""
    w = onnx.numpy_helper.from_array(np.random.default_rng(seed).random((64, 64), np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 64]) for n in "xy")
    body = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], "g", [x], [y], [w])
    graph = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)])
    set_ir_version(graph)
    return graph


def answer(path: Path) -> np.ndarray:
    with OrtSession(path) as session:
        return session.run({"x": np.eye(2, 64, dtype=np.float32)})["y"]


def test_a_small_graph_is_one_file(tmp_path: Path) -> None:
    assert write_graph(weighted(), tmp_path / "a.onnx") == [tmp_path / "a.onnx"]
    (tmp_path / "moved").mkdir()
    shutil.copy(tmp_path / "a.onnx", tmp_path / "moved")
    assert np.array_equal(answer(tmp_path / "moved" / "a.onnx"), answer(tmp_path / "a.onnx"))


def test_above_the_limit_there_is_exactly_one_side_file_and_the_graph_in_memory_keeps_its_weights(tmp_path: Path) -> None:
    graph = weighted()
    assert write_graph(graph, tmp_path / "a.onnx", side_file_above_bytes=1000) == [tmp_path / "a.onnx", tmp_path / "a.onnx.data"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    assert graph == weighted()
    assert read_graph(tmp_path / "a.onnx").graph.initializer[0].raw_data == graph.graph.initializer[0].raw_data
    weights = onnx.numpy_helper.to_array(graph.graph.initializer[0])
    assert np.array_equal(answer(tmp_path / "a.onnx"), weights[:2])  # the first two rows of the identity times the weights
    write_graph(weighted(1), tmp_path / "a.onnx", side_file_above_bytes=1000)
    assert (tmp_path / "a.onnx.data").stat().st_size == 64 * 64 * 4  # replaced, not appended to


def test_a_side_file_that_is_missing_or_short_is_named(tmp_path: Path) -> None:
    write_graph(weighted(), tmp_path / "a.onnx", side_file_above_bytes=1000)
    os.truncate(tmp_path / "a.onnx.data", 100)
    with pytest.raises(GraphError, match=r"a\.onnx\.data has 100 bytes, a\.onnx needs 16,384"):
        read_graph(tmp_path / "a.onnx")
    (tmp_path / "a.onnx.data").unlink()
    with pytest.raises(GraphError, match=r"keeps its weights in a\.onnx\.data, which is not beside it"):
        read_graph(tmp_path / "a.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../b", "..\\secret", "C:secret", ""])
def test_a_side_file_outside_of_the_folder_is_refused_before_it_is_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16384))
    write_graph(weighted(), folder / "a.onnx", side_file_above_bytes=1000)
    graph = read_structure(folder / "a.onnx")
    for entry in graph.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    (folder / "escape.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(GraphError, match="outside of the graph's folder"):
        read_graph(folder / "escape.onnx")


def test_a_side_file_reached_through_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_graph(weighted(), folder / "a.onnx", side_file_above_bytes=1000)
    shutil.move(folder / "a.onnx.data", tmp_path / "elsewhere")
    (folder / "a.onnx.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GraphError, match="leads out of the folder"):
        read_graph(folder / "a.onnx")


def test_a_constant_in_a_side_file_counts_as_one(tmp_path: Path) -> None:
    graph = weighted()
    tensor = onnx.numpy_helper.from_array(np.zeros((4, 4), np.float32), "c")
    onnx.external_data_helper.set_external_data(tensor, "../c.bin")
    graph.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    with pytest.raises(GraphError, match=r"'\.\./c\.bin'"):
        side_files(graph)


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"", "no outputs"),
        (b"hello, world", "not an ONNX graph"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (weighted().SerializeToString()[:5000], "not an ONNX graph"),
    ],
)
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes, seen: str) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(GraphError, match=seen):
        read_graph(tmp_path / "x.onnx")


def test_a_graph_that_is_not_there_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="does not exist"):
        read_graph(tmp_path / "x.onnx")
    with pytest.raises(GraphError, match="is a folder"):
        read_graph(tmp_path)


def test_the_checker_names_what_is_wrong(tmp_path: Path) -> None:
    graph = weighted()
    graph.graph.node[0].op_type = "MatMull"
    write_graph(graph, tmp_path / "x.onnx")
    with pytest.raises(GraphError, match="MatMull"):
        check_well_formed(tmp_path / "x.onnx")


def test_a_graph_gets_the_lowest_ir_version_of_its_opset_whatever_onnx_is_installed() -> None:
    graph = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 18)])
    graph.ir_version = onnx.IR_VERSION
    set_ir_version(graph)
    assert (opset_of(graph), graph.ir_version) == (18, 8)


@pytest.mark.parametrize(
    ("ir_version", "opset", "message"),
    [
        (onnx.IR_VERSION + 20, 17, f"IR version {onnx.IR_VERSION + 20}; ONNX Runtime 1.18 reads opset 21 and IR version 10"),
        (8, 99, "opset 99 and IR version 8; ONNX Runtime 1.18 reads opset 21 and IR version 10"),
        (3, 18, "IR version 3, and its opset 18 needs 8"),
    ],
)
def test_a_graph_that_is_too_new_is_refused_with_both_numbers(ir_version: int, opset: int, message: str) -> None:
    graph = weighted()
    graph.ir_version, graph.opset_import[0].version = ir_version, opset
    with pytest.raises(GraphError, match=message):
        check_readable(graph, "1.18.1")


def test_the_oldest_runtime_follows_from_both_numbers() -> None:
    graph = weighted()
    check_readable(graph, "1.16")
    assert oldest_onnx_runtime(graph) == "1.16"
    graph.opset_import[0].version = 21
    assert oldest_onnx_runtime(graph) == "1.18"
    graph.ir_version = 11
    assert oldest_onnx_runtime(graph) == "1.23"
    graph.ir_version = 99
    assert oldest_onnx_runtime(graph) is None
    with pytest.raises(UsageError, match=r"1\.2 was not measured, expected a release from 1\.16"):
        check_readable(graph, "1.2")


def test_the_channel_means_of_a_reddish_picture_arrive_right(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0], pixels[:4, :, 2] = 200, 90
    Image.fromarray(pixels).save(tmp_path / "redish.png")
    seen = load_pixels(tmp_path / "redish.png", PLAIN)
    with OrtSession(channel_means(PLAIN).SerializeToString()) as session:
        assert session.run({"image": seen[None]})["logits"].tolist() == [[200.0, 0.0, 45.0]]
    with OrtSession(channel_means(PLAIN, pixels=False).SerializeToString()) as session:
        assert session.run({"image": normalize(seen[None], PLAIN)})["logits"] == pytest.approx(np.array([[200, 0, 45]]), abs=1e-4)


@pytest.mark.parametrize("colour_order", ["rgb", "bgr"])
def test_the_graph_normalizes_as_the_host_does(colour_order: str) -> None:
    spec = ImageSpec(6, 4, 6, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), colour_order=colour_order)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 3), np.uint8)
    with OrtSession(channel_means(spec).SerializeToString()) as session:
        in_graph = session.run({"image": pixels})["logits"]
    exact = (pixels.astype(np.float64) / 255 - spec.mean) / spec.std
    exact = exact[..., ::-1] if colour_order == "bgr" else exact
    # float32 rounds at 1.2e-7 of values up to 2.6, three times.
    assert in_graph == pytest.approx(exact.mean((1, 2)), abs=1e-6)
    assert normalize(pixels, spec) == pytest.approx(exact.transpose(0, 3, 1, 2), abs=1e-6)


def test_a_graph_without_the_expected_input_gets_no_pixel_input() -> None:
    with pytest.raises(GraphError, match=r"inputs are x, expected image float32 \[N, 3, 8, 8\]"):
        add_pixel_input(weighted(), PLAIN)
    with pytest.raises(GraphError, match=r"\['N', 3, 8, 8\], expected image float32 \[N, 3, 9, 9\]"):
        add_pixel_input(channel_means(PLAIN, pixels=False), ImageSpec(9, 9, 9))


def test_a_graph_describes_itself_once() -> None:
    graph = weighted()
    helper.set_model_props(graph, {"author": "me"})
    for name in ("first", "second"):
        describe_graph(graph, model=name, image=PLAIN, input_kind="pixels", labels_sha256="ab")
    entries = description_of(graph)
    assert (entries["deploykit.model"], entries["deploykit.labels_sha256"], entries["author"]) == ("second", "ab", "me")
    assert len(graph.metadata_props) == len(entries)


def test_random_operators_live_dropout_and_training_batchnorm_are_refused() -> None:
    true = onnx.numpy_helper.from_array(np.array(True), "true")
    false = onnx.numpy_helper.from_array(np.array(False), "false")
    for node, refused in (
        (helper.make_node("RandomUniformLike", ["x"], ["z"], name="bad"), True),
        (helper.make_node("Dropout", ["x", "", "true"], ["z"], name="bad"), True),
        (helper.make_node("Dropout", ["x", "", "unknown"], ["z"], name="bad"), True),
        (helper.make_node("BatchNormalization", list("xsbmv"), ["z"], name="bad", training_mode=1), True),
        (helper.make_node("Dropout", ["x", "", "false"], ["z"], name="good"), False),
        (helper.make_node("Dropout", ["x"], ["z"], name="good"), False),
        (helper.make_node("BatchNormalization", list("xsbmv"), ["z"], name="good"), False),
    ):
        graph = weighted()
        graph.graph.initializer.extend([true, false])
        graph.graph.node.append(node)
        if refused:
            with pytest.raises(GraphError, match="node bad"):
                check_deterministic(graph)
        else:
            check_deterministic(graph)
