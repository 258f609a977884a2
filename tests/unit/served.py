"""What tests of the server share: small bundles that are served in this process, pictures, and how to ask."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from deploykit.image import DecodeLimits
from deploykit.server.app import make_state
from deploykit.server.logs import Log
from deploykit.server.metrics import Metrics
from deploykit.server.repository import Repository
from deploykit.server.settings import BatchSettings, Settings
from deploykit.server.state import State
from tests.unit.bright_bundle import make_bundle
from tests.unit.bright_segments import make_segments_bundle

LIMITS = DecodeLimits(max_bytes=200_000)
SETTINGS = Settings(batch=BatchSettings(max_batch_size=4), limits=LIMITS, max_upload_bytes=200_000, workers_of_pool=2)


def make_bundles(folder: Path) -> dict[str, Path]:
    """A classifier and a segmentation model whose answers can be told beforehand."""
    make_bundle(folder / "bright", input_gradients=True)
    make_segments_bundle(folder / "segments")
    return {"bright": folder / "bright", "segments": folder / "segments"}


def start(bundles: dict[str, Path], settings: Settings, lines: io.StringIO | None = None) -> State:
    log, metrics = Log("json", lines or io.StringIO()), Metrics()
    repository = Repository(bundles, settings, metrics, log)
    repository.open_all()
    return make_state(settings, repository, metrics, log)


def picture(grey: int = 255, size: tuple[int, int] = (60, 40), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, form)
    return file.getvalue()


def flat_png(width: int, height: int) -> bytes:
    """1-bit grey, so small that no upload limit sees it."""
    packed = zlib.compressobj(9)
    row = b"\0" + bytes((width + 7) // 8)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def predict(client: TestClient, data: bytes, kind: str = "image/png", query: str = "", name: str = "bright", **headers: str) -> Any:
    return client.post(f"/v1/models/{name}:predict{query}", content=data, headers={"content-type": kind, **headers})


def explain(client: TestClient, query: str, data: bytes | None = None, name: str = "bright") -> Any:
    data = picture() if data is None else data
    return client.post(f"/v1/models/{name}:explain?{query}", content=data, headers={"content-type": "image/png"})
