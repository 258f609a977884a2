"""ONNX classifiers from elsewhere, made into deploykit's predict graph. Keras, Paddle, Caffe, older exporters: no torch is needed.

    ports.py      which input takes the picture and which output holds the scores, and what they are like
    output.py     the scores: a final softmax or sigmoid cut off, other outputs dropped, [N, K] float32 named ``logits``
    opset.py      functions inlined, half precision widened, the operators raised to opset 18
    simplify.py   constants in initializers, copies of tensors gone, what is computed from constants folded
    batch.py      a fixed batch made dynamic, or a refusal that names the node
    input.py      any layout and element type behind ``image`` float32 [N, 3, H, W]
    shapes.py     sizes that a graph asks itself for, though they are fixed
    names.py      tensors renamed where deploykit needs their name
    weights.py    how many weights there are, and of which type
    adopt.py      the passes in their order

Each pass changes a graph in place and says what holds before and after. A tensor that stays keeps its name, so layers can be named
as the graph's own tools name them. Nothing here runs a graph: whether the result still answers as the file did is for the caller to
show.
"""

from deploykit.graph.foreign.adopt import adopt_graph
from deploykit.graph.foreign.ports import LAYOUTS, ForeignInput, ForeignOutput, final_activation, find_input, find_output
from deploykit.graph.foreign.weights import count_weights, is_half_precision, stored_dtype

__all__ = [
    "LAYOUTS",
    "ForeignInput",
    "ForeignOutput",
    "adopt_graph",
    "count_weights",
    "final_activation",
    "find_input",
    "find_output",
    "is_half_precision",
    "stored_dtype",
]
