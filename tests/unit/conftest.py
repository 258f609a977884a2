"""What several unit tests share: a server in this process; a session over an engine on a GPU that is not there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from deploykit.runtime import TrtSession
from deploykit.server.app import make_app
from tests.recording_device import RecordingDevice
from tests.recording_engine import Open, RecordingEngine, loaded
from tests.unit.served import SETTINGS, make_bundles, start


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles to serve, by name."""
    return make_bundles(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(bundles: dict[str, Path]) -> Iterator[TestClient]:
    """Of a server of them all."""
    with TestClient(make_app(start(bundles, SETTINGS)), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def gpu() -> RecordingDevice:
    """A GPU that writes down what is asked of it."""
    return RecordingDevice()


@pytest.fixture
def open_session(engine: RecordingEngine) -> Open:
    """Open sessions over a module's ``engine``."""
    return lambda **options: TrtSession("explain.plan", load=loaded(engine), **options)
