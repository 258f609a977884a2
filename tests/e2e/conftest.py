"""What several end-to-end tests share: a small bundle, and a real server of it."""

from collections.abc import Iterator

import pytest

from deploykit.bundle import Bundle
from tests.e2e.serving import Server, serving
from tests.unit.bright_bundle import make_bundle


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose answers are easy to tell. Tests that change it work on a copy."""
    return make_bundle(tmp_path_factory.mktemp("bright") / "bright")


@pytest.fixture(scope="module")
def server(bright: Bundle, small: Bundle) -> Iterator[Server]:
    """One server of two models for the tests that do not end or change it."""
    options = ["--allow-untrained", "--log-format", "json", "--upload-timeout", "2", "--max-upload-bytes", "2000000"]
    with serving(bright.path, small.path, *options, "--max-queue-delay-us", "2000") as started:
        yield started
