"""A session over a real plan on a real GPU: answers at every edge of the profile, threads, forks, torch's arrays, memory, exit.

What order calls come in, and that nothing is left, is shown everywhere by tests/unit/test_trt_session.py; here it meets CUDA.
"""

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deploykit.bundle import Bundle
from deploykit.errors import SessionError
from deploykit.runtime import Classifier, Explainer, OrtSession, TrtSession
from deploykit.runtime.device import open_device
from deploykit.runtime.opening import Answering, answering_file, open_session
from tests.engines import with_plans
from tests.gpu.conftest import Open, OpenDevice, used_bytes
from tests.threads import in_thread
from tests.unit.bright_bundle import SPEC, make_bundle

RTOL, ATOL = 1e-4, 1e-5  # float32 sums of 1,024 pixels in another order, TF32 off


@pytest.fixture(scope="module")
def bundle(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle with plans for the GPU of this machine, batch 1:4:8."""
    folder = tmp_path_factory.mktemp(backend)
    options = ("--backend", backend, "--batch", "1:4:8")
    return with_plans(make_bundle(folder / "bright"), *options, cache=folder / "cache")


@pytest.fixture
def open_plan(bundle: Bundle, backend: str, way: OpenDevice) -> Open:
    def open_it(graph: str = "explain", **options: Any) -> TrtSession:
        return TrtSession(bundle.path / answering_file(bundle, graph, Answering(backend=backend)), **options)

    return open_it


@pytest.fixture
def session(open_plan: Open) -> Iterator[TrtSession]:
    with open_plan() as opened:
        yield opened


def feeds_of(rows: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, SPEC.height, SPEC.width, 3), np.uint8)
    return {"image": pixels, "class_index": np.arange(rows, dtype=np.int64) % 4 - 1}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], err_msg=name, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_a_plan_answers_as_its_graph_at_every_edge_of_its_profile(open_plan: Open, graph: OrtSession, cuda_graphs: bool) -> None:
    with open_plan(cuda_graphs=cuda_graphs) as session:
        for seed, rows in enumerate([1, 2, 4, 8, 9, 19] * 4):
            assert_same(session.run(feeds_of(rows, seed)), graph.run(feeds_of(rows, seed)))
        assert session.not_captured is None


def test_a_captured_size_reads_new_pictures_each_time(session: TrtSession, graph: OrtSession) -> None:
    answers = [session.run(feeds_of(4, seed), ["logits"])["logits"] for seed in range(6)]
    for seed, answer in enumerate(answers):
        assert_same({"logits": answer}, graph.run(feeds_of(4, seed), ["logits"]))


def test_classifier_and_explainer_answer_from_plans(bundle: Bundle, backend: str, way: OpenDevice) -> None:
    pictures = list(feeds_of(5)["image"])
    with Classifier.open(bundle, backend=backend) as there, Classifier.open(bundle) as here:
        np.testing.assert_allclose(there.logits(np.stack(pictures)), here.logits(np.stack(pictures)), rtol=RTOL, atol=ATOL)
    with Explainer.open(bundle, backend=backend) as shows, Explainer.open(bundle) as expected:
        for one, other in zip(shows.explain(pictures), expected.explain(pictures), strict=True):
            np.testing.assert_allclose(one.map, other.map, atol=1e-3)
            assert one.explained.class_index == other.explained.class_index


def test_it_is_made_in_a_thread_that_is_gone_and_used_in_others(open_plan: Open, graph: OrtSession) -> None:
    """Case O22: 'No currently active context' from a web server's thread."""
    box: list[TrtSession] = []
    answers: list[Any] = []

    in_thread(lambda: box.append(open_plan()))
    for _ in range(4):
        in_thread(lambda: answers.append(box[0].run(feeds_of(2))))
    answers.append(box[0].run(feeds_of(2)))
    assert len(answers) == 5
    for answer in answers:
        assert_same(answer, graph.run(feeds_of(2)))
    in_thread(box[0].close)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_an_error_at_once_and_the_parent_goes_on(session: TrtSession, graph: OrtSession) -> None:
    """Case O22: the child's first call raises instead of hanging."""
    session.run(feeds_of(1))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            session.run(feeds_of(1))
            os.write(writer, b"it answered")
        except SessionError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert b"CUDA does not survive fork" in os.read(reader, 1000)
    os.close(reader)
    assert_same(session.run(feeds_of(1)), graph.run(feeds_of(1)))


def hammer(session: TrtSession, graph: OrtSession, threads: int, rounds: int) -> list[str]:
    """Each thread owns a picture and checks every answer, and its first again at the end."""
    wrong: list[str] = []

    def work(owner: int) -> None:
        feeds = feeds_of(owner % 4 + 1, seed=owner)
        expected = graph.run(feeds, ["logits", "cam"])
        try:
            first = session.run(feeds, ["logits", "cam"])
            found = [session.run(feeds, ["logits", "cam"]) for _ in range(rounds)]
            for answer in (*found, first):
                wrong.extend(f"{owner} {n}" for n in answer if not np.allclose(answer[n], expected[n], rtol=RTOL, atol=ATOL))
        except Exception as error:
            wrong.append(f"{owner}: {error!r}")

    running = [threading.Thread(target=work, args=(owner,)) for owner in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return wrong


def test_threads_share_a_session_and_memory_stands_still(open_plan: Open, graph: OrtSession, way: OpenDevice) -> None:
    """Case O23: one execution context for several threads mixes up answers."""
    device = way(0)
    with open_plan(lanes=4) as session:
        for _ in range(2):
            assert hammer(session, graph, threads=8, rounds=50) == []
        before = used_bytes(device)
        for _ in range(8):
            assert hammer(session, graph, threads=8, rounds=50) == []
        # Lanes that were not all in use in the first rounds may have grown: a few MB, not a run's worth each time.
        assert used_bytes(device) - before < 64 << 20


def test_opening_and_closing_again_and_again_leaves_no_memory(open_plan: Open, way: OpenDevice) -> None:
    device = way(0)

    def once() -> None:
        with open_plan() as session:
            for rows in (1, 1, 1, 8, 8, 8):
                session.run(feeds_of(rows))

    for _ in range(3):
        once()
    gc.collect()
    before = used_bytes(device)
    for _ in range(10):
        once()
    gc.collect()
    assert used_bytes(device) - before < 16 << 20  # the driver keeps pages of 2 MB


def test_torch_tensors_on_the_gpu_are_read_where_they_are(session: TrtSession, graph: OrtSession) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    for rows in (1, 8, 11):
        feeds = feeds_of(rows, seed=rows)
        with torch.cuda.stream(torch.cuda.Stream()):
            # The last work on torch's own stream is not waited for by us: DLPack orders it.
            held = {name: torch.from_numpy(array).cuda(non_blocking=True).clone() for name, array in feeds.items()}
            found = session.run(held)
        assert_same(found, graph.run(feeds))
    # The context is torch's too, and still works there.
    assert float((torch.ones(4, device="cuda") * 2).sum()) == 8


def test_a_prepared_call_is_timed_on_the_gpu(session: TrtSession, graph: OrtSession) -> None:
    with session.prepare(feeds_of(4), ["logits"]) as call:
        for _ in range(5):
            call.enqueue()
            call.synchronize()
            assert call.is_idle()
            spans = call.spans_ms()
            assert set(spans) == {"h2d", "gpu", "d2h"}
            assert all(0 <= span < 1000 for span in spans.values())
        assert spans["gpu"] > 0
        assert_same(call.results(), graph.run(feeds_of(4), ["logits"]))


def test_the_session_opens_with_whatever_is_installed(bundle: Bundle, backend: str, graph: OrtSession) -> None:
    with open_session(bundle, "explain", Answering(backend=backend)) as session:
        assert backend in session.backend
        assert_same(session.run(feeds_of(1)), graph.run(feeds_of(1)))
    assert open_device(0).ordinal == 0


def test_a_process_that_closes_nothing_ends_cleanly(bundle: Bundle, backend: str, way: OpenDevice) -> None:
    plan = bundle.path / answering_file(bundle, "predict", Answering(backend=backend))
    code = f"""
import importlib, threading, numpy as np
from deploykit.runtime import TrtSession, trt
trt.open_device = importlib.import_module({way.__module__!r}).open_device
session = TrtSession({str(plan)!r})
feeds = {{"image": np.zeros((2, {SPEC.height}, {SPEC.width}, 3), np.uint8)}}
thread = threading.Thread(target=session.run, args=(feeds,))
thread.start(); thread.join()
print(session.run(feeds)["logits"].shape)
"""
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=path)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(2, 3)", "")
