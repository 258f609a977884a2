"""The shifted graph: the layer of a predict graph pushed by a given amount, compared with what the tail graph says of the same."""

import numpy as np
import pytest

from deploykit.graph.shift import make_shifted_graph
from deploykit.graph.tail import make_tail_graph
from deploykit.runtime.ort import OrtSession
from tests.unit.foreign_graphs import BODY, adopt, graph

NHWC = (
    "t = Transpose <perm = [0, 3, 1, 2]> (x) k = Conv(t, w) l = Transpose <perm = [0, 2, 3, 1]> (k) a = Add(l, b) r = Relu(a) "
    "axes = Constant <value_ints = [1, 2]> () v = ReduceMean <keepdims = 0> (r, axes) y = MatMul(v, f)"
)


@pytest.mark.parametrize(("body", "shape"), [(f"{BODY} y = Neg(z)", "N,3,8,8"), (NHWC, "N,8,8,3")])
def test_a_shift_moves_the_logits_as_the_same_activations_do_in_the_tail(body: str, shape: str) -> None:
    predict, _ = adopt(graph(body, shape))
    rng = np.random.default_rng(2)
    image, shift = rng.random((2, 3, 8, 8), np.float32), rng.normal(size=(2, 4, 6, 6)).astype(np.float32)
    tail, shifted = make_tail_graph(predict, "r"), make_shifted_graph(predict, "r")
    with OrtSession(shifted.SerializeToString()) as pushed, OrtSession(tail.SerializeToString()) as behind:
        plain = pushed.run({"image": image, "shift": np.zeros_like(shift)})["logits"]
        moved = pushed.run({"image": image, "shift": shift})["logits"]
        per_shift = behind.run({"activations": shift, "class_index": np.array([0, 1])})["logits"]
    # Behind the layer these nets are linear, so what the shift adds is what the tail makes of the shift alone.
    assert moved - plain == pytest.approx(per_shift, abs=1e-5)
    assert np.abs(moved - plain).max() > 0.1


def test_a_shift_of_zero_leaves_every_logit_as_it_was_also_beside_another_branch() -> None:
    body = "c = Conv(x, w, b) r = Relu(c) s = Sigmoid(r) a = Add(r, s) p = GlobalAveragePool(a) v = Flatten(p) y = MatMul(v, f)"
    predict, _ = adopt(graph(body))
    image = np.random.default_rng(3).random((2, 3, 8, 8), np.float32)
    with (
        OrtSession(predict.SerializeToString()) as plain,
        OrtSession(make_shifted_graph(predict, "s").SerializeToString()) as pushed,
    ):
        seen = pushed.run({"image": image, "shift": np.zeros((2, 4, 6, 6), np.float32)})["logits"]
        assert seen == pytest.approx(plain.run({"image": image})["logits"], abs=1e-6)
