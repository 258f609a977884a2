"""Cases O04, O05 and O06: what a checkpoint may look like, and what is refused."""

import argparse
import datetime
import os
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from deploykit.errors import UsageError, WeightsError
from deploykit.models.checkpoint_format import HARMLESS_TYPES, CheckpointFormat, list_globals
from deploykit.models.weights import read_checkpoint


def tiny_state() -> dict[str, Tensor]:
    """A small model's state dict: convolution, normalization with its integer counter, linear."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5)).state_dict()


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tiny_state().items()}


WRAPPED: dict[str, Callable[[], Any]] = {
    "bare": tiny_state,
    "DataParallel": lambda: prefixed("module."),
    "torch.compile": lambda: prefixed("_orig_mod."),
    "both": lambda: prefixed("_orig_mod.module."),
    "both, the other way round": lambda: prefixed("module._orig_mod."),
    "training script": lambda: {"epoch": 7, "arch": "tiny", "state_dict": prefixed("module."), "optimizer": {"lr": 0.1}},
    "under model": lambda: {"model": tiny_state(), "scheduler": None},
    "under net": lambda: {"net": tiny_state(), "acc": torch.tensor(0.7)},
    "under model_state_dict": lambda: {"model_state_dict": tiny_state()},
    "twice": lambda: {"model": {"state_dict": tiny_state(), "step": 5}},
    "averaged only": lambda: {"model_ema": {"module": tiny_state()}},
    "parameters": lambda: {key: nn.Parameter(v) if v.is_floating_point() else v for key, v in tiny_state().items()},
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_weights_are_found_inside_wrappers_and_freed_of_prefixes(kind: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(WRAPPED[kind](), path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(path)
    expected = tiny_state()
    assert list(checkpoint.tensors) == list(expected)
    assert all(torch.equal(checkpoint.tensors[key], expected[key]) for key in expected)
    assert len(checkpoint.sha256) == 64
    assert checkpoint.notes == ()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_safetensors_are_known_by_their_content(name: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(prefixed("module."), tmp_path / name)
    checkpoint = read_checkpoint(tmp_path / name)
    assert {key: value.tolist() for key, value in checkpoint.tensors.items()} == {k: v.tolist() for k, v in tiny_state().items()}


def test_a_prefix_that_only_some_keys_have_is_not_stripped(tmp_path: Path) -> None:
    state = {("module." + key if i % 2 else key): value for i, (key, value) in enumerate(tiny_state().items())}
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"4 of 9 keys begin with 'module.' \(module.0.bias\), the others do not \(0.weight\)"):
        read_checkpoint(tmp_path / "half.pth")


def test_averaged_weights_beside_the_plain_ones_are_mentioned_and_not_taken(tmp_path: Path) -> None:
    averaged = {key: value + 1 for key, value in tiny_state().items()}
    torch.save({"model": tiny_state(), "model_ema": averaged}, tmp_path / "run.pth")
    checkpoint = read_checkpoint(tmp_path / "run.pth")
    assert torch.equal(checkpoint.tensors["0.weight"], tiny_state()["0.weight"])
    assert "also holds averaged weights (model_ema)" in checkpoint.notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32_and_integers_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: v.to(dtype) if v.is_floating_point() else v for key, v in tiny_state().items()}
    torch.save(state, tmp_path / "w.pth")
    checkpoint = read_checkpoint(tmp_path / "w.pth")
    name = str(dtype).removeprefix("torch.")
    assert checkpoint.stored_dtype == name
    assert checkpoint.notes == (f"the weights are stored as {name} and used as float32",)
    assert torch.equal(checkpoint.tensors["0.weight"], state["0.weight"].float())
    assert checkpoint.tensors["1.num_batches_tracked"].dtype == torch.int64
    assert {v.dtype for v in checkpoint.tensors.values()} == {torch.float32, torch.int64}


def test_a_file_of_several_types_is_mixed(tmp_path: Path) -> None:
    state = {key: v.half() if key.startswith("0.") else v for key, v in tiny_state().items()}
    torch.save(state, tmp_path / "mixed.pth")
    assert read_checkpoint(tmp_path / "mixed.pth").stored_dtype == "mixed"


def harmless_extras() -> dict[str, Any]:
    return {
        "args": argparse.Namespace(lr=0.1, arch="tiny"),
        "best": np.float64(0.9),
        "history": np.arange(3.0),
        "out": pathlib.PurePosixPath("runs/1"),
        "started": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    }


@pytest.mark.parametrize("extra", ["args", "best", "history", "out", "started"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_harmless_extra_is_named_and_loads_once_it_is_allowed_as_the_hint_says(extra: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    torch.save({"state_dict": tiny_state(), extra: harmless_extras()[extra]}, path, _use_new_zipfile_serialization=not legacy)
    before = set(torch.serialization.get_safe_globals())
    with pytest.raises(WeightsError, match="holds more than tensors") as caught:
        read_checkpoint(path)
    assert caught.value.hint is not None
    assert "harmless" in caught.value.hint
    allowed = caught.value.hint.split("--allow-type ")[1:]
    checkpoint = read_checkpoint(path, allow_types=[name.strip() for name in allowed])
    assert torch.equal(checkpoint.tensors["3.bias"], tiny_state()["3.bias"])
    assert set(torch.serialization.get_safe_globals()) == before  # nothing stays allowed afterwards


class Trap:
    """A hostile object: rebuilding it calls a function of the file's choosing."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("allow_types", [(), HARMLESS_TYPES], ids=["nothing allowed", "all harmless types allowed"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "plain pickle, protocol 4"])
@pytest.mark.parametrize("call", ["open", "exec", "touch"])
def test_a_hostile_file_never_runs_and_its_function_is_never_offered(
    call: str, kind: str, allow_types: tuple[str, ...], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    trap = {
        "open": Trap(open, str(marker), "w"),
        "exec": Trap(exec, f"open({str(marker)!r}, 'w')"),
        "touch": Trap(Path.touch, marker),
    }[call]
    path = tmp_path / "trap.pth"
    if kind in ("zip", "legacy"):
        torch.save({"state_dict": tiny_state(), "extra": trap}, path, _use_new_zipfile_serialization=kind == "zip")
    else:
        path.write_bytes(pickle.dumps({"extra": trap}, protocol=4 if kind.endswith("4") else 2))
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path, allow_types=allow_types)
    list_globals(path, CheckpointFormat.ZIP if kind == "zip" else CheckpointFormat.LEGACY)
    assert not marker.exists()
    assert "--allow-type" not in f"{caught.value} {caught.value.hint}"
    if kind == "zip" and call == "open":
        assert "it calls io.open" in str(caught.value)


def test_only_harmless_types_can_be_allowed(tmp_path: Path) -> None:
    torch.save(tiny_state(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"type io.open cannot be allowed by name; those that can: argparse.Namespace"):
        read_checkpoint(tmp_path / "w.pth", allow_types=["io.open"])


def test_unsafe_pickle_runs_the_file_and_says_so(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"state_dict": tiny_state(), "extra": Trap(os.mkdir, str(marker))}, tmp_path / "own.pth")
    checkpoint = read_checkpoint(tmp_path / "own.pth", unsafe_pickle=True)
    assert marker.exists()
    assert checkpoint.notes == ("the pickle in own.pth was allowed to run any code it holds",)


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    for name, stored in (("module.pth", model), ("under_model.pth", {"model": model})):
        torch.save(stored, tmp_path / name)
        with pytest.raises(WeightsError, match="holds a whole pickled module") as caught:
            read_checkpoint(tmp_path / name)
        assert caught.value.hint is not None
        assert "torch.save(model.state_dict()" in caught.value.hint
        assert set(read_checkpoint(tmp_path / name, unsafe_pickle=True).tensors) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_the_tensors_name(value: float, tmp_path: Path) -> None:
    state = tiny_state()
    state["1.running_var"][3] = value
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1.running_var holds 1 of 8 values that are NaN or infinite"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_float64_value_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([1e300, 1.0], dtype=torch.float64)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="w holds 1 of 2 values"):
        read_checkpoint(tmp_path / "w.pth")


def test_tensors_that_are_not_dense_real_numbers_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w is strided, complex64, expected dense real numbers"):
        read_checkpoint(tmp_path / "w.pth")
