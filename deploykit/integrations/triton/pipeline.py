"""The ensemble from an encoded picture to names and heat map: a Python model before the graph, one behind it, and the wiring.

    NAME_pipeline   NAME_preprocess -> NAME_explain -> NAME_postprocess      (NAME in the middle where the bundle explains nothing)

The pictures go through the very code of `deploykit predict` (model_files/), so the answers are the same to the bit where the
graph's are. One run of the explain graph gives both the answer and its reasons.

No tensor is both an output of the ensemble and another step's input. Triton (seen with 2.51) drops the steps behind outputs that a
request does not ask for, forgets that a later step reads them, and answers "unexpected deadlock". So the last step hands through
what it reads, and inside of the ensemble those tensors have names of their own.
"""

from collections.abc import Sequence
from dataclasses import replace

from deploykit.bundle import Manifest
from deploykit.errors import UsageError
from deploykit.integrations.own_folder import Content
from deploykit.integrations.triton.config import ModelConfig, ModelTensor, Step
from deploykit.integrations.triton.models import LABELS_NAME, MODEL_FILES, VERSION, Model, Serving, labels_text

_IMAGE_BYTES = ModelTensor("image_bytes", "bytes", (1,))
_CLASS_INDEX = ModelTensor("class_index", "int64", (1,), is_optional=True)
_PLACE = (ModelTensor("box", "float64", (4,)), ModelTensor("photo_size", "int64", (2,)))


def make_pipeline(name: str, graph: Model, serving: Serving, manifest: Manifest, labels: Sequence[str] | None) -> list[Model]:
    """The three models round a graph's model.

    Args:
        name: of the bundle's models.
        graph: the model in the middle: explain, or predict.
        labels: K names, or None.

    Raises:
        UsageError: the model in the middle does not batch.
    """
    if graph.config.max_batch == 0:
        raise UsageError(
            f"{graph.config.name} has a fixed batch, and a pipeline takes one picture or several", hint="--no-pipeline"
        )
    made = [
        _preprocess(f"{name}_preprocess", graph, serving, manifest),
        _postprocess(f"{name}_postprocess", graph, serving, manifest, labels),
    ]
    return [*made, _ensemble(f"{name}_pipeline", graph, made[0], made[1], labels)]


def _preprocess(name: str, graph: Model, serving: Serving, manifest: Manifest) -> Model:
    image = _tensors(graph.config.inputs)["image"]
    config = ModelConfig(
        name,
        "python",
        (_IMAGE_BYTES, _CLASS_INDEX),
        (image, ModelTensor("class_index", "int64", (1,)), *_PLACE),
        graph.config.max_batch,
        instances=serving.decoders,
        file="model.py",
        parameters=serving.python_parameters(),
    )
    return Model(config, _files("preprocess_model.py", manifest, None))


def _postprocess(name: str, graph: Model, serving: Serving, manifest: Manifest, labels: Sequence[str] | None) -> Model:
    given = _tensors(graph.config.outputs)
    top = min(serving.top, manifest.model.num_classes)
    inputs = [ModelTensor("logits", given["logits"].dtype, given["logits"].dims)]
    if "cam" in given:
        inputs += [ModelTensor("explained_class", "int64", (1,)), given["cam"]]
    outputs = [
        ModelTensor("labels", "bytes", (top,)),
        ModelTensor("class_indices", "int64", (top,)),
        ModelTensor("probabilities", "float32", (top,)),
    ]
    if "cam" in given:
        outputs += [
            ModelTensor("explained_label", "bytes", (1,)),
            ModelTensor("explained_probability", "float32", (1,)),
            ModelTensor("map", "float32", (manifest.image.height, manifest.image.width)),
            ModelTensor("has_evidence", "bool", (1,)),
        ]
    config = ModelConfig(
        name,
        "python",
        tuple(inputs),
        (*outputs, *inputs),
        graph.config.max_batch,
        file="model.py",
        parameters={"top": str(top), **serving.python_parameters()},
    )
    return Model(config, _files("postprocess_model.py", manifest, labels))


def _ensemble(name: str, graph: Model, before: Model, behind: Model, labels: Sequence[str] | None) -> Model:
    takes_class = "class_index" in _tensors(graph.config.inputs)
    asked = (_IMAGE_BYTES, _CLASS_INDEX) if takes_class else (_IMAGE_BYTES,)
    prepared = {tensor.name: f"prepared_{tensor.name}" for tensor in graph.config.inputs}
    answered = {tensor.name: f"answered_{tensor.name}" for tensor in behind.config.inputs}
    label_filename = _tensors(graph.config.outputs)["logits"].label_filename
    shown = tuple(replace(t, label_filename=label_filename) if t.name == "logits" else t for t in behind.config.outputs)
    config = ModelConfig(
        name,
        "ensemble",
        asked,
        (*shown, *_PLACE),
        graph.config.max_batch,
        steps=(
            Step(before.config.name, _same(asked), prepared | _same(_PLACE)),
            Step(graph.config.name, prepared, answered),
            Step(behind.config.name, answered, _same(behind.config.outputs)),
        ),
    )
    # Triton looks for a version folder, and object stores and git keep no empty one.
    files: dict[str, Content] = {f"{VERSION}/.keep": b""}
    if label_filename is not None and labels is not None:
        files[LABELS_NAME] = labels_text(labels)
    return Model(config, files)


def _files(code: str, manifest: Manifest, labels: Sequence[str] | None) -> dict[str, Content]:
    files: dict[str, Content] = {
        f"{VERSION}/model.py": MODEL_FILES / code,
        f"{VERSION}/manifest.json": manifest.to_text().encode(),
    }
    if labels is not None:
        files[f"{VERSION}/{LABELS_NAME}"] = labels_text(labels)
    return files


def _same(tensors: Sequence[ModelTensor]) -> dict[str, str]:
    """Tensors that have the same name in the ensemble."""
    return {tensor.name: tensor.name for tensor in tensors}


def _tensors(tensors: Sequence[ModelTensor]) -> dict[str, ModelTensor]:
    return {tensor.name: tensor for tensor in tensors}
