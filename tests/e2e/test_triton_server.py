"""``deploykit triton`` on a real Triton server: answers equal to ``deploykit predict`` and ``explain``, to the bit.

One server serves all bundles of the tests here: EfficientNet-Lite0 with published weights and everything, an untrained ResNet-18
without names in several shapes, and a tiny network. Tensors of the graphs are compared with the graphs run here: ONNX Runtime
computes them, in both. What numpy computes (softmax, heat maps) is compared with the command line, run in the environment that the
server's models run in.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as http
from PIL import Image
from tritonclient.utils import InferenceServerException

from deploykit.bundle import Bundle
from deploykit.cli.main import run
from deploykit.image import load_pixels
from deploykit.plan import BatchRange
from deploykit.runtime import OrtSession
from tests.conftest import PHOTOS
from tests.triton_bundles import add_plans, with_golden, without_explain
from tests.triton_config import parse_config, parse_served
from tests.triton_server import TritonServer, labels_request, read_labels, run_triton, unpack_server
from tests.unit.bright_bundle import make_bundle

pytestmark = pytest.mark.alone

Array = npt.NDArray[Any]

OWN = ["lite0", "lite0_explain", "lite0_preprocess", "lite0_postprocess", "lite0_pipeline"]


@dataclass(frozen=True)
class Served:
    """The server, where its models come from, and the photos as JPEG files."""

    server: TritonServer
    environment: Path
    repositories: Mapping[str, Path]
    photos: tuple[Path, ...]

    def client(self) -> http.InferenceServerClient:
        return http.InferenceServerClient(self.server.url, network_timeout=60.0, connection_timeout=60.0)

    def deploykit(self, *arguments: str | Path) -> str:
        """The command line as the server's models have it: its numpy, its everything."""
        command = [str(self.environment / "bin" / "python"), "-m", "deploykit", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


@pytest.fixture(scope="module")
def served(lite0: Bundle, small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("triton")
    repositories = {name: folder / name for name in ("lite0", "small", "merged", "onnx", "plans", "plain")}
    write = ("triton", "--threads", "1", "--decoders", "1", "-o")
    small_options = (str(small.path), "--allow-untrained", "--no-pipeline", "--max-batch", "4")
    assert run([*write, str(repositories["lite0"]), str(lite0.path), "--name", "lite0"]) == 0
    assert run([*write, str(repositories["small"]), *small_options, "--name", "small"]) == 0
    assert run([*write, str(repositories["merged"]), *small_options, "--name", "merged"]) == 0
    assert run([*write, str(repositories["onnx"]), *small_options, "--name", "onnx", "--backend", "onnxruntime"]) == 0
    with_plans = Path(shutil.copytree(small.path, folder / "small_with_plans"))
    add_plans(with_plans, batch=BatchRange(1, 2, 4))
    options = ["--allow-untrained", "--no-pipeline", "--name", "plans", "--backend", "tensorrt"]
    assert run([*write, str(repositories["plans"]), str(with_plans), *options]) == 0
    plain = without_explain(with_golden(make_bundle(folder / "bright").path))
    assert run([*write, str(repositories["plain"]), str(plain), "--name", "plain"]) == 0
    _merge_requests(repositories["merged"])
    server = unpack_server(folder / "server")
    log = folder / "log"
    with run_triton(
        server, list(repositories.values()), log, load=[*OWN, "small", "small_explain"], flags=["--log-verbose=1"]
    ) as running:
        yield Served(running, server / "environment", repositories, tuple(_photos(folder)))


@pytest.fixture(autouse=True)
def show_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """The server's words beside a failed test."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before and "served" in request.fixturenames:
        served: Served = request.getfixturevalue("served")
        sys.stdout.write(served.server.log_text()[-8000:])


def _merge_requests(repository: Path) -> None:
    """What --device gpu writes, on the CPU that is there; waiting long enough for requests to meet."""
    for path in repository.glob("*/config.pbtxt"):
        text = path.read_text().replace('string_value: "false"', 'string_value: "true"')
        path.write_text(text.replace("max_queue_delay_microseconds: 0", "max_queue_delay_microseconds: 200000"))


def _photos(folder: Path) -> Iterator[Path]:
    for name in ("coffee.png", "chelsea.png", "astronaut.png", "rocket.jpg"):
        path = folder / f"{Path(name).stem}.jpg"
        Image.open(PHOTOS / name).convert("RGB").save(path, quality=92)
        yield path


def tensor(name: str, array: Array) -> http.InferInput:
    kinds = {"uint8": "UINT8", "int64": "INT64", "object": "BYTES"}
    made = http.InferInput(name, list(array.shape), kinds[array.dtype.name])
    made.set_data_from_numpy(array)
    return made


def ask(client: http.InferenceServerClient, model: str, arrays: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    wanted = [http.InferRequestedOutput(name) for name in outputs]
    answer = client.infer(model, [tensor(name, array) for name, array in arrays.items()], outputs=wanted)
    return {name: answer.as_numpy(name) for name in outputs}


def pixels_of(bundle: Bundle, photos: Sequence[Path]) -> Array:
    return np.stack([load_pixels(photo, bundle.manifest.image) for photo in photos])


def files_of(photos: Sequence[Path]) -> Array:
    return np.array([[photo.read_bytes()] for photo in photos], np.object_)


@pytest.mark.parametrize("rows", [1, 3])
def test_predict_equals_the_graph_to_the_bit(served: Served, lite0: Bundle, rows: int) -> None:
    pixels = pixels_of(lite0, served.photos[:rows])
    with OrtSession(lite0.file("fp32/predict.onnx"), threads=1) as session:
        expected = session.run({"image": pixels})["logits"]
    with served.client() as client:
        assert np.array_equal(ask(client, "lite0", {"image": pixels}, ["logits"])["logits"], expected)


@pytest.mark.parametrize("classes", [[-1], [-1, 285, 0]])
def test_explain_equals_the_graph_to_the_bit(served: Served, lite0: Bundle, classes: list[int]) -> None:
    pixels, indices = pixels_of(lite0, served.photos[: len(classes)]), np.array(classes, np.int64)
    with OrtSession(lite0.file("fp32/explain.onnx"), threads=1) as session:
        expected = session.run({"image": pixels, "class_index": indices})
    with served.client() as client:
        found = ask(client, "lite0_explain", {"image": pixels, "class_index": indices[:, None]}, list(expected))
    assert found.pop("explained_class").ravel().tolist() == expected.pop("explained_class").tolist()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def test_pipeline_equals_predict_and_explain_on_the_same_files(served: Served, lite0: Bundle, tmp_path: Path) -> None:
    predicted = served.deploykit("predict", lite0.path, *served.photos, "--json", "--batch", "1", "--threads", "1")
    served.deploykit("explain", lite0.path, *served.photos, "-o", tmp_path, "--npz", "--batch", "1", "--threads", "1")
    outputs = ["labels", "class_indices", "probabilities", "explained_label", "explained_probability", "map", "has_evidence", "cam",
               "logits", "box", "photo_size"]  # fmt: skip
    with served.client() as client:
        for photo, line in zip(served.photos, predicted.splitlines(), strict=True):
            found = ask(client, "lite0_pipeline", {"image_bytes": files_of([photo])}, outputs)
            predictions = json.loads(line)["predictions"]
            assert [label.decode() for label in found["labels"][0]] == [p["label"] for p in predictions]
            assert found["class_indices"][0].tolist() == [p["class_index"] for p in predictions]
            # JSON holds float32 as the float64 of the same value.
            assert found["probabilities"][0].tolist() == [p["probability"] for p in predictions]
            assert found["logits"][0][found["class_indices"][0]].tolist() == [p["logit"] for p in predictions]
            with np.load(tmp_path / f"{photo.stem}.npz") as explained:
                for name in ("map", "cam", "box", "photo_size"):
                    assert np.array_equal(found[name][0], explained[name]), name
                assert found["explained_label"][0, 0].decode() == explained["label"]
                assert found["explained_probability"][0, 0] == explained["probability"]
                assert found["has_evidence"][0, 0] == explained["has_evidence"]


def test_pipeline_of_a_bundle_that_explains_nothing_names_classes(served: Served) -> None:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), (250, 250, 250)).save(file, "PNG")
    with served.client() as client:
        client.load_model("plain_pipeline")
        found = ask(client, "plain_pipeline", {"image_bytes": np.array([[file.getvalue()]], np.object_)}, ["labels", "photo_size"])
    assert found["labels"].tolist() == [[b"bright", b"dark", b"neither"]]
    assert found["photo_size"].tolist() == [[50, 40]]


@pytest.mark.parametrize("output", ["labels", "map", "logits", "cam", "explained_class", "box"])
def test_pipeline_gives_any_output_alone(served: Served, output: str) -> None:
    arrays = {"image_bytes": files_of(served.photos[:1])}
    with served.client() as client:
        everything = client.infer("lite0_pipeline", [tensor("image_bytes", arrays["image_bytes"])])
        assert np.array_equal(ask(client, "lite0_pipeline", arrays, [output])[output], everything.as_numpy(output))


def test_pipeline_explains_the_class_that_is_asked_for(served: Served, lite0: Bundle, tmp_path: Path) -> None:
    served.deploykit("explain", lite0.path, served.photos[0], "-o", tmp_path, "--npz", "--class", "504", "--threads", "1")
    arrays = {"image_bytes": files_of(served.photos[:1]), "class_index": np.array([[504]], np.int64)}
    with served.client() as client:
        found = ask(client, "lite0_pipeline", arrays, ["map", "explained_class", "explained_label"])
    with np.load(tmp_path / "coffee.npz") as explained:
        assert np.array_equal(found["map"][0], explained["map"])
        assert (found["explained_class"][0, 0], found["explained_label"][0, 0].decode()) == (504, explained["label"])


def test_sixteen_clients_with_mixed_batches_get_what_each_would_get_alone(served: Served, lite0: Bundle) -> None:
    pixels = pixels_of(lite0, served.photos)
    batches = [[(client + i) % 4 for i in range(1 + client % 3)] for client in range(16)]
    with OrtSession(lite0.file("fp32/explain.onnx"), threads=1) as session:
        expected = {
            tuple(rows): session.run({"image": pixels[rows], "class_index": np.full(len(rows), -1)}, ["logits", "cam"])
            for rows in batches
        }

    def work(rows: list[int]) -> bool:
        alone = expected[tuple(rows)]
        with served.client() as client:
            by_pixels = ask(client, "lite0", {"image": pixels[rows]}, ["logits"])
            by_files = ask(
                client, "lite0_pipeline", {"image_bytes": files_of([served.photos[row] for row in rows])}, ["logits", "cam"]
            )
        return (
            np.array_equal(by_pixels["logits"], alone["logits"])
            and np.array_equal(by_files["logits"], alone["logits"])
            and np.array_equal(by_files["cam"], alone["cam"])
        )

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, batches)) == [True] * 16


def test_requests_that_are_merged_come_apart_again(served: Served, small: Bundle) -> None:
    pixels = pixels_of(small, served.photos)
    with OrtSession(small.file("fp32/explain.onnx"), threads=1) as session:
        expected = session.run({"image": pixels, "class_index": np.array([-1, 1, 2, 3])}, ["logits", "explained_class"])

    def work(row: int) -> tuple[bool, int]:
        arrays = {"image": pixels[[row]], "class_index": np.array([[-1 if row == 0 else row]], np.int64)}
        with served.client() as client:
            found = ask(client, "merged_explain", arrays, ["logits", "explained_class"])
        # One batch of four computes other last digits than four of one.
        close = np.allclose(found["logits"][0], expected["logits"][row], rtol=1e-5, atol=1e-6 * np.abs(expected["logits"]).max())
        return close, int(found["explained_class"][0, 0])

    with served.client() as client:
        client.load_model("merged_explain")
        try:
            (warmed_up,) = client.get_inference_statistics("merged_explain")["model_stats"]
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(work, range(4)))
            (statistics,) = client.get_inference_statistics("merged_explain")["model_stats"]
        finally:
            client.unload_model("merged_explain")
    assert answers == [(True, int(expected["explained_class"][row])) for row in range(4)]
    # Triton counts pictures as inferences and batches as executions: warm-up had batches of 1 and 4.
    assert (warmed_up["inference_count"], warmed_up["execution_count"]) == (5, 2)
    assert statistics["inference_count"] == 5 + 4
    assert statistics["execution_count"] < 2 + 4


@pytest.mark.parametrize("model", [*OWN, "small", "small_explain"])
def test_server_has_the_very_config_that_was_written(served: Served, model: str) -> None:
    written = (served.repositories[model.partition("_")[0]] / model / "config.pbtxt").read_text()
    with served.client() as client:
        assert parse_served(client.get_model_config(model)) == parse_config(written)


@pytest.mark.parametrize("model", ["lite0", "lite0_explain", "small", "small_explain"])
def test_each_graph_was_warmed_up_with_golden_pictures(served: Served, model: str) -> None:
    largest = 4 if model.startswith("small") else 8
    said = served.server.log_text()
    for batch in (1, largest):
        assert f"model '{model}' instance {model}_0_0 is running warmup sample 'golden_{batch}'" in said


def test_warm_up_files_hold_a_golden_picture(served: Served, lite0: Bundle) -> None:
    folder = served.repositories["lite0"] / "lite0_explain" / "warmup"
    assert (folder / "image").read_bytes() == lite0.golden().image[0].tobytes()
    assert (folder / "class_index").read_bytes() == np.array([-1], np.int64).tobytes()


@pytest.mark.parametrize(("model", "input_name"), [("lite0", "image"), ("lite0_pipeline", "image_bytes")])
def test_triton_names_the_classes_itself(served: Served, lite0: Bundle, model: str, input_name: str) -> None:
    arrays = {"image": pixels_of(lite0, served.photos[:1]), "image_bytes": files_of(served.photos[:1])}
    wanted = http.InferRequestedOutput("logits", class_count=1)
    with served.client() as client:
        answer = client.infer(model, [tensor(input_name, arrays[input_name])], outputs=[wanted])
    logit, index, label = answer.as_numpy("logits").ravel()[0].decode().split(":", 2)
    assert (index, label) == ("967", "espresso")
    assert float(logit) > 0


def test_a_plain_http_request_is_enough(served: Served) -> None:
    """The request that benchmarks send again and again, without a client library's time."""
    host, port = served.server.url.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(labels_request("lite0_pipeline", served.photos[0].read_bytes()))
        answer = HTTPResponse(connection)
        answer.begin()
        assert (answer.status, read_labels(answer.read())[0]) == (200, "espresso")


def test_a_bad_picture_is_named_and_costs_no_other_request(served: Served) -> None:
    whole = served.photos[0].read_bytes()
    broken = np.array([[whole], [whole[:3000]]], np.object_)
    with served.client() as client:
        with pytest.raises(InferenceServerException, match="picture 1: bytes of 3,000: cannot be decoded"):
            ask(client, "lite0_pipeline", {"image_bytes": broken}, ["labels"])
        assert (
            ask(client, "lite0_pipeline", {"image_bytes": files_of(served.photos[:1])}, ["labels"])["labels"][0, 0] == b"espresso"
        )


def test_a_class_that_does_not_exist_is_refused(served: Served) -> None:
    arrays = {"image_bytes": files_of(served.photos[:1]), "class_index": np.array([[1000]], np.int64)}
    with served.client() as client, pytest.raises(InferenceServerException, match="class_index is 1000, expected 0 to 999, or -1"):
        ask(client, "lite0_pipeline", arrays, ["map"])


def test_more_than_the_largest_batch_is_refused_by_triton(served: Served, small: Bundle) -> None:
    pixels = pixels_of(small, [*served.photos, served.photos[0]])
    with served.client() as client, pytest.raises(InferenceServerException, match="batch-size must be <= 4"):
        ask(client, "small", {"image": pixels}, ["logits"])


@pytest.mark.parametrize(("repository", "backend"), [("onnx", "onnxruntime"), ("plans", "tensorrt")])
def test_only_the_missing_backend_keeps_a_model_from_loading(served: Served, repository: str, backend: str) -> None:
    """This server has no such backend: it reads and checks the config, and stops where it looks for the library."""
    with served.client() as client:
        for model in (repository, f"{repository}_explain"):
            with pytest.raises(InferenceServerException) as caught:
                client.load_model(model)
            assert f"unable to find backend library for backend '{backend}'" in str(caught.value)


@pytest.mark.parametrize(
    ("repository", "backend", "file"), [("onnx", "onnxruntime", "model.onnx"), ("plans", "tensorrt", "model.plan")]
)
def test_all_but_the_backend_of_such_a_config_is_served(served: Served, repository: str, backend: str, file: str) -> None:
    """The same config with the Python backend behind it: its tensors, reshapes, batcher and warm-up are what Triton takes."""
    folder = served.repositories[repository] / f"{repository}_explain"
    small = served.repositories["small"] / "small_explain"
    written, python = (folder / "config.pbtxt").read_text(), (small / "config.pbtxt").read_text()
    parameters = python[python.index("parameters {") : python.index("response_cache")]
    changed = written.replace(f'"{backend}"', '"python"').replace(f'"{file}"', '"model.py"').replace("KIND_GPU", "KIND_CPU")
    start = changed.index("parameters {") if "parameters {" in changed else changed.index("response_cache")
    (folder / "config.pbtxt").write_text(changed[:start] + parameters + changed[changed.index("response_cache") :])
    for name in ("model.py", "explain.onnx"):
        shutil.copy(small / "1" / name, folder / "1")
    arrays: dict[str, Array] = {"image": np.zeros((2, 224, 224, 3), np.uint8), "class_index": np.full((2, 1), -1, np.int64)}
    with served.client() as client:
        client.load_model(folder.name)
        try:
            found = ask(client, folder.name, arrays, ["explained_class", "cam"])
        finally:
            client.unload_model(folder.name)
    assert found["explained_class"].shape == (2, 1)
    assert np.isfinite(found["cam"]).all()


def test_nothing_of_a_server_is_left_behind(served: Served, tmp_path: Path) -> None:
    server = served.environment.parent

    class StopError(Exception):
        pass

    with pytest.raises(StopError), run_triton(server, [served.repositories["small"]], tmp_path / "log", load=["small"]) as running:
        (leader,) = [pid for pid in _processes() if _is_at(pid, running.url)]
        assert len(_living(leader)) > 1
        raise StopError
    assert _living(leader) == []


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _living(leader: int) -> list[int]:
    """The processes of a group that still run."""
    return [pid for pid in _processes() if _group_of(pid) == leader and not _is_zombie(pid)]


def _is_at(pid: int, url: str) -> bool:
    try:
        return f"--http-port={url.rpartition(':')[2]}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
