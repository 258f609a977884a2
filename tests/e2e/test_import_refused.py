"""What ``deploykit import`` refuses, and that nothing is written then."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploykit.bundle import Bundle
from deploykit.spec import ImageSpec
from tests.conftest import Deploykit, channel_means
from tests.e2e.test_cli import failed
from tests.unit.foreign_graphs import BODY, graph, write


def test_a_graph_without_a_feature_map_asks_for_no_explain(deploykit_here: Deploykit, tmp_path: Path) -> None:
    file = write(channel_means(ImageSpec(8, 8, 8), pixels=False), tmp_path / "means.onnx")
    message = failed(deploykit_here("import", file, "-o", tmp_path / "out", "--normalize", "none"), 2)
    assert "no layer to explain" in message
    assert "--no-explain" in message
    assert not (tmp_path / "out").exists()


def test_what_is_missing_or_wrong_is_said_and_nothing_is_written(deploykit_here: Deploykit, tmp_path: Path) -> None:
    write(graph(f"{BODY} y = Softmax(z)"), tmp_path / "fixed.onnx")
    write(graph(f"{BODY} y = Softmax(z)", "N,3,H,W"), tmp_path / "open.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    known = ("--normalize", "imagenet")
    for arguments, code, seen in (
        (["fixed.onnx"], 2, "--normalize imagenet"),
        (["open.onnx", *known], 2, "--image-size"),
        (["fixed.onnx", *known, "--image-size", "16"], 2, "takes 8 x 8 pixels, and 16 x 16 were asked for"),
        (["fixed.onnx", *known, "--image-size", "8by8"], 2, "'8by8' is no size"),
        (["fixed.onnx", "--mean", "1,2", "--std", "1"], 2, "'1,2' is neither three numbers"),
        (["fixed.onnx", *known, "--layout", "nhwc"], 2, "layout nhwc was asked for"),
        (["fixed.onnx", *known, "--scores", "nowhere"], 2, "no tensor of the graph is named 'nowhere'"),
        (["fixed.onnx", *known, "--labels", "four.txt"], 2, "names 4 classes, the model has 5"),
        (["fixed.onnx", *known, "--labels", "imagenet"], 2, "ImageNet has 1,000 classes, the graph has 5"),
        (["fixed.onnx", *known, "--label-order", "text"], 2, "--label-order goes with --labels"),
        (["fixed.onnx", *known, "--no-explain", "--layer", "r"], 2, "--no-explain excludes"),
        (["text.onnx", *known], 1, "is not an ONNX graph"),
        (["gone.onnx", *known], 1, "does not exist"),
    ):
        done = deploykit_here("import", "-o", "out", *arguments, cwd=tmp_path)
        assert seen in failed(done, code)
        assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_file_too_new_for_the_runtime_is_refused_with_both_versions(deploykit_here: Deploykit, tmp_path: Path) -> None:
    for name, ir_version, opset, seen in (("ir", 99, 17, "99"), ("opset", 8, 99, "99")):
        model = graph(f"{BODY} y = Identity(z)", opset=17)
        model.ir_version, model.opset_import[0].version = ir_version, opset
        file = write(model, tmp_path / f"{name}.onnx")
        message = failed(deploykit_here("import", file, "-o", tmp_path / "out", "--normalize", "0..1"), 1)
        assert seen in message
        assert len(message.splitlines()) <= 4


def test_a_side_file_belongs_to_the_graph_and_one_outside_of_its_folder_is_never_opened(
    deploykit_here: Deploykit, tmp_path: Path
) -> None:
    model = graph(f"{BODY} y = Identity(z)")
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "m.onnx"
    onnx.save(model, str(file), save_as_external_data=True, location="m.data", size_threshold=0)
    arguments = ("--normalize", "0..1", "--no-explain")
    done = deploykit_here("import", file, "-o", tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    joined = hashlib.sha256(file.read_bytes() + (file.parent / "m.data").read_bytes()).hexdigest()
    assert Bundle.open(tmp_path / "out").manifest.weights.sha256 == joined
    shutil.copy(file, tmp_path / "alone.onnx")
    assert "keeps its weights in m.data" in failed(
        deploykit_here("import", tmp_path / "alone.onnx", "-o", tmp_path / "no", *arguments), 1
    )
    escaped = onnx.load(str(file), load_external_data=False)
    for tensor in escaped.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../secret.bin" if entry.key == "location" else entry.value
    escape = write(escaped, tmp_path / "in" / "escape.onnx")
    assert "outside of the graph's folder" in failed(deploykit_here("import", escape, "-o", tmp_path / "no", *arguments), 1)


@pytest.mark.parametrize(
    ("mixed", "reason"),
    [
        ("m = ReduceMax <keepdims = 1> (v, axis) d = Sub(v, m)", "only takes batches of 1: node 'culprit' (ReduceMax)"),
        # Every shape grows as it should, and rows are added to those behind them.
        ("d = CumSum(v, axis)", "They part at node 'culprit' (CumSum)"),
    ],
)
def test_a_graph_whose_answers_depend_on_the_rest_of_the_batch_is_refused_by_the_name_of_the_node(
    deploykit_here: Deploykit, tmp_path: Path, mixed: str, reason: str
) -> None:
    model = graph(f"c = Conv(x, w, b) p = GlobalAveragePool(c) v = Flatten(p) {mixed} y = MatMul(d, f)")
    axis = np.array([0], np.int64) if "Reduce" in mixed else np.array(0, np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(axis, "axis"))
    model.graph.node[3].name = "culprit"
    file = write(model, tmp_path / "mixed.onnx")
    assert reason in failed(deploykit_here("import", file, "-o", tmp_path / "out", "--normalize", "0..1"), 1)
    assert not (tmp_path / "out").exists()


def test_a_pass_that_changes_the_answers_is_caught_and_the_place_is_named(
    deploykit_here: Deploykit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploykit.cli import import_graph
    from deploykit.graph.foreign import adopt_graph

    def wrong(*arguments: object, **options: object) -> tuple[onnx.ModelProto, list[str]]:
        adopted, notes = adopt_graph(*arguments, **options)  # type: ignore[arg-type]
        weight = next(t for t in adopted.graph.initializer if t.name == "f")
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.01), "f"))
        return adopted, notes

    monkeypatch.setattr(import_graph, "adopt_graph", wrong)
    model = graph(f"{BODY} n = Neg(z) y = Softmax(n)")
    model.graph.node[4].name = "head"
    message = failed(deploykit_here("import", write(model, tmp_path / "m.onnx"), "-o", tmp_path / "out", "--normalize", "0..1"), 1)
    assert "They part at node 'head' (MatMul)" in message
    assert "nothing was written" in message
    assert not (tmp_path / "out").exists()
