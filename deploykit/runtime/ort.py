"""A session over ONNX Runtime: the only place that imports it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from deploykit.errors import SessionError, UsageError
from deploykit.runtime.session import Array, TensorInfo, check_feeds, check_output_names
from deploykit.spec import ImageSpec

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}

_DTYPES = {"float": "float32", "double": "float64"}


class OrtSession:
    """A graph on ONNX Runtime; see `deploykit.runtime.session.Session`.

    Args:
        graph: a file, or a serialized graph.
        provider: a key of `PROVIDERS`. It answers, or the session is not made: where ONNX Runtime steps down to the CPU in
            silence, this is an error.
        threads: for one run; 0 lets ONNX Runtime take every core.

    Raises:
        UsageError: an unknown provider, or a negative number of threads.
        SessionError: this installation lacks the provider, the provider cannot start, or the graph does not load.
    """

    def __init__(self, graph: str | Path | bytes, *, provider: str = "cpu", threads: int = 0) -> None:
        name = _provider_name(provider)
        if threads < 0:
            raise UsageError(f"threads is {threads}, expected 0 (every core) or more")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors come as exceptions; warnings are about the graph's own shape
        try:
            session = ort.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph),
                options,
                providers=[name] if provider == "cpu" else [name, PROVIDERS["cpu"]],
            )
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise SessionError(f"{_describe(graph)} does not load in ONNX Runtime {ort.__version__}: {_reason(error)}") from error
        if name not in session.get_providers():
            raise SessionError(
                f"ONNX Runtime could not start {name} and fell back to {session.get_providers()[0]}",
                hint="check the driver and libraries with: deploykit doctor; or take --provider cpu",
            )
        self._session: Any = session
        self._backend = f"onnxruntime {ort.__version__} ({name.removesuffix('ExecutionProvider')})"
        ranges = _value_ranges(session.get_modelmeta().custom_metadata_map)
        self._inputs = tuple(_tensor_info(i, ranges.get(i.name)) for i in session.get_inputs())
        self._outputs = tuple(_tensor_info(o) for o in session.get_outputs())

    @property
    def backend(self) -> str:
        """What answers, with its version."""
        return self._backend

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that `run` takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that `run` can give."""
        return self._outputs

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; see `deploykit.runtime.session.Session.run`. ONNX Runtime lets threads run one session at the same time."""
        session = self._session
        if session is None:
            raise SessionError("the session is closed", hint="open it again")
        names = check_output_names(outputs, self._outputs)
        arrays = check_feeds(feeds, self._inputs)
        try:
            return dict(zip(names, session.run(names, arrays), strict=True))
        except Exception as error:  # see __init__
            raise SessionError(f"{self._backend} failed: {_reason(error)}") from error

    def close(self) -> None:
        """Let go of the session; its memory is freed when the last run has ended."""
        self._session = None

    def __enter__(self) -> "OrtSession":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def available_providers() -> list[str]:
    """Keys of `PROVIDERS` that this ONNX Runtime was built with; whether they start is another matter."""
    here = ort.get_available_providers()
    return [key for key, name in PROVIDERS.items() if name in here]


def _provider_name(provider: str) -> str:
    if provider not in PROVIDERS:
        raise UsageError(f"provider is {provider!r}, expected one of {', '.join(PROVIDERS)}")
    if provider not in available_providers():
        raise SessionError(
            f"this ONNX Runtime ({ort.__version__}) has no {provider} provider; it has {', '.join(available_providers())}",
            hint="for CUDA and TensorRT: pip uninstall onnxruntime && pip install 'deploykit[gpu]'",
        )
    return PROVIDERS[provider]


def _tensor_info(tensor: Any, value_range: tuple[float, float] | None = None) -> TensorInfo:
    dtype = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(d if d is not None else "?" for d in tensor.shape)
    return TensorInfo(tensor.name, _DTYPES.get(dtype, dtype), shape, value_range)


def _value_ranges(metadata: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """What normalized pixels can be, for a graph that says it takes them (`deploykit.graph.metadata`)."""
    if metadata.get("deploykit.input") != "float":
        return {}
    spec = ImageSpec.from_json(json.loads(metadata["deploykit.image"]))
    return {"image": spec.normalized_range}


def _describe(graph: str | Path | bytes) -> str:
    return f"a graph of {len(graph):,} bytes" if isinstance(graph, bytes) else str(graph)


def _reason(error: Exception) -> str:
    """The first line of ONNX Runtime's message; the others are its own call stack."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
