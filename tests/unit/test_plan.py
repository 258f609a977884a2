"""What a plan is for, and every refusal before TensorRT sees the file: cases O17 and O18."""

import gzip
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from deploykit.errors import EngineError, UsageError
from deploykit.plan import BatchRange, Gpu, PlanFile, PlanHeader, PlanRecord, Repeats, read_header, read_plan
from deploykit.spec import Precision

A10 = Gpu("NVIDIA A10", "sm86", "CUDA 13.0")
RTX3090 = Gpu("NVIDIA GeForce RTX 3090", "sm86", "CUDA 13.0")
H100 = Gpu("NVIDIA H100", "sm90", "CUDA 13.0")
T4 = Gpu("Tesla T4", "sm75", "CUDA 13.0")
CONTENT = b"ftrt" + os.urandom(200_000)


def record_of(data: bytes, **changes: object) -> PlanRecord:
    file = PlanFile(hashlib.sha256(data).hexdigest(), len(data), "fp16/predict.onnx", "0" * 64, 1.5, False, {}, {"fp16": 3})
    record = PlanRecord("tensorrt", "10.13.3.9", "sm86", A10, Precision.FP16, BatchRange(1, 8, 32), {"predict.plan": file})
    return replace(record, **changes)  # type: ignore[arg-type]


def write(folder: Path, data: bytes, record: PlanRecord | None) -> Path:
    path = folder / "predict.plan"
    path.write_bytes(data)
    if record is not None:
        (folder / "plan.json").write_text(record.to_text())
    return path


def read(path: Path, version: str = "10.13.3.9", gpu: Gpu | None = A10, backend: str = "tensorrt") -> bytes:
    return read_plan(path, backend=backend, version=version, gpu=gpu)


def test_a_batch_range_checks_itself_and_is_read_from_text() -> None:
    assert BatchRange.parse("1:8:32") == BatchRange(1, 8, 32)
    assert BatchRange.parse("4") == BatchRange(4, 4, 4)
    assert str(BatchRange(1, 8, 32)) == "1:8:32"
    for text in ("8:4:1", "0:1:2", "1:3:2"):
        with pytest.raises(UsageError, match=rf"batch is {text}, expected min:opt:max with 1 <= min <= opt <= max"):
            BatchRange.parse(text)
    for text in ("", "1:2", "a:b:c", "1:2:3:4", "-1:2:3", "1.5"):
        with pytest.raises(UsageError, match="expected min:opt:max such as"):
            BatchRange.parse(text)


def test_the_folder_says_what_the_plans_are_for() -> None:
    assert record_of(CONTENT).folder == "plans/tensorrt-10.13.3.9-sm86-fp16-b1-8-32"


def test_a_record_comes_back_from_its_text_as_it_was() -> None:
    for record in (record_of(CONTENT), record_of(CONTENT, gpu=None, plugins=("libcam.so",), compat="same-cc")):
        assert PlanRecord.from_text(record.to_text(), Path("plan.json")) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2, this deploykit reads 1"),
        ({"batch": {"min": 8, "opt": 4, "max": 1}}, "batch is 8:4:1"),
        ({"precision": "int3"}, "int3"),
        ({"sm": "../.."}, "compute capability is '../..'"),
        ({"version": "../1"}, "version is '../1'"),
        ({"compat": "all"}, "compat is 'all'"),
        ({"more": 1}, "more"),
        ({"files": []}, "does not follow schema version 1"),
    ],
)
def test_a_record_that_was_edited_badly_is_refused(change: dict[str, object], message: str) -> None:
    text = json.dumps({**json.loads(record_of(CONTENT).to_text()), **change})
    with pytest.raises(EngineError) as caught:
        PlanRecord.from_text(text, Path("plan.json"))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"schema_version": 1}'])
def test_a_file_that_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT, None)
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(EngineError, match=r"plan\.json"):
        read(path)


def test_a_whole_plan_for_this_gpu_and_version_is_read(tmp_path: Path) -> None:
    assert read(write(tmp_path, CONTENT, record_of(CONTENT))) == CONTENT


O18 = {
    "empty": (b"", "is empty (0 bytes)"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123456\n",
        "is a Git LFS pointer",
    ),
    "onnx": (bytes([0x08, 0x08, 0x12, 0x07]) + b"pytorch" + b"\0" * 64, "is an ONNX graph"),
    "gzip": (gzip.compress(CONTENT), "is a gzip archive"),
    "page": (b"<!DOCTYPE html><html>404</html>", "is a web page"),
    "noise": (b"\x00\x01" + os.urandom(4094), "predict.plan"),
    "cut": (CONTENT[:99_999], "predict.plan"),
}


@pytest.mark.parametrize("kind", O18)
def test_a_damaged_file_is_refused_with_what_it_is(kind: str, tmp_path: Path) -> None:
    data, message = O18[kind]
    with pytest.raises(EngineError) as caught:
        read(write(tmp_path, data, record_of(CONTENT)))
    assert str(tmp_path / "predict.plan") in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("kind", [k for k in O18 if k != "cut"])  # a cut file without a record begins as a plan does
def test_it_is_refused_without_a_record_too(kind: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        read(write(tmp_path, O18[kind][0], None))


def test_sizes_and_digests_tell_what_happened_to_a_plan(tmp_path: Path) -> None:
    data = b"ftrt" + bytes(range(256)) * 40
    record = record_of(data)
    changed = data[:-1] + b"\x00"
    for content, message in (
        (data[:5000], r"has 5,000 bytes, plan\.json says 10,244: it is cut short"),
        (data.replace(b"\n", b"\r\n"), "it was copied in text mode, which changed its line feeds"),
        (data + b"more", "has 10,248 bytes.*it is another file"),
        (changed, "sha256 [0-9a-f]{12}…, expected"),
    ):
        with pytest.raises(EngineError, match=message):
            read(write(tmp_path, content, record))


def test_a_plan_that_holds_line_ends_of_its_own_is_still_seen_to_be_copied_in_text_mode(tmp_path: Path) -> None:
    data = b"ftrt\r\n\n\r\n" + bytes(100)
    with pytest.raises(EngineError, match="text mode"):
        read(write(tmp_path, data.replace(b"\n", b"\r\n"), record_of(data)))


def test_a_plan_that_lost_bytes_to_text_mode_is_cut_short_or_text_mode(tmp_path: Path) -> None:
    data = b"ftrt" + b"\r\n" * 10 + bytes(100)
    with pytest.raises(EngineError, match="text mode"):
        read(write(tmp_path, data.replace(b"\r\n", b"\n"), record_of(data)))


@pytest.mark.parametrize(
    ("changes", "version", "fits"),
    [
        ({}, "10.13.0.35", True),
        ({}, "10.14.1.48", False),
        ({}, "11.4.0.106", False),
        ({}, "10.12.0.36", False),
        ({"version_compatible": True}, "10.14.1.48", True),
        ({"version_compatible": True}, "10.12.0.36", False),
        ({"version_compatible": True}, "11.4.0.106", False),
    ],
)
def test_another_version_is_refused_with_both(changes: dict[str, object], version: str, fits: bool, tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT, record_of(CONTENT, **changes))
    if fits:
        assert read(path, version) == CONTENT
    else:
        with pytest.raises(EngineError, match=rf"built with tensorrt 10\.13\.3\.9; here is {version}") as caught:
            read(path, version)
        assert "deploykit build BUNDLE --backend tensorrt --precision fp16 --batch 1:8:32" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "gpu", "fits"),
    [
        ({}, H100, False),
        ({}, RTX3090, False),
        ({"compat": "same-cc"}, RTX3090, True),
        ({"compat": "same-cc"}, H100, False),
        ({"compat": "ampere+"}, H100, True),
        ({"compat": "ampere+"}, T4, False),
        ({"gpu": None}, RTX3090, True),
        ({"gpu": None}, T4, False),
    ],
)
def test_another_gpu_is_refused_with_both(changes: dict[str, object], gpu: Gpu, fits: bool, tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT, record_of(CONTENT, **changes))
    if fits:
        assert read(path, gpu=gpu) == CONTENT
    else:
        with pytest.raises(EngineError, match=rf"built for sm86.*; the selected GPU is {gpu.name}, {gpu.sm}"):
            read(path, gpu=gpu)


def test_no_gpu_is_one_error_that_names_the_cpu_way(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="this machine has no NVIDIA GPU") as caught:
        read(write(tmp_path, CONTENT, record_of(CONTENT)), gpu=None)
    assert "--provider cpu" in str(caught.value.hint)


def test_the_other_flavour_and_a_missing_plugin_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT, record_of(CONTENT, plugins=("libcam.so",)))
    with pytest.raises(EngineError, match=r"built by tensorrt 10\.13\.3\.9; tensorrt-rtx 1\.7\.1\.116 is to load it"):
        read(path, "1.7.1.116", backend="tensorrt-rtx")
    with pytest.raises(EngineError, match=r"needs the plugin library libcam\.so; none loaded"):
        read(path)
    assert read_plan(path, backend="tensorrt", version="10.13.3.9", gpu=A10, plugins=("libcam.so",)) == CONTENT


def test_a_plan_that_its_record_does_not_know_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    write(tmp_path, CONTENT, record_of(CONTENT))
    (tmp_path / "explain.plan").write_bytes(CONTENT)
    with pytest.raises(EngineError, match=r"says nothing of explain\.plan; it describes predict\.plan"):
        read(tmp_path / "explain.plan")
    with pytest.raises(EngineError, match=r"gone\.plan cannot be read"):
        read(tmp_path / "gone.plan")


def bare(mark: bytes, version: tuple[int, ...], size: int) -> bytes:
    """The bytes of a plan as its header describes it: mark, length at 16, version at 24."""
    return (mark + bytes(12) + size.to_bytes(8, "little") + bytes(version)).ljust(size, b"\0")


def test_a_bare_plan_tells_who_wrote_it_in_which_version_and_where_it_is_known_how_long_it_is() -> None:
    assert read_header(bare(b"ftrt", (10, 13, 3, 9), 100)) == PlanHeader("tensorrt", "10.13.3.9", None)
    assert read_header(bare(b"vtrt", (1, 7, 1, 116), 100)) == PlanHeader("tensorrt-rtx", "1.7.1.116", 100)
    assert read_header(b"ftrt" + bytes(20)) is None
    assert read_header(bytes(100)) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bare(b"vtrt", (1, 7, 1, 116), 100), None),
        (bare(b"vtrt", (1, 6, 0, 0), 100), None),  # may have been built to be version-compatible: TensorRT itself decides
        (bare(b"vtrt", (1, 7, 1, 116), 100)[:-1], r"has 99 bytes, its header says 100: it is cut short"),
        (bare(b"vtrt", (1, 7, 1, 116), 100) + b"\r", r"has 101 bytes, its header says 100: something was added"),
        (bare(b"vtrt", (1, 8, 0, 0), 100), r"built with tensorrt-rtx 1\.8\.0\.0; here is 1\.7\.1\.116"),
        (bare(b"vtrt", (2, 0, 0, 0), 100), r"built with tensorrt-rtx 2\.0\.0\.0; here is 1\.7\.1\.116"),
        (bare(b"ftrt", (10, 13, 3, 9), 100), r"built by tensorrt 10\.13\.3\.9; tensorrt-rtx 1\.7\.1\.116 is to load it"),
    ],
)
def test_a_bare_plan_is_refused_by_its_own_header(data: bytes, message: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, data, None)
    if message is None:
        assert read(path, "1.7.1.116", backend="tensorrt-rtx") == data
    else:
        with pytest.raises(EngineError, match=message):
            read(path, "1.7.1.116", backend="tensorrt-rtx")


REPEATS = Repeats((1.5, 1.0, 2.0), (10, 10, 12), ("a", "a", "b"), kept=0, gpu_time_ms=(1.0, 1.1, 0.9), timed_batch=8)


def test_repeats_come_back_from_the_record_and_check_themselves() -> None:
    record = record_of(CONTENT)
    (name, file), *_ = record.files.items()
    record = replace(record, files={name: replace(file, repeats=REPEATS, layers=(("conv", "fp16"),))})
    assert PlanRecord.from_text(record.to_text(), Path("plan.json")) == record
    assert not REPEATS.is_identical
    assert replace(REPEATS, sha256=("a", "a", "a")).is_identical
    for change in ({"kept": 3}, {"kept": -1}, {"size_bytes": (10, 10)}, {"gpu_time_ms": (1.0,)}):
        with pytest.raises(EngineError, match="expected one value of each build"):
            replace(REPEATS, **change)


def test_a_stripped_plan_is_refused_until_its_weights_are_in(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT, record_of(CONTENT, stripped=True))
    with pytest.raises(EngineError, match="was built without its weights") as caught:
        read(path)
    assert "deploykit refit" in str(caught.value.hint)
    assert read_plan(path, backend="tensorrt", version="10.13.3.9", gpu=A10, may_be_stripped=True) == CONTENT
