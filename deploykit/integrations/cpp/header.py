"""NAME.h: everything that a bundle says of its model, as constants of C++17.

In: the manifest's values, digests of graphs and records of plans. Out: the header's text. The types stand in
template/include/deploykit/model.h, the tensors' names in ARCHITECTURE.md ("The graphs: fixed tensor names").
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit import __version__
from deploykit.bundle import Manifest
from deploykit.integrations.cpp.names import string_view
from deploykit.parity import MAP_TOLERANCES, TOLERANCES, WORST_MAP_TOLERANCES
from deploykit.plan import PlanRecord
from deploykit.spec import ImageSpec, Precision

_LINE = 120


@dataclass(frozen=True)
class GraphFacts:
    """A graph by its path in the bundle.

    Args:
        file: such as ``fp16/predict.onnx``.
        sha256: of the graph and its side file, as plan.json has it.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class PlanFolder:
    """Plans on disk with their record."""

    path: Path
    record: PlanRecord

    @property
    def name(self) -> str:
        """Of the folder in the project, such as ``tensorrt-rtx-1.7.1.116-sm86-fp16-b1-8-32``."""
        return self.record.folder.removeprefix("plans/")


@dataclass(frozen=True)
class ModelFacts:
    """What the header is made of.

    Args:
        manifest, precision, labels: of the bundle.
        predict, explain: the graphs at that precision; explain is None where the bundle explains nothing.
        plans: of that precision.
        manifest_sha256, golden_sha256: of the files that stand in the project.
    """

    manifest: Manifest
    precision: Precision
    labels: Sequence[str] | None
    predict: GraphFacts
    explain: GraphFacts | None
    plans: Sequence[PlanFolder]
    manifest_sha256: str
    golden_sha256: str


def header_text(facts: ModelFacts, namespace: str) -> str:
    """The header of a model, whose constants stand in a namespace such as ``deploykit::models::resnet18``."""
    guard = f"DEPLOYKIT_GENERATED_{namespace.replace('::', '_').upper()}_H"
    manifest = facts.manifest
    name = string_view(manifest.model.name)  # a name that ends in a backslash would continue the comment
    trained = "" if manifest.weights.trained else "\n// UNTRAINED: its weights are random and its answers mean nothing.\n//"
    parts = [
        f"// {name} in {facts.precision}, written by deploykit {__version__} (deploykit cpp). Not to be edited.\n//{trained}\n"
        f"// Includes nothing but deploykit/model.h; every value is a constant.\n"
        f'#ifndef {guard}\n#define {guard}\n\n#include <array>\n#include <string_view>\n\n#include "deploykit/model.h"\n\n'
        f"namespace {namespace} {{\n",
        _labels(facts.labels),
        _image(manifest.image),
        _tensors(facts),
        _graphs(facts),
        _plans(facts),
        _model(facts),
        f"}}  // namespace {namespace}\n\n#endif\n",
    ]
    return "\n".join(part for part in parts if part)


def _constant(kind: str, name: str, value: str) -> str:
    return f"inline constexpr {kind} {name}{value};"


def _array(kind: str, name: str, values: Iterable[str]) -> str:
    """An array constant; the outer braces of a std::array of aggregates need a second pair."""
    values = list(values)
    line = _constant(f"std::array<{kind}, {len(values)}>", name, "{{" + ", ".join(values) + "}}")
    if len(line) <= _LINE:
        return line
    return _constant(f"std::array<{kind}, {len(values)}>", name, "{{\n" + "".join(f"    {value},\n" for value in values) + "}}")


def _labels(labels: Sequence[str] | None) -> str:
    if labels is None:
        return ""
    # An element that is braced itself would be taken for the array's own initializer.
    return (
        _array("std::string_view", "labels", (f"std::string_view{v}" if v[0] == "{" else v for v in map(string_view, labels)))
        + "\n"
    )


def _image(spec: ImageSpec) -> str:
    def numbers(values: Sequence[float]) -> str:
        return "{{" + ", ".join(repr(float(value)) for value in values) + "}}"

    return (
        _constant(
            "::deploykit::ImageSpec",
            "image",
            "{\n"
            f"    {spec.height}, {spec.width},  // height, width\n"
            f"    ::deploykit::ResizeRule::{spec.resize_rule}, {spec.resize_size or 0},\n"
            f"    ::deploykit::Interpolation::{spec.interpolation},\n"
            f"    {numbers(spec.mean)},  // mean\n"
            f"    {numbers(spec.std)},  // std\n"
            f"    ::deploykit::ColourOrder::{spec.colour_order},\n}}",
        )
        + "\n"
    )


def _tensor(name: str, kind: str, *row: int) -> str:
    shape = ", ".join(map(str, (-1, *row)))
    return f"{{{string_view(name)}, ::deploykit::DataType::{kind}, {len(row) + 1}, {{{{{shape}}}}}}}"


def _tensors(facts: ModelFacts) -> str:
    spec, model = facts.manifest.image, facts.manifest.model
    image = ("uint8", spec.height, spec.width, 3) if facts.manifest.input == "pixels" else ("float32", 3, spec.height, spec.width)
    kind = "::deploykit::Tensor"
    lines = [
        _constant(kind, "image_tensor", _tensor("image", image[0], *image[1:])),
        _constant(kind, "logits_tensor", _tensor("logits", "float32", model.num_classes)),
    ]
    if facts.explain is not None:
        lines.append(_constant(kind, "class_index_tensor", _tensor("class_index", "int64")))
        lines.append(_constant(kind, "explained_class_tensor", _tensor("explained_class", "int64")))
        layers = []
        for number, layer in enumerate(facts.manifest.layers, 1):
            suffix = f"_{number}" if number > 1 else ""
            size = (layer.channels, layer.height, layer.width)
            tensors = [_tensor(f"{name}{suffix}", "float32", *size) for name in ("activations", "gradients")]
            tensors.append(_tensor(f"cam{suffix}", "float32", *size[1:]))
            layers.append(f"{{{string_view(layer.name)}, {', '.join(tensors)}}}")
        lines.append(_array("::deploykit::Layer", "layers", layers))
    return "\n".join(lines) + "\n"


def _graphs(facts: ModelFacts) -> str:
    tensor = "::deploykit::Tensor"
    lines = [
        _array(tensor, "predict_inputs", ["image_tensor"]),
        _array(tensor, "predict_outputs", ["logits_tensor"]),
        _graph("predict", facts.predict),
    ]
    if facts.explain is not None:
        outputs = ["logits_tensor", "explained_class_tensor"]
        for number in range(len(facts.manifest.layers)):
            outputs += [f"layers[{number}].{name}" for name in ("activations", "gradients", "cam")]
        lines += [
            _array(tensor, "explain_inputs", ["image_tensor", "class_index_tensor"]),
            _array(tensor, "explain_outputs", outputs),
            _graph("explain", facts.explain),
        ]
    return "\n".join(lines) + "\n"


def _graph(name: str, graph: GraphFacts) -> str:
    value = f"{{{string_view(graph.file)}, {string_view(graph.sha256)}, {name}_inputs, {name}_outputs}}"
    return _constant("::deploykit::Graph", name, value)


def _plans(facts: ModelFacts) -> str:
    lines, plans = [], []
    for number, folder in enumerate(facts.plans):
        record, batch = folder.record, folder.record.batch
        files = [
            f"{{{string_view(name)}, {string_view(file.sha256)}, {file.size_bytes}, "
            f"{string_view(file.graph)}, {string_view(file.graph_sha256)}}}"
            for name, file in record.files.items()
        ]
        lines.append(_array("::deploykit::PlanFile", f"plan_files_{number}", files))
        plugins = "{}"
        if record.plugins:
            plugins = f"plugins_{number}"
            lines.append(_array("std::string_view", plugins, map(string_view, record.plugins)))
        flags = ", ".join(str(flag).lower() for flag in (record.version_compatible, record.stripped))
        texts = (
            folder.name,
            record.backend,
            record.version,
            record.sm,
            record.gpu.name if record.gpu else "",
            str(record.precision),
        )
        plans.append(
            f"{{{', '.join(map(string_view, texts))},\n     {{{batch.min}, {batch.opt}, {batch.max}}}, "
            f"{string_view(record.compat)}, {flags}, {plugins}, plan_files_{number}}}"
        )
    if not plans:
        return ""
    return "\n".join([*lines, _array("::deploykit::PlanFacts", "plans", plans)]) + "\n"


def _model(facts: ModelFacts) -> str:
    manifest, precision = facts.manifest, facts.precision
    tolerances = (TOLERANCES[precision], MAP_TOLERANCES[precision], WORST_MAP_TOLERANCES[precision])
    values = [
        (string_view(manifest.model.name), "name"),
        (string_view(manifest.weights.source), "weights"),
        (str(manifest.weights.trained).lower(), "trained"),
        (string_view(str(precision)), "precision"),
        ("image", "image"),
        (str(manifest.input == "pixels").lower(), "pixel_input"),
        (str(manifest.model.num_classes), "num_classes"),
        ("labels" if facts.labels is not None else "{}", "labels"),
        ("predict", "predict"),
        ("explain" if facts.explain is not None else "{}", "explain"),
        ("layers" if facts.explain is not None else "{}", "layers"),
        ("plans" if facts.plans else "{}", "plans"),
        (string_view(facts.manifest_sha256), "manifest_sha256"),
        (string_view(facts.golden_sha256), "golden_sha256"),
        ("{" + ", ".join(repr(float(value)) for value in tolerances) + "}", "tolerances"),
    ]
    body = "".join(f"    {value},{f'  // {name}' if value != name else ''}\n" for value, name in values)
    return _constant("::deploykit::Model", "model", "{\n" + body + "}") + "\n"
