"""Nodes are called after the modules they came from."""

import torch
from torch import Tensor, nn

from deploykit.graph.scopes import name_nodes
from deploykit.models.export import export_graph
from deploykit.spec import ImageSpec

_SPEC = ImageSpec(32, 32, 32)


class _Block(nn.Module):
    """A convolution whose normalization is folded into it, and one rectifier that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.relu(self.relu(self.norm(self.conv(x))) - 1))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_Block())
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.stem(x).mean((2, 3))))


def test_a_node_is_called_after_its_module_and_a_folded_one_after_the_module_whose_weight_it_reads() -> None:
    torch.manual_seed(0)
    graph = export_graph(_Net(), _SPEC)
    assert [n.name for n in graph.graph.node if not n.name.startswith("pixels/")] == [
        "stem.0.conv/Conv",
        "stem.0.relu/Relu",
        "stem.0/Sub",
        "stem.0.relu/Relu_2",
        "ReduceMean",
        "head/Gemm",
    ]


def test_naming_nodes_again_changes_nothing() -> None:
    torch.manual_seed(0)
    graph = export_graph(_Net(), _SPEC, input_kind="float")
    before = graph.SerializeToString()
    name_nodes(graph)
    assert graph.SerializeToString() == before
