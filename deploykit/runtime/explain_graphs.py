"""The graphs of a bundle that explain, and the raw answers that each method needs from them.

explain.onnx          image, class_index -> logits, explained_class and, per layer, activations, gradients, cam
explain_tail.onnx     activations, class_index -> the same of the first layer, without seeing the picture again
input_gradients.onnx  image, class_index -> logits, explained_class, guided_backprop, deconvnet
"""

import difflib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle
from deploykit.errors import SessionError, UsageError
from deploykit.runtime.cam import METHODS
from deploykit.runtime.classifier import Pictures, image_feeds
from deploykit.runtime.maps import normalize_map
from deploykit.runtime.opening import Answering, open_session
from deploykit.runtime.session import Array, Session, TensorInfo

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

INPUT_METHODS: Mapping[str, str] = {
    "guided-backprop": "guided_backprop",
    "deconvnet": "deconvnet",
    "guided-grad-cam": "guided_backprop",
}
"""Methods that look at the picture itself, and the output of ``input_gradients.onnx`` that each needs.

Guided backpropagation: Springenberg et al. 2015, arXiv 1412.6806. Deconvnet: Zeiler and Fergus 2014, arXiv 1311.2901. Guided
Grad-CAM: Selvaraju et al. 2017, arXiv 1610.02391, section 3.1.
"""

ALL_METHODS = (*METHODS, *INPUT_METHODS)

_HINTS = {
    "explain": "export the model again, without --no-explain",
    "input_gradients": "guided backpropagation, deconvnet and guided Grad-CAM need: deploykit export MODEL --input-gradients",
}


@dataclass(frozen=True)
class RawAnswer:
    """Results of n rows.

    Args:
        logits: [n, K].
        classes: the classes explained, int64 [n].
        cams: raw maps [n, h, w]; for methods at the input, the largest absolute gradient over the channels, [n, H, W].
        input_gradients: [n, 3, H, W] in RGB order, for methods at the input.
    """

    logits: Floats
    classes: Indices
    cams: Floats
    input_gradients: Floats | None = None


class ExplainGraphs:
    """Owns the sessions of one precision; all but the explain graph are opened when they are first needed. Threads may share it.

    Args:
        bundle, answering: whose graphs, and what runs them.
        explain: a session of the explain graph to take instead of opening one; closed with the others.
    """

    def __init__(self, bundle: Bundle, answering: Answering, explain: Session | None = None) -> None:
        self.bundle = bundle
        self._answering = answering
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {} if explain is None else {"explain": explain}
        self._is_closed = False
        self._session("explain")

    @property
    def _precision(self) -> str:
        return str(self._answering.precision)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that the explain graph takes."""
        return self._session("explain").inputs

    def answer(self, pixels: Pictures, classes: Indices, method: str, layer: str | None) -> RawAnswer:
        """Answer and explain pictures, each for its own class (-1: its own likeliest)."""
        if method not in METHODS:
            return self._answer_at_input(pixels, classes, method, layer)
        suffix = self._suffix(layer)
        reads = [f"{name}{suffix}" for name in METHODS[method].reads]
        found = self._run("explain", pixels, classes, ("logits", "explained_class", *reads))
        return RawAnswer(found["logits"], found["explained_class"], METHODS[method].compute(*(found[name] for name in reads)))

    def glance(self, pixels: Pictures, method: str, layer: str | None) -> tuple[Floats, Floats | None]:
        """Logits [1, K] of one picture and, where the tail graph can go on from them, activations [1, C, h, w]."""
        # There are no plans of the tail, and going on from a plan's activations in ONNX Runtime would mix two engines' numbers.
        has_tail = not self._answering.takes_plan and f"{self._precision}/explain_tail.onnx" in self.bundle.manifest.files
        goes_on = method in METHODS and has_tail and not self._suffix(layer)
        found = self._run("explain", pixels, np.array([-1]), ("logits", "activations") if goes_on else ("logits",))
        return found["logits"], found.get("activations")

    def answer_by_tail(self, logits: Floats, activations: Floats, classes: Indices, method: str) -> RawAnswer:
        """Explain one picture for several classes from what `glance` gave."""
        repeated = np.repeat(activations, len(classes), 0)
        wanted = ["explained_class", *(name for name in METHODS[method].reads if name != "activations")]
        found = self._session("explain_tail").run({"activations": repeated, "class_index": classes}, wanted)
        found["activations"] = repeated
        cams = METHODS[method].compute(*(found[name] for name in METHODS[method].reads))
        return RawAnswer(np.repeat(logits, len(classes), 0), found["explained_class"], cams)

    def layer_name(self, method: str, layer: str | None) -> str:
        """What the method looks at: a layer's name in the manifest, or ``input``."""
        return self.bundle.manifest.layers[self._layer(layer)].name if takes_layer(method) else "input"

    def close(self) -> None:
        """Close the sessions. Closing twice is harmless."""
        with self._lock:
            self._is_closed = True
            for session in self._sessions.values():
                session.close()

    def _answer_at_input(self, pixels: Pictures, classes: Indices, method: str, layer: str | None) -> RawAnswer:
        found = self._run("input_gradients", pixels, classes, ("logits", "explained_class", INPUT_METHODS[method]))
        gradients, explained = found[INPUT_METHODS[method]], found["explained_class"]
        if method == "guided-grad-cam":
            # The product with the Grad-CAM map of the same class, enlarged and scaled; the paper and Captum leave it unscaled.
            cams = self.answer(pixels, explained, "grad-cam", layer).cams
            gradients = gradients * normalize_map(cams, gradients.shape[2], gradients.shape[3])[:, None]
        if self.bundle.manifest.image.colour_order == "bgr":
            gradients = gradients[:, ::-1]
        return RawAnswer(found["logits"], explained, np.abs(gradients).max(1), gradients)

    def _run(self, graph: str, pixels: Pictures, classes: Indices, outputs: Sequence[str]) -> dict[str, Array]:
        manifest = self.bundle.manifest
        session, runs, start = self._session(graph), [], 0
        for image in image_feeds(manifest.image, manifest.input, pixels):
            rows = classes[start : start + len(image)]
            runs.append(session.run({"image": image, "class_index": rows}, outputs))
            start += len(image)
        found = runs[0] if len(runs) == 1 else {name: np.concatenate([run[name] for run in runs]) for name in outputs}
        if not np.isfinite(found["logits"]).all():
            raise SessionError(f"the {self._precision} {graph} graph gives NaN or infinite logits", hint="try --precision fp32")
        return found

    def _session(self, graph: str) -> Session:
        with self._lock:
            if self._is_closed:
                raise SessionError("the explainer is closed", hint="open it again")
            if graph not in self._sessions:
                self._sessions[graph] = open_session(self.bundle, graph, self._answering, hint=_HINTS.get(graph))
            return self._sessions[graph]

    def _suffix(self, layer: str | None) -> str:
        """What stands behind the names of a layer's outputs."""
        index = self._layer(layer)
        return f"_{index + 1}" if index else ""

    def _layer(self, layer: str | None) -> int:
        layers = self.bundle.manifest.layers
        if layer is None:
            return 0
        for index, record in enumerate(layers):
            if layer in (record.name, record.tensor):
                return index
        names = [record.name for record in layers]
        close = difflib.get_close_matches(layer, names)
        raise UsageError(
            f"the bundle explains no layer {layer!r}{'; close: ' + ', '.join(close) if close else ''}; it has {', '.join(names)}",
            hint=f"add it with: deploykit export MODEL --layer {names[0]} --layer {layer}",
        )


def takes_layer(method: str) -> bool:
    """Whether the method looks at a layer; guided backpropagation and the deconvnet look at the picture alone."""
    return method in METHODS or method == "guided-grad-cam"


def check_request(method: str, layer: str | None) -> None:
    """Refuse a method that does not exist, and a layer for one that has no use for it.

    Raises:
        UsageError: either.
    """
    if method not in ALL_METHODS:
        raise UsageError(f"method is {method!r}, expected one of {', '.join(ALL_METHODS)}")
    if layer is not None and not takes_layer(method):
        raise UsageError(f"{method} looks at the picture itself and takes no layer, got {layer!r}")
