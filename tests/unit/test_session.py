"""Arrays before any backend sees them (case O20: memory layouts, case O21: dtypes, ranks, names)."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from deploykit.errors import InputError, SessionError, UsageError
from deploykit.graph.describe import describe_graph
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.session import TensorInfo, check_feeds
from deploykit.spec import ImageSpec
from tests.conftest import channel_means

SPEC = ImageSpec(32, 32, 32)
GOOD: npt.NDArray[np.float32] = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
IMAGE = TensorInfo("image", "float32", ("N", 3, 32, 32))


@pytest.fixture(scope="module")
def session() -> OrtSession:
    return OrtSession(channel_means(SPEC, pixels=False).SerializeToString())


def unaligned(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    shifted = np.empty(array.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(array.shape)
    shifted[...] = array
    return shifted


def read_only(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    array = array.copy()
    array.setflags(write=False)
    return array


LAYOUTS: dict[str, Any] = {
    "transposed view": np.ascontiguousarray(GOOD.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "fortran": np.asfortranarray(GOOD),
    "negative stride": GOOD[:, ::-1].copy()[:, ::-1],
    "every second row": np.repeat(GOOD, 2, axis=2)[:, :, ::2],
    "read-only": read_only(GOOD),
    "big-endian": GOOD.astype(">f4"),
    "unaligned": unaligned(GOOD),
    "torch": torch.from_numpy(GOOD.copy()),
    "torch permuted": torch.from_numpy(GOOD.transpose(0, 2, 3, 1).copy()).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_values_give_equal_answers_whatever_the_memory_layout(session: OrtSession, layout: str) -> None:
    expected = session.run({"image": GOOD})["logits"]
    assert np.array_equal(session.run({"image": LAYOUTS[layout]})["logits"], expected)


def test_a_zero_stride_on_the_batch_axis_gives_equal_rows(session: OrtSession) -> None:
    logits = session.run({"image": np.broadcast_to(GOOD[:1], GOOD.shape)})["logits"]
    assert np.array_equal(logits[0], logits[1])


def test_nothing_of_the_callers_array_is_kept(session: OrtSession) -> None:
    mine = GOOD.copy()
    first = session.run({"image": mine})["logits"].copy()
    mine[...] = 0
    assert np.array_equal(session.run({"image": GOOD})["logits"], first)


def test_float64_and_float16_are_converted(session: OrtSession) -> None:
    expected = session.run({"image": GOOD})["logits"]
    assert np.array_equal(session.run({"image": GOOD.astype(np.float64)})["logits"], expected)
    half = GOOD.astype(np.float16)
    assert np.array_equal(session.run({"image": half})["logits"], session.run({"image": half.astype(np.float32)})["logits"])


BAD: dict[str, tuple[Any, str]] = {
    "uint8": ((GOOD * 255).astype(np.uint8), "uint8"),
    "int64": (np.ones(GOOD.shape, np.int64), "int64"),
    "bool": (GOOD > 0.5, "bool"),
    "complex": (GOOD.astype(np.complex64), "complex64"),
    "object": (GOOD.astype(object), "object"),
    "channels last": (GOOD.transpose(0, 2, 3, 1).copy(), r"\[2, 32, 32, 3\]"),
    "no batch axis": (GOOD[0], r"\[3, 32, 32\]"),
    "one channel": (GOOD[:, :1], r"\[2, 1, 32, 32\]"),
    "empty batch": (GOOD[:0], r"\[0, 3, 32, 32\]"),
    "nan inside": (np.where(GOOD > 0.999, np.nan, GOOD), "NaN"),
    "infinity inside": (np.where(GOOD > 0.999, np.inf, GOOD), "infinity"),
    "beyond float32": (GOOD.astype(np.float64) * 1e300, "float64"),
    "list": (GOOD.tolist(), "list"),
    "text": ("cat.jpg", "str"),
    "torch that needs a gradient": (torch.zeros(GOOD.shape, requires_grad=True), "Tensor"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_array_that_would_be_read_as_garbage_is_refused_with_what_was_seen(session: OrtSession, kind: str) -> None:
    array, seen = BAD[kind]
    with pytest.raises(ValueError, match=seen) as caught:
        session.run({"image": array})
    assert isinstance(caught.value, InputError)
    assert "expected" in str(caught.value) or "numpy array" in str(caught.value)


def test_swapped_axes_get_the_transpose_that_mends_them(session: OrtSession) -> None:
    with pytest.raises(InputError) as caught:
        session.run({"image": GOOD.transpose(0, 2, 3, 1)})
    assert caught.value.hint == "the axes look swapped: array.transpose(0, 3, 1, 2) (not reshape)"


def test_wrong_names_get_the_right_ones(session: OrtSession) -> None:
    with pytest.raises(InputError, match="inputs are img, the graph takes image"):
        session.run({"img": GOOD})
    with pytest.raises(InputError, match="none"):
        session.run({})
    with pytest.raises(InputError, match="outputs asked for are probs, the graph has logits"):
        session.run({"image": GOOD}, ["probs"])


def test_normalized_twice_and_raw_pixels_are_refused_where_the_graph_says_what_it_takes() -> None:
    graph = channel_means(SPEC, pixels=False)
    describe_graph(graph, model="means", image=SPEC, input_kind="float", labels_sha256=None)
    with OrtSession(graph.SerializeToString()) as session:
        normalized = (GOOD - 0.45) / 0.225
        session.run({"image": normalized})
        for wrong in (GOOD * 255, (normalized - 0.45) / 0.225):
            with pytest.raises(InputError, match=r"a normalized picture has -2\.118 to 2\.64"):
                session.run({"image": wrong})


def test_integers_are_widened_for_an_index_and_never_narrowed() -> None:
    index = TensorInfo("class_index", "int64", ("N",))
    checked = check_feeds({"class_index": np.array([3, -1], np.int32)}, [index])["class_index"]
    assert checked.dtype == np.int64
    assert checked.tolist() == [3, -1]
    with pytest.raises(InputError, match="int64"):
        check_feeds({"image": np.zeros((1, 2), np.int64)}, [TensorInfo("image", "uint8", ("N", 2))])


def test_inputs_that_disagree_about_the_batch_are_refused() -> None:
    index = TensorInfo("class_index", "int64", ("N",))
    with pytest.raises(InputError, match="disagree about N: 2, 3"):
        check_feeds({"image": GOOD, "class_index": np.zeros(3, np.int64)}, [IMAGE, index])


def test_a_closed_session_says_so_and_closes_twice() -> None:
    session = OrtSession(channel_means(SPEC).SerializeToString())
    session.close()
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.run({"image": np.zeros((1, 32, 32, 3), np.uint8)})


def test_a_provider_that_is_not_here_is_an_error_and_never_the_cpu() -> None:
    with pytest.raises(SessionError, match="has no cuda provider; it has cpu"):
        OrtSession(channel_means(SPEC).SerializeToString(), provider="cuda")
    with pytest.raises(UsageError, match="'gpu', expected one of cpu, cuda"):
        OrtSession(channel_means(SPEC).SerializeToString(), provider="gpu")


def test_a_provider_that_does_not_start_is_an_error_and_never_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # An onnxruntime-gpu without a driver lists CUDA, fails to start it, and answers on the CPU.
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("deploykit.runtime.ort.ort.get_available_providers", lambda: listed)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(SessionError, match="fell back to CPU"):
        OrtSession(channel_means(SPEC).SerializeToString(), provider="cuda")


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(SessionError, match=r"broken.onnx does not load"):
        OrtSession(tmp_path / "broken.onnx")
    with pytest.raises(SessionError, match=r"missing.onnx does not load"):
        OrtSession(tmp_path / "missing.onnx")
