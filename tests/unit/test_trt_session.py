"""A session over a plan, on a stand-in for GPU and TensorRT that computes late and writes everything down."""

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deploykit.errors import InputError, SessionError, UsageError
from deploykit.plan import BatchRange
from deploykit.runtime import Session, TrtSession
from deploykit.trt.engine import PlanTensor
from tests.recording_device import MisuseError, RecordingDevice
from tests.recording_engine import Arrays, Open, RecordingEngine, loaded
from tests.threads import in_thread

H, W, CLASSES = 4, 6, 3
TENSORS = (
    PlanTensor("image", True, "uint8", (H, W, 3)),
    PlanTensor("class_index", True, "int64", ()),
    PlanTensor("logits", False, "float32", (CLASSES,)),
    PlanTensor("explained_class", False, "int64", ()),
    PlanTensor("cam", False, "float32", (H, W)),
)


def explain(feeds: Arrays) -> Arrays:
    """Logits are the means of the channels; the map is the picture's brightness, and one more for every class."""
    image, asked = feeds["image"].astype(np.float32), feeds["class_index"]
    logits = image.mean((1, 2))
    explained = np.where(asked == -1, logits.argmax(1), asked)
    return {"logits": logits, "explained_class": explained, "cam": image.mean(3) + explained.astype(np.float32)[:, None, None]}


def pictures(rows: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, H, W, 3), np.uint8)


def feeds_of(rows: int, seed: int = 0) -> Arrays:
    return {"image": pictures(rows, seed), "class_index": np.arange(rows, dtype=np.int64) % (CLASSES + 1) - 1}


@pytest.fixture
def engine(gpu: RecordingDevice) -> RecordingEngine:
    return RecordingEngine(gpu, TENSORS, BatchRange(1, 4, 8), explain)


def assert_answers(session: Session, feeds: Arrays) -> None:
    found, expected = session.run(feeds), explain(feeds)
    assert list(found) == ["logits", "explained_class", "cam"]
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype


def steps(gpu: RecordingDevice) -> list[str]:
    return [what for _, what, _ in gpu.calls]


def test_it_describes_itself_as_other_sessions_do(open_session: Open) -> None:
    with open_session() as session:
        assert session.backend == "recording-rt 1.0 (NVIDIA A10)"
        assert [str(i) for i in session.inputs] == ["image uint8 [N, 4, 6, 3]", "class_index int64 [N]"]
        assert [str(o) for o in session.outputs] == ["logits float32 [N, 3]", "explained_class int64 [N]", "cam float32 [N, 4, 6]"]


@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 4, 8, 9, 19])
def test_every_batch_gets_its_rows_answers_again_and_again(open_session: Open, rows: int, cuda_graphs: bool) -> None:
    with open_session(cuda_graphs=cuda_graphs) as session:
        for seed in range(4):
            assert_answers(session, feeds_of(rows, seed))


@pytest.mark.parametrize("rows", [1, 2, 3, 11])
def test_a_batch_below_the_plans_least_is_filled_up_and_cut_back(
    gpu: RecordingDevice, open_session: Open, engine: RecordingEngine, rows: int
) -> None:
    engine.batch = BatchRange(3, 4, 8)
    with open_session() as session:
        for seed in range(3):
            assert_answers(session, feeds_of(rows, seed))
    sizes = [rows for _, what, rows in gpu.calls if what == "enqueue"]
    assert min(sizes) == 3


def test_rows_beyond_the_largest_batch_go_through_in_runs_of_it(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session(cuda_graphs=False) as session:
        assert_answers(session, feeds_of(19))
    assert [rows for _, what, rows in gpu.calls if what == "enqueue"] == [8, 8, 3]


def test_a_run_copies_in_computes_copies_out_and_waits(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        session.run(feeds_of(2))
        assert steps(gpu) == ["copy_in", "copy_in", "enqueue", "copy_out", "copy_out", "copy_out", "synchronize"]


def test_only_the_outputs_asked_for_are_copied_back(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        assert list(session.run(feeds_of(2), ["logits"])) == ["logits"]
    assert [size for _, what, size in gpu.calls if what == "copy_out"] == [2 * CLASSES * 4]
    assert gpu.most["pinned memory"] == 3  # two inputs and that output


def test_a_batch_size_is_captured_when_it_comes_again_and_launched_from_then_on(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        for _ in range(5):
            for rows in (2, 5):
                session.run(feeds_of(rows, seed=rows))
        # At five rows the buffers of two moved, and what was known of their size stays.
        assert gpu.captures == 2
        assert steps(gpu).count("enqueue") == 4
        assert steps(gpu).count("launch") == 6
        assert_answers(session, feeds_of(2, seed=9))
        assert_answers(session, feeds_of(5, seed=9))


def test_graphs_go_with_the_buffers_they_point_to(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        for _ in range(3):
            assert_answers(session, feeds_of(2))
        assert gpu.captures == 1
        assert_answers(session, feeds_of(7))
        assert gpu.alive["graph"] == 0
        for seed in range(3):
            assert_answers(session, feeds_of(2, seed))
        assert gpu.captures == 2


def test_a_lane_keeps_a_bounded_number_of_graphs(gpu: RecordingDevice, engine: RecordingEngine, open_session: Open) -> None:
    engine.batch = BatchRange(1, 4, 16)
    with open_session() as session:
        session.run(feeds_of(16))
        for rows in [*range(1, 13)] * 3:
            assert_answers(session, feeds_of(rows, seed=rows))
        assert gpu.most["graph"] <= 9  # eight, and the ninth before the oldest goes
        assert gpu.alive["graph"] == 8


def test_without_cuda_graphs_nothing_is_captured(gpu: RecordingDevice, open_session: Open, engine: RecordingEngine) -> None:
    with open_session(cuda_graphs=False) as session:
        for _ in range(3):
            session.run(feeds_of(2))
    assert gpu.captures == 0
    assert engine.cuda_graphs == [False]


def test_an_engine_that_captures_itself_is_left_to_it(gpu: RecordingDevice, open_session: Open, engine: RecordingEngine) -> None:
    engine.captures_itself = True
    with open_session() as session:
        for _ in range(3):
            assert_answers(session, feeds_of(2))
    assert gpu.captures == 0
    assert engine.cuda_graphs == [True]


def test_an_engine_that_cannot_be_captured_answers_all_the_same_and_is_asked_once(gpu: RecordingDevice, open_session: Open) -> None:
    gpu.fail["capture"] = 1
    with open_session() as session:
        for seed in range(4):
            assert_answers(session, feeds_of(2, seed))
        assert gpu.captures == 0
        assert gpu.fail["capture"] == 0
        assert session.not_captured == "recording 1.0: capture failed: CUDA_ERROR_OUT_OF_MEMORY"


def test_a_closed_session_leaves_nothing_and_refuses_to_run(gpu: RecordingDevice, open_session: Open) -> None:
    session = open_session()
    for rows in (1, 1, 1, 5, 5, 5, 20):
        session.run(feeds_of(rows))
    assert gpu.left
    session.close()
    session.close()
    assert gpu.left == {}
    with pytest.raises(SessionError, match="the session is closed"):
        session.run(feeds_of(1))


def test_a_session_that_nobody_closes_leaves_nothing_once_it_is_collected(gpu: RecordingDevice, open_session: Open) -> None:
    session = open_session()
    session.run(feeds_of(2))
    del session
    gc.collect()
    assert gpu.left == {}


def test_a_session_that_never_ran_leaves_nothing(gpu: RecordingDevice, open_session: Open) -> None:
    open_session().close()
    assert gpu.left == {}


@pytest.mark.parametrize(
    "call", ["allocate", "allocate_pinned", "open_stream", "make_context", "bind", "enqueue", "copy_in", "copy_out", "synchronize"]
)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_call_that_fails_costs_its_own_run_alone(gpu: RecordingDevice, open_session: Open, call: str, after: int) -> None:
    with open_session() as session:
        for _ in range(after):
            session.run(feeds_of(2))
        gpu.fail[call] = 1
        failures = []
        for seed in range(4):
            try:
                assert_answers(session, feeds_of(7 if seed == 0 else 3, seed))
            except SessionError as error:  # noqa: PERF203 each run may be the one
                failures.append(str(error))
    # A lane that is there already opens no stream any more, and a capture that finds no room costs nobody an answer.
    assert len(failures) == (0 if after and call in ("open_stream", "make_context") else 1)
    assert all(f"{call} failed" in failure for failure in failures)
    assert gpu.left == {}


def test_the_first_error_is_told_where_freeing_fails_after_it(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session:
        gpu.fail.update(copy_out=1, synchronize=1)
        with pytest.raises(SessionError, match="copy_out failed"):
            session.run(feeds_of(2))
        assert_answers(session, feeds_of(2))
    assert gpu.left == {}


def test_a_failing_engine_is_the_callers_error_and_its_memory_is_freed(
    gpu: RecordingDevice, open_session: Open, engine: RecordingEngine
) -> None:
    with open_session() as session:
        session.run(feeds_of(2))
        engine.function = lambda feeds: {}
        with pytest.raises(KeyError):
            session.run(feeds_of(2))
        engine.function = explain
        assert_answers(session, feeds_of(2))
    assert gpu.left == {}


def hammer(session: TrtSession, threads: int = 16, rounds: int = 40) -> list[str]:
    """Each thread owns one colour and checks every answer, and at the end what it has kept of the first (case O23)."""
    wrong: list[str] = []

    def work(owner: int) -> None:
        rows = owner % 3 + 1
        feeds: dict[str, Any] = {
            "image": np.full((rows, H, W, 3), 10 * owner, np.uint8),
            "class_index": np.full(rows, owner % CLASSES),
        }
        expected = explain(feeds)
        first = session.run(feeds)
        try:
            for _ in range(rounds):
                found = session.run(feeds, ["logits", "cam"])
                wrong.extend(name for name in found if not np.array_equal(found[name], expected[name]))
        except Exception as error:
            wrong.append(repr(error))
        wrong.extend(f"first {name}" for name in first if not np.array_equal(first[name], expected[name]))

    running = [threading.Thread(target=work, args=(owner,)) for owner in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return wrong


@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_threads_share_a_session_and_each_gets_its_own_answers(gpu: RecordingDevice, open_session: Open, lanes: int) -> None:
    with open_session(lanes=lanes) as session:
        assert hammer(session) == []
        assert gpu.most["stream"] <= lanes
    assert gpu.left == {}


def test_memory_does_not_grow_with_the_number_of_runs(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session(lanes=1) as session:
        for _ in range(2):
            session.run(feeds_of(8))
            hammer(session, threads=2, rounds=3)
        before = gpu.left
        for _ in range(8):
            hammer(session, threads=2, rounds=3)
        assert gpu.left == before


def test_one_context_for_two_threads_is_what_the_stand_in_would_see(gpu: RecordingDevice, engine: RecordingEngine) -> None:
    """The stand-in itself: a pool that gave one lane to two runs would not pass."""
    with gpu.activate():
        stream, scratch = gpu.open_stream(), gpu.allocate(256)
        places = {t.name: gpu.allocate(4096).address for t in TENSORS}
        context = engine.make_context(scratch.address, 256, cuda_graphs=False)
        for _ in range(2):
            context.bind([("image", (1, H, W, 3)), ("class_index", (1,))], list(places.items()))
            context.enqueue(stream.handle)

        def use_within(feeds: Arrays) -> Arrays:
            stream.queue[0]()  # the second run begins while the first one computes
            return explain(feeds)

        stream.queue, engine.function = stream.queue[:1], use_within
        first = stream.queue.pop()
        stream.queue = [first]
        with pytest.raises(MisuseError, match="two runs"):
            first()


def test_it_is_made_in_one_thread_used_in_others_and_freed_in_another(gpu: RecordingDevice, open_session: Open) -> None:
    """Case O22: the thread that opened the engine is gone."""
    box: list[TrtSession] = []
    answers: list[Any] = []

    in_thread(lambda: box.append(open_session()))
    for _ in range(4):
        in_thread(lambda: answers.append(box[0].run(feeds_of(2))["cam"]))
    answers.append(box[0].run(feeds_of(2))["cam"])
    assert len(answers) == 5
    for answer in answers:
        np.testing.assert_array_equal(answer, explain(feeds_of(2))["cam"])
    in_thread(box[0].close)
    assert gpu.left == {}


def test_a_child_process_is_refused_and_frees_nothing_of_its_parents(
    gpu: RecordingDevice, open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session()
    session.run(feeds_of(2))
    before = gpu.left
    with monkeypatch.context() as child:
        child.setattr("os.getpid", lambda: 2)
        with pytest.raises(SessionError, match="used in its child 2: CUDA does not survive fork") as caught:
            session.run(feeds_of(2))
        assert "after the fork" in str(caught.value.hint)
        session._pool.close()  # what the end of a child's interpreter does
    assert gpu.left == before
    assert_answers(session, feeds_of(2))
    session.close()
    assert gpu.left == {}


def test_closing_while_a_run_is_under_way_lets_it_finish(gpu: RecordingDevice, open_session: Open, engine: RecordingEngine) -> None:
    session, begun, go_on, answers = open_session(), threading.Event(), threading.Event(), []

    def slow(feeds: Arrays) -> Arrays:
        begun.set()
        assert go_on.wait(10)
        return explain(feeds)

    engine.function = slow
    thread = threading.Thread(target=lambda: answers.append(session.run(feeds_of(2))))
    thread.start()
    assert begun.wait(10)
    session.close()
    assert gpu.left["engine"] == 1
    with pytest.raises(SessionError, match="closed"):
        session.run(feeds_of(1))
    go_on.set()
    thread.join()
    np.testing.assert_array_equal(answers[0]["cam"], explain(feeds_of(2))["cam"])
    assert gpu.left == {}


def test_a_thread_that_waits_for_a_lane_is_told_when_the_session_closes(open_session: Open, gpu: RecordingDevice) -> None:
    session, errors = open_session(lanes=1), []

    def run() -> None:
        try:
            session.run(feeds_of(1))
        except SessionError as error:
            errors.append(str(error))

    with session.prepare(feeds_of(1)):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        session.close()
        thread.join(10)
    assert errors == ["the session is closed"]
    assert gpu.left == {}


def test_an_array_on_the_device_is_read_where_it_is(gpu: RecordingDevice, open_session: Open) -> None:
    feeds = feeds_of(3)
    held = gpu.array_on_device(feeds["image"])
    with open_session() as session:
        for _ in range(3):
            found = session.run({**feeds, "image": held})
            np.testing.assert_array_equal(found["cam"], explain(feeds)["cam"])
    assert {"copy_within"}.isdisjoint(steps(gpu))
    # Only the class indices travel; the producer's stream is waited for first.
    assert [size for _, what, size in gpu.calls if what == "copy_in"] == [24] * 3
    assert steps(gpu)[:2] == ["wait_for", "copy_in"]
    assert gpu.left == {"device memory": 1}


@pytest.mark.parametrize(("rows", "copied"), [(19, True), (8, False)])
def test_more_rows_on_the_device_than_the_plan_takes_are_split_there(
    gpu: RecordingDevice, open_session: Open, rows: int, copied: bool
) -> None:
    feeds = feeds_of(rows)
    held = {name: gpu.array_on_device(array) for name, array in feeds.items()}
    with open_session() as session:
        found = session.run(held)
    for name, expected in explain(feeds).items():
        np.testing.assert_array_equal(found[name], expected)
    # A part that does not begin at a multiple of 256 bytes is moved within the device: TensorRT reads aligned memory.
    assert ("copy_within" in steps(gpu)) is copied


def test_rows_on_the_device_below_the_plans_least_are_filled_up_there(
    gpu: RecordingDevice, open_session: Open, engine: RecordingEngine
) -> None:
    engine.batch = BatchRange(4, 4, 8)
    feeds = feeds_of(2)
    with open_session() as session:
        found = session.run({name: gpu.array_on_device(array) for name, array in feeds.items()})
    np.testing.assert_array_equal(found["cam"], explain(feeds)["cam"])


@pytest.mark.parametrize(
    ("array", "interface", "message"),
    [
        (pictures(2).astype(np.float32), {}, r"image has dtype float32, expected image uint8 \[N, 4, 6, 3\] on GPU 0"),
        (pictures(2)[:, :3], {}, r"image has shape \[2, 3, 6, 3\]"),
        (pictures(2)[0], {}, r"image has shape \[4, 6, 3\]"),
        (pictures(2), {"strides": (72, 3, 12, 1)}, "image is not contiguous"),
        (pictures(2), {"mask": np.ones(1)}, "masked"),
    ],
)
def test_an_array_on_the_device_that_does_not_fit_is_refused_and_not_converted(
    gpu: RecordingDevice, open_session: Open, array: npt.NDArray[Any], interface: dict[str, Any], message: str
) -> None:
    held = gpu.array_on_device(array)
    held.__cuda_array_interface__ |= interface
    with open_session() as session, pytest.raises(InputError, match=message):
        session.run({**feeds_of(2), "image": held})


def test_rows_that_disagree_are_refused_wherever_they_stand(gpu: RecordingDevice, open_session: Open) -> None:
    held = gpu.array_on_device(pictures(3))
    with open_session() as session:
        with pytest.raises(InputError, match="disagree about N: class_index has 2 rows, image has 3 rows"):
            session.run({**feeds_of(2), "image": held})
        with pytest.raises(InputError, match="inputs are image, the graph takes class_index, image"):
            session.run({"image": held})
        with pytest.raises(InputError, match="disagree about N"):
            session.run({**feeds_of(2), "image": pictures(3)})
    assert steps(gpu) == []


def test_a_prepared_call_is_timed_by_the_devices_own_clock(gpu: RecordingDevice, open_session: Open) -> None:
    feeds = feeds_of(3)
    with open_session() as session:
        with session.prepare(feeds, ["logits"]) as call:
            for _ in range(4):
                call.enqueue()
                assert not call.is_idle()
                call.synchronize()
                assert call.is_idle()
                # The stand-in's clock counts steps: the last event of each part is one itself.
                assert call.spans_ms() == {"h2d": 3, "gpu": 2, "d2h": 2}
            np.testing.assert_array_equal(call.results()["logits"], explain(feeds)["logits"])
        assert gpu.captures == 1
        with pytest.raises(InputError, match="9 rows are prepared, the plan takes 8 at once"), session.prepare(feeds_of(9)):
            pass
    assert gpu.left == {}


def test_other_threads_may_make_a_prepared_call(gpu: RecordingDevice, open_session: Open) -> None:
    with open_session() as session, session.prepare(feeds_of(1)) as call:

        def make_call() -> None:
            call.enqueue()
            call.synchronize()

        thread = threading.Thread(target=make_call)
        thread.start()
        thread.join()
        np.testing.assert_array_equal(call.results()["cam"], explain(feeds_of(1))["cam"])


def test_values_are_checked_as_in_other_sessions(engine: RecordingEngine, gpu: RecordingDevice) -> None:
    engine.tensors = (PlanTensor("image", True, "float32", (2,)), PlanTensor("logits", False, "float32", (2,)))
    engine.function = lambda feeds: {"logits": feeds["image"] * 2}
    with TrtSession(Path("predict.plan"), value_ranges={"image": (-2, 2)}, load=loaded(engine)) as session:
        np.testing.assert_array_equal(session.run({"image": np.ones((1, 2))})["logits"], [[2, 2]])
        with pytest.raises(InputError, match="NaN or infinity"):
            session.run({"image": np.full((1, 2), np.nan)})
        with pytest.raises(InputError, match="a normalized picture has -2 to 2"):
            session.run({"image": np.full((1, 2), 255.0)})


def test_lanes_below_one_are_refused(open_session: Open) -> None:
    with pytest.raises(UsageError, match="lanes is 0"):
        open_session(lanes=0)
