import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import numpy as np
import pytest

from deploykit.errors import InputError, RequestError, SessionError
from deploykit.runtime.session import Array, TensorInfo
from deploykit.server.batch_queue import BatchQueue, Job, Undecoded
from deploykit.server.batcher import Batcher
from deploykit.server.cores import Cores
from deploykit.server.settings import BatchSettings
from deploykit.server.shared_session import SharedSession

pytestmark = pytest.mark.alone

WAIT_S = 10


class Doubling:
    """A session whose output ``double`` is twice its input, and ``same`` the input. It can be held, and fails on 666."""

    backend = "a test"
    inputs = (TensorInfo("x", "float32", ("N", "?")),)
    outputs = (TensorInfo("double", "float32", ("N", "?")), TensorInfo("same", "float32", ("N", "?")))

    def __init__(self) -> None:
        self.runs: list[list[float]] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.has_begun = threading.Semaphore(0)
        self.is_closed = False

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        self.runs.append(feeds["x"][:, 0].tolist())
        self.has_begun.release()
        assert self.may_run.wait(WAIT_S)
        if (feeds["x"] == 666).any():
            raise SessionError("an operator refuses 666")
        found = {"double": 2 * feeds["x"], "same": feeds["x"].copy()}
        return {name: found[name] for name in outputs or found}

    def close(self) -> None:
        self.is_closed = True

    def __enter__(self) -> "Doubling":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def row(*values: float) -> dict[str, Array]:
    return {"x": np.array(values, np.float32)[:, None]}


def job(at: float, rows: int = 1, outputs: tuple[str, ...] = ("a",), deadline: float = 1e9) -> Job:
    return Job({"x": np.zeros((rows, 1), np.float32)}, rows, outputs, at, deadline)


def undecoded(deadline: float = 1e9) -> Undecoded:
    return Undecoded(lambda: row(0), ("a",), deadline)


def queue(*jobs: Job, **settings: Any) -> BatchQueue:
    made = BatchQueue(BatchSettings(**settings))
    for one in jobs:
        made.add(one)
    return made


def test_a_run_takes_what_is_there_at_once_when_no_delay_is_asked_for() -> None:
    first, second = job(1.0), job(1.0)
    assert queue(first, second, max_batch_size=8).take(1.0) == ([first, second], None)


def test_the_oldest_job_waits_for_others_as_long_as_it_may() -> None:
    first, second = job(1.0), job(1.004)
    made = queue(first, second, max_batch_size=8, max_queue_delay_us=10_000)
    jobs, wait = made.take(1.005)
    assert jobs == []
    assert wait == pytest.approx(0.005)
    assert made.take(1.01) == ([first, second], None)


def test_a_full_run_waits_no_longer() -> None:
    jobs = [job(1.0), job(1.0), job(1.0)]
    made = queue(*jobs, max_batch_size=2, max_queue_delay_us=10_000)
    assert made.take(1.0)[0] == jobs[:2]
    assert made.take(1.0)[0] == []
    assert made.take(1.0, at_once=True)[0] == jobs[2:]


def test_a_request_of_several_rows_stays_whole_and_is_not_passed() -> None:
    two, three, one = job(1, 2), job(1, 3), job(1, 1)
    made = queue(two, three, one, max_batch_size=4)
    assert made.take(1)[0] == [two]
    assert made.take(1)[0] == [three, one]


def test_jobs_of_different_outputs_or_row_shapes_never_share_a_run() -> None:
    plain, other = job(1, outputs=("a",)), job(1, outputs=("b",))
    wide = Job({"x": np.zeros((1, 5), np.float32)}, 1, ("a",), 1, 1e9)
    made = queue(plain, other, wide, job(1, outputs=("a",)))
    assert [len(made.take(1)[0]) for _ in range(3)] == [2, 1, 1]


def test_a_full_run_of_one_kind_does_not_wait_behind_another_kind() -> None:
    lonely, pair = job(1, outputs=("a",)), [job(1, outputs=("b",)), job(1, outputs=("b",))]
    made = queue(lonely, *pair, max_batch_size=2, max_queue_delay_us=10_000)
    assert made.take(1)[0] == pair


def test_more_rows_than_a_run_may_have_are_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError, match="has 5 rows, at most 4 are allowed") as refused:
        queue(max_batch_size=4).add(job(1, 5))
    assert refused.value.status == 400


def test_a_full_queue_says_503_and_when_to_come_back() -> None:
    made = queue(job(1), job(1), max_queue_size=2)
    with pytest.raises(RequestError, match="2 requests are waiting") as refused:
        made.add(job(1))
    assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})


def test_a_queue_is_bounded_in_bytes_too_and_takes_one_job_of_any_size() -> None:
    made = queue(job(1, 8), max_batch_size=8, max_queue_bytes=8)
    with pytest.raises(RequestError, match="hold 32 bytes"):
        made.add(job(1))
    made.take(1)
    made.add(job(1))


def test_a_job_whose_time_is_up_leaves_the_queue() -> None:
    late, good = job(1, deadline=2.0), job(1, deadline=3.0)
    made = queue(late, good)
    assert made.expire(2.0) == [late]
    assert made.take(2.0)[0] == [good]
    assert len(made) == 0


def test_what_is_still_to_be_decoded_waits_in_its_order_and_counts_as_waiting() -> None:
    first, second = undecoded(), undecoded()
    waiting = queue(max_queue_size=2)
    waiting.add_undecoded(first)
    waiting.add_undecoded(second)
    for refused in (lambda: waiting.add_undecoded(undecoded()), lambda: waiting.add(job(0))):
        with pytest.raises(RequestError, match="2 requests are waiting") as full:
            refused()
        assert full.value.status == 503
    assert waiting.take_undecoded() is first
    assert waiting.take_undecoded() is second
    assert waiting.take_undecoded() is None


def test_a_request_that_was_let_in_is_not_refused_for_their_number_once_it_is_decoded_but_for_its_bytes() -> None:
    waiting = queue(job(0), max_queue_size=1, max_queue_bytes=12)
    waiting.add_decoded(job(0))
    with pytest.raises(RequestError, match="hold 8 bytes"):
        waiting.add_decoded(job(0, rows=2))
    with pytest.raises(RequestError, match="5 rows, at most 4"):
        waiting.add_decoded(job(0, rows=5))
    assert len(waiting) == 2


def test_decoding_goes_first_until_a_run_is_full() -> None:
    waiting = queue(job(0), max_batch_size=2)
    assert not waiting.should_decode()  # nothing is there to decode
    waiting.add_undecoded(undecoded())
    assert waiting.should_decode()
    waiting.add(job(0))
    assert not waiting.should_decode()


def test_what_is_still_to_be_decoded_leaves_when_its_time_is_up_or_nobody_wants_it() -> None:
    hurried, patient, unwanted = undecoded(deadline=5), undecoded(), undecoded()
    waiting = queue()
    for request in (hurried, patient, unwanted):
        waiting.add_undecoded(request)
    waiting.discard(unwanted)
    assert waiting.expire(5.0) == [hurried]
    assert waiting.take_undecoded() is patient
    assert len(waiting) == 0


def test_callers_that_meet_in_a_run_get_their_own_rows() -> None:
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=8))
    first = batcher.submit(row(0), ["double"], 1e12)
    assert session.has_begun.acquire(timeout=WAIT_S)
    others = [batcher.submit(row(*values), ["double"], 1e12) for values in ((1,), (2, 3), (4,))]
    session.may_run.set()
    assert first.result(WAIT_S).batch_rows == 1
    answers = [one.result(WAIT_S) for one in others]
    assert [a.outputs["double"][:, 0].tolist() for a in answers] == [[2], [4, 6], [8]]
    assert {a.batch_rows for a in answers} == {4}
    assert session.runs == [[0], [1, 2, 3, 4]]
    batcher.close()


def test_a_run_can_compute_a_few_rows_at_a_time_and_everybody_gets_their_own() -> None:
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=5, rows_at_once=2))
    batcher.submit(row(0), None, 1e12)
    assert session.has_begun.acquire(timeout=WAIT_S)
    answers = [batcher.submit(row(*values), ["double"], 1e12) for values in [(1, 2, 3), (4,), (5,)]]
    session.may_run.set()
    assert [a.result(WAIT_S).outputs["double"][:, 0].tolist() for a in answers] == [[2, 4, 6], [8], [10]]
    assert {a.result(WAIT_S).batch_rows for a in answers} == {5}
    batcher.close()
    assert session.runs == [[0], [1, 2], [3, 4], [5]]


def test_a_request_that_fails_a_run_fails_alone() -> None:
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=8))
    batcher.submit(row(0), None, 1e12)
    assert session.has_begun.acquire(timeout=WAIT_S)
    good, bad, fine = (batcher.submit(row(value), None, 1e12) for value in (1, 666, 2))
    session.may_run.set()
    assert good.result(WAIT_S).outputs["double"].tolist() == [[2]]
    assert fine.result(WAIT_S).outputs["same"].tolist() == [[2]]
    with pytest.raises(SessionError, match="refuses 666"):
        bad.result(WAIT_S)
    assert session.runs == [[0], [1, 666, 2], [1], [666], [2]]
    assert batcher.statistics.tell("x")["inference_stats"]["fail"]["count"] == 1
    batcher.close()


def test_an_array_that_the_graph_does_not_take_never_meets_others() -> None:
    batcher = Batcher(Doubling(), BatchSettings())
    with pytest.raises(InputError, match="NaN"):
        batcher.submit(row(float("nan")), None, 1e12)
    with pytest.raises(InputError, match="outputs asked for are what"):
        batcher.submit(row(1), ["what"], 1e12)
    assert batcher.depth() == 0
    batcher.close()


def test_a_cancelled_request_leaves_before_its_run_and_costs_nothing() -> None:
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=1))
    batcher.submit(row(0), None, 1e12)
    assert session.has_begun.acquire(timeout=WAIT_S)
    unwanted, wanted = batcher.submit(row(1), None, 1e12), batcher.submit(row(2), None, 1e12)
    assert unwanted.cancel()
    assert batcher.depth() == 1
    session.may_run.set()
    assert wanted.result(WAIT_S).outputs["same"].tolist() == [[2]]
    with pytest.raises(CancelledError):
        unwanted.result(WAIT_S)
    assert session.runs == [[0], [2]]
    batcher.close()


def test_a_request_that_has_not_begun_by_its_deadline_gets_504_and_is_not_run() -> None:
    now = [100.0]
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=1), clock=lambda: now[0])
    batcher.submit(row(0), None, 200.0)
    assert session.has_begun.acquire(timeout=WAIT_S)
    hurried, patient = batcher.submit(row(1), None, 101.0), batcher.submit(row(2), None, 200.0)
    now[0] = 102.0
    session.may_run.set()
    with pytest.raises(RequestError, match="time was up") as late:
        hurried.result(WAIT_S)
    assert late.value.status == 504
    assert patient.result(WAIT_S).queue_s == 2.0
    assert session.runs == [[0], [2]]
    batcher.close()


def test_instances_run_at_the_same_time() -> None:
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=1, instances=2))
    answers = [batcher.submit(row(value), None, 1e12) for value in (1, 2)]
    assert session.has_begun.acquire(timeout=WAIT_S)
    assert session.has_begun.acquire(timeout=WAIT_S), "the second run waits for the first"
    session.may_run.set()
    assert sorted(float(a.result(WAIT_S).outputs["same"][0, 0]) for a in answers) == [1, 2]
    batcher.close()


def test_no_more_runs_at_a_time_than_instances_though_there_is_a_thread_more() -> None:
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=1))
    answers = [batcher.submit(row(value), None, 1e12) for value in (1, 2)]
    assert session.has_begun.acquire(timeout=WAIT_S)
    assert not session.has_begun.acquire(timeout=0.2)
    session.may_run.set()
    assert [float(a.result(WAIT_S).outputs["same"][0, 0]) for a in answers] == [1, 2]
    batcher.close()


@pytest.fixture(params=[0, 2], ids=["threads that run decode", "decoders"])
def cores(request: pytest.FixtureRequest) -> Iterator[Cores]:
    """No bound on what is at work, and both ways of decoding."""
    made = Cores(decoders=request.param)
    yield made
    made.close()


def test_a_request_is_decoded_and_then_run(cores: Cores) -> None:
    batcher = Batcher(Doubling(), BatchSettings(), cores=cores)
    answers = [batcher.submit_undecoded(partial(row, value), ["double"], 1e12) for value in range(20)]
    assert [float(a.result(WAIT_S).outputs["double"][0, 0]) for a in answers] == [2 * value for value in range(20)]
    batcher.close()


def test_while_a_run_goes_on_the_next_is_decoded_until_it_is_full() -> None:
    session = Doubling()
    decoded: list[float] = []
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=2))
    batcher.submit(row(0), None, 1e12)
    assert session.has_begun.acquire(timeout=WAIT_S)

    def decode(value: float) -> dict[str, Array]:
        decoded.append(value)
        return row(value)

    answers = [batcher.submit_undecoded(partial(decode, value), None, 1e12) for value in (1, 2, 3, 4)]
    until = time.monotonic() + WAIT_S
    while len(decoded) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    assert decoded == [1, 2]  # the third would only hold memory
    session.may_run.set()
    assert [float(a.result(WAIT_S).outputs["same"][0, 0]) for a in answers] == [1, 2, 3, 4]
    assert session.runs[:2] == [[0], [1, 2]]
    batcher.close()


def test_what_cannot_be_decoded_fails_alone(cores: Cores) -> None:
    def fail() -> dict[str, Array]:
        raise RequestError(415, "that is a song")

    batcher = Batcher(Doubling(), BatchSettings(), cores=cores)
    made: list[Callable[[], dict[str, Array]]] = [partial(row, 1), fail, lambda: {"y": np.zeros(1)}, partial(row, 2)]
    first, song, nameless, last = [batcher.submit_undecoded(decode, None, 1e12) for decode in made]
    with pytest.raises(RequestError, match="song"):
        song.result(WAIT_S)
    with pytest.raises(InputError, match="inputs are y, the graph takes x"):
        nameless.result(WAIT_S)
    assert (first.result(WAIT_S).outputs["same"][0, 0], last.result(WAIT_S).outputs["same"][0, 0]) == (1, 2)
    batcher.close()


def test_what_is_cancelled_or_late_is_not_decoded_and_what_is_cancelled_while_it_is_decoded_is_not_run(cores: Cores) -> None:
    now, session = [0.0], Doubling()
    decoded: list[float] = []
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=1), clock=lambda: now[0], cores=cores)
    running = batcher.submit(row(0), None, 100.0)
    assert session.has_begun.acquire(timeout=WAIT_S)
    is_decoding, may_go = threading.Semaphore(0), threading.Event()

    def decode(value: float) -> dict[str, Array]:
        decoded.append(value)
        is_decoding.release()
        assert may_go.wait(WAIT_S)
        return row(value)

    held = [batcher.submit_undecoded(partial(decode, value), None, 100.0) for value in (1, 2)]
    decoders = 1 if cores.decoders is None else 2  # the other thread is in the run
    for _ in range(decoders):
        assert is_decoding.acquire(timeout=WAIT_S)
    assert held[0].cancel()
    unwanted = batcher.submit_undecoded(lambda: decode(3), None, 100.0)
    hurried = batcher.submit_undecoded(lambda: decode(4), None, 1.0)
    assert unwanted.cancel()
    now[0] = 2.0
    may_go.set()
    session.may_run.set()
    with pytest.raises(RequestError, match="time was up"):
        hurried.result(WAIT_S)
    assert held[1].result(WAIT_S).outputs["same"].tolist() == [[2]]
    assert running.result(WAIT_S).outputs["same"].tolist() == [[0]]
    batcher.close()
    assert sorted(decoded) == [1, 2]
    assert session.runs == [[0], [2]]


def test_closing_finishes_what_is_still_to_be_decoded(cores: Cores) -> None:
    session = Doubling()
    batcher = Batcher(session, BatchSettings(max_batch_size=2, max_queue_delay_us=60_000_000, instances=2), cores=cores)

    def decode(value: float) -> dict[str, Array]:
        time.sleep(0.02)
        return row(value)

    answers = [batcher.submit_undecoded(partial(decode, value), None, 1e12) for value in range(5)]
    assert batcher.submit_undecoded(lambda: decode(5), None, 1e12).cancel()
    batcher.close()
    assert [float(a.result(0).outputs["same"][0, 0]) for a in answers] == [0, 1, 2, 3, 4]
    assert session.is_closed
    with pytest.raises(SessionError, match="closed"):
        batcher.submit_undecoded(lambda: row(1), None, 1e12)


def test_closing_finishes_what_waits_and_then_takes_nothing() -> None:
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=2, max_queue_delay_us=60_000_000))
    answers = [batcher.submit(row(value), None, 1e12) for value in (1, 2, 3)]
    session.may_run.set()
    batcher.close()
    assert [float(a.result(0).outputs["same"][0, 0]) for a in answers] == [1, 2, 3]
    assert session.is_closed
    with pytest.raises(SessionError, match="closed"):
        batcher.submit(row(1), None, 1e12)


def test_a_graph_of_one_row_is_never_given_more() -> None:
    session = Doubling()
    session.inputs = (TensorInfo("x", "float32", (1, "?")),)
    batcher = Batcher(session, BatchSettings(max_batch_size=8))
    assert batcher.max_batch_size == 1
    batcher.close()


def test_answers_without_a_row_for_each_request_are_an_error_and_never_split() -> None:
    session = Doubling()
    session.run = lambda feeds, outputs=None: {"double": np.zeros((5, 1), np.float32)}  # type: ignore[method-assign]
    batcher = Batcher(session, BatchSettings())
    with pytest.raises(SessionError, match=r"shape \[5, 1\] for a batch of 1"):
        batcher.submit(row(1), ["double"], 1e12).result(WAIT_S)
    batcher.close()


def test_hundreds_of_callers_each_get_their_own_answer() -> None:
    session = Doubling()
    batcher = Batcher(session, BatchSettings(max_batch_size=7, max_queue_delay_us=200, max_queue_size=1000, instances=3))
    found: dict[int, float] = {}

    def ask(caller: int) -> None:
        for step in range(20):
            value = caller * 100 + step
            rows = 1 + value % 3
            answer = batcher.submit(row(*[value] * rows), ["double"], 1e12).result(WAIT_S)
            assert answer.outputs["double"].tolist() == [[2 * value]] * rows
            found[value] = 1

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(found) == 320
    assert max(map(len, session.runs)) > 3, "nobody ever shared a run"
    told = batcher.statistics.tell("x")
    assert told["inference_stats"]["success"]["count"] == 320
    assert told["inference_count"] == sum(map(len, session.runs))
    batcher.close()


@pytest.mark.parametrize("field", ["max_batch_size", "max_queue_size", "instances"])
def test_settings_that_no_server_can_have_are_refused(field: str) -> None:
    with pytest.raises(Exception, match=f"{field} is 0, expected 1 or more"):
        BatchSettings(**{field: 0})


def test_a_shared_session_splits_its_rows_into_runs_and_puts_them_together_again() -> None:
    session = Doubling()
    batcher = Batcher(session, BatchSettings(max_batch_size=4))
    with SharedSession(batcher, WAIT_S) as shared:
        assert shared.run(row(*range(10)), ["double"])["double"][:, 0].tolist() == [2.0 * i for i in range(10)]
        assert max(map(len, session.runs)) <= 4
    assert not session.is_closed
    batcher.close()


def test_callers_of_a_shared_session_meet_in_one_run_and_get_their_own_rows() -> None:
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings(max_batch_size=4))
    shared, found = SharedSession(batcher, WAIT_S), {}
    first = batcher.submit(row(0), None, 1e9)  # keeps the only thread busy while the others come
    assert session.has_begun.acquire(timeout=WAIT_S)

    def ask(value: int) -> None:
        found[value] = shared.run(row(value), ["double"])["double"].item()

    threads = [threading.Thread(target=ask, args=(value,)) for value in (1, 2, 3)]
    for thread in threads:
        thread.start()
    while batcher.depth() < len(threads):
        time.sleep(0.001)
    session.may_run.set()
    for thread in threads:
        thread.join(WAIT_S)
    batcher.close()
    assert first.done()
    assert found == {1: 2.0, 2: 4.0, 3: 6.0}
    assert sorted(session.runs[1]) == [1.0, 2.0, 3.0]


@pytest.fixture
def busy() -> Iterator[Batcher]:
    """A batcher whose only thread has a run that is held for 0.2 s."""
    session = Doubling()
    session.may_run.clear()
    batcher = Batcher(session, BatchSettings())
    batcher.submit(row(0), None, 1e9)
    assert session.has_begun.acquire(timeout=WAIT_S)
    release = threading.Timer(0.2, session.may_run.set)
    release.start()
    yield batcher
    release.join()
    batcher.close()


def test_a_shared_session_gives_up_when_its_time_is_over(busy: Batcher) -> None:
    with pytest.raises(RequestError, match="time was up"):
        SharedSession(busy, 0.05).run(row(1))


def test_a_shared_session_waits_no_longer_than_the_caller_of_its_thread(busy: Batcher) -> None:
    shared = SharedSession(busy, WAIT_S)
    with shared.until(time.monotonic() + 0.05), pytest.raises(RequestError, match="time was up"):
        shared.run(row(1))
    assert shared.run(row(2), ["double"])["double"].item() == 4.0  # outside of it the session's own time counts again
