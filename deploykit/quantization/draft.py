"""A graph while it is rewritten: nodes in order, constants by name, and nothing that nobody reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper


@dataclass
class Draft:
    """A graph in the making: nodes in order, constants by name."""

    nodes: list[NodeProto]
    constants: dict[str, TensorProto]
    outputs: frozenset[str]

    @classmethod
    def of(cls, model: ModelProto) -> "Draft":
        graph = model.graph
        return cls(list(graph.node), {t.name: t for t in graph.initializer}, frozenset(o.name for o in graph.output))

    def producers(self) -> dict[str, NodeProto]:
        return {name: node for node in self.nodes for name in node.output}

    def consumers(self) -> dict[str, list[NodeProto]]:
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    def readers(self, name: str) -> list[NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def constant(self, name: str, value: npt.ArrayLike, dtype: type) -> str:
        """Add a constant, once."""
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def value(self, name: str) -> npt.NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])

    def rewrite(self, change: Callable[[NodeProto], list[NodeProto]]) -> None:
        """Put what ``change`` gives in each node's place."""
        self.nodes = [new for node in self.nodes for new in change(node)]
        self._drop_unread()

    def _drop_unread(self) -> set[str]:
        """Drop the nodes whose outputs nobody reads; gives the names that are read."""
        read, alive = set(self.outputs), []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                alive.append(node)
                read.update(node.input)
        self.nodes = alive[::-1]
        return read

    def write(self, model: ModelProto) -> None:
        """Give a model these nodes, and the constants that they read."""
        read = self._drop_unread()
        copies = [NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        constants = [TensorProto.FromString(t.SerializeToString()) for name, t in self.constants.items() if name in read]
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(copies)
        model.graph.initializer.extend(constants)
