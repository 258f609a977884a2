"""The ensemble from an encoded picture to names and heat map: a Python model before the graph, one behind it, and the wiring.

    NAME_pipeline   NAME_preprocess -> NAME_explain -> NAME_postprocess      (NAME in the middle where the bundle explains nothing)

The pictures go through the very code of `deploykit predict` (model_files/), so the answers are the same to the bit where the
graph's are. One run of the explain graph gives both the answer and its reasons.
"""

from collections.abc import Sequence

from deploykit.bundle import Manifest
from deploykit.errors import UsageError
from deploykit.integrations.triton.config import ModelConfig, ModelTensor, Step
from deploykit.integrations.triton.models import LABELS_NAME, MODEL_FILES, VERSION, Content, Model, Serving, labels_text

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
    outputs = [
        ModelTensor("labels", "bytes", (top,)),
        ModelTensor("class_indices", "int64", (top,)),
        ModelTensor("probabilities", "float32", (top,)),
    ]
    if "cam" in given:
        inputs += [ModelTensor("explained_class", "int64", (1,)), given["cam"]]
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
        tuple(outputs),
        graph.config.max_batch,
        file="model.py",
        parameters={"top": str(top), **serving.python_parameters()},
    )
    return Model(config, _files("postprocess_model.py", manifest, labels))


def _ensemble(name: str, graph: Model, before: Model, behind: Model, labels: Sequence[str] | None) -> Model:
    given = _tensors(graph.config.outputs)
    passed = [tensor.name for tensor in behind.config.inputs]
    takes_class = "class_index" in _tensors(graph.config.inputs)
    middle = {"image": "image", "class_index": "explained_request"} if takes_class else {"image": "image"}
    from_before = {"image": "image", "box": "box", "photo_size": "photo_size"}
    if takes_class:
        from_before["class_index"] = "explained_request"
    asked = (_IMAGE_BYTES, _CLASS_INDEX) if takes_class else (_IMAGE_BYTES,)
    shown = tuple(ModelTensor(n, given[n].dtype, given[n].dims, label_filename=given[n].label_filename) for n in passed)
    config = ModelConfig(
        name,
        "ensemble",
        asked,
        (*behind.config.outputs, *shown, *_PLACE),
        graph.config.max_batch,
        steps=(
            Step(before.config.name, {tensor.name: tensor.name for tensor in asked}, from_before),
            Step(graph.config.name, middle, {n: n for n in passed}),
            Step(behind.config.name, {n: n for n in passed}, {tensor.name: tensor.name for tensor in behind.config.outputs}),
        ),
    )
    # Triton looks for a version folder, and object stores and git keep no empty one.
    files: dict[str, Content] = {f"{VERSION}/.keep": b""}
    if any(tensor.label_filename for tensor in shown) and labels is not None:
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


def _tensors(tensors: Sequence[ModelTensor]) -> dict[str, ModelTensor]:
    return {tensor.name: tensor for tensor in tensors}
