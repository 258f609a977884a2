"""README.md of a repository: what is in it, which container starts it, how to ask it, and what to know about its answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploykit import __version__
from deploykit.bundle import Manifest
from deploykit.integrations.triton.config import ModelConfig, ModelTensor
from deploykit.integrations.triton.containers import AS_OF, SUPPORT_MATRIX, find_container
from deploykit.integrations.triton.models import Model, Serving
from deploykit.plan import PlanRecord


@dataclass(frozen=True)
class Facts:
    """What the page tells beside the models.

    Args:
        bundle: the bundle's name. manifest, serving: see their types.
        graphs: the bundle's graphs or plans that answer.
        plan: of plans, their record.
    """

    bundle: str
    manifest: Manifest
    serving: Serving
    graphs: Sequence[str]
    plan: PlanRecord | None = None


def write_readme(facts: Facts, models: Sequence[Model]) -> str:
    """The page."""
    has_python = any(model.config.backend == "python" for model in models)
    parts = [_opening(facts, models), _start(facts, has_python)]
    if has_python:
        parts.append(_python(facts))
    parts += [_ask(models), _notes(facts)]
    return "\n".join(parts)


def _opening(facts: Facts, models: Sequence[Model]) -> str:
    weights = facts.manifest.weights
    untrained = "" if weights.trained else "\n**The weights are random: the answers mean nothing.**\n"
    rows = "\n".join(
        f"| `{m.config.name}` | {_backend(m.config)} | {_tensors(m.config.inputs)} | {_tensors(m.config.outputs)} |" for m in models
    )
    graphs = ", ".join(f"`{graph}`" for graph in facts.graphs)
    return f"""# {facts.bundle} on Triton

Written by deploykit {__version__} from {graphs} of a bundle of {facts.manifest.model.name}
({weights.source}). Nothing outside of this folder is needed.
{untrained}
| model | runs on | inputs | outputs |
| --- | --- | --- | --- |
{rows}

{_shapes(models[0].config)}
"""


def _shapes(config: ModelConfig) -> str:
    if config.max_batch == 0:
        return "Shapes are whole, with the batch that the graph fixes: nothing is batched."
    return f"Shapes are per picture. Every request has a batch axis in front of them, of 1 to {config.max_batch}."


def _start(facts: Facts, has_python: bool) -> str:
    container = find_container(facts.plan.version if facts.plan else None)
    gpu = "--gpus all " if facts.serving.device == "gpu" else ""
    image = "triton-deploykit" if has_python else container.image
    built = ""
    if facts.plan is not None:
        gpu_name = facts.plan.gpu.name if facts.plan.gpu else facts.plan.sm
        built = f"""
The plans were built with TensorRT {facts.plan.version} for {gpu_name} ({facts.plan.sm}) and load on nothing else.
"""
    certainty = (
        ""
        if container.is_certain
        else f"""
Whatever release is taken, ask it before it is trusted (a plan of another TensorRT does not load):

    docker run --rm {container.image} dpkg-query -W 'libnvinfer1*'
"""
    )
    return f"""## Start

Container: `{container.image}`: {container.why}
(as of {AS_OF}; NVIDIA's own table: {SUPPORT_MATRIX}).
{built}{certainty}
    docker run --rm {gpu}--shm-size=1g -p 8000:8000 -p 8001:8001 -p 8002:8002 \\
        -v "$PWD:/models:ro" {image} tritonserver --model-repository=/models{_flags(facts)}

The server is ready when every model has answered its warm-up, which is a golden picture of the bundle.
"""


def _flags(facts: Facts) -> str:
    if facts.plan is None:
        return ""
    flags = " \\\n        --backend-config=tensorrt,version-compatible=true" if facts.plan.version_compatible else ""
    libraries = ";".join(f"/plugins/{name}" for name in facts.plan.plugins)
    return flags + (f" \\\n        '--backend-config=tensorrt,plugins={libraries}'" if libraries else "")


def _python(facts: Facts) -> str:
    extra = "gpu" if facts.serving.backend == "python" and facts.serving.device == "gpu" else "cpu"
    image = find_container(facts.plan.version if facts.plan else None).image
    return f"""## The Python models need deploykit

They run on deploykit's runtime: neither torch nor onnx, about 100 MB. Either it is in the image's own Python,

    printf "FROM {image}\\nRUN pip install --no-cache-dir 'deploykit[{extra}]=={__version__}'\\n" \\
        | docker build -t triton-deploykit -

or it travels as a packed environment, whose Python must be the server's, 3.12:

    conda create -y -p env python=3.12 && env/bin/pip install 'deploykit[{extra}]=={__version__}'
    conda run conda-pack -p env -o env.tar.gz
    deploykit triton BUNDLE -o REPO --execution-env /path/in/the/container/env.tar.gz

They talk to the server through shared memory: leave `--shm-size` (Kubernetes: the volume at /dev/shm) as it is, or larger.
"""


def _ask(models: Sequence[Model]) -> str:
    names = [model.config.name for model in models]
    pipeline = [name for name in names if name.endswith("_pipeline")]
    with_explain = next((m.config for m in models if "class_index" in {t.name for t in m.config.inputs}), None)
    text = "## Ask\n\n    pip install 'tritonclient[http]'\n"
    if pipeline:
        text += f"""
```python
import numpy, tritonclient.http as http

client = http.InferenceServerClient("localhost:8000")
picture = http.InferInput("image_bytes", [1, 1], "BYTES")
picture.set_data_from_numpy(numpy.array([[open("photo.jpg", "rb").read()]], dtype=object))
answer = client.infer("{pipeline[0]}", [picture])
print([label.decode() for label in answer.as_numpy("labels")[0]], answer.as_numpy("probabilities")[0])
```
"""
    else:
        text += f"\nSend `{names[0]}` pictures of the network's size, as `deploykit.image.load_pixels` makes them.\n"
    if with_explain is not None:
        text += "\n`class_index` [N, 1] says what to explain: a class, or -1 for each picture's own likeliest.\n"
    return text + f"Add `class_count` to a requested output `logits` of `{names[0]}`, and Triton names the classes itself.\n"


def _notes(facts: Facts) -> str:
    serving = facts.serving
    notes = [
        "- In `map`, 1 is a picture's strongest evidence; `box` says which part of the upright photo it lies on, in photo pixels.",
        "- Answers equal those of `deploykit predict` and `deploykit explain` to the bit"
        + (
            " where the same ONNX Runtime computes the same batch on the same kind of processor."
            if serving.backend == "python"
            else "\n  only with `--backend python`; here another runtime computes, and the last digits differ."
        ),
    ]
    if not serving.merges_requests:
        notes.append(
            "- On a CPU each request is a run of its own: batches are no faster there, and no answer depends on its neighbours."
        )
    if serving.backend != "python":
        notes.append(
            "- Requests that arrive together become one batch, so the last digits of an answer may depend on its neighbours."
        )
    return "## Notes\n\n" + "\n".join(notes) + "\n"


def _backend(config: ModelConfig) -> str:
    if config.backend == "ensemble":
        return " → ".join(step.model for step in config.steps)
    return f"{config.backend}, {config.instances} x {config.device.upper()}"


def _tensors(tensors: Sequence[ModelTensor]) -> str:
    return "<br>".join(f"`{t.name}` {t.dtype} {list(t.dims)}{' (optional)' if t.is_optional else ''}" for t in tensors)
