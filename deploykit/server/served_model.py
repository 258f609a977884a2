"""A bundle that answers: its graphs at every precision, opened, checked against the golden vectors and warmed up.

One object is one generation of a bundle. When the bundle is replaced on disk, another is made beside it; nothing of the two is
mixed, since every session is opened here and none later.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle
from deploykit.bundle.manifest import MANIFEST_NAME, Manifest, sha256_of
from deploykit.errors import BundleError, ParityError, RequestError, UsageError
from deploykit.image import DEFAULT_LIMITS, DecodeLimits
from deploykit.parity import compare_logits
from deploykit.runtime import Explainer, Session
from deploykit.runtime.cam import METHODS
from deploykit.runtime.classifier import run_predict
from deploykit.runtime.explain_graphs import INPUT_METHODS, ExplainGraphs
from deploykit.runtime.opening import Answering, open_session
from deploykit.runtime.photo_limits import photo_limits
from deploykit.server.batcher import Batcher
from deploykit.server.cores import Cores
from deploykit.server.settings import Settings
from deploykit.server.shared_session import SharedSession
from deploykit.server.statistics import Run
from deploykit.spec import Precision

EXPLAIN_SUFFIX = "_explain"
"""Behind a model's name in the Open Inference Protocol: its explain graph."""

ObserveRun = Callable[[str, Run], None]
"""Told of every run: the graph, such as ``int8/predict``, and what the run was."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, eq=False)
class Graphs:
    """What answers at one precision.

    Args:
        predict, explain: the graphs, shared by their callers; ``explain`` is None where the bundle has none at this precision.
        explainer: the same explain graph with all that makes pictures of its answers. It asks ``shared``, which is in front of
            ``explain``.
        backend: what answers, with its version and file.
    """

    predict: Batcher
    explain: Batcher | None
    explainer: Explainer | None
    shared: SharedSession | None
    backend: str

    def close(self) -> None:
        """Finish what waits and close the sessions."""
        for one in (self.predict, self.explain, self.explainer):
            if one is not None:
                one.close()


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One generation of a bundle.

    Args:
        name: as callers know it.
        bundle: as it was when it was opened.
        digest: sha256 of its manifest.
        labels: names in class order, or None.
        graphs: by precision; the first is the default.
        methods: of explaining that this bundle can do; empty where it explains nothing.
    """

    name: str
    bundle: Bundle
    digest: str
    labels: tuple[str, ...] | None
    graphs: Mapping[Precision, Graphs]
    methods: tuple[str, ...]

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self.bundle.manifest

    @property
    def default(self) -> Precision:
        """The precision that answers unless another is asked for."""
        return next(iter(self.graphs))

    def at(self, precision: str | None) -> tuple[Precision, Graphs]:
        """The graphs at a precision, or at the default.

        Raises:
            RequestError: a precision that is not served.
        """
        if precision is None:
            return self.default, self.graphs[self.default]
        for served, graphs in self.graphs.items():
            if precision == served:
                return served, graphs
        raise RequestError(400, f"precision is {precision!r}, {self.name} is served at {', '.join(self.graphs)}")

    def close(self) -> None:
        """Finish what waits and close every session."""
        for graphs in self.graphs.values():
            graphs.close()


def check_model_name(name: str) -> None:
    """Refuse a name that cannot stand in an address.

    Raises:
        UsageError: other characters than letters, digits, dots, dashes and underscores; or one that
            reads as another's explain graph.
    """
    if not _NAME.fullmatch(name) or name.endswith(EXPLAIN_SUFFIX) or name == "stats":
        raise UsageError(
            f"a model cannot be named {name!r}: letters, digits, '.', '_' and '-' are allowed, no {EXPLAIN_SUFFIX} at its end, "
            "and not stats, which is an address",
            hint="give it one with --name",
        )


def manifest_digest(path: Path) -> str:
    """The sha256 of the manifest of the bundle at ``path``.

    Raises:
        BundleError: there is none.
    """
    try:
        return sha256_of(path / MANIFEST_NAME)
    except OSError as error:
        raise BundleError(f"{path / MANIFEST_NAME} cannot be read: {error.strerror}") from error


def open_model(name: str, path: Path, settings: Settings, observe: ObserveRun, cores: Cores) -> ServedModel:
    """Open a bundle completely, or not at all.

    Every file has the digest that the manifest says, every graph loads and gives the golden answers, and the bundle is still the
    same at the end.

    Raises:
        BundleError: damaged, untrained and not allowed, without a wanted precision, or replaced meanwhile.
        ParityError: a graph does not give the golden answers.
        SessionError: a graph does not load.
    """
    digest = manifest_digest(path)
    bundle = Bundle.open(path)
    if damage := bundle.damage():
        file, what = next(iter(damage.items()))
        raise BundleError(f"{path}: {file} {what}", hint="copy the whole bundle again")
    weights = bundle.manifest.weights
    if not (weights.trained or settings.allow_untrained):
        raise BundleError(
            f"{path} is untrained ({weights.source}): its answers mean nothing", hint="serve it all the same with --allow-untrained"
        )
    graphs: dict[Precision, Graphs] = {}
    try:
        for precision in _precisions(bundle, settings):
            graphs[precision] = _open_graphs(bundle, precision, settings, observe, cores)
        model = ServedModel(name, bundle, digest, bundle.labels(), graphs, _methods(bundle, graphs))
        _check_same(path, digest)
    except BaseException:
        for opened in graphs.values():
            opened.close()
        raise
    return model


def _check_same(path: Path, digest: str) -> None:
    if manifest_digest(path) != digest:
        raise BundleError(f"{path} was replaced while it was read")


def _precisions(bundle: Bundle, settings: Settings) -> tuple[Precision, ...]:
    here = bundle.precisions
    if missing := [p for p in settings.precisions if p not in here]:
        raise BundleError(f"{bundle.path} has no {missing[0]} predict graph; it has {', '.join(here) or 'none'}")
    if not here:
        raise BundleError(f"{bundle.path} has no predict graph")
    return settings.precisions or here


def _open_graphs(bundle: Bundle, precision: Precision, settings: Settings, observe: ObserveRun, cores: Cores) -> Graphs:
    answering = Answering(precision, settings.backend, settings.provider, settings.threads)
    session = open_session(bundle, "predict", answering)
    _check_golden(bundle, precision, session)
    predict = Batcher(session, settings.batch, partial(observe, f"{precision}/predict"), cores=cores)
    explain: Batcher | None = None
    explainer: Explainer | None = None
    shared: SharedSession | None = None
    try:
        if f"{precision}/explain.onnx" in bundle.manifest.files:
            asked = open_session(bundle, "explain", answering)
            explain = Batcher(asked, settings.batch, partial(observe, f"{precision}/explain"), cores=cores)
            shared = SharedSession(explain, settings.timeout_s)
            explainer = Explainer(ExplainGraphs(bundle, answering, shared), settings.limits)
            _open_all(explainer, bundle, precision)
    except BaseException:
        Graphs(predict, explain, explainer, shared, "").close()
        raise
    return Graphs(predict, explain, explainer, shared, session.backend)


def _check_golden(bundle: Bundle, precision: Precision, session: Session) -> None:
    """Ask for the golden vectors where there are some; this warms the session up as well."""
    manifest = bundle.manifest
    if "golden.npz" not in manifest.files:
        grey = _grey(manifest, photo_limits(session, manifest.input, DEFAULT_LIMITS))
        run_predict(session, manifest.image, manifest.input, grey[None])
        return
    golden = bundle.golden()
    record = compare_logits(
        golden.logits,
        run_predict(session, manifest.image, manifest.input, golden.image),
        precision,
        pictures=len(golden.image),
        batch_sizes=(len(golden.image),),
        reference_name="the golden vectors",
        candidate_name=session.backend,
    )
    if not record.is_equal:
        raise ParityError(
            f"{bundle.path} at {precision} is {record.relative_difference:.1e} of the largest logit from its golden vectors, "
            f"{record.tolerance:.0e} allowed",
            hint=f"look closer with: deploykit verify {bundle.path}",
        )


def _open_all(explainer: Explainer, bundle: Bundle, precision: Precision) -> None:
    """Explain a grey picture by every way, so that no graph is opened later, when another bundle may stand in this one's place."""
    grey = _grey(bundle.manifest, explainer.limits)
    explainer.explain_classes(grey, [0])
    if f"{precision}/input_gradients.onnx" in bundle.manifest.files:
        explainer.explain([grey], method="guided-backprop")


def _grey(manifest: Manifest, limits: DecodeLimits) -> npt.NDArray[np.uint8]:
    """A grey picture of the network's size, or of the nearest that is taken: a plan may take larger photos alone."""
    sides = (manifest.image.height, manifest.image.width)
    height, width = (min(max(side, limits.min_side), limits.max_side or side) for side in sides)
    return np.full((height, width, 3), 128, np.uint8)


def _methods(bundle: Bundle, graphs: Mapping[Precision, Graphs]) -> tuple[str, ...]:
    """What the default precision can explain by: all that need its explain graph, CAM where the head allows it,
    and those at the input."""
    precision, first = next(iter(graphs.items()))
    if first.explainer is None:
        return ()
    can = list(METHODS)
    try:
        first.explainer.explain([_grey(bundle.manifest, first.explainer.limits)], method="cam")
    except UsageError:
        can.remove("cam")
    at_input = INPUT_METHODS if f"{precision}/input_gradients.onnx" in bundle.manifest.files else ()
    return (*can, *at_input)
