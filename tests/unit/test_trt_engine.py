"""The wrapper of a loaded plan, on a stand-in for TensorRT's Python objects; and what is asked before a plan gets that far."""

import hashlib
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploykit.errors import EngineError, SessionError
from deploykit.plan import BatchRange, PlanFile, PlanRecord
from deploykit.runtime import trt as runtime
from deploykit.spec import Precision
from deploykit.trt import Flavour
from deploykit.trt.engine import PlanTensor, load_engine
from tests.recording_device import GPU, RecordingDevice
from tests.recording_engine import RecordingEngine

DataType = Enum("DataType", ["FLOAT", "UINT8", "INT64", "BF16"])
TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
TensorFormat = Enum("TensorFormat", ["LINEAR", "CHW4"])
CudaGraphStrategy = Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])


class FakeTensorRT:
    """TensorRT's module with one engine in it, and every refusal that can be asked for by name."""

    DataType, TensorIOMode, TensorLocation, TensorFormat = DataType, TensorIOMode, TensorLocation, TensorFormat
    CudaGraphStrategy, ExecutionContextAllocationStrategy = CudaGraphStrategy, Enum("Strategy", ["STATIC", "USER_MANAGED"])

    class ILogger:
        pass

    def __init__(self, **tensors: tuple[Any, ...]) -> None:
        self.tensors = tensors or {
            "image": (DataType.UINT8, (-1, 8, 8, 3), TensorIOMode.INPUT),
            "class_index": (DataType.INT64, (-1,), TensorIOMode.INPUT),
            "logits": (DataType.FLOAT, (-1, 5), TensorIOMode.OUTPUT),
        }
        self.ranges: dict[str, tuple[int, int, int]] = {}
        self.sides: dict[str, tuple[int, int, int]] = {}
        self.refuses: set[str] = set()
        self.placed: dict[str, Any] = {}
        self.calls: list[Any] = []
        self.log: Any = None
        self.runtime = SimpleNamespace(deserialize_cuda_engine=self._deserialize)
        self.config = SimpleNamespace(set_execution_context_allocation_strategy=lambda s: self.calls.append(s.name))

    def Runtime(self, log: Any) -> Any:  # noqa: N802 TensorRT's name
        self.log = log
        return self.runtime

    def _deserialize(self, plan: bytes) -> Any:
        if "deserialize" in self.refuses:
            self.log.log(SimpleNamespace(name="ERROR"), "IRuntime::deserialize: Error Code 1: the plan is of another world")
            return None
        names = list(self.tensors)
        return SimpleNamespace(
            num_io_tensors=len(names),
            device_memory_size_v2=4096,
            get_tensor_name=lambda i: names[i],
            get_tensor_dtype=lambda n: self.tensors[n][0],
            get_tensor_shape=lambda n: self.tensors[n][1],
            get_tensor_mode=lambda n: self.tensors[n][2],
            get_tensor_location=lambda n: self.placed.get(n, TensorLocation.DEVICE),
            get_tensor_format=lambda n: self.placed.get(f"{n} format", TensorFormat.LINEAR),
            get_tensor_profile_shape=self._get_profile,
            create_runtime_config=lambda: self.config,
            create_execution_context=self._make_context,
        )

    def _get_profile(self, name: str, profile: int) -> list[tuple[int, ...]]:
        """Least, best and greatest: the first dimension is a batch, other dynamic ones are sides."""
        assert profile == 0
        ends = zip(self.ranges.get(name, (1, 4, 8)), self.sides.get(name, (8, 64, 96)), strict=True)
        batch, *row = self.tensors[name][1]
        return [(size if batch < 0 else batch, *(side if d < 0 else d for d in row)) for size, side in ends]

    def _make_context(self, config: Any) -> Any:
        if "context" in self.refuses:
            self.log.log(SimpleNamespace(name="ERROR"), "out of memory")
            return None
        return SimpleNamespace(
            set_device_memory=lambda address, size: self.calls.append(("memory", address, size)),
            set_input_shape=lambda name, shape: self._say("shape", name, shape),
            set_tensor_address=lambda name, address: self._say("address", name, address),
            execute_async_v3=lambda stream: self._say("enqueue", stream),
        )

    def _say(self, *call: Any) -> bool:
        if call[0] in self.refuses:
            self.log.log(SimpleNamespace(name="ERROR"), f"it does not like the {call[0]}")
            return False
        self.calls.append(call)
        return True


Api = Any


@pytest.fixture
def api() -> FakeTensorRT:
    return FakeTensorRT()


def flavour(api: Api, **options: Any) -> Flavour:
    return Flavour("tensorrt", "11.4.0.106", api, **options)


def test_an_engine_describes_its_tensors_batch_and_memory(api: FakeTensorRT) -> None:
    engine = load_engine(flavour(api), b"plan")
    assert engine.tensors == (
        PlanTensor("image", True, "uint8", (8, 8, 3)),
        PlanTensor("class_index", True, "int64", ()),
        PlanTensor("logits", False, "float32", (5,)),
    )
    assert (engine.batch, engine.scratch_bytes, engine.name) == (BatchRange(1, 4, 8), 4096, "tensorrt 11.4.0.106")
    assert not hasattr(api.runtime, "engine_host_code_allowed")


def test_a_fixed_batch_is_a_range_of_one_size() -> None:
    api = FakeTensorRT(image=(DataType.FLOAT, (2, 3), TensorIOMode.INPUT), logits=(DataType.FLOAT, (2, 5), TensorIOMode.OUTPUT))
    assert load_engine(flavour(api), b"plan").batch == BatchRange(2, 2, 2)


def test_an_input_that_differs_in_size_has_the_sizes_of_the_plans_profile() -> None:
    image, logits = (DataType.UINT8, (1, -1, -1, 3), TensorIOMode.INPUT), (DataType.FLOAT, (1, 5), TensorIOMode.OUTPUT)
    engine = load_engine(flavour(FakeTensorRT(image=image, logits=logits)), b"plan")
    assert engine.batch == BatchRange(1, 1, 1)
    assert engine.tensors == (
        PlanTensor("image", True, "uint8", (96, 96, 3), (8, 8, 3)),
        PlanTensor("logits", False, "float32", (5,)),
    )
    assert [t.varies for t in engine.tensors] == [True, False]
    assert engine.tensors[0].row_bytes == 96 * 96 * 3


@pytest.mark.parametrize(
    ("is_input", "least"), [(False, (8, 8, 3)), (True, (97, 8, 3)), (True, (8, 8)), (True, (0, 8, 3)), (True, (-1, -1, 3))]
)
def test_sizes_that_no_input_can_have_are_refused(is_input: bool, least: tuple[int, ...]) -> None:
    with pytest.raises(
        EngineError, match=r"put image has rows of \[.*\] to \[96, 96, 3\], expected those of an input, from small to large"
    ):
        PlanTensor("image", is_input, "uint8", (96, 96, 3), least)


def test_code_for_the_host_is_loaded_from_version_compatible_plans_alone(api: FakeTensorRT) -> None:
    load_engine(flavour(api), b"plan", version_compatible=True)
    assert api.runtime.engine_host_code_allowed is True


def test_a_plan_that_does_not_load_is_an_error_with_the_logs_reason(api: FakeTensorRT) -> None:
    api.refuses.add("deserialize")
    with pytest.raises(EngineError, match=r"tensorrt 11\.4\.0\.106 does not load the plan: the plan is of another world"):
        load_engine(flavour(api), b"plan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda api: api.tensors.update(logits=(DataType.BF16, (-1, 5), TensorIOMode.OUTPUT)),
            "logits BF16 .* has a type that numpy",
        ),
        (
            lambda api: api.tensors.update(logits=(DataType.FLOAT, (-1, -1), TensorIOMode.OUTPUT)),
            r"logits float32 \[\?, \?\]: expected a tensor whose first dimension is the batch, and no other that is dynamic",
        ),
        (lambda api: api.tensors.update(image=(DataType.UINT8, (), TensorIOMode.INPUT)), "whose first dimension is the batch"),
        (lambda api: api.placed.update(class_index=TensorLocation.HOST), "class_index int64 .* stands in host memory"),
        (lambda api: api.placed.update({"image format": TensorFormat.CHW4}), "image uint8 .* is packed"),
        (lambda api: api.ranges.update(class_index=(1, 2, 4)), "disagree about the batch: image 1:4:8, class_index 1:2:4"),
    ],
)
def test_tensors_that_would_be_read_as_garbage_are_refused(
    api: FakeTensorRT, change: Callable[[FakeTensorRT], None], message: str
) -> None:
    change(api)
    with pytest.raises(EngineError, match=message):
        load_engine(flavour(api), b"plan")


def test_a_context_gets_its_scratch_memory_then_shapes_and_addresses_then_runs(api: FakeTensorRT) -> None:
    context = load_engine(flavour(api), b"plan").make_context(512, 4096, cuda_graphs=True)
    context.bind([("image", (2, 8, 8, 3))], [("image", 1024), ("logits", 2048)])
    context.enqueue(99)
    assert api.calls == [
        "USER_MANAGED",
        ("memory", 512, 4096),
        ("shape", "image", (2, 8, 8, 3)),
        ("address", "image", 1024),
        ("address", "logits", 2048),
        ("enqueue", 99),
    ]
    assert not hasattr(api.config, "cuda_graph_strategy")  # TensorRT has no such name


@pytest.mark.parametrize(("cuda_graphs", "strategy"), [(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")])
def test_tensorrt_rtx_is_told_whether_to_capture(api: FakeTensorRT, cuda_graphs: bool, strategy: str) -> None:
    engine = load_engine(flavour(api, captures_itself=True), b"plan")
    engine.make_context(512, 4096, cuda_graphs=cuda_graphs)
    assert engine.captures_itself
    assert api.config.cuda_graph_strategy.name == strategy


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("context", "makes no execution context: out of memory"),
        ("shape", r"does not take image \[9, 8, 8, 3\]: it does not like the shape"),
        ("address", "does not take an address for logits: it does not like the address"),
        ("enqueue", "did not start the run: it does not like the enqueue"),
    ],
)
def test_what_tensorrt_refuses_is_an_error_with_its_reason(api: FakeTensorRT, refused: str, message: str) -> None:
    api.refuses.add(refused)
    engine = load_engine(flavour(api), b"plan")
    with pytest.raises(SessionError, match=message):
        context = engine.make_context(512, 4096, cuda_graphs=True)
        context.bind([("image", (9, 8, 8, 3))], [("logits", 2048)])
        context.enqueue(99)


def test_a_closed_engine_makes_no_context(api: FakeTensorRT) -> None:
    engine = load_engine(flavour(api), b"plan")
    engine.close()
    engine.close()
    with pytest.raises(SessionError, match="the engine is closed"):
        engine.make_context(512, 4096, cuda_graphs=True)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with an A10 and TensorRT 11; what the loader was given is written down."""
    seen: dict[str, Any] = {}
    gpu = RecordingDevice()

    def load(found: Flavour, plan: bytes, *, version_compatible: bool) -> RecordingEngine:
        gpu.enter("load_engine")  # in `activate`, or the device is not there for TensorRT
        seen.update(flavour=str(found), plan=plan, version_compatible=version_compatible)
        return RecordingEngine(gpu, (), BatchRange(1, 1, 1), lambda feeds: {})

    monkeypatch.setattr(runtime, "find_gpu", lambda ordinal: GPU)
    monkeypatch.setattr(runtime, "load_flavour", lambda backend: Flavour(backend, "11.4.0.106", None))
    monkeypatch.setattr(runtime, "load_plugins", lambda found, plugins: seen.update(plugins=plugins))
    monkeypatch.setattr(runtime, "open_device", lambda ordinal: gpu)
    monkeypatch.setattr(runtime, "load_engine", load)
    return seen


def write_plan(folder: Path, data: bytes, **changes: Any) -> Path:
    file = PlanFile(hashlib.sha256(data).hexdigest(), len(data), "fp32/predict.onnx", "0" * 64, 0.1, False, {}, {})
    options = {"version": "11.4.0.106", "sm": "sm86", "gpu": GPU, **changes}
    record = PlanRecord("tensorrt", precision=Precision.FP32, batch=BatchRange(1, 1, 1), files={"predict.plan": file}, **options)
    (folder / "plan.json").write_text(record.to_text())
    (folder / "predict.plan").write_bytes(data)
    return folder / "predict.plan"


def test_a_plan_that_fits_is_loaded_with_the_device_active(machine: dict[str, Any], tmp_path: Path) -> None:
    loaded = runtime.load_plan(write_plan(tmp_path, b"ftrt and so on"), 0)
    assert machine == {"flavour": "tensorrt 11.4.0.106", "plan": b"ftrt and so on", "version_compatible": False, "plugins": ()}
    assert loaded.gpu == GPU


def test_a_version_compatible_plan_is_known_by_its_record(machine: dict[str, Any], tmp_path: Path) -> None:
    runtime.load_plan(write_plan(tmp_path, b"ftrt", version="11.2.0.1", version_compatible=True))
    assert machine["version_compatible"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sm": "sm89"}, "was built for sm89"),
        ({"version": "10.13.0.1"}, r"was built with tensorrt 10\.13\.0\.1; here is 11\.4\.0\.106"),
        ({"stripped": True}, "was built without its weights"),
        ({"plugins": ("libgradcam.so",)}, "needs the plugin library libgradcam.so; none loaded"),
    ],
)
def test_nothing_of_a_plan_that_does_not_fit_reaches_tensorrt(
    machine: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        runtime.load_plan(write_plan(tmp_path, b"ftrt", **changes))
    assert machine == {}


def test_a_plugin_that_a_plan_needs_is_loaded_before_it(machine: dict[str, Any], tmp_path: Path) -> None:
    library = tmp_path / "libgradcam.so"
    runtime.load_plan(write_plan(tmp_path, b"ftrt", plugins=("libgradcam.so",)), 0, (library,))
    assert machine["plugins"] == (library,)
