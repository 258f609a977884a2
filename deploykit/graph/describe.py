"""What a graph says about itself, so that a file found without its bundle can still be used rightly.

``metadata_props`` name the model, the digest of its labels, the image spec, the kind of input, and whether the weights are trained.
Of the exporter's own notes only the module path of each node stays (``pkg.torch.onnx.name_scopes``): layers are found by it. The
rest has paths of the machine that exported.
"""

import json
from collections.abc import Mapping

import onnx

from deploykit import __version__
from deploykit.errors import GraphError
from deploykit.spec import ImageSpec

NAME_SCOPES = "pkg.torch.onnx.name_scopes"

_RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


def describe_graph(
    graph: onnx.ModelProto, *, model: str, image: ImageSpec, input_kind: str, labels_sha256: str | None, trained: bool = True
) -> None:
    """Write what a graph is into its ``metadata_props``, in place, replacing what deploykit wrote there before."""
    entries = {
        "deploykit.model": model,
        "deploykit.image": json.dumps(image.to_json()),
        "deploykit.input": input_kind,
        "deploykit.labels_sha256": labels_sha256 or "",
        "deploykit.trained": str(trained).lower(),
    }
    kept = {p.key: p.value for p in graph.metadata_props if p.key not in entries}
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {**kept, **entries})
    graph.producer_name, graph.producer_version = "deploykit", __version__


def description_of(graph: onnx.ModelProto) -> Mapping[str, str]:
    """The entries of `describe_graph` and whatever else stands beside them."""
    return {p.key: p.value for p in graph.metadata_props}


def strip_exporter_notes(graph: onnx.ModelProto) -> None:
    """Remove the exporter's notes from nodes and values, in place, all but the module paths."""
    del graph.metadata_props[:]
    for node in graph.graph.node:
        kept = [p for p in node.metadata_props if p.key == NAME_SCOPES]
        for note in list(node.metadata_props):
            if note not in kept:
                node.metadata_props.remove(note)
        node.ClearField("doc_string")
    for value in [*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer]:
        value.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")


def check_deterministic(graph: onnx.ModelProto) -> None:
    """Refuse a graph that answers the same picture differently each time.

    Raises:
        GraphError: random numbers, live dropout, or batch normalization in training mode; the node is named.
    """
    constants = {t.name: t for t in graph.graph.initializer}
    for node in graph.graph.node:
        live_dropout = node.op_type == "Dropout" and len(node.input) > 2 and not _is_false(constants.get(node.input[2]))
        training = any(a.name == "training_mode" and a.i for a in node.attribute)
        if node.op_type in _RANDOM_OPERATORS or live_dropout or training:
            raise GraphError(
                f"node {node.name} ({node.op_type}) makes the answers random or depends on the batch",
                hint="the model forces training behaviour in forward(); switch it by self.training instead",
            )


def _is_false(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and not onnx.numpy_helper.to_array(tensor).any()
