"""A session over a plan that resizes photos itself: each comes at its own size. On the stand-in for GPU and TensorRT, whose answers
tell sizes and pixels apart.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deploykit.errors import InputError, SessionError
from deploykit.plan import BatchRange
from deploykit.runtime import TrtSession
from deploykit.trt.engine import PlanTensor
from tests.recording_device import RecordingDevice
from tests.recording_engine import Arrays, Open, RecordingEngine, loaded

TENSORS = (
    PlanTensor("image", True, "uint8", (64, 96, 3), (2, 2, 3)),
    PlanTensor("class_index", True, "int64", ()),
    PlanTensor("logits", False, "float32", (3,)),
    PlanTensor("explained_class", False, "int64", ()),
)
SIZES = ((40, 30), (64, 96), (2, 2), (5, 96), (64, 3), (40, 30), (7, 11), (30, 40))


def explain(feeds: Arrays) -> Arrays:
    """Logits are the means of the channels, and of a row's own height and width: a photo read at another size answers otherwise."""
    image, asked = feeds["image"].astype(np.float32), feeds["class_index"]
    rows, columns = np.arange(image.shape[1])[:, None, None], np.arange(image.shape[2])[:, None]
    logits = (image * (rows + 1) + columns).mean((1, 2), dtype=np.float32)
    return {"logits": logits, "explained_class": np.where(asked == -1, logits.argmax(1), asked)}


def feeds_of(height: int, width: int, seed: int = 0, rows: int = 1) -> Arrays:
    image = np.random.default_rng(seed).integers(0, 256, (rows, height, width, 3), np.uint8)
    return {"image": image, "class_index": np.full(rows, seed % 4 - 1, np.int64)}


@pytest.fixture
def engine(gpu: RecordingDevice) -> RecordingEngine:
    return RecordingEngine(gpu, TENSORS, BatchRange(1, 1, 1), explain)


def assert_answers(session: TrtSession, feeds: Arrays, given: dict[str, Any] | None = None) -> None:
    found, expected = session.run(given or feeds), explain(feeds)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_it_says_that_it_takes_one_photo_of_any_size(open_session: Open) -> None:
    with open_session() as session:
        assert [str(i) for i in session.inputs] == ["image uint8 [1, H, W, 3]", "class_index int64 [1]"]
        assert [str(o) for o in session.outputs] == ["logits float32 [1, 3]", "explained_class int64 [1]"]


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_photos_of_several_sizes_are_answered_in_turn(
    gpu: RecordingDevice, engine: RecordingEngine, open_session: Open, cuda_graphs: bool
) -> None:
    with open_session(cuda_graphs=cuda_graphs) as session:
        for seed, size in enumerate(SIZES * 3):
            assert_answers(session, feeds_of(*size, seed))
    assert [run["image"] for run in engine.shapes] == [(1, *size, 3) for size in SIZES * 3]
    assert gpu.left == {}


def test_only_a_photos_own_bytes_are_copied(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        for size in SIZES:
            session.run(feeds_of(*size), ["logits"])
    copied = [size for _, what, size in gpu.calls if what == "copy_in"]
    assert copied == [n for height, width in SIZES for n in (height * width * 3, 8)]


@pytest.mark.parametrize("lanes", [1, 4])
def test_threads_with_photos_of_their_own_sizes_get_their_own_answers(gpu: RecordingDevice, open_session: Open, lanes: int) -> None:
    wrong: list[str] = []

    def work(owner: int, session: TrtSession) -> None:
        try:
            for seed in range(20):
                assert_answers(session, feeds_of(*SIZES[(owner + seed) % len(SIZES)], owner * 100 + seed))
        except BaseException as error:
            wrong.append(f"{owner}: {error!r}")

    with open_session(lanes=lanes) as session:
        running = [threading.Thread(target=work, args=(owner, session)) for owner in range(8)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert gpu.most["stream"] <= lanes
    assert wrong == []
    assert gpu.left == {}


def held_bytes(gpu: RecordingDevice, session: TrtSession, height: int, width: int) -> int:
    """Device memory after a photo of a size."""
    session.run(feeds_of(height, width))
    return gpu.held_bytes


def test_memory_grows_with_the_photos_in_powers_of_two_up_to_the_plans_greatest(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        least = held_bytes(gpu, session, 2, 2)
        assert least == 5 * 256  # every tensor's place and the scratch memory
        assert held_bytes(gpu, session, 10, 10) - least == 512 - 256
        assert held_bytes(gpu, session, 10, 30) - least == 1024 - 256
        # 64 x 96 x 3 bytes are no power of two, and more will not come.
        assert held_bytes(gpu, session, 60, 92) - least == 64 * 96 * 3 - 256
        assert held_bytes(gpu, session, 64, 96) - least == 64 * 96 * 3 - 256
        assert held_bytes(gpu, session, 2, 2) - least == 64 * 96 * 3 - 256
        assert gpu.alive["device memory"] == 5
        assert gpu.alive["pinned memory"] == 4


def test_nothing_is_kept_of_the_sizes_that_came(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session(lanes=1) as session:
        session.run(feeds_of(64, 96))
        before = gpu.left
        for height in range(2, 64):
            session.run(feeds_of(height, height))
        assert gpu.left == before
        (lane,) = session._pool._idle
        assert set(lane._memory._views) == {("class_index", 1), ("logits", 1), ("explained_class", 1)}
        assert not lane._runs


def test_a_size_that_comes_again_is_not_captured_and_the_session_says_why(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        for seed in range(4):
            assert_answers(session, feeds_of(40, 30, seed))
        assert session.not_captured == "image differs in size from run to run, and a CUDA graph stands for one size"
    assert gpu.captures == 0
    with open_session(cuda_graphs=False) as session:
        assert session.not_captured is None


def test_an_engine_that_captures_itself_is_left_to_it(engine: RecordingEngine, open_session: Open) -> None:
    engine.captures_itself = True
    with open_session() as session:
        assert_answers(session, feeds_of(40, 30))
        assert session.not_captured is None
    assert engine.cuda_graphs == [True]


def test_a_photo_on_the_device_is_read_where_it_is_and_costs_no_memory(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        for seed, size in enumerate(SIZES):
            feeds = feeds_of(*size, seed)
            held = gpu.array_on_device(feeds["image"])
            assert_answers(session, feeds, {**feeds, "image": held})
            with gpu.activate():
                held.memory.free()
        assert gpu.held_bytes == 5 * 256
    assert "copy_within" not in [what for _, what, _ in gpu.calls]
    assert gpu.left == {}


def test_a_photo_on_the_device_that_tensorrt_cannot_read_there_is_moved(gpu: RecordingDevice, open_session: Open) -> None:
    feeds = feeds_of(41, 31)
    held = gpu.array_on_device(np.concatenate([np.zeros(3, np.uint8), feeds["image"].ravel()]))
    address = held.memory.address + 3
    held.__cuda_array_interface__ |= {"shape": (1, 41, 31, 3), "data": (address, False)}
    with open_session() as session:
        for _ in range(2):
            assert_answers(session, feeds, {**feeds, "image": held})
    assert [size for _, what, size in gpu.calls if what == "copy_within"] == [41 * 31 * 3] * 2


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize(
    ("size", "shown", "hint"),
    [
        ((65, 30), r"\[1, 65, 30, 3\], a photo of 30 x 65 pixels", "send a smaller photo"),
        ((30, 200), r"\[1, 30, 200, 3\], a photo of 200 x 30 pixels", "send a smaller photo"),
        ((1, 97), r"\[1, 1, 97, 3\], a photo of 97 x 1 pixels", "send a smaller photo"),
        ((40, 1), r"\[1, 40, 1, 3\], a photo of 1 x 40 pixels", "send a larger photo"),
    ],
)
def test_a_photo_outside_of_the_plans_sizes_is_refused_before_tensorrt_sees_it(
    gpu: RecordingDevice, open_session: Open, size: tuple[int, int], shown: str, hint: str, where: str
) -> None:
    feeds = feeds_of(*size)
    given = feeds if where == "host" else feeds | {"image": gpu.array_on_device(feeds["image"])}
    with open_session() as session:
        with pytest.raises(InputError, match=rf"image has shape {shown}; the plan takes \[1, 2 to 64, 2 to 96, 3\]") as caught:
            session.run(given)
        with pytest.raises(InputError), session.prepare(given):
            pass
        assert str(caught.value.hint).startswith(hint)
        assert "deploykit build --photo-size MIN:OPT:MAX, within 8 and 4096" in str(caught.value.hint)
        assert gpu.calls == []
        assert_answers(session, feeds_of(40, 30))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 40, 30, 3), np.uint8, r"image has shape \[2, 40, 30, 3\], expected image uint8 \[1, H, W, 3\]"),
        ((1, 40, 30, 4), np.uint8, r"image has shape \[1, 40, 30, 4\]"),
        ((40, 30, 3), np.uint8, r"image has shape \[40, 30, 3\]"),
        ((1, 40, 30, 3), np.float32, "image has dtype float32"),
    ],
)
def test_what_is_no_photo_is_refused_as_by_other_sessions(
    gpu: RecordingDevice, open_session: Open, shape: tuple[int, ...], dtype: npt.DTypeLike, message: str
) -> None:
    image = np.zeros(shape, dtype)
    with open_session() as session:
        for given in (image, gpu.array_on_device(image)):
            with pytest.raises(InputError, match=message):
                session.run({"image": given, "class_index": np.zeros(1, np.int64)})
        assert gpu.calls == []


@pytest.mark.parametrize("call", ["allocate", "allocate_pinned", "free", "bind", "enqueue", "copy_in", "synchronize"])
def test_a_photo_that_fails_costs_its_own_run_alone(gpu: RecordingDevice, open_session: Open, call: str) -> None:
    """Also where memory could not grow: then the lane has no place for the input any more."""
    with open_session(lanes=1) as session:
        assert_answers(session, feeds_of(4, 4))
        gpu.fail[call] = 1
        with pytest.raises(SessionError, match=f"{call} failed"):
            session.run(feeds_of(40, 30))
        for seed, size in enumerate(SIZES):
            assert_answers(session, feeds_of(*size, seed))
    assert gpu.left == ({} if call != "free" else {"device memory": 1})  # what CUDA refuses to free stays


def test_a_prepared_photo_is_run_again_and_again(gpu: RecordingDevice, open_session: Open) -> None:
    feeds = feeds_of(40, 30)
    with open_session() as session:
        with session.prepare(feeds, ["logits"]) as call:
            for _ in range(3):
                call.enqueue()
                call.synchronize()
                assert call.spans_ms() == {"h2d": 3, "gpu": 2, "d2h": 2}
            np.testing.assert_array_equal(call.results()["logits"], explain(feeds)["logits"])
        assert_answers(session, feeds_of(7, 11))
    assert gpu.left == {}


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
def test_a_plan_of_somebody_elses_may_take_several_of_one_size(
    gpu: RecordingDevice, engine: RecordingEngine, open_session: Open, rows: int
) -> None:
    engine.batch = BatchRange(2, 4, 4)
    with open_session() as session:
        assert str(session.inputs[0]) == "image uint8 [N, H, W, 3]"
        for seed, size in enumerate(SIZES):
            feeds = feeds_of(*size, seed, rows)
            assert_answers(session, feeds)
            assert_answers(session, feeds, {name: gpu.array_on_device(array) for name, array in feeds.items()})
    assert max(run["image"][0] for run in engine.shapes) <= 4
    assert min(run["image"][0] for run in engine.shapes) >= 2


def test_other_dimensions_have_no_names_and_their_sizes_are_checked_as_well(gpu: RecordingDevice, engine: RecordingEngine) -> None:
    engine.tensors = (PlanTensor("x", True, "float32", (3, 8, 9), (3, 4, 9)), PlanTensor("y", False, "float32", (3,)))
    engine.batch, engine.function = BatchRange(1, 2, 2), lambda feeds: {"y": feeds["x"].sum((2, 3))}
    with TrtSession("foreign.plan", load=loaded(engine)) as session:
        assert str(session.inputs[0]) == "x float32 [N, 3, ?, 9]"
        for height in (4, 8, 5):
            x = np.full((3, 3, height, 9), height, np.float32)
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.full((3, 3), height * height * 9))
        with pytest.raises(InputError, match=r"x has shape \[1, 3, 3, 9\], the plan takes \[1, 3, 4 to 8, 9\]"):
            session.run({"x": np.zeros((1, 3, 3, 9), np.float32)})
    assert gpu.left == {}
