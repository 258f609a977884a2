"""The calibration record: which scales, from which pictures, by which method, for which graph. In and out: a JSON file.

It may be reused for the very graph and weights that it was made from; anything else is stale, however alike the names are. People
can read it: one line per tensor, one per picture, sorted.
"""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploykit import __version__
from deploykit.errors import BundleError, UsageError
from deploykit.quantization.histogram import Histogram
from deploykit.quantization.methods import METHODS, thresholds
from deploykit.quantization.pictures import CROPS_RULE, Pictures, Skipped
from deploykit.quantization.qdq import ZERO_TENSOR_SCALE
from deploykit.quantization.weights import SMALLEST_SCALE, STEPS
from deploykit.spec import ImageSpec

SCHEMA_VERSION = 1

_AGAIN = "calibrate again: deploykit quantize"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorRecord:
    """What was found for one tensor.

    Args:
        threshold: the |x| that becomes 127; 0 for a tensor that is zero on every picture.
        scale: `scale_of` the threshold.
        minimum, maximum: of all values seen.
        clipped_share, zero_share: of the values beyond the threshold, and of those that are exactly zero, 0 to 1.
    """

    threshold: float
    scale: float
    minimum: float
    maximum: float
    clipped_share: float
    zero_share: float

    def __post_init__(self) -> None:
        numbers = asdict(self)
        if not all(_is_number(v) for v in numbers.values()):
            raise ValueError(f"values are {numbers}, expected finite numbers")
        if self.threshold < 0 or self.scale != scale_of(self.threshold):
            raise ValueError(f"scale is {self.scale!r} at threshold {self.threshold!r}, expected threshold / 127 of 0 or more")
        if self.minimum > self.maximum or not (0 <= self.clipped_share <= 1 and 0 <= self.zero_share <= 1):
            raise ValueError(f"values are {numbers}, expected minimum <= maximum and shares from 0 to 1")


@dataclass(frozen=True)
class PictureRecord:
    """A picture by name and content."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        _require_digest(f"picture {self.name}", self.sha256)


@dataclass(frozen=True)
class CalibrationRecord:
    """Everything that a scale depends on.

    Args:
        graph_sha256: of the float predict graph's file.
        weights_sha256: of the weights, as the bundle's manifest has it.
        method: one of `deploykit.quantization.methods.METHODS`; where ``auto`` chose, what it chose.
        percentile: what ``percentile`` was asked for; None for the other methods.
        image: how pictures became inputs.
        tensors: by name.
        calibration, held_out: the pictures.
        views: pictures made of each photo; ``crops_rule`` says how.
        skipped: files that were not used.
        versions: of the packages that took part, by name.
    """

    graph_sha256: str
    weights_sha256: str
    method: str
    percentile: float | None
    image: ImageSpec
    tensors: Mapping[str, TensorRecord]
    calibration: tuple[PictureRecord, ...]
    held_out: tuple[PictureRecord, ...] = ()
    views: int = 1
    crops_rule: str | None = None
    skipped: tuple[Skipped, ...] = ()
    versions: Mapping[str, str] | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require_digest("graph", self.graph_sha256)
        _require_digest("weights", self.weights_sha256)
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}, expected one of {', '.join(METHODS)}")
        if (self.percentile is not None) != (self.method == "percentile"):
            raise ValueError(f"percentile is {self.percentile!r} with method {self.method}")
        if not self.tensors or not self.calibration or self.views < 1:
            counts = f"{len(self.tensors)} tensors, {len(self.calibration)} pictures, {self.views} views"
            raise ValueError(f"{counts}, expected at least one of each")
        both = {p.sha256 for p in self.calibration} & {p.sha256 for p in self.held_out}
        if both:
            raise ValueError(f"{len(both)} pictures are both calibrated with and held out")

    @property
    def thresholds(self) -> dict[str, float]:
        """As `deploykit.quantization.qdq.quantize_graph` takes them."""
        return {name: tensor.threshold for name, tensor in self.tensors.items()}

    @property
    def zero_tensors(self) -> tuple[str, ...]:
        """Tensors that are zero on every picture, or too small to be told from it."""
        return tuple(name for name, tensor in self.tensors.items() if tensor.threshold == 0)

    def to_text(self) -> str:
        """The record as it stands in the file."""
        data = {
            "schema_version": self.schema_version,
            "graph_sha256": self.graph_sha256,
            "weights_sha256": self.weights_sha256,
            "method": self.method,
            "percentile": self.percentile,
            "image": self.image.to_json(),
            "views": self.views,
            "crops_rule": self.crops_rule,
            "versions": dict(sorted((self.versions or {}).items())),
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items()]
        lines += [_block("tensors", {name: asdict(t) for name, t in sorted(self.tensors.items())})]
        for key, pictures in (("calibration", self.calibration), ("held_out", self.held_out)):
            lines += [_block(key, [asdict(p) for p in sorted(pictures, key=lambda p: (p.name, p.sha256))])]
        lines += [_block("skipped", [asdict(s) for s in sorted(self.skipped, key=lambda s: (s.name, s.reason))])]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def make_record(
    histograms: Mapping[str, Histogram],
    method: str,
    percentile: float,
    pictures: Pictures,
    *,
    graph_sha256: str,
    weights_sha256: str,
    image: ImageSpec,
    versions: Mapping[str, str],
) -> CalibrationRecord:
    """The record of a calibration, with the thresholds of one method; see `CalibrationRecord` for the arguments."""
    found = thresholds(histograms, method, percentile)
    return CalibrationRecord(
        graph_sha256=graph_sha256,
        weights_sha256=weights_sha256,
        method=method,
        percentile=percentile if method == "percentile" else None,
        image=image,
        tensors={name: _tensor_record(h, found[name]) for name, h in sorted(histograms.items())},
        calibration=tuple(PictureRecord(p.name, p.sha256) for p in pictures.calibration),
        held_out=tuple(PictureRecord(p.name, p.sha256) for p in pictures.held_out),
        views=pictures.views,
        crops_rule=CROPS_RULE if pictures.views > 1 else None,
        skipped=pictures.skipped,
        versions={"deploykit": __version__, **versions},
    )


def scale_of(threshold: float) -> float:
    """The scale of a tensor by itself: threshold / 127, or a small positive one where that counts as zero.

    Tensors that share a scale (`deploykit.quantization.placement.ScaleGroup`) get that of the largest threshold among them instead.
    """
    scale = threshold / STEPS
    return ZERO_TENSOR_SCALE if scale < SMALLEST_SCALE else scale


def save(record: CalibrationRecord, path: Path) -> None:
    """Write a record in one step: whoever reads sees the old file or the new one, also where two processes write.

    Raises:
        BundleError: the file cannot be written.
    """
    try:
        _replace(path, record.to_text())
    except OSError as error:
        raise BundleError(f"{path}: cannot be written ({error.strerror})") from error


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8") as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def load(
    path: Path,
    graph_sha256: str,
    *,
    weights_sha256: str | None = None,
    image: ImageSpec | None = None,
    calibration: Iterable[str] | None = None,
    method: str | None = None,
) -> CalibrationRecord:
    """Read a record that is to be reused for a graph.

    Args:
        graph_sha256: of the float predict graph as it is now.
        weights_sha256, image, calibration, method: what else must be as it was, where the caller knows it; ``calibration`` is the
            sha256 of every picture.

    Raises:
        BundleError: no file; damaged or of another kind or schema version; or stale, with what was expected and what was found.
    """
    record = read(path)
    _require_equal(path, "the graph", record.graph_sha256, graph_sha256)
    _require_equal(path, "the weights", record.weights_sha256, weights_sha256)
    _require_equal(path, "the method", record.method, method)
    if image is not None and image != record.image:
        was, now = record.image.to_json(), image.to_json()
        field = next(key for key in now if was[key] != now[key])
        _require_equal(path, f"the image spec's {field}", was[field], now[field])
    if calibration is not None:
        was_used, now_used = {p.sha256 for p in record.calibration}, set(calibration)
        if was_used != now_used:
            raise BundleError(
                f"{path} is stale: of its {len(was_used)} pictures {len(was_used - now_used)} are gone or changed, "
                f"and {len(now_used - was_used)} are new",
                hint=_AGAIN,
            )
    return record


def read(path: Path) -> CalibrationRecord:
    """Read a record for looking at it.

    Raises:
        BundleError: no file; damaged, or of another kind or schema version. A record is used whole or not at all.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such calibration record", hint=_AGAIN) from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not UTF-8 either
        raise BundleError(f"{path} is damaged or no calibration record: {error}", hint=_AGAIN) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}, this deploykit ({__version__}) reads calibration records of {SCHEMA_VERSION}",
            hint=_AGAIN,
        )
    try:
        return CalibrationRecord(
            **data
            | {
                "image": ImageSpec.from_json(data["image"]),
                "tensors": {name: TensorRecord(**tensor) for name, tensor in data["tensors"].items()},
                "calibration": tuple(PictureRecord(**p) for p in data["calibration"]),
                "held_out": tuple(PictureRecord(**p) for p in data["held_out"]),
                "skipped": tuple(Skipped(**s) for s in data["skipped"]),
            }
        )
    except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
        raise BundleError(f"{path} does not follow schema version {SCHEMA_VERSION}: {error}", hint=_AGAIN) from error


def _tensor_record(histogram: Histogram, threshold: float) -> TensorRecord:
    return TensorRecord(
        threshold=threshold,
        scale=scale_of(threshold),
        minimum=histogram.minimum,
        maximum=histogram.maximum,
        clipped_share=histogram.share_above(threshold) if threshold else 0.0,
        zero_share=histogram.zero_share,
    )


def _block(key: str, items: Mapping[str, Any] | list[Any]) -> str:
    """A field of the JSON with one line per item."""
    opening, closing = ("{", "}") if isinstance(items, Mapping) else ("[", "]")
    lines = (
        [f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(item, ensure_ascii=False)}" for name, item in items.items()]
        if isinstance(items, Mapping)
        else [f"    {json.dumps(item, ensure_ascii=False)}" for item in items]
    )
    body = "\n" + ",\n".join(lines) + "\n  " if lines else ""
    return f"  {json.dumps(key)}: {opening}{body}{closing}"


def _require_equal(path: Path, what: str, recorded: object, now: object) -> None:
    if now is not None and recorded != now:
        raise BundleError(
            f"{path} is stale: {what} it was made for is {recorded}, expected {now}",
            hint=f"the model or its settings changed since; {_AGAIN}",
        )


def _require_digest(what: str, digest: object) -> None:
    if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
        raise ValueError(f"sha256 of {what} is {digest!r}, expected 64 hexadecimal digits")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of a record")
