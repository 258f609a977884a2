"""Where Q/DQ pairs stand: exact places in small graphs, counts in real nets."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from deploykit.errors import GraphError, UsageError
from deploykit.quantization import placement_rules
from deploykit.quantization.placed import Edge, Placement, ScaleGroup
from deploykit.quantization.placement import place
from deploykit.quantization.placement_rules import RULES
from tests.unit.quantized_graphs import DENSE, HEAD, INCEPTION, RESIDUAL, SQUEEZE_EXCITE, graph_of, head, net, quantized


def edges(placement: Placement) -> set[tuple[str, str]]:
    """(node, tensor that it reads through a pair)."""
    return {(edge.node, edge.tensor) for edge in placement.edges}


def groups(placement: Placement) -> dict[frozenset[str], tuple[str, ...]]:
    """Tensors that share a scale -> the calibrated ones; those alone are left out."""
    return {frozenset(group.tensors): group.calibrated for group in placement.groups if len(group.tensors) > 1}


def test_the_identity_of_a_residual_addition_gets_a_pair_and_the_convolutions_own_output_does_not() -> None:
    placement = place(RESIDUAL)
    assert edges(placement) == {
        ("c", "image"), ("d", "r"), ("g", "e"), ("s", "r"), ("p", "last"), ("logits", "f"),
    }  # fmt: skip
    assert groups(placement) == {}
    assert placement.cpu_tensors == ("g",)
    assert set(placement.calibrated) == {"image", "r", "e", "last", "f", "g"}


def test_of_two_convolutions_that_are_added_the_one_that_is_computed_first_gets_the_pair() -> None:
    graph = graph_of(
        "r = Relu (image)",
        "short = Conv (r, w0)",
        "d = Conv (r, w1)",
        "long = Conv (d, w2)",
        "last = Add (long, short)",
        *HEAD,
        weights={"w0": (4, 3, 1, 1), "w1": (4, 3, 1, 1), "w2": (4, 4, 1, 1), **head(4)},
    )
    placement = place(graph)
    assert ("last", "short") in edges(placement)
    assert ("last", "long") not in edges(placement)
    assert placement.cpu_tensors == ("long",)


def test_a_concatenation_its_parts_and_what_max_pooling_passes_on_share_one_scale() -> None:
    placement = place(DENSE)
    assert groups(placement) == {frozenset({"r", "m", "d1", "k1", "d2", "k2"}): ("r", "k2")}
    assert {node for node, _ in edges(placement)} >= {"k1", "k2", "m", "n1", "n2", "n3"}
    # Pairs stand before and behind the normalization that cannot be folded, none between it and its Relu.
    assert {"n1", "n2", "n3"}.isdisjoint(placement.tensors)
    assert {"r1", "r2", "r3"} <= set(placement.tensors)


def test_logits_stay_float_whatever_layer_makes_them_and_however_they_are_shaped() -> None:
    graph = graph_of(
        "c = Conv (image, w0)",
        "r = Relu (c)",
        "p = GlobalAveragePool (r)",
        "d = Conv (p, w1)",
        "logits = Flatten (d)",
        weights={"w0": (8, 3, 3, 3), "w1": (5, 8, 1, 1)},
    )
    placement = place(graph)
    assert ("d", "p") in edges(placement)
    assert "d" not in placement.calibratable


def test_a_branch_that_ends_in_an_activation_is_rounded_for_the_cpu_alone() -> None:
    """As in EfficientNetV2's first blocks: convolution, SiLU, addition."""
    graph = graph_of(
        "r = Relu (image)",
        "c = Conv (r, w0)",
        "cs = Sigmoid (c)",
        "x = Mul (c, cs)",
        "last = Add (x, r)",
        *HEAD,
        weights={"w0": (3, 3, 1, 1), **head(3)},
    )
    placement = place(graph)
    assert ("last", "r") in edges(placement)
    assert placement.cpu_tensors == ("c", "x")


def test_average_pooling_reads_int8_and_has_a_scale_of_its_own() -> None:
    placement = place(INCEPTION)
    assert {("b2", "r"), ("b3", "r"), ("b1", "r"), ("k", "b2"), ("k", "b1r"), ("k", "b3r"), ("b3c", "b3")} <= edges(placement)
    assert groups(placement) == {frozenset({"r", "b2", "b1r", "b3r", "k"}): ("r", "k")}
    assert "b3" in placement.calibrated


def test_relu6_stands_inside_the_convolutions_kernel() -> None:
    placement = place(INCEPTION)
    assert "o" not in placement.tensors
    assert "last" in placement.tensors
    assert placement.cpu_tensors == ()


def test_squeeze_excite_gates_compute_in_float_with_int8_weights_and_silu_is_not_rounded_inside() -> None:
    placement = place(SQUEEZE_EXCITE)
    assert edges(placement) == {
        ("c", "image"), ("d", "x"), ("q", "y"), ("z", "y"), ("o", "z"), ("a", "o"), ("last", "o"), ("p", "last"), ("logits", "f"),
    }  # fmt: skip
    assert [(layer.node, layer.rule) for layer in placement.floats] == [("s1", "gate"), ("s2", "gate")]
    assert {edge.weight for edge in placement.weights} == {"w0", "w1", "w2", "w3", "w4", "w5", "head"}
    assert placement.cpu_tensors == ("c", "d", "q", "a")


def test_every_edge_says_by_which_rule_it_was_made() -> None:
    rules = {edge.node: edge.rule for edge in place(SQUEEZE_EXCITE).edges}
    assert rules == {
        "c": "first layer", "d": "depthwise", "q": "shared pair", "z": "gated tensor", "o": "layer input", "a": "layer input",
        "last": "residual", "p": "global pooling", "logits": "last layer",
    }  # fmt: skip
    assert all(len(reason) > 40 for name, reason in RULES.items() if name != "single")


def test_a_rule_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="rule is 'because', expected one of layer input"):
        Edge("c", 0, "image", "because")
    with pytest.raises(ValueError, match="calibrated tensors are"):
        ScaleGroup(("a",), ("b",), "single")


def test_enlarging_bilinearly_stays_in_float_and_nearest_neighbour_passes_its_scale_on() -> None:
    def graph(mode: str) -> Placement:
        return place(
            graph_of(
                "c = Conv (image, w0)",
                "r = Relu (c)",
                f'u = Resize <mode="{mode}"> (r, , scales)',
                "d = Conv (u, w1)",
                "last = Relu (d)",
                *HEAD,
                weights={"w0": (4, 3, 1, 1), "w1": (4, 4, 1, 1), "scales": np.array([1.0, 1.0, 2.0, 2.0]), **head(4)},
            )
        )

    assert ("u", "r") not in edges(graph("linear"))
    assert ("u", "r") in edges(graph("nearest"))
    assert groups(graph("nearest")) == {frozenset({"r", "u"}): ("r",)}


def test_a_product_of_two_computed_tensors_stays_in_float() -> None:
    graph = graph_of(
        "c = Conv (image, w0)",
        "t = Transpose <perm=[0,1,3,2]> (c)",
        "last = MatMul (c, t)",
        *HEAD,
        weights={"w0": (4, 3, 1, 1), **head(4)},
    )
    placement = place(graph)
    assert [(layer.node, layer.rule) for layer in placement.floats] == [("last", "no constant weight")]
    assert {"c", "t"}.isdisjoint(placement.tensors)


@pytest.mark.parametrize(("keep", "kept"), [(["d"], {"d"}), (["g", "logits"], {"g", "logits"})])
def test_what_is_kept_reads_float_and_keeps_its_float_weights(keep: list[str], kept: set[str]) -> None:
    placement = place(RESIDUAL, keep)
    assert {layer.node for layer in placement.floats if layer.rule == "kept"} == kept
    assert kept.isdisjoint({edge.node for edge in placement.edges} | {edge.node for edge in placement.weights})


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_whatever_is_kept_needs_no_threshold_but_the_calibratable_ones(name: str) -> None:
    graph = net(name)
    everything = place(graph)
    for edge in everything.edges[::5]:
        assert set(place(graph, [edge.node]).calibrated) <= set(everything.calibratable)


def test_a_module_path_keeps_every_layer_under_it() -> None:
    graph = net("resnet18")
    everything = {layer.node for layer in place(graph, ["layer1.0"]).floats}
    assert everything == {layer.node for name in ("layer1.0.conv1", "layer1.0.conv2") for layer in place(graph, [name]).floats}
    assert len(everything) == 2


def test_a_name_that_the_graph_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="keep names layer9; the graph has no such node, tensor or module"):
        place(net("resnet18"), ["layer1", "layer9"])


def test_a_quantized_graph_is_not_placed_again() -> None:
    with pytest.raises(GraphError, match="quantized already"):
        place(quantized(RESIDUAL).graph)


def test_a_graph_without_anything_to_quantize_is_refused() -> None:
    with pytest.raises(GraphError, match="nothing in the graph can be quantized"):
        place(RESIDUAL, ["c", "d", "g", "logits"])


def test_resnet18() -> None:
    """20 convolutions and a linear layer read pairs; 8 additions read one each; 17 + 3 tensors before convolutions and poolings."""
    placement = place(net("resnet18"))
    assert Counter(edge.rule for edge in placement.edges) == {
        "first layer": 1, "layer input": 19, "last layer": 1, "residual": 8, "max pooling": 1, "global pooling": 1,
    }  # fmt: skip
    assert len(placement.weights) == 21
    assert len(placement.cpu_tensors) == 8
    assert placement.floats == ()
    # Three downsampling convolutions are identities of their blocks; nine outputs of Relu after additions; eight inside blocks.
    assert len(placement.tensors) == 23


def test_efficientnet_lite0_quantizes_all_its_depthwise_convolutions() -> None:
    placement = place(net("efficientnet_lite0"))
    assert Counter(edge.rule for edge in placement.edges) == {
        "first layer": 1, "layer input": 32, "depthwise": 16, "last layer": 1, "residual": 9, "global pooling": 1,
    }  # fmt: skip
    assert placement.floats == ()


def test_efficientnet_b0_keeps_its_gates_in_float() -> None:
    placement = place(net("efficientnet_b0"))
    rules = Counter(edge.rule for edge in placement.edges)
    assert rules["depthwise"] == rules["gated tensor"] == rules["shared pair"] == 16
    assert Counter(layer.rule for layer in placement.floats) == {"gate": 32}
    assert len(placement.weights) == 82


def test_the_page_about_placement_names_every_rule() -> None:
    page = (Path(placement_rules.__file__).parent / "PLACEMENT.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.split("## Depthwise")[0].splitlines() if "|" in line]
    table = {name.strip() for row in rows for name in row.split(",")}
    assert set(RULES) - {"single"} <= table
