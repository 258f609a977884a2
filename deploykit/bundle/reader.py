"""Opening a bundle: the manifest, the labels, the golden vectors, and whether every file is still what was written."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.bundle.manifest import MANIFEST_NAME, Manifest, sha256_of
from deploykit.errors import BundleError
from deploykit.spec import Precision

LABELS_NAME = "labels.txt"
GOLDEN_NAME = "golden.npz"


@dataclass(frozen=True)
class Golden:
    """The self-test of a bundle: pictures, and the answers that the torch model gave to them.

    Args:
        image: uint8 [N, H, W, 3], RGB at the network's size; photos of one other size where the graphs resize photos.
        logits: float32 [N, K] (a segmentation model: [N, K, h, w]).
        explained_class: int64 [N], each row's own top-1; None where the bundle explains nothing.
        cam: float32 [N, h, w], Grad-CAM of that class at the first layer, before scaling; None likewise.
        resized: what graphs that resize make of the photos, uint8 [N, h, w, 3]; None where they take the network's size.
    """

    image: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    explained_class: npt.NDArray[np.int64] | None = None
    cam: npt.NDArray[np.float32] | None = None
    resized: npt.NDArray[np.uint8] | None = None

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The pictures at the network's size."""
        return self.image if self.resized is None else self.resized


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. Made by `Bundle.open`; holds no open file."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Read the manifest of the bundle at ``path``; no other file is touched.

        Raises:
            BundleError: no folder, no manifest in it, or a manifest that cannot be read.
        """
        path = Path(path)
        if not path.is_dir():
            seen = "is a file" if path.exists() else "does not exist"
            raise BundleError(f"{path} {seen}, expected the folder of a bundle", hint="make one with: deploykit export MODEL")
        try:
            text = (path / MANIFEST_NAME).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BundleError(
                f"{path} has no {MANIFEST_NAME}, so it is not a bundle", hint="make one with: deploykit export MODEL"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path / MANIFEST_NAME} cannot be read: {error}") from error
        return cls(path, Manifest.from_text(text, path / MANIFEST_NAME))

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions for which there is a predict graph, highest first."""
        return tuple(p for p in Precision if f"{p}/predict.onnx" in self.manifest.files)

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists.

        Raises:
            BundleError: not listed, or listed and gone.
        """
        if name not in self.manifest.files:
            listed = ", ".join(sorted(self.manifest.files)) or "nothing"
            raise BundleError(f"{self.path} has no {name}; it has {listed}")
        path = self.path / name
        if not path.is_file():
            raise BundleError(f"{path} is listed in the manifest and missing on disk", hint="copy the whole folder again")
        return path

    def whole_file(self, name: str) -> Path:
        """The same of a file that is as it was written, and not stale.

        Raises:
            BundleError: it is not; or see `file`.
        """
        path = self.file(name)
        is_stale = name in self.manifest.stale_files()
        if is_stale or sha256_of(path) != self.manifest.files[name].sha256:
            what = "is stale: what it was made from has changed since" if is_stale else "is not what the manifest says"
            raise BundleError(f"{path} {what}", hint=f"look closer with: deploykit verify {self.path}")
        return path

    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the logits, or None where they are not known.

        Raises:
            BundleError: the count differs from the number of classes.
        """
        if LABELS_NAME not in self.manifest.files:
            return None
        names = tuple(self.file(LABELS_NAME).read_text(encoding="utf-8").split("\n")[:-1])
        if len(names) != self.manifest.model.num_classes:
            raise BundleError(f"{self.path / LABELS_NAME} has {len(names)} names for {self.manifest.model.num_classes} classes")
        return names

    def golden(self) -> Golden:
        """The golden vectors.

        Raises:
            BundleError: missing, or not an archive of the arrays it should hold.
        """
        path = self.file(GOLDEN_NAME)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return Golden(
                    arrays["image"], arrays["logits"], arrays.get("explained_class"), arrays.get("cam"), arrays.get("resized")
                )
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path} does not hold golden vectors: {error}", hint="copy the whole folder again") from error

    def damage(self) -> dict[str, str]:
        """What is wrong with the files, by name: gone, changed since they were written, or stale. Empty when all is well."""
        found: dict[str, str] = {}
        for name, record in self.manifest.files.items():
            path = self.path / name
            if not path.is_file():
                found[name] = "is missing"
            elif (size := path.stat().st_size) != record.size_bytes:
                found[name] = f"has {size:,} bytes, the manifest says {record.size_bytes:,}"
            elif (digest := sha256_of(path)) != record.sha256:
                found[name] = f"has sha256 {digest[:12]}…, the manifest says {record.sha256[:12]}…"
        for name in self.manifest.stale_files():
            found.setdefault(name, "is stale: what it was made from has changed since")
        return found
