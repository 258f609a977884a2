"""A file that is no checkpoint is told by its content, before anything in it is loaded."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from deploykit.errors import WeightsError
from deploykit.models.weights import read_checkpoint

STATE = {"0.weight": torch.ones(8, 3, 3, 3), "0.bias": torch.zeros(8)}


def write_zip(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def truncated(path: Path) -> None:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:-200])


def half_safetensors(path: Path) -> None:
    path.write_bytes(safetensors.torch.save(STATE)[:-200])


NOT_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.touch(), "is empty"),
    "text": (lambda path: path.write_text("hello world\n"), "is not a checkpoint: it begins with b'hello world"),
    "LFS pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "a Git LFS pointer",
    ),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><html></html>"), "is a web page"),
    "onnx": (lambda path: path.write_bytes(b"\x08\x0a\x12\x07pytorch"), "an ONNX graph"),
    "truncated": (truncated, "is cut off or damaged"),
    "other zip": (lambda path: write_zip(path, ["a.txt", "b.txt"]), "a zip archive without a checkpoint: it holds a.txt, b.txt"),
    "TorchScript": (lambda path: write_zip(path, ["net/data.pkl", "net/constants.pkl"]), "is a TorchScript archive"),
    "truncated safetensors": (half_safetensors, "cannot be read as a checkpoint"),
    "list": (lambda path: torch.save([torch.zeros(2)], path), "holds a list, expected tensors by name"),
    "no tensors": (lambda path: torch.save({"epoch": 3, "lr": 0.1}, path), "holds no tensors by name; its keys are epoch, lr"),
    "mixture": (lambda path: torch.save({**STATE, "epoch": 3}, path), r"mixes tensors with epoch \(int\)"),
    "legacy cut off": (lambda path: path.write_bytes(b"\x80\x02\x8a\x0al"), "."),
}


@pytest.mark.parametrize("kind", NOT_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    write, message = NOT_CHECKPOINTS[kind]
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(WeightsError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
