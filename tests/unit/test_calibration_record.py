"""The calibration record: what it holds, that people can read it, and that it is refused for any graph but its own (case O14)."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploykit.errors import BundleError
from deploykit.quantization.histogram import add_values, empty_histogram
from deploykit.quantization.methods import thresholds
from deploykit.quantization.pictures import Photo, Pictures, Skipped
from deploykit.quantization.record import CalibrationRecord, TensorRecord, load, make_record, read, save, scale_of
from deploykit.spec import ImageSpec

SPEC = ImageSpec(height=24, width=32, resize_size=36)
GRAPH, RETRAINED, WEIGHTS = "a" * 64, "b" * 64, "c" * 64


def _histograms(factor: float = 1.0) -> dict[str, Any]:
    random = np.random.default_rng(1)
    made = {"relu": np.maximum(random.standard_normal(5000), 0), "conv": random.standard_normal(5000) * 3, "dead": np.zeros(10)}
    return {name: add_values(empty_histogram(), (array * factor).astype(np.float32)) for name, array in made.items()}


def _pictures(contents: str = "012") -> Pictures:
    photos = [Photo(Path(f"{i}.jpg"), f"cats/{i} ü.jpg", i * 64) for i in contents]
    return Pictures(tuple(photos[1:]), tuple(photos[:1]), (Skipped("cut.jpg", "is truncated"),), views=2)


def _record(method: str = "percentile", graph: str = GRAPH, factor: float = 1.0, contents: str = "012") -> CalibrationRecord:
    facts = {"graph_sha256": graph, "weights_sha256": WEIGHTS, "image": SPEC, "versions": {"onnxruntime": "1.32.0", "numpy": "2.4"}}
    return make_record(_histograms(factor), method, 99.9, _pictures(contents), **facts)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(_record(), tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, method: str) -> None:
    record = _record(method)
    save(record, tmp_path / "r.json")
    loaded = load(tmp_path / "r.json", GRAPH, weights_sha256=WEIGHTS, image=SPEC, calibration=["1" * 64, "2" * 64], method=method)
    assert loaded.to_text() == record.to_text()
    assert loaded.thresholds == thresholds(_histograms(), method, 99.9)
    assert (loaded.percentile == 99.9) == (method == "percentile")
    assert loaded.versions is not None
    assert set(loaded.versions) == {"deploykit", "onnxruntime", "numpy"}


def test_a_tensor_is_described_by_what_was_seen_of_it() -> None:
    tensors = _record().tensors
    array = np.maximum(np.random.default_rng(1).standard_normal(5000), 0).astype(np.float32)
    relu = tensors["relu"]
    assert (relu.minimum, relu.maximum) == (0, array.max())
    assert relu.zero_share == np.mean(array == 0)
    # To the values of one bin, 1/4096 of the range: here one or none of 5,000.
    assert relu.clipped_share == pytest.approx(np.mean(array > relu.threshold), abs=1.01 / 5000)
    assert relu.scale == relu.threshold / 127


def test_a_zero_tensor_has_a_small_positive_scale_and_is_named() -> None:
    """Case O11."""
    record = _record()
    assert record.zero_tensors == ("dead",)
    assert 0 < record.tensors["dead"].scale < 1e-3
    assert all(scale_of(t) > 1e-30 for t in (0, 1e-45, 1e-38, 1e-28, 1e-27, 3e38))


def test_people_can_read_it_line_by_line(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.split('"')[1] for line in lines if '"threshold"' in line]
    assert names == ["conv", "dead", "relu"]
    assert sum("cats/" in line for line in lines) == 3
    assert any("ü" in line for line in lines)
    assert any('"crops_rule": "view 0 of a photo' in line for line in lines)
    assert json.loads(path.read_text(encoding="utf-8"))["skipped"] == [{"name": "cut.jpg", "reason": "is truncated"}]


def test_the_same_calibration_gives_the_same_bytes() -> None:
    pictures = _pictures()
    turned = replace(pictures, calibration=pictures.calibration[::-1])
    facts = {"graph_sha256": GRAPH, "weights_sha256": WEIGHTS, "image": SPEC, "versions": {"numpy": "2.4", "onnxruntime": "1.32.0"}}
    backwards = dict(reversed(_histograms().items()))
    assert make_record(backwards, "percentile", 99.9, turned, **facts).to_text() == _record().to_text()  # type: ignore[arg-type]


def test_a_retrained_model_with_the_same_names_is_refused_with_both_digests(path: Path) -> None:
    """Case O14."""
    with pytest.raises(BundleError, match=f"stale: the graph it was made for is {GRAPH}, expected {RETRAINED}") as caught:
        load(path, RETRAINED)
    assert "calibrate again" in str(caught.value.hint)


def test_calibrating_again_on_the_same_path_gives_what_a_fresh_calibration_gives(path: Path, tmp_path: Path) -> None:
    """Case O14: model B, its ranges 50 times as wide, is calibrated where A's record stands."""
    fresh = tmp_path / "fresh.json"
    for place in (path, fresh):
        save(_record(graph=RETRAINED, factor=50), place)
    assert path.read_bytes() == fresh.read_bytes()
    assert load(path, RETRAINED).thresholds["conv"] == pytest.approx(50 * _record().thresholds["conv"], rel=1e-3)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"weights_sha256": RETRAINED}, f"the weights it was made for is {WEIGHTS}, expected {RETRAINED}"),
        (
            {"image": replace(SPEC, interpolation="bicubic")},
            "the image spec's interpolation it was made for is bilinear, expected bicubic",
        ),
        ({"method": "mse"}, "the method it was made for is percentile, expected mse"),
        ({"calibration": ["1" * 64, "9" * 64]}, "of its 2 pictures 1 are gone or changed, and 1 are new"),
        ({"calibration": ["1" * 64]}, "of its 2 pictures 1 are gone or changed, and 0 are new"),
    ],
)
def test_anything_else_that_changed_is_refused_by_name(path: Path, expected: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        load(path, GRAPH, **expected)


def test_a_record_that_was_cut_anywhere_is_refused(path: Path) -> None:
    """Case O14: a damaged record is never half used."""
    data = path.read_bytes()
    for length in range(0, len(data) - 2, 97):
        path.write_bytes(data[:length])
        with pytest.raises(BundleError, match="damaged") as caught:
            load(path, GRAPH)
        assert "calibrate again" in str(caught.value.hint)


def _without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


def _with(value: object, *keys: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _without("tensors"),
        _without("tensors", "conv", "scale"),
        _with(7, "other"),
        _with(0.5, "tensors", "conv", "scale"),
        _with(-1.0, "tensors", "conv", "threshold"),
        _with("1", "tensors", "conv", "maximum"),
        _with(2, "tensors", "conv", "clipped_share"),
        _with({}, "tensors"),
        _with([], "calibration"),
        _with([{"name": "a", "sha256": "12"}], "calibration"),
        _with([{"name": "a", "sha256": "0" * 64}], "calibration"),  # held out too
        _with("kl", "method"),
        _with(None, "percentile"),
        _with("A" * 64, "graph_sha256"),
        _with(3, "image", "other"),
        _with(-3, "image", "height"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError, match="does not follow schema version 1"):
        read(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema_version": 2}', '"scales"', "null"])
def test_another_json_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(BundleError, match="has schema version"):
        read(path)


@pytest.mark.parametrize("content", [b"TRT-1000-EntropyCalibration2\nimage: 3c010a14\n", b"\x80\x02", b'{"schema_version": NaN}'])
def test_a_foreign_cache_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is damaged or no calibration record"):
        read(path)


def test_a_missing_record_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such calibration record"):
        read(tmp_path / "none.json")
    with pytest.raises(BundleError, match="cannot be read"):
        read(tmp_path)


def test_two_writers_leave_a_whole_record(tmp_path: Path) -> None:
    records = [_record(), _record("mse")]
    texts = [record.to_text() for record in records]
    path = tmp_path / "r.json"

    def write(record: CalibrationRecord) -> None:
        for _ in range(20):
            save(record, path)

    threads = [threading.Thread(target=write, args=(record,)) for record in records]
    for thread in threads:
        thread.start()
    seen = {path.read_text(encoding="utf-8") for _ in range(200) if path.exists()}
    for thread in threads:
        thread.join()
    assert seen | {path.read_text(encoding="utf-8")} <= set(texts)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none/r\.json: cannot be written \(No such file or directory\)"):
        save(_record(), tmp_path / "none" / "r.json")
    (tmp_path / "r.json").mkdir()
    with pytest.raises(BundleError, match="cannot be written"):
        save(_record(), tmp_path / "r.json")
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_tensor_record_that_is_not_finite_is_not_made() -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        TensorRecord(float("nan"), 1.0, 0.0, 1.0, 0.0, 0.0)
