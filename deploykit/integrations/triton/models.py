"""A graph or plan of a bundle as one model of a Triton repository: its config and the files of its folder.

In: the file with its tensors as it describes them, and how it is to be served. Out: a `Model`; nothing is written yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Golden, Manifest
from deploykit.errors import UsageError
from deploykit.image import normalize
from deploykit.integrations.own_folder import Content
from deploykit.integrations.triton.batching import GraphTensor, check_against, find_max_batch, model_tensor
from deploykit.integrations.triton.config import Batcher, ModelConfig, ModelTensor, Warmup
from deploykit.plan import BatchRange

BACKENDS = ("python", "onnxruntime", "tensorrt")
MODEL_FILES = Path(__file__).parent / "model_files"
"""What becomes model.py: code for Triton's process, which is why no module here imports it."""

LABELS_NAME = "labels.txt"
VERSION = "1"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Serving:
    """How the models are to be served.

    Args:
        backend: one of `BACKENDS`. device: ``cpu`` or ``gpu``.
        instances: of each graph's model. decoders: instances that decode pictures for the pipeline.
        threads: of ONNX Runtime for one run; 0 takes all cores.
        max_batch: see `find_max_batch`. delay_us: see `Batcher`.
        top: how many classes the pipeline names.
        execution_env: where the Python models find a packed environment; None where the server's own Python has deploykit.
    """

    backend: str
    device: str
    instances: int = 1
    decoders: int = 2
    threads: int = 0
    max_batch: int | None = None
    delay_us: int = 1000
    top: int = 5
    execution_env: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError(f"backend is {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        if self.backend == "tensorrt" and self.device == "cpu":
            raise UsageError("TensorRT plans run on GPUs alone", hint="leave --device out, or take --backend onnxruntime")
        if min(self.instances, self.decoders, self.top) < 1 or min(self.threads, self.delay_us) < 0:
            raise UsageError(f"{self}: instances, decoders and top are 1 or more, threads and delay 0 or more")

    @property
    def merges_requests(self) -> bool:
        """Whether requests become one batch. On a CPU model.py answers each by itself: see model_files/graph_model.py."""
        return not (self.backend == "python" and self.device == "cpu")

    def python_parameters(self) -> dict[str, str]:
        """What every Python model is told."""
        return {} if self.execution_env is None else {"EXECUTION_ENV_PATH": self.execution_env}


@dataclass(frozen=True)
class GraphSource:
    """One graph or plan of a bundle.

    Args:
        graph: the name in the bundle of the graph that answers, such as ``int8/predict_cpu.onnx``.
        files: what stands in the version folder, by the names that the files have there; the model itself comes first.
        inputs, outputs: as the file describes them.
        profile: of a plan.
    """

    graph: str
    files: Mapping[str, Path]
    inputs: Sequence[GraphTensor]
    outputs: Sequence[GraphTensor]
    profile: BatchRange | None = None


@dataclass(frozen=True)
class Model:
    """A model's config, and the files of its folder beside config.pbtxt by their path in it."""

    config: ModelConfig
    files: Mapping[str, Content]


def make_model(
    name: str, source: GraphSource, serving: Serving, manifest: Manifest, golden: Golden, labels: Sequence[str] | None
) -> Model:
    """The model of one graph or plan.

    Args:
        golden: its pictures warm the model up.
        labels: K names, or None.

    Raises:
        UsageError: what Triton would refuse.
    """
    max_batch = find_max_batch(source.inputs, source.outputs, serving.max_batch, source.profile)
    has_labels = labels is not None and manifest.model.task == "classification"
    inputs = tuple(model_tensor(tensor, max_batch) for tensor in source.inputs)
    outputs = tuple(
        model_tensor(tensor, max_batch, LABELS_NAME if has_labels and tensor.name == "logits" else None)
        for tensor in source.outputs
    )
    file = next(iter(source.files))
    rows = warm_rows(inputs, max_batch, manifest, golden)
    config = ModelConfig(
        name,
        serving.backend,
        inputs,
        outputs,
        max_batch,
        serving.device,
        serving.instances,
        file="model.py" if serving.backend == "python" else file,
        batcher=_batcher(serving, max_batch, source.profile),
        warmups=_warmups(rows, max_batch),
        parameters=_parameters(serving, file),
    )
    check_against(config, source.inputs, source.outputs)
    files: dict[str, Content] = {f"{VERSION}/{target}": path for target, path in source.files.items()}
    if serving.backend == "python":
        files[f"{VERSION}/model.py"] = MODEL_FILES / "graph_model.py"
    if has_labels and labels is not None:
        files[LABELS_NAME] = labels_text(labels)
    return Model(config, files | {f"warmup/{tensor}": row.tobytes() for tensor, row in rows.items()})


def labels_text(labels: Sequence[str]) -> bytes:
    """One name per line: the bundle's format, and Triton's."""
    return "".join(f"{label}\n" for label in labels).encode()


def warm_rows(inputs: Sequence[ModelTensor], max_batch: int, manifest: Manifest, golden: Golden) -> dict[str, Array]:
    """For each input the values of a request: the first golden picture, to be explained for its own likeliest class. One row; where
    the batch is fixed, as many.
    """
    image = golden.image[:1]
    arrays = {
        "image": normalize(image, manifest.image) if manifest.input == "float" else image,
        "class_index": np.array([-1], np.int64),
    }
    rows = 1 if max_batch else {tensor.name: tensor.dims for tensor in inputs}["image"][0]
    return {tensor.name: np.repeat(arrays[tensor.name], rows, 0) for tensor in inputs}


def _batcher(serving: Serving, max_batch: int, profile: BatchRange | None) -> Batcher | None:
    if max_batch < 2:
        return None
    if not serving.merges_requests:
        # What waits is handed over together, which saves Triton a step each; there is nothing to wait for.
        return Batcher((max_batch,))
    best = max_batch if profile is None else min(profile.opt, max_batch)
    return Batcher(tuple(sorted({best, max_batch})), serving.delay_us)


def _warmups(rows: Mapping[str, Array], max_batch: int) -> tuple[Warmup, ...]:
    """A run of one picture and, where there is a batch, one of the largest, which allocates all that the model ever needs."""
    dims = {name: (row.shape[1:] or (1,)) if max_batch else row.shape for name, row in rows.items()}
    return tuple(Warmup(f"golden_{batch or 'fixed'}", batch, dims) for batch in sorted({min(1, max_batch), max_batch}))


def _parameters(serving: Serving, file: str) -> dict[str, str]:
    if serving.backend == "python":
        return {
            "graph": file,
            "provider": "cpu" if serving.device == "cpu" else "cuda",
            "threads": str(serving.threads),
            "merge_requests": str(serving.merges_requests).lower(),
            **serving.python_parameters(),
        }
    return {"intra_op_thread_count": str(serving.threads)} if serving.backend == "onnxruntime" and serving.threads else {}
