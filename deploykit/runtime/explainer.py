"""Pictures in; predictions and the map that explains each of them out, from one run of the explain graph."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.errors import UsageError
from deploykit.image import DEFAULT_LIMITS, DecodeLimits, Source, decode, graph_pixels, placement
from deploykit.runtime.classes import ClassName, ClassNames, find_class, find_classes
from deploykit.runtime.explain_graphs import ExplainGraphs, RawAnswer, check_request
from deploykit.runtime.explanation import Explanation
from deploykit.runtime.maps import has_evidence, normalize_map
from deploykit.runtime.opening import Answering
from deploykit.runtime.photo_limits import photo_limits
from deploykit.runtime.reading import Reading, read_logits
from deploykit.spec import Precision

Floats = npt.NDArray[np.float32]

_ROWS, _RUN_BYTES = 16, 64 << 20
"""Most rows per run when one picture is explained for many classes: 16 copies of EfficientNet-B3's last activations are 10 MB. One
of FCN-ResNet50's, with its logits, is 57 MB."""


class Explainer:
    """Answers, and shows why. Threads may share it; `close` it or use it in a ``with`` block.

    Args:
        graphs: the explain graphs of a bundle at a precision.
        limits: what a picture may cost.
    """

    def __init__(self, graphs: ExplainGraphs, limits: DecodeLimits = DEFAULT_LIMITS) -> None:
        self.graphs = graphs
        self.manifest = graphs.bundle.manifest
        self.labels = graphs.bundle.labels()
        self.limits = photo_limits(graphs, self.manifest.input, limits)

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        *,
        precision: Precision | str = Precision.FP32,
        backend: str | None = None,
        provider: str = "cpu",
        threads: int = 0,
        plan: Path | None = None,
        plugins: tuple[Path, ...] = (),
        limits: DecodeLimits = DEFAULT_LIMITS,
    ) -> "Explainer":
        """Open the explain graph of a bundle at a precision, or its plan.

        Args:
            precision, backend, provider, threads, plan, plugins: what answers; see `deploykit.runtime.opening.Answering`.

        Raises:
            UsageError: not a precision, or not a backend.
            BundleError: not a bundle, or it has no explain graph at this precision.
            EngineError: no plan that fits this machine.
            SessionError: the provider is not here, or the graph does not load.
        """
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        return cls(ExplainGraphs(bundle, Answering(precision, backend, provider, threads, plan, plugins)), limits)

    def explain(
        self,
        images: Iterable[Source],
        class_index: ClassNames = None,
        method: str = "grad-cam",
        layer: str | None = None,
        top: int = 5,
    ) -> list[Explanation]:
        """Answer and explain pictures in one run (guided Grad-CAM: two).

        Args:
            images: paths, encoded bytes, Pillow images, or RGB arrays uint8 [H, W, 3] of any size.
            class_index: the class to explain, by index or label: one for all pictures, or a list with one per picture. None, alone
                or in the list, means the picture's own likeliest class.
            method: one of ``ALL_METHODS``. Eigen-CAM's map is the same for every class.
            layer: one of the manifest's layers, by name or tensor; None takes its first.
            top: how many predictions each explanation has.

        Raises:
            UsageError: a method, layer or class that does not exist, or a list of classes of another length than the pictures.
            ImageError: a picture that cannot be used; it is named.
            BundleError: the method needs a graph that the bundle lacks.
            SessionError: the graph answers with NaN or infinity.
        """
        self._check(method, layer)
        photos = [decode(image, self.limits, self.manifest.image) for image in _each(images)]
        classes = find_classes(class_index, len(photos), self.labels, self.manifest.model.num_classes)
        if not photos:
            return []
        pixels = [graph_pixels(photo, self.manifest.image, self.manifest.input) for photo in photos]
        answer = self.graphs.answer(pixels, np.array(classes, np.int64), method, layer)
        readings = [self._read(logits, photo, top) for logits, photo in zip(answer.logits, photos, strict=True)]
        return list(self._explanations(answer, readings, photos, method, layer))

    def explain_classes(
        self,
        image: Source,
        classes: Sequence[ClassName] | None = None,
        method: str = "grad-cam",
        layer: str | None = None,
        top: int = 5,
    ) -> list[Explanation]:
        """Explain one picture for several classes. The network runs once, and its tail once per class where the bundle has one for
        the layer; otherwise the network runs once more per class.

        Args:
            image: one of what `explain` takes.
            classes: by index or label; None takes the ``top`` likeliest; of a segmentation net the ``top`` with the largest shares.
            method, layer, top: see `explain`, and there for the errors.

        Returns:
            One explanation per class, in the order of ``classes`` or of their probability.
        """
        self._check(method, layer)
        if top < 1:
            raise UsageError(f"top is {top}, expected 1 or more")
        count = self.manifest.model.num_classes
        chosen = None if classes is None else [find_class(c, self.labels, count) for c in classes]
        photo = decode(image, self.limits, self.manifest.image)
        pixels = [graph_pixels(photo, self.manifest.image, self.manifest.input)]
        logits, activations = self.graphs.glance(pixels, method, layer)
        reading = self._read(logits[0], photo, top)
        rows = np.array([p.class_index for p in reading.predictions] if chosen is None else chosen, np.int64)
        size = _rows_per_run(logits, activations)
        explanations: list[Explanation] = []
        for part in (rows[start : start + size] for start in range(0, len(rows), size)):
            if activations is None:
                answer = self.graphs.answer(pixels * len(part), part, method, layer)
            else:
                answer = self.graphs.answer_by_tail(logits, activations, part, method)
            explanations += self._explanations(answer, [reading] * len(part), [photo] * len(part), method, layer)
        return explanations

    def close(self) -> None:
        """Close the sessions."""
        self.graphs.close()

    def __enter__(self) -> "Explainer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check(self, method: str, layer: str | None) -> None:
        check_request(method, layer)
        self.graphs.layer_name(method, layer)

    def _read(self, logits: Floats, photo: Image.Image, top: int) -> Reading:
        return read_logits(logits, photo.size, self.manifest.image, self.labels, top)

    def _explanations(
        self,
        answer: RawAnswer,
        readings: Sequence[Reading],
        photos: Sequence[Image.Image],
        method: str,
        layer: str | None,
    ) -> Iterator[Explanation]:
        spec, name = self.manifest.image, self.graphs.layer_name(method, layer)
        maps, evidence = normalize_map(answer.cams, spec.height, spec.width), has_evidence(answer.cams)
        for row, (reading, photo) in enumerate(zip(readings, photos, strict=True)):
            explained = int(answer.classes[row])
            yield Explanation(
                predictions=reading.predictions,
                explained=reading.about(explained),
                map=maps[row],
                cam=answer.cams[row],
                has_evidence=bool(evidence[row]),
                method=method,
                layer=name,
                box=placement(*photo.size, spec),
                photo_size=photo.size,
                input_gradients=None if answer.input_gradients is None else answer.input_gradients[row],
                mask=reading.mask_of(explained),
            )


def _rows_per_run(logits: Floats, activations: Floats | None) -> int:
    """How many classes of one picture are explained at once: so many that a run's arrays stay small, and at least one."""
    row = logits.nbytes + (0 if activations is None else activations.nbytes)
    return max(1, min(_ROWS, _RUN_BYTES // row))


def _each(images: Iterable[Source]) -> Iterable[Source]:
    """Refuse one picture where a list is expected: its characters, bytes or rows would be taken for pictures.

    Raises:
        UsageError: one picture.
    """
    if isinstance(images, str | bytes | bytearray | memoryview | Path | Image.Image) or getattr(images, "ndim", 4) < 4:
        raise UsageError(f"images is one {type(images).__name__}, expected a list of pictures", hint="write [image]")
    return images
