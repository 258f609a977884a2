"""Engines kept by their content: built once, whole or not at all, by one of several processes; and judged by their precision."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from deploykit.engine import build as engine_build
from deploykit.engine.build import Engine, Request, build_engine, require_delivered
from deploykit.engine.cache import cache_key, default_cache, get_or_build, read_entry, replace_file
from deploykit.errors import EngineError
from deploykit.plan import BatchRange, Gpu
from deploykit.spec import Precision
from deploykit.trt import BuildOptions, find_gpu, load_flavour
from tests.unit.test_trt import CONV

KEY = "k" * 64
OPTIONS = BuildOptions(BatchRange(1, 2, 4), target="sm86")


def test_an_entry_is_built_once_and_read_afterwards(tmp_path: Path) -> None:
    built = []

    def build() -> tuple[bytes, dict[str, int]]:
        built.append(1)
        return b"plan", {"layers": 3}

    assert get_or_build(tmp_path / "cache", KEY, build) == ((b"plan", {"layers": 3}), False)
    assert get_or_build(tmp_path / "cache", KEY, build) == ((b"plan", {"layers": 3}), True)
    assert built == [1]


@pytest.mark.parametrize("damage", ["cut", "gone", "facts", "other"])
def test_a_damaged_entry_is_built_again(damage: str, tmp_path: Path) -> None:
    get_or_build(tmp_path, KEY, lambda: (b"a plan", {}))
    plan, facts = tmp_path / f"{KEY}.plan", tmp_path / f"{KEY}.json"
    if damage == "gone":
        plan.unlink()
    else:
        broken = plan if damage == "cut" else facts
        broken.write_text({"cut": "a pl", "facts": "{", "other": "[]"}[damage])
    assert read_entry(tmp_path, KEY) is None
    assert get_or_build(tmp_path, KEY, lambda: (b"again", {})) == ((b"again", {}), False)
    assert read_entry(tmp_path, KEY) == (b"again", {})


def test_a_build_that_fails_leaves_nothing_and_lets_the_next_one_try(tmp_path: Path) -> None:
    def fail() -> tuple[bytes, dict[str, int]]:
        raise EngineError("no memory")

    with pytest.raises(EngineError, match="no memory"):
        get_or_build(tmp_path, KEY, fail)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert get_or_build(tmp_path, KEY, lambda: (b"plan", {})) == ((b"plan", {}), False)


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "inside").touch()
    with pytest.raises(OSError, match="plan"):
        replace_file(tmp_path / "plan", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def _build_slowly(folder: Path, results: "multiprocessing.Queue[tuple[bytes, bool]]") -> None:
    def build() -> tuple[bytes, dict[str, int]]:
        time.sleep(0.5)
        return f"plan of {os.getpid()}".encode(), {}

    (plan, _), found = get_or_build(folder, KEY, build)
    results.put((plan, found))


def test_of_two_processes_at_once_one_builds_and_both_get_its_engine(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[bytes, bool]] = fork.Queue()
    processes = [fork.Process(target=_build_slowly, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(found for _, found in answers) == [False, True]
    assert len({plan for plan, _ in answers}) == 1


def test_who_waits_is_told_so_once(tmp_path: Path) -> None:
    told: list[int] = []
    building, done = threading.Event(), threading.Event()

    def build() -> tuple[bytes, dict[str, int]]:
        building.set()
        done.wait(30)
        return b"plan", {}

    def tell() -> None:
        told.append(1)
        done.set()

    first = threading.Thread(target=get_or_build, args=(tmp_path, KEY, build))
    first.start()
    building.wait(30)
    assert get_or_build(tmp_path, KEY, lambda: (b"other", {}), on_wait=tell) == ((b"plan", {}), True)
    first.join()
    assert told == [1]


def test_a_folder_that_cannot_be_written_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="cannot write the engine cache") as caught:
        get_or_build(tmp_path / "file" / "cache", KEY, lambda: (b"plan", {}))
    assert "--no-cache" in str(caught.value.hint)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "engines"
    monkeypatch.delenv("DEPLOYKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "deploykit" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "deploykit" / "engines"


def test_whatever_decides_what_a_plan_is_changes_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flavour = load_flavour("tensorrt-rtx")
    plugin = tmp_path / "plugin.so"
    plugin.write_bytes(b"one")

    def key(
        digest: str = "a", precision: Precision = Precision.FP32, batch: tuple[int, int, int] = (1, 2, 4), **changes: object
    ) -> str:
        options = BuildOptions(BatchRange(*batch), **{"target": "sm86", **changes})  # type: ignore[arg-type]
        return cache_key(engine_build._key(flavour, Request(tmp_path, digest, precision, options)))

    keys = [
        key(),
        key("b"),
        key(precision=Precision.FP16),
        key(batch=(1, 2, 8)),
        key(target="sm89"),
        key(workspace_bytes=1 << 20),
        key(compat="same-cc"),
        key(version_compatible=True),
        key(strip=True),
        key(tf32=True),
        key(optimization_level=1),
        key(plugins=(plugin,)),
    ]
    plugin.write_bytes(b"two")
    keys.append(key(plugins=(plugin,)))
    gpus = [Gpu("A10", "sm86", "CUDA 13.0"), Gpu("A40", "sm86", "CUDA 13.0"), Gpu("A10", "sm86", "CUDA 13.1")]
    for gpu in gpus:
        monkeypatch.setattr(engine_build, "find_gpu", lambda gpu=gpu: gpu)
        keys.append(key(target="current"))
    assert len(set(keys)) == len(keys)
    # A named target does not depend on the GPU at hand.
    assert key() == keys[0]


def test_an_engine_comes_from_the_cache_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    graph = tmp_path / "small.onnx"
    graph.write_bytes(CONV)
    request = Request(graph, "digest", Precision.FP32, OPTIONS)
    flavour = load_flavour("tensorrt-rtx")
    first = build_engine(flavour, request, cache=tmp_path / "cache")
    second = build_engine(flavour, request, cache=tmp_path / "cache")
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.plan == first.plan
    assert (second.network, second.multiplying, second.build_s) == ({"fp32": 2}, {"fp32": 1}, first.build_s)
    assert build_engine(flavour, request, cache=None).from_cache is False


@pytest.mark.skipif(find_gpu() is not None, reason="asks what is said where there is no GPU")
def test_an_engine_that_could_not_be_looked_into_says_so(tmp_path: Path) -> None:
    graph = tmp_path / "small.onnx"
    graph.write_bytes(CONV)
    engine = build_engine(load_flavour("tensorrt-rtx"), Request(graph, "d", Precision.FP32, OPTIONS), cache=None)
    assert engine.engine is None
    assert engine.not_inspected == "no CUDA driver here that could load the engine"


def test_a_precision_that_the_graph_does_not_hold_fails_unless_that_is_accepted(tmp_path: Path) -> None:
    graph = tmp_path / "small.onnx"
    graph.write_bytes(CONV)
    flavour = load_flavour("tensorrt-rtx")
    for _ in range(2):  # from the cache too
        with pytest.raises(EngineError, match=r"int8 was asked for, and no convolution .* multiplies in it \(1 in fp32\)"):
            build_engine(flavour, Request(graph, "d", Precision.INT8, OPTIONS), cache=tmp_path)
    accepted = Request(graph, "d", Precision.INT8, OPTIONS, allow_fallback=True)
    assert build_engine(flavour, accepted, cache=tmp_path).multiplying == {"fp32": 1}


def test_a_precision_that_the_builder_did_not_keep_fails() -> None:
    kept = Engine(b"", 0, False, {}, {"int8": 3}, {"int8": 2, "fp32": 1}, None)
    require_delivered(Precision.INT8, kept)
    lost = Engine(b"", 0, False, {}, {"int8": 3}, {"fp32": 3}, None)
    with pytest.raises(EngineError, match=r"int8 was asked for, and no layer of the built engine runs in it \(3 in fp32\)"):
        require_delivered(Precision.INT8, lost)
