"""Plans of graphs that resize photos, on a real GPU: each photo at its own size, and the answers of its graph on ONNX Runtime.

What order calls come in, and that nothing is left, is shown everywhere by tests/unit/test_trt_session_photos.py.
"""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.errors import InputError
from deploykit.parity import sample_pictures
from deploykit.runtime import Classifier, Explainer, OrtSession, TrtSession
from deploykit.runtime.opening import Answering, answering_file
from tests.conftest import Deploykit
from tests.engines import with_plans
from tests.gpu.conftest import Open, OpenDevice, used_bytes
from tests.unit.photo_bundle import PHOTOS, make_photo_bundle

# The grey levels are whole numbers that float32 holds, so they are equal; behind them sums of 1,024 pixels in another order, with
# TF32 off.
RTOL, ATOL = 1e-4, 1e-5
SIZES = ((45, 61), (120, 90), (33, 200), (200, 33), (33, 33), (200, 200), (64, 64))
"""Heights and widths, with the profile's edges."""


@pytest.fixture(scope="module")
def bundle(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With plans for the GPU of this machine and photos of 33 to 200 pixels a side."""
    folder = tmp_path_factory.mktemp(backend)
    options = ("--backend", backend, "--photo-size", "33:64:200")
    return with_plans(make_photo_bundle(folder / "photos"), *options, cache=folder / "cache")


@pytest.fixture
def open_plan(bundle: Bundle, backend: str, way: OpenDevice) -> Open:
    plan = bundle.path / answering_file(bundle, "explain", Answering(backend=backend))
    return lambda **options: TrtSession(plan, **options)


def feeds_of(height: int, width: int, seed: int = 0) -> dict[str, Any]:
    return {"image": sample_pictures(1, height, width, seed), "class_index": np.array([seed % 4 - 1])}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], err_msg=name, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_a_plan_answers_photos_of_several_sizes_as_its_graph_does(open_plan: Open, graph: OrtSession, cuda_graphs: bool) -> None:
    with open_plan(cuda_graphs=cuda_graphs) as session:
        assert [str(info) for info in session.inputs] == [str(info) for info in graph.inputs]
        assert session.outputs == graph.outputs
        for seed, size in enumerate(SIZES * 3):
            assert_same(session.run(feeds_of(*size, seed)), graph.run(feeds_of(*size, seed)))


def test_a_photo_outside_of_the_profile_is_refused_and_the_next_one_answered(open_plan: Open, graph: OrtSession) -> None:
    with open_plan() as session:
        for size in ((32, 64), (64, 201)):
            with pytest.raises(InputError, match=r"the plan takes \[1, 33 to 200, 33 to 200, 3\]"):
                session.run(feeds_of(*size))
        assert_same(session.run(feeds_of(64, 64)), graph.run(feeds_of(64, 64)))


def test_threads_with_photos_of_their_own_sizes_share_a_session_and_memory_stands_still(
    open_plan: Open, graph: OrtSession, way: OpenDevice
) -> None:
    wrong: list[str] = []

    def work(owner: int, session: TrtSession) -> None:
        feeds = [feeds_of(*SIZES[(owner + turn) % len(SIZES)], owner) for turn in range(3)]
        expected = [graph.run(one, ["logits", "cam"]) for one in feeds]
        try:
            for turn in range(60):
                assert_same(session.run(feeds[turn % 3], ["logits", "cam"]), expected[turn % 3])
        except BaseException as error:
            wrong.append(f"{owner}: {error!r}")

    def hammer(session: TrtSession) -> None:
        running = [threading.Thread(target=work, args=(owner, session)) for owner in range(7)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    device = way(0)
    with open_plan(lanes=3) as session:
        for _ in range(2):
            hammer(session)
        before = used_bytes(device)
        for _ in range(5):
            hammer(session)
        # Lanes that were not all in use in the first rounds may have grown: a few MB, not a photo's worth each time.
        assert used_bytes(device) - before < 64 << 20
    assert wrong == []


def test_torch_photos_on_the_gpu_are_read_where_they_are(open_plan: Open, graph: OrtSession) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    with open_plan() as session:
        for seed, size in enumerate(SIZES):
            feeds = feeds_of(*size, seed)
            held = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
            assert_same(session.run(held), graph.run(feeds))


def test_classifier_and_explainer_answer_photos_from_plans(bundle: Bundle, backend: str, way: OpenDevice) -> None:
    with Classifier.open(bundle, backend=backend) as there, Classifier.open(bundle) as here:
        np.testing.assert_allclose(there.logits(PHOTOS), here.logits(PHOTOS), rtol=RTOL, atol=ATOL)
    with Explainer.open(bundle, backend=backend) as shows, Explainer.open(bundle) as expected:
        for one, other in zip(shows.explain(PHOTOS), expected.explain(PHOTOS), strict=True):
            np.testing.assert_allclose(one.map, other.map, atol=1e-3)
            assert one.explained.class_index == other.explained.class_index


def test_the_verbs_verify_and_predict_with_them(bundle: Bundle, backend: str, deploykit_here: Deploykit, tmp_path: Path) -> None:
    done = deploykit_here("verify", bundle.path, "--json")
    plans = [check for check in json.loads(done.stdout) if check["name"].startswith("plans/")]
    assert len(plans) == 2
    assert all(check["was_run"] and check["passed"] for check in plans), done.stdout
    Image.fromarray(PHOTOS[0]).save(tmp_path / "photo.png")
    done = deploykit_here("predict", bundle.path, tmp_path / "photo.png", "--backend", backend, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["graph"].endswith("/predict.plan")
