"""``deploykit triton``: a bundle as a model repository of NVIDIA's Triton Inference Server."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from deploykit.bundle import Bundle, Manifest
from deploykit.cli import console
from deploykit.cli.options import bundle_argument, warn_if_untrained
from deploykit.cli.triton_sources import Sources, find_graphs, find_plans
from deploykit.errors import UsageError
from deploykit.integrations.triton import (
    BACKENDS,
    Facts,
    Model,
    Serving,
    check_against,
    check_model_name,
    check_place,
    find_container,
    make_model,
    make_pipeline,
    write_readme,
    write_repository,
)
from deploykit.integrations.triton.kubernetes import IMAGE, Replica, kserve_manifest, kubernetes_manifests
from deploykit.runtime.ort import OrtSession
from deploykit.spec import Precision


@dataclass(frozen=True)
class Wishes:
    """What is written beside the graphs' models."""

    name: str
    has_pipeline: bool
    has_kserve: bool
    has_kubernetes: bool


@click.command(name="triton")
@bundle_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="REPO", help="Where the repository goes.")
@click.option("--backend", type=click.Choice(BACKENDS), default=BACKENDS[0], show_default=True,
              help="What runs the graphs: deploykit's runtime, Triton's ONNX Runtime, or plans of deploykit build.")  # fmt: skip
@click.option("--precision", type=click.Choice([str(p) for p in Precision]), default=str(Precision.FP32), show_default=True)
@click.option("--device", type=click.Choice(["cpu", "gpu"]), help="Where they run. [default: gpu for tensorrt, otherwise cpu]")
@click.option("--plan", metavar="FOLDER", help="Which of several plans, by its name below plans/.")
@click.option("--name", help="Of the models: NAME, NAME_explain, NAME_pipeline. [default: the bundle's]")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="Of each graph, side by side.")
@click.option("--decoders", type=click.IntRange(1), default=2, show_default=True, help="Instances that decode pictures.")
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True,
              help="Of ONNX Runtime per instance; 0 takes all cores.")  # fmt: skip
@click.option("--max-batch", type=click.IntRange(1), metavar="N", help="Largest batch. [default: the plan's; 8 of a graph]")
@click.option("--queue-delay", type=click.IntRange(0), default=1000, show_default=True, metavar="MICROSECONDS",
              help="How long a request waits for others to share a batch with.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes the pipeline names.")
@click.option("--pipeline/--no-pipeline", default=True, help="Add the ensemble from an encoded picture to names and map.")
@click.option("--execution-env", metavar="PATH", help="Packed environment for the Python models, as the server sees it.")
@click.option("--kserve", is_flag=True, help="Add kserve.yaml, an InferenceService.")
@click.option("--kubernetes", is_flag=True, help="Add kubernetes.yaml, a Deployment and its Service.")
@click.option("--allow-untrained", is_flag=True, help="Serve random weights, to try it out.")
@click.option("--force", is_flag=True, help="Replace the repository that deploykit wrote there.")
@click.option("--json", "as_json", is_flag=True, help="Print the models with their tensors as JSON.")
def command(bundle: Path, output: Path, precision: str, plan: str | None, name: str | None, **options: Any) -> None:
    """Write a model repository for Triton Inference Server.

    NAME predicts, NAME_explain explains, and NAME_pipeline takes encoded pictures to labels, probabilities and heat maps. Each
    model has a config.pbtxt that fits its file, and is warmed up with the bundle's golden pictures. README.md in REPO says which
    container to start and how.
    """
    opened = Bundle.open(bundle)
    wishes = Wishes(name or opened.path.resolve().name, options["pipeline"], options["kserve"], options["kubernetes"])
    check_model_name(wishes.name)
    check_place(output, replace=options["force"])
    _check_trained(opened.manifest, allowed=options["allow_untrained"])
    serving = _serving(options)
    if plan is not None and serving.backend != "tensorrt":
        raise UsageError(f"--plan is {plan}, and --backend {serving.backend} runs graphs", hint="take --backend tensorrt")
    with console.progress(f"writing {output}", total=None):
        sources = (
            find_plans(opened, Precision(precision), plan)
            if serving.backend == "tensorrt"
            else find_graphs(opened, Precision(precision), serving.backend, serving.device)
        )
        models = _models(opened, sources, serving, wishes)
        beside = _beside(opened, sources, serving, wishes, models)
        check = partial(_check_written, models)
        write_repository(output, models, beside, check, made_from=_origin(opened, sources), replace=options["force"])
    warn_if_untrained(opened)
    console.result(_as_json(output, models) if options["as_json"] else _as_text(output, sources, models))


def _check_trained(manifest: Manifest, *, allowed: bool) -> None:
    if not (manifest.weights.trained or allowed):
        raise UsageError(
            f"the weights are {manifest.weights.source}: untrained, and their answers mean nothing",
            hint="to try it out nevertheless: --allow-untrained",
        )


def _serving(options: dict[str, Any]) -> Serving:
    backend = options["backend"]
    return Serving(
        backend,
        options["device"] or ("gpu" if backend == "tensorrt" else "cpu"),
        instances=options["instances"],
        decoders=options["decoders"],
        threads=options["threads"],
        max_batch=options["max_batch"],
        delay_us=options["queue_delay"],
        top=options["top"],
        execution_env=options["execution_env"],
    )


def _models(bundle: Bundle, sources: Sources, serving: Serving, wishes: Wishes) -> list[Model]:
    """The models of the graphs, and round the last of them the pipeline."""
    manifest, labels, golden = bundle.manifest, bundle.labels(), bundle.golden()
    names = {"predict": wishes.name, "explain": f"{wishes.name}_explain"}
    models = [make_model(names[g], source, serving, manifest, golden, labels) for g, source in sources.graphs.items()]
    if wishes.has_pipeline and manifest.model.task != "classification":
        console.note(f"no pipeline: it names classes of whole pictures, and {bundle.path} holds a {manifest.model.task} model")
    elif wishes.has_pipeline and models[-1].config.max_batch == 0:
        console.note(f"no pipeline: it takes any number of pictures, and {models[-1].config.name} one batch size alone")
    elif wishes.has_pipeline:
        models += make_pipeline(wishes.name, models[-1], serving, manifest, labels)
    return models


def _beside(bundle: Bundle, sources: Sources, serving: Serving, wishes: Wishes, models: list[Model]) -> dict[str, bytes]:
    facts = Facts(wishes.name, bundle.manifest, serving, [source.graph for source in sources.graphs.values()], sources.plan)
    beside = {"README.md": write_readme(facts, models)}
    has_python = any(model.config.backend == "python" for model in models)
    image = IMAGE if has_python else find_container(sources.plan.version if sources.plan else None).image
    replica = Replica(wishes.name, image, serving.device == "gpu")
    if wishes.has_kserve:
        beside["kserve.yaml"] = kserve_manifest(replica)
    if wishes.has_kubernetes:
        beside["kubernetes.yaml"] = kubernetes_manifests(replica)
    return {name: text.encode() for name, text in beside.items()}


def _origin(bundle: Bundle, sources: Sources) -> dict[str, str]:
    """What the repository was made from, by name, with the digests."""
    return {source.graph: bundle.manifest.files[source.graph].sha256 for source in sources.graphs.values()}


def _check_written(models: list[Model], folder: Path) -> None:
    """Open each graph as it stands in the finished folder, and hold its config against it once more."""
    for model in models:
        for path in sorted((folder / model.config.name).glob("*/*.onnx")):
            with OrtSession(path, threads=1) as session:
                check_against(model.config, session.inputs, session.outputs)


def _as_text(output: Path, sources: Sources, models: list[Model]) -> str:
    graphs = {model.config.name: source.graph for model, source in zip(models, sources.graphs.values(), strict=False)}
    width = max(len(model.config.name) for model in models)
    lines = [f"{output}"]
    for model in models:
        config = model.config
        what = " -> ".join(step.model for step in config.steps) or f"{config.backend}, {config.instances} x {config.device}"
        batch = f"batches to {config.max_batch}" if config.max_batch else "no batches"
        lines.append(f"  {config.name:<{width}}  {', '.join(filter(None, [what, batch, graphs.get(config.name)]))}")
    container = find_container(sources.plan.version if sources.plan else None)
    lines.append(f"  {'container':<{width}}  {container.image}{'' if container.is_certain else ', which is for you to find out'}")
    return "\n".join([*lines, f"how to start it: {output / 'README.md'}"])


def _as_json(output: Path, models: list[Model]) -> str:
    rows = [
        {
            "name": model.config.name,
            "backend": model.config.backend,
            "max_batch_size": model.config.max_batch,
            "inputs": {t.name: {"dtype": t.dtype, "dims": t.dims} for t in model.config.inputs},
            "outputs": {t.name: {"dtype": t.dtype, "dims": t.dims} for t in model.config.outputs},
        }
        for model in models
    ]
    return json.dumps({"repository": str(output), "models": rows}, indent=2)
