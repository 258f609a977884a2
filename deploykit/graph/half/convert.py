"""The typed FP16 graph. In: a float32 graph, the ranges of its tensors. Out: the graph, and what stayed in float32 and why.

Strongly typed builders take precision from the graph alone (TensorRT 10's STRONGLY_TYPED, the only way in TensorRT 11), so each
tensor has one type here: that of the node that makes it. Where a reader needs the other type it reads a cast, made once for all
readers. Names of tensors, nodes and modules stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploykit.graph.half.keep import (
    MOVERS,
    OPSET_OF_HALF_SCALES,
    QUANTIZERS,
    READ_ANY,
    HalfReport,
    Kept,
    KeptNode,
    affine_of,
    decide_kept,
    node_label,
)
from deploykit.graph.half.ranges import LARGEST, TensorRange, module_of
from deploykit.graph.layers import read_by
from deploykit.graph.tensors import Tensors, describe_tensors, tensor_names
from deploykit.graph.versions import opset_of


@dataclass(frozen=True, eq=False)
class HalfGraph:
    """A typed FP16 graph and its report."""

    graph: ModelProto
    report: HalfReport


def convert_to_half(graph: ModelProto, ranges: Mapping[str, TensorRange], *, keep: Sequence[str] = ()) -> HalfGraph:
    """Make the FP16 form of a float32 graph; its inputs and outputs keep their types.

    A graph with Q/DQ pairs can be converted too. From opset 19 on scales become float16 where they fit; at opset 18, where Q and DQ
    know float32 alone, whatever stands beside a pair stays in float32, so that no cast comes between a layer and its pair.

    Args:
        graph: at any opset from 13 on.
        ranges: from `measure_ranges`. Empty judges weights alone.
        keep: names of nodes, tensors or torch modules to keep in float32.

    Raises:
        UsageError: ``keep`` names nothing in the graph.
        GraphError: shapes or types cannot be inferred, or there is no input ``image``.
    """
    tensors = describe_tensors(graph)
    kept = decide_kept(graph, tensors, ranges, keep, opset_of(graph))
    writer = _Writer(graph, tensors, kept)
    return HalfGraph(*writer.write())


class _Writer:
    """Collects the nodes of the new graph in order, each cast before its first reader."""

    def __init__(self, graph: ModelProto, tensors: Tensors, kept: Kept) -> None:
        self._source, self._tensors, self._kept = graph, tensors, kept
        self._names = tensor_names(graph)
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._copies: dict[tuple[str, int], str] = {}
        self._half = {name for name, kind in tensors.types.items() if kind == TensorProto.FLOAT16}
        self._outputs = {o.name for o in graph.graph.output}
        self._casts = self._half_nodes = 0
        self._listed: list[KeptNode] = []

    def write(self) -> tuple[ModelProto, HalfReport]:
        for i, node in enumerate(self._source.graph.node):
            if self._is_half(i, node):
                self._add_half(node)
            else:
                self._add_float(i, node)
        model = self._assemble()
        half_weights, float_weights = (_numbers(model, kind) for kind in (TensorProto.FLOAT16, TensorProto.FLOAT))
        report = HalfReport(
            self._kept.problems,
            tuple(self._listed),
            self._half_nodes,
            self._casts,
            half_weights,
            float_weights,
        )
        return model, report

    def _is_half(self, number: int, node: NodeProto) -> bool:
        if number in self._kept.reasons or node.op_type in READ_ANY - QUANTIZERS:
            return False
        if not any(self._is_float(name) for name in (*node.input, *node.output)):
            return False
        if node.op_type in QUANTIZERS:
            return opset_of(self._source) >= OPSET_OF_HALF_SCALES and self._is_float(node.input[1])
        # A node without a float input makes constants; one that only moves values does so in the type it gets.
        if node.op_type in MOVERS:
            return node.input[0] in self._half
        return any(self._is_float(name) or name in self._half for name in node.input)

    def _is_float(self, name: str) -> bool:
        return self._tensors.types.get(name) == TensorProto.FLOAT

    def _add_half(self, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "BatchNormalization":
            self._fold_statistics(node, copy)
        for i, name in enumerate(copy.input):
            # Resize takes its region and its scales in float32 whatever it resizes.
            if name and self._is_float(name) and not (node.op_type == "Resize" and i in {1, 2}):
                copy.input[i] = self._as_half(name, node)
        behind: list[NodeProto] = []
        for i, name in enumerate(node.output):
            if not name or not self._is_float(name):
                continue
            if name in self._outputs:
                copy.output[i] = self._copies[name, TensorProto.FLOAT16] = self._free(f"{name}_float16")
                behind.append(self._cast(copy.output[i], name, TensorProto.FLOAT))
            else:
                self._half.add(name)
        self._half_nodes += 1
        self._nodes += [copy, *behind]

    def _add_float(self, number: int, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        reads_any = node.op_type in READ_ANY - QUANTIZERS
        for i, name in enumerate(copy.input):
            if name in self._half and self._is_float(name) and not reads_any:
                copy.input[i] = self._as_float(name)
        if (reason := self._kept.reasons.get(number)) and node.op_type not in MOVERS | READ_ANY:
            self._listed.append(KeptNode(node_label(node), node.op_type, module_of(node), reason))
        self._nodes.append(copy)

    def _as_half(self, name: str, reader: NodeProto) -> str:
        """The FP16 form of a float32 tensor: itself where it is made so, a stored constant, or a cast."""
        if name in self._half:
            return name
        if (name, TensorProto.FLOAT16) in self._copies:
            return self._copies[name, TensorProto.FLOAT16]
        maker = self._tensors.producers.get(name)
        if maker is not None and maker.op_type == "Cast" and maker.input[0] in self._half:
            return maker.input[0]  # it was FP16 before
        copy = self._copies[name, TensorProto.FLOAT16] = self._free(f"{name}_float16")
        if name in self._tensors.constants:
            value = np.asarray(self._tensors.constant(name))
            if reader.op_type in {"Clip", "Pad"}:
                value = np.where(np.isinf(value), value, np.clip(value, -LARGEST, LARGEST))
            self._constants[copy] = numpy_helper.from_array(np.asarray(value, np.float16), copy)
        else:
            self._nodes.append(self._cast(name, copy, TensorProto.FLOAT16))
        return copy

    def _as_float(self, name: str) -> str:
        if (name, TensorProto.FLOAT) not in self._copies:
            copy = self._copies[name, TensorProto.FLOAT] = self._free(f"{name}_float32")
            self._nodes.append(self._cast(name, copy, TensorProto.FLOAT))
        return self._copies[name, TensorProto.FLOAT]

    def _cast(self, source: str, target: str, to: int) -> NodeProto:
        self._casts += 1
        return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=to)

    def _free(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def _fold_statistics(self, node: NodeProto, copy: NodeProto) -> None:
        """x * slope + shift with mean 0 and variance 1: one rounding instead of four, and no variance that vanishes in FP16."""
        slope, shift = affine_of(node, self._tensors)
        zero, one = np.zeros_like(slope), np.ones_like(slope)
        for i, (word, array) in enumerate((("slope", slope), ("shift", shift), ("mean", zero), ("variance", one)), start=1):
            name = self._free(f"{node.input[i]}_{word}")
            self._constants[name] = numpy_helper.from_array(array.astype(np.float16), name)
            copy.input[i] = name
        kept = [a for a in copy.attribute if a.name != "epsilon"]
        del copy.attribute[:]
        copy.attribute.extend([*kept, helper.make_attribute("epsilon", 0.0)])

    def _assemble(self) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(_without_body(self._source))
        body = model.graph
        nodes = _needed(self._nodes, self._outputs)
        renamed = self._take_names(nodes)
        body.node.extend(nodes)
        read = {name for node in nodes for name in read_by(node)} | self._outputs
        body.initializer.extend(t for t in self._source.graph.initializer if t.name in read and t.name not in renamed)
        for name, tensor in self._constants.items():
            final = renamed.get(name, name)
            if final in read or name in read:
                tensor.name = final
                body.initializer.append(tensor)
        # Some exporters list the weights there too.
        half = self._half | {t.name for t in body.initializer if t.data_type == TensorProto.FLOAT16}
        for info in self._source.graph.value_info:
            body.value_info.append(info)
            if info.name in half and self._is_float(info.name):
                body.value_info[-1].type.tensor_type.elem_type = TensorProto.FLOAT16
        return model

    def _take_names(self, nodes: list[NodeProto]) -> dict[str, str]:
        """Give FP16 constants the names of the float32 ones that nobody reads any more; in place. Returns both ways' pairs."""
        read = {name for node in nodes for name in read_by(node)}
        pairs = {
            copy: name
            for (name, kind), copy in self._copies.items()
            if kind == TensorProto.FLOAT16 and copy in self._constants and name not in read
        }
        for node in nodes:
            for i, name in enumerate(node.input):
                if name in pairs:
                    node.input[i] = pairs[name]
        # The float32 tensor's own name is in it too, so that it is dropped.
        return {**pairs, **{name: name for name in pairs.values()}}


def _numbers(model: ModelProto, kind: int) -> int:
    """How many numbers of a type a graph stores."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == kind)


def _without_body(graph: ModelProto) -> ModelProto:
    """The frame of a model: versions, functions, metadata, inputs and outputs."""
    frame = ModelProto(ir_version=graph.ir_version, producer_name=graph.producer_name, producer_version=graph.producer_version)
    frame.opset_import.extend(graph.opset_import)
    frame.functions.extend(graph.functions)
    frame.metadata_props.extend(graph.metadata_props)
    frame.graph.name = graph.graph.name
    frame.graph.input.extend(graph.graph.input)
    frame.graph.output.extend(graph.graph.output)
    return frame


def _needed(nodes: Sequence[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes that lead to an output: a cast that was passed by, or a Constant that was stored anew, does not."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(read_by(node))
    return found[::-1]
