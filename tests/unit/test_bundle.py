"""The bundle: written in one step, read with suspicion."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploykit.bundle import Bundle, ModelRecord, WeightsRecord, check_target, extend_bundle, new_bundle, sha256_of
from deploykit.errors import BundleError
from deploykit.spec import ImageSpec, Precision

FACTS: dict[str, Any] = {
    "model": ModelRecord("tiny", "tiny", 2, 10),
    "weights": WeightsRecord("random (seed 0)", "w" * 64, False, "float32", "tiny"),
    "image": ImageSpec(4, 4, 4),
}


def make(path: Path, content: bytes = b"graph", *, replace: bool = False) -> Bundle:
    with new_bundle(path, **FACTS, replace=replace) as stage:
        stage.add("fp32/predict.onnx", content, made_from={"weights": "w" * 64}, made_with={"onnx": "1"})
        stage.add("labels.txt", b"cat\ndog\n")
    return Bundle.open(path)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_a_bundle_reads_back_as_it_was_written(tmp_path: Path) -> None:
    bundle = make(tmp_path / "tiny")
    assert bundle.manifest.model == FACTS["model"]
    assert bundle.manifest.weights == FACTS["weights"]
    assert bundle.manifest.image == FACTS["image"]
    assert bundle.precisions == (Precision.FP32,)
    assert bundle.labels() == ("cat", "dog")
    assert bundle.damage() == {}
    assert bundle.file("fp32/predict.onnx").read_bytes() == b"graph"
    assert leftovers(tmp_path) == []


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_bundle(tmp_path / "tiny", **FACTS) as stage:
        stage.add("a", b"a")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_replacing_leaves_the_old_bundle(tmp_path: Path) -> None:
    make(tmp_path / "tiny", b"old")
    with pytest.raises(ZeroDivisionError), new_bundle(tmp_path / "tiny", **FACTS, replace=True):
        raise ZeroDivisionError
    assert Bundle.open(tmp_path / "tiny").file("fp32/predict.onnx").read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_bundle_is_replaced_only_when_told(tmp_path: Path) -> None:
    make(tmp_path / "tiny", b"old")
    with pytest.raises(BundleError, match="exists") as caught:
        make(tmp_path / "tiny", b"new")
    assert "--force" in str(caught.value.hint)
    assert make(tmp_path / "tiny", b"new", replace=True).file("fp32/predict.onnx").read_bytes() == b"new"


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    for replacing in (False, True):
        with pytest.raises(BundleError, match="is not a bundle"):
            make(tmp_path / "photos", replace=replacing)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BundleError, match="is not a bundle"):
        make(tmp_path / "file", replace=True)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_an_empty_folder_is_filled_and_a_missing_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    with pytest.raises(BundleError, match="nowhere is not a folder"):
        check_target(tmp_path / "nowhere" / "tiny", replace=False)


def test_a_users_own_file_survives_a_replacement_and_stale_files_do_not(tmp_path: Path) -> None:
    bundle = make(tmp_path / "tiny")
    (bundle.path / "notes.txt").write_text("mine")
    with extend_bundle(bundle.path) as stage:
        stage.add("fp16/predict.onnx", b"half")
    again = make(bundle.path, b"new", replace=True)
    assert (again.path / "notes.txt").read_text() == "mine"
    assert not (again.path / "fp16").exists()


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    make(tmp_path / "real", b"old")
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link", b"new", replace=True)
    assert (tmp_path / "link").is_symlink()
    assert Bundle.open(tmp_path / "real").file("fp32/predict.onnx").read_bytes() == b"new"


def test_extending_adds_files_and_alters_none(tmp_path: Path) -> None:
    bundle = make(tmp_path / "tiny")
    before = bundle.manifest
    with extend_bundle(bundle.path) as stage:
        stage.add("fp16/predict.onnx", b"half", made_from={"fp32/predict.onnx": sha256_of(b"graph")})
    after = Bundle.open(bundle.path)
    assert after.precisions == (Precision.FP32, Precision.FP16)
    assert {n: after.manifest.files[n] for n in before.files} == before.files
    assert after.damage() == {}


def test_writing_a_file_again_does_not_write_through_the_link_into_the_bundle_in_use(tmp_path: Path) -> None:
    bundle = make(tmp_path / "tiny", b"old")
    with pytest.raises(ZeroDivisionError), extend_bundle(bundle.path) as stage:
        stage.add("fp32/predict.onnx", b"new")
        raise ZeroDivisionError
    assert bundle.damage() == {}


def test_two_writers_at_once_do_not_lose_each_others_files(tmp_path: Path) -> None:
    bundle = make(tmp_path / "tiny")
    with pytest.raises(BundleError, match="changed by another process"), extend_bundle(bundle.path) as slow:
        slow.add("fp16/predict.onnx", b"half")
        with extend_bundle(bundle.path) as quick:
            quick.add("int8/predict.onnx", b"int")
    assert Bundle.open(bundle.path).precisions == (Precision.FP32, Precision.INT8)


def test_a_file_is_stale_when_what_it_was_made_from_has_changed(tmp_path: Path) -> None:
    bundle = make(tmp_path / "tiny")
    with extend_bundle(bundle.path) as stage:
        stage.add("fp16/predict.onnx", b"half", made_from={"fp32/predict.onnx": sha256_of(b"another graph")})
    assert Bundle.open(bundle.path).damage() == {"fp16/predict.onnx": "is stale: what it was made from has changed since"}


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        (lambda p: p.unlink(), "is missing"),
        (lambda p: p.write_bytes(b"grap"), "has 4 bytes, the manifest says 5"),
        (lambda p: p.write_bytes(b"graPh"), "has sha256"),
    ],
)
def test_damage_is_named(tmp_path: Path, harm: Any, seen: str) -> None:
    bundle = make(tmp_path / "tiny")
    harm(bundle.path / "fp32" / "predict.onnx")
    assert seen in bundle.damage()["fp32/predict.onnx"]


KILLED = """
    import sys, time
    from pathlib import Path
    from deploykit.bundle import new_bundle
    from tests.unit.test_bundle import FACTS
    for i in range(10_000):
        with new_bundle(Path(sys.argv[1]), **FACTS, replace=True) as stage:
            for name in "abcd":
                stage.add(name, b"%d" % i)
        print(i, flush=True)
"""


@pytest.mark.parametrize("delay_ms", [0, 3, 7, 13, 29, 61])
def test_kill_9_leaves_the_old_bundle_or_the_new_one(tmp_path: Path, delay_ms: int) -> None:
    path = tmp_path / "tiny"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), str(path)], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_ms / 1000)
        process.send_signal(signal.SIGKILL)
    bundle = Bundle.open(path)
    assert bundle.damage() == {}
    assert len({(bundle.path / name).read_bytes() for name in "abcd"}) == 1  # all four from the same round
    make(path, replace=True)
    assert leftovers(tmp_path) == []  # what the killed process left is swept


def test_the_swap_works_without_the_system_call_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "somewhere else")
    make(tmp_path / "tiny", b"old")
    assert make(tmp_path / "tiny", b"new", replace=True).file("fp32/predict.onnx").read_bytes() == b"new"
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "tiny", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        make(tmp_path / "tiny", b"new", replace=True)
    monkeypatch.undo()
    assert Bundle.open(tmp_path / "tiny").file("fp32/predict.onnx").read_bytes() == b"old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "a\\b", "", "./a", "a//b"])
def test_a_file_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="leads out"), new_bundle(tmp_path / "tiny", **FACTS) as stage:
        stage.add(name, b"x")
    bundle = make(tmp_path / "tiny")
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["labels.txt"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="leads out"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("", "is not JSON"),
        ("[]", "schema version None"),
        ('{"schema_version": 99}', "schema version 99, this deploykit .* reads 1"),
        ('{"schema_version": 1}', "does not follow schema version 1"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, text: str, seen: str) -> None:
    bundle = make(tmp_path / "tiny")
    (bundle.path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=seen):
        Bundle.open(bundle.path)


def test_a_path_without_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is a file"):
        Bundle.open(tmp_path / "file")


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "tiny", **FACTS) as stage:
        stage.add("labels.txt", b"cat\ndog\nbird\n")
    with pytest.raises(BundleError, match="3 names for 2 classes"):
        Bundle.open(tmp_path / "tiny").labels()


def test_golden_vectors_read_back_and_anything_else_is_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.savez(data, image=np.zeros((1, 4, 4, 3), np.uint8), logits=np.ones((1, 2), np.float32))
    with new_bundle(tmp_path / "tiny", **FACTS) as stage:
        stage.add("golden.npz", data.getvalue())
    assert Bundle.open(tmp_path / "tiny").golden().logits.tolist() == [[1.0, 1.0]]
    for content in (b"", b"text", data.getvalue()[:100]):
        (tmp_path / "tiny" / "golden.npz").write_bytes(content)
        with pytest.raises(BundleError, match="does not hold golden vectors"):
            Bundle.open(tmp_path / "tiny").golden()


def test_a_copied_bundle_is_the_same_bundle(tmp_path: Path) -> None:
    bundle = make(tmp_path / "tiny")
    copied = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy"))
    assert copied.damage() == {}
    assert replace(copied, path=bundle.path) == bundle
