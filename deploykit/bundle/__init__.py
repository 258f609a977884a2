"""The bundle: a folder that holds everything made from one model, and the manifest that describes it.

`manifest` has the values that are written down, `reader` opens a bundle and checks it, `writer` replaces it in one step.
"""

from deploykit.bundle.manifest import FileRecord, LayerRecord, Manifest, ModelRecord, WeightsRecord, sha256_of
from deploykit.bundle.reader import Bundle, Golden
from deploykit.bundle.writer import Stage, check_target, extend_bundle, new_bundle, new_folder

__all__ = [
    "Bundle",
    "FileRecord",
    "Golden",
    "LayerRecord",
    "Manifest",
    "ModelRecord",
    "Stage",
    "WeightsRecord",
    "check_target",
    "extend_bundle",
    "new_bundle",
    "new_folder",
    "sha256_of",
]
