"""Encoded pictures in, what the network sees of them out, through the one door that `deploykit predict` uses too.

Runs in Triton's process; manifest.json beside this file is the bundle's.

    image_bytes  bytes [N, 1]     a JPEG, PNG, ... file each
    class_index  int64 [N, 1]     what to explain; -1, and where it is left out: each picture's own likeliest class
 -> image        the graph's input: uint8 [N, H, W, 3], or normalized float32 [N, 3, H, W]
    class_index  int64 [N, 1]
    box          float64 [N, 4]   what the network sees of the upright photo: left, top, right, bottom in its pixels
    photo_size   int64 [N, 2]     the upright photo's width and height
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it

from deploykit.bundle import Manifest
from deploykit.errors import DeploykitError, ImageError, InputError
from deploykit.image import decode, normalize, placement, resize_and_crop
from deploykit.integrations.triton.answers import check_numpy, refusal, requested, response


class TritonPythonModel:
    """What Triton calls; its name and methods are Triton's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the manifest."""
        check_numpy(pb_utils)
        path = Path(args["model_repository"]) / args["model_version"] / "manifest.json"
        self._manifest = Manifest.from_text(path.read_text(encoding="utf-8"), path)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request, or say what is wrong with it; of a batch with one bad picture, which it is."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given, wanted = requested(request)
        try:
            return response(pb_utils, prepare(self._manifest, **given), wanted)
        except DeploykitError as error:
            return refusal(pb_utils, error)


def prepare(manifest: Manifest, image_bytes: Any, class_index: Any = None) -> dict[str, Any]:
    """The four outputs.

    Raises:
        ImageError: a picture that cannot be used.
        InputError: a class that does not exist.
    """
    spec, classes = manifest.image, manifest.model.num_classes
    chosen = np.full((len(image_bytes), 1), -1, np.int64) if class_index is None else class_index
    if bad := [int(i) for i in chosen.ravel() if not -1 <= i < classes]:
        raise InputError(f"class_index is {bad[0]}, expected 0 to {classes - 1}, or -1 for each picture's own likeliest class")
    pixels, boxes, sizes = [], [], []
    for row, data in enumerate(image_bytes.ravel()):
        try:
            photo = decode(data, spec=spec)
        except ImageError as error:
            raise ImageError(f"picture {row}: {error}", hint=error.hint) from error
        pixels.append(resize_and_crop(photo, spec))
        boxes.append(placement(*photo.size, spec))
        sizes.append(photo.size)
    images = np.stack(pixels)
    return {
        "image": normalize(images, spec) if manifest.input == "float" else images,
        "class_index": chosen,
        "box": np.array(boxes, np.float64),
        "photo_size": np.array(sizes, np.int64),
    }
