"""``deploykit triton`` without a server: what is written for each backend, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml  # type: ignore[import-untyped]

from deploykit.bundle import Bundle, extend_bundle, sha256_of
from deploykit.plan import BatchRange, PlanFile, PlanRecord
from deploykit.runtime import OrtSession
from deploykit.runtime.opening import TWIN_SUFFIX
from tests.conftest import Deploykit
from tests.triton_bundles import PLAN, add_plans, with_golden, without_explain
from tests.triton_config import parse_config
from tests.unit.bright_bundle import LABELS, SPEC, bright_graph, make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of three classes with names, and golden pictures."""
    return with_golden(make_bundle(tmp_path / "bright").path)


def configs(repository: Path) -> dict[str, Any]:
    return {path.parent.name: parse_config(path.read_text()) for path in sorted(repository.glob("*/config.pbtxt"))}


def files_of(repository: Path) -> set[str]:
    return {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}


def test_python_repository_holds_all_that_its_models_need(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo")
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "repo") == {
        "README.md",
        "deploykit.json",
        *(f"bright/{name}" for name in ("config.pbtxt", "labels.txt", "1/model.py", "1/predict.onnx", "warmup/image")),
        *(f"bright_explain/{name}" for name in ("config.pbtxt", "labels.txt", "1/model.py", "1/explain.onnx")),
        *(f"bright_explain/warmup/{name}" for name in ("image", "class_index")),
        *(f"bright_preprocess/{name}" for name in ("config.pbtxt", "1/model.py", "1/manifest.json")),
        *(f"bright_postprocess/{name}" for name in ("config.pbtxt", "1/model.py", "1/manifest.json", "1/labels.txt")),
        *(f"bright_pipeline/{name}" for name in ("config.pbtxt", "labels.txt", "1/.keep")),
    }
    assert (tmp_path / "repo/bright/labels.txt").read_text().splitlines() == list(LABELS)
    assert sha256_of(tmp_path / "repo/bright/1/predict.onnx") == Bundle.open(bundle).manifest.files["fp32/predict.onnx"].sha256
    assert "bright_preprocess -> bright_explain -> bright_postprocess" in done.stdout


def test_names_types_and_shapes_are_the_graphs_own(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    assert deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--max-batch", "16").returncode == 0
    explain = configs(tmp_path / "repo")["bright_explain"]
    with OrtSession(bundle / "fp32/explain.onnx") as session:
        assert [t.name for t in explain.input] == [t.name for t in session.inputs]
        assert [t.name for t in explain.output] == [t.name for t in session.outputs]
    assert {t.name: list(t.dims) for t in explain.input} == {"image": [32, 32, 3], "class_index": [1]}
    assert {t.name: list(t.dims) for t in explain.output} == {
        "logits": [3], "explained_class": [1], "activations": [2, 32, 32], "gradients": [2, 32, 32], "cam": [32, 32]
    }  # fmt: skip
    assert [t.name for t in (*explain.input, *explain.output) if t.HasField("reshape")] == ["class_index", "explained_class"]
    assert explain.max_batch_size == 16
    assert [(w.name, w.batch_size) for w in explain.model_warmup] == [("golden_1", 1), ("golden_16", 16)]


def test_a_bundle_that_explains_nothing_gets_a_pipeline_of_names(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    assert deploykit_here("triton", without_explain(bundle), "-o", tmp_path / "repo", "--top", "2").returncode == 0
    found = configs(tmp_path / "repo")
    assert list(found) == ["bright", "bright_pipeline", "bright_postprocess", "bright_preprocess"]
    assert [t.name for t in found["bright_pipeline"].input] == ["image_bytes"]
    assert {t.name: list(t.dims) for t in found["bright_pipeline"].output} == {
        "labels": [2], "class_indices": [2], "probabilities": [2], "logits": [3], "box": [4], "photo_size": [2]
    }  # fmt: skip


def test_a_graph_with_a_fixed_batch_is_served_as_it_is(tmp_path: Path, deploykit_here: Deploykit) -> None:
    graph = bright_graph(SPEC)
    for tensor in (*graph.graph.input, *graph.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    bundle = with_golden(make_bundle(tmp_path / "one", graph).path)
    refused = deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--max-batch", "8")
    assert (refused.returncode, "max batch is 8, and image uint8 [1, 32, 32, 3] has no batch axis" in refused.stderr) == (2, True)
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo")
    assert (done.returncode, "no pipeline" in done.stderr) == (0, True), done.stderr
    predict = configs(tmp_path / "repo")["one"]
    assert (predict.max_batch_size, predict.HasField("dynamic_batching")) == (0, False)
    assert [list(t.dims) for t in (*predict.input, *predict.output)] == [[1, 32, 32, 3], [1, 3]]
    (warmup,) = predict.model_warmup
    assert (warmup.batch_size, list(warmup.inputs["image"].dims)) == (0, [1, 32, 32, 3])
    assert (tmp_path / "repo/one/warmup/image").stat().st_size == 32 * 32 * 3


def test_onnx_models_are_one_graph_each_under_tritons_name(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    options = ("--backend", "onnxruntime", "--no-pipeline", "--instances", "3", "--threads", "2", "--queue-delay", "700")
    assert deploykit_here("triton", bundle, "-o", tmp_path / "repo", *options).returncode == 0
    found = configs(tmp_path / "repo")
    assert list(found) == ["bright", "bright_explain"]
    assert {f"{name}/1/model.onnx" for name in found} == {name for name in files_of(tmp_path / "repo") if "/1/" in name}
    predict = found["bright"]
    assert (predict.backend, predict.default_model_filename) == ("onnxruntime", "model.onnx")
    assert predict.parameters["intra_op_thread_count"].string_value == "2"
    assert (predict.instance_group[0].count, predict.instance_group[0].kind) == (3, predict.instance_group[0].KIND_CPU)
    assert list(predict.dynamic_batching.preferred_batch_size) == [8]
    assert predict.dynamic_batching.max_queue_delay_microseconds == 700


def test_a_side_file_keeps_the_name_by_which_its_graph_knows_it(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    graph = onnx.load(bundle / "fp32/predict.onnx")
    out = tmp_path / "split"
    out.mkdir()
    # The kernel alone: shapes and axes must stand inside, or ONNX Runtime cannot infer.
    onnx.external_data_helper.set_external_data(next(t for t in graph.graph.initializer if t.name == "kernel"), "predict.onnx.data")
    onnx.save(graph, out / "predict.onnx")
    assert (out / "predict.onnx.data").stat().st_size == 24
    with extend_bundle(bundle) as stage:
        for name in ("predict.onnx", "predict.onnx.data"):
            stage.add(f"fp32/{name}", out / name)
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--backend", "onnxruntime", "--no-pipeline")
    assert done.returncode == 0, done.stderr
    assert {"bright/1/model.onnx", "bright/1/predict.onnx.data"} <= files_of(tmp_path / "repo")


def test_int8_takes_the_twin_on_a_cpu_and_tensorrts_shape_on_a_gpu(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    predict = (bundle / "fp32/predict.onnx").read_bytes()
    twin = onnx.load_from_string(predict)
    twin.producer_name = "the twin"
    with extend_bundle(bundle) as stage:
        stage.add("int8/predict.onnx", predict)
        stage.add(f"int8/predict{TWIN_SUFFIX}.onnx", twin.SerializeToString())
    for device, name in (("cpu", f"predict{TWIN_SUFFIX}.onnx"), ("gpu", "predict.onnx")):
        repository = tmp_path / device
        done = deploykit_here("triton", bundle, "-o", repository, "--precision", "int8", "--device", device, "--no-pipeline")
        assert done.returncode == 0, done.stderr
        assert f"int8/{name}" in done.stdout
        config = configs(repository)["bright"]
        assert config.parameters["graph"].string_value == name
        assert config.parameters["provider"].string_value == {"cpu": "cpu", "gpu": "cuda"}[device]
        assert config.parameters["merge_requests"].string_value == {"cpu": "false", "gpu": "true"}[device]
        assert sha256_of(repository / "bright/1" / name) == Bundle.open(bundle).manifest.files[f"int8/{name}"].sha256


def test_plans_are_copied_raw_and_batched_as_their_profile_allows(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    add_plans(bundle)
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--backend", "tensorrt", "--instances", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "repo/bright/1/model.plan").read_bytes() == PLAN
    for name in ("bright", "bright_explain"):
        config = configs(tmp_path / "repo")[name]
        assert (config.backend, config.max_batch_size, config.default_model_filename) == ("tensorrt", 16, "model.plan")
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
        assert (config.instance_group[0].count, config.instance_group[0].kind) == (2, config.instance_group[0].KIND_GPU)
    readme = (tmp_path / "repo/README.md").read_text()
    assert "nvcr.io/nvidia/tritonserver:25.10-py3" in readme
    assert "TensorRT 10.13.3.9" in readme


@pytest.mark.parametrize(
    ("batch", "options", "says"),
    [
        (BatchRange(1, 4, 8), ("--max-batch", "16"), "max batch is 16, the plan takes at most 8"),
        (BatchRange(4, 4, 8), (), "takes batches of 4 to 8, and Triton passes single requests on"),
    ],
)
def test_a_plan_that_triton_would_refuse_writes_nothing(
    bundle: Path, tmp_path: Path, deploykit_here: Deploykit, batch: BatchRange, options: tuple[str, ...], says: str
) -> None:
    add_plans(bundle, batch=batch)
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--backend", "tensorrt", *options)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bright"]


@pytest.mark.parametrize(
    ("plans", "says"),
    [
        ([], "has no fp32 plans of TensorRT; it has none"),
        ([{"backend": "tensorrt-rtx"}], "Triton loads no plans of tensorrt-rtx"),
        ([{"stripped": True}], "plans without weights"),
        ([{}, {"sm": "sm90"}], "has several"),
        ([{"version": "10.14.1.48"}], "was written by tensorrt 10.13.3.9, plan.json says tensorrt 10.14.1.48"),
    ],
)
def test_plans_that_triton_cannot_load_are_refused(
    bundle: Path, tmp_path: Path, deploykit_here: Deploykit, plans: list[dict[str, Any]], says: str
) -> None:
    for changes in plans:
        add_plans(bundle, **changes)
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--backend", "tensorrt")
    assert done.returncode != 0
    assert says in done.stderr
    assert "hint:" in done.stderr or "was written by" in says
    assert not (tmp_path / "repo").exists()


def test_one_of_several_plans_is_chosen_by_its_folder(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    add_plans(bundle)
    second = add_plans(bundle, sm="sm90", batch=BatchRange(1, 1, 2))
    folder = second.folder.removeprefix("plans/")
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--backend", "tensorrt", "--plan", folder)
    assert done.returncode == 0, done.stderr
    assert configs(tmp_path / "repo")["bright"].max_batch_size == 2


def test_the_name_of_the_container_is_not_made_up(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    plan = PLAN.replace(bytes((10, 13, 3, 9)), bytes((11, 1, 0, 5)))
    record = add_plans(bundle, version="11.1.0.5")
    with extend_bundle(bundle) as stage:
        files = {
            n: PlanFile(sha256_of(plan), len(plan), f.graph, f.graph_sha256, 1.0, False, {}, {}) for n, f in record.files.items()
        }
        for name in files:
            stage.add(f"{record.folder}/{name}", plan)
        changed = PlanRecord(**{**record.__dict__, "files": files})
        stage.add(f"{record.folder}/plan.json", changed.to_text().encode())
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--backend", "tensorrt")
    assert done.returncode == 0, done.stderr
    readme = (tmp_path / "repo/README.md").read_text()
    assert "deploykit does not know which release has TensorRT 11.1.0.5" in readme
    assert "dpkg-query -W 'libnvinfer1*'" in readme
    assert "support-matrix" in readme


def test_a_damaged_graph_is_refused(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    (bundle / "fp32/explain.onnx").unlink()
    shutil.copy(bundle / "fp32/predict.onnx", bundle / "fp32/explain.onnx")
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo")
    assert (done.returncode, "explain.onnx is not what the manifest says" in done.stderr) == (1, True)
    assert not (tmp_path / "repo").exists()


def test_random_weights_are_served_only_on_request(small: Bundle, tmp_path: Path, deploykit_here: Deploykit) -> None:
    refused = deploykit_here("triton", small.path, "-o", tmp_path / "repo")
    assert (refused.returncode, "--allow-untrained" in refused.stderr) == (2, True)
    done = deploykit_here("triton", small.path, "-o", tmp_path / "repo", "--allow-untrained")
    assert (done.returncode, "untrained" in done.stderr) == (0, True)
    assert "The weights are random" in (tmp_path / "repo/README.md").read_text()
    outputs = {t.name: t.label_filename for t in configs(tmp_path / "repo")["resnet18"].output}
    assert outputs == {"logits": ""}


def test_float_input_is_what_the_graph_takes_and_what_preprocessing_gives(tmp_path: Path, deploykit_here: Deploykit) -> None:
    bundle = with_golden(make_bundle(tmp_path / "floats", pixels=False).path)
    assert deploykit_here("triton", bundle, "-o", tmp_path / "repo").returncode == 0
    found = configs(tmp_path / "repo")
    image = found["floats"].input[0]
    assert (image.data_type, list(image.dims)) == (11, [3, 32, 32])
    assert found["floats_preprocess"].output[0] == type(found["floats_preprocess"].output[0])(
        name="image", data_type=11, dims=[3, 32, 32]
    )
    row = np.frombuffer((tmp_path / "repo/floats/warmup/image").read_bytes(), np.float32)
    # Normalized by mean and std of 0.5: from -1 to 1.
    assert (row.size, row.min() >= -1, row.max() <= 1) == (3 * 32 * 32, True, True)


def test_a_repository_is_replaced_only_where_deploykit_wrote_all_of_it(
    bundle: Path, tmp_path: Path, deploykit_here: Deploykit
) -> None:
    repository = tmp_path / "repo"
    assert deploykit_here("triton", bundle, "-o", repository, "--no-pipeline").returncode == 0
    again = deploykit_here("triton", bundle, "-o", repository)
    assert (again.returncode, "--force" in again.stderr) == (1, True)
    assert deploykit_here("triton", bundle, "-o", repository, "--force", "--name", "other").returncode == 0
    assert "other_pipeline/config.pbtxt" in files_of(repository)
    assert not any(name.startswith("bright") for name in files_of(repository))
    (repository / "mine").mkdir()
    (repository / "mine/config.pbtxt").write_text("")
    before = files_of(repository)
    refused = deploykit_here("triton", bundle, "-o", repository, "--force")
    assert (refused.returncode, "mine/config.pbtxt, which deploykit did not write" in refused.stderr) == (1, True)
    assert files_of(repository) == before


def test_a_folder_of_somebody_elses_is_left_alone(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/notes.txt").write_text("keep")
    done = deploykit_here("triton", bundle, "-o", tmp_path / "theirs", "--force")
    assert (done.returncode, "is no model repository of deploykit's" in done.stderr) == (1, True)
    assert files_of(tmp_path / "theirs") == {"notes.txt"}
    # The bundle itself is such a folder too.
    assert deploykit_here("triton", bundle, "-o", bundle, "--force").returncode == 1
    assert Bundle.open(bundle).damage() == {}


def test_manifests_for_kubernetes_say_what_the_server_needs(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    options = ("--kserve", "--kubernetes", "--device", "gpu", "--name", "My_Model")
    assert deploykit_here("triton", bundle, "-o", tmp_path / "repo", *options).returncode == 0
    service = yaml.safe_load((tmp_path / "repo/kserve.yaml").read_text())
    assert (service["apiVersion"], service["kind"], service["metadata"]["name"]) == (
        "serving.kserve.io/v1beta1", "InferenceService", "my-model"
    )  # fmt: skip
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "triton", "version": "2"}
    assert model["storageUri"] == "s3://BUCKET/PATH"
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert model["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080}
    deployment, ports = yaml.safe_load_all((tmp_path / "repo/kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["tritonserver", "--model-repository=/models", "--exit-on-error=true"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/models", "/dev/shm"}  # noqa: S108
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}
    assert ports["spec"]["selector"] == pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    assert [port["port"] for port in ports["spec"]["ports"]] == [8000, 8001, 8002]


def test_a_packed_environment_is_named_to_every_python_model(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    where = "$$TRITON_MODEL_DIRECTORY/../env.tar.gz"
    assert deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--execution-env", where).returncode == 0
    for name, config in configs(tmp_path / "repo").items():
        if config.backend == "python":
            assert config.parameters["EXECUTION_ENV_PATH"].string_value == where, name


def test_json_tells_what_clients_need(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo", "--json")
    models = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    assert list(models) == ["bright", "bright_explain", "bright_preprocess", "bright_postprocess", "bright_pipeline"]
    assert models["bright_pipeline"]["inputs"]["image_bytes"] == {"dtype": "bytes", "dims": [1]}
    assert models["bright_pipeline"]["outputs"]["map"] == {"dtype": "float32", "dims": [32, 32]}


def test_an_ensemble_tensor_is_never_both_output_and_input_of_a_step(
    bundle: Path, tmp_path: Path, deploykit_here: Deploykit
) -> None:
    """Triton drops the steps that such a tensor needs, where a request does not ask for it."""
    assert deploykit_here("triton", bundle, "-o", tmp_path / "repo").returncode == 0
    ensemble = configs(tmp_path / "repo")["bright_pipeline"]
    read = {tensor for step in ensemble.ensemble_scheduling.step for tensor in step.input_map.values()}
    assert not read & {tensor.name for tensor in ensemble.output}


def test_the_readme_names_every_model_and_a_command_that_exists(bundle: Path, tmp_path: Path, deploykit_here: Deploykit) -> None:
    assert deploykit_here("triton", bundle, "-o", tmp_path / "repo").returncode == 0
    readme = (tmp_path / "repo/README.md").read_text()
    for name in configs(tmp_path / "repo"):
        assert f"`{name}`" in readme
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    compile(code, "README.md", "exec")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--backend", "tensorrt", "--device", "cpu"), "TensorRT plans run on GPUs alone"),
        (("--plan", "x"), "--backend python runs graphs"),
        (("--name", "a b"), "model name is 'a b'"),
        (("--precision", "fp16"), "has no fp16 predict graph"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(
    bundle: Path, tmp_path: Path, deploykit_here: Deploykit, options: tuple[str, ...], says: str
) -> None:
    done = deploykit_here("triton", bundle, "-o", tmp_path / "repo", *options)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert not (tmp_path / "repo").exists()
