"""Reads a checkpoint: a file in, float32 tensors by name and what else must be known out. No code of the file is run.

The tensors are found inside the dictionaries that training scripts save, freed of the prefixes that wrappers leave, and checked:
every one finite, dense, and of a type that float32 can hold.
"""

import argparse
import datetime
import pathlib
import pickle
import types
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from deploykit.bundle import sha256_of
from deploykit.errors import UsageError, WeightsError
from deploykit.models.checkpoint_format import HARMLESS_TYPES, CheckpointFormat, explain_refusal, find_format

# Where training scripts keep the weights, in the order of preference; averaged weights come last.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
PREFIXES = ("module.", "_orig_mod.")  # DataParallel and DistributedDataParallel; torch.compile

_NUMPY_DTYPES = [type(np.dtype(code)) for code in "?bhilqBHILQefdUS"]
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_RECONSTRUCT = np.zeros(0).__reduce__()[0]
# What each of HARMLESS_TYPES stands for. Numpy's functions moved in 2.0: files name either place.
_ALLOWED_OBJECTS: Mapping[str, Sequence[Any]] = {
    "argparse.Namespace": [argparse.Namespace],
    "datetime.datetime": [datetime.datetime],
    "datetime.timedelta": [datetime.timedelta],
    "datetime.timezone": [datetime.timezone],
    "numpy.core.multiarray._reconstruct": [_NUMPY_RECONSTRUCT],
    "numpy.core.multiarray.scalar": [_NUMPY_SCALAR],
    "numpy._core.multiarray._reconstruct": [_NUMPY_RECONSTRUCT],
    "numpy._core.multiarray.scalar": [_NUMPY_SCALAR],
    "numpy.dtype": [np.dtype],
    "numpy.ndarray": [np.ndarray],
    # A path is only a record here: the pure class reads on every system.
    "pathlib.PosixPath": [pathlib.PurePosixPath],
    "pathlib.PurePosixPath": [pathlib.PurePosixPath],
    "pathlib.PureWindowsPath": [pathlib.PureWindowsPath],
    "pathlib.WindowsPath": [pathlib.PureWindowsPath],
    "types.SimpleNamespace": [types.SimpleNamespace],
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A file's weights.

    Args:
        tensors: by name without wrappers' prefixes; floating-point ones as float32, integers as they were.
        stored_dtype: the floating-point type in the file, ``mixed`` where there are several.
        sha256: of the file.
        containers: the dictionaries around the state dict, from the outside in; empty where it stands alone.
        notes: what the user must be told.
    """

    tensors: Mapping[str, Tensor]
    stored_dtype: str
    sha256: str
    containers: tuple[Mapping[Any, Any], ...]
    notes: tuple[str, ...]


def read_checkpoint(path: str | Path, *, allow_types: Sequence[str] = (), unsafe_pickle: bool = False) -> Checkpoint:
    """Read .pth, .pt, .bin (torch.save) and .safetensors files.

    Args:
        path: the file.
        allow_types: names out of ``HARMLESS_TYPES`` that the file may hold beside tensors.
        unsafe_pickle: run whatever code the file holds. For files of one's own making.

    Raises:
        UsageError: a type was allowed that is not harmless.
        WeightsError: the file is no checkpoint, needs code, or holds tensors that cannot be used.
    """
    path = Path(path)
    strangers = [name for name in allow_types if name not in HARMLESS_TYPES]
    if strangers:
        raise UsageError(
            f"type {strangers[0]} cannot be allowed by name; those that can: {', '.join(HARMLESS_TYPES)}",
            hint="save the weights alone from the training code: torch.save(model.state_dict(), 'weights.pth')",
        )
    file_format = find_format(path)
    stored = _load(path, file_format, tuple(allow_types), unsafe_pickle)
    notes = [f"the pickle in {path.name} was allowed to run any code it holds"] if unsafe_pickle else []
    state, containers, taken = _find_state(stored, path)
    averaged = [key for container in containers for key in AVERAGED if key in container]
    if averaged and not set(averaged) & set(taken):
        notes.append(f"{path.name} also holds averaged weights ({averaged[0]}), which were not taken; save them alone to use them")
    state = _strip_prefixes(state, path)
    stored_dtype = _name_dtype(state)
    if stored_dtype != "float32":
        notes.append(f"the weights are stored as {stored_dtype} and used as float32")
    tensors = {name: _check_tensor(name, tensor, path) for name, tensor in state.items()}
    return Checkpoint(tensors, stored_dtype, sha256_of(path), containers, tuple(notes))


def _load(path: Path, file_format: CheckpointFormat, allow_types: tuple[str, ...], unsafe_pickle: bool) -> Any:
    """The object in the file, loaded by the safe loader unless the unsafe one was asked for."""
    try:
        if file_format is CheckpointFormat.SAFETENSORS:
            return safetensors.torch.load_file(path)
        if unsafe_pickle:
            return torch.load(path, map_location="cpu", weights_only=False)
        allowed = [(thing, name) for name in allow_types for thing in _ALLOWED_OBJECTS[name]]
        dtypes = _NUMPY_DTYPES if "numpy.dtype" in allow_types else []
        with torch.serialization.safe_globals([*allowed, *dtypes]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol; what the loader cannot read, it refuses below
            # Mapped, a file's pages are read once, when the tensors are copied; the legacy format cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=file_format is CheckpointFormat.ZIP)
    except pickle.UnpicklingError:
        raise explain_refusal(path, file_format, allow_types) from None
    except (RuntimeError, EOFError, ValueError, KeyError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} cannot be read as a checkpoint: {reason}", hint="copy or download it again") from error


def _find_state(stored: Any, path: Path) -> tuple[Mapping[str, Tensor], tuple[Mapping[Any, Any], ...], tuple[str, ...]]:
    """The state dict inside the wrappers, the wrappers, and the key taken from each."""
    containers: list[Mapping[Any, Any]] = []
    taken: list[str] = []
    while True:
        if isinstance(stored, nn.Module):  # only after --unsafe-pickle
            stored = stored.state_dict()
        if not isinstance(stored, Mapping):
            raise WeightsError(f"{path} holds a {type(stored).__name__}, expected tensors by name", hint="save model.state_dict()")
        inner = [key for key in (*WRAPPERS, *AVERAGED) if isinstance(stored.get(key), Mapping | nn.Module) and stored[key]]
        if not inner:
            break
        containers.append(stored)
        taken.append(inner[0])
        stored = stored[inner[0]]
    others = [f"{key} ({type(value).__name__})" for key, value in stored.items() if not isinstance(value, Tensor)]
    if len(others) == len(stored):
        raise WeightsError(
            f"{path} holds no tensors by name; its keys are {', '.join(map(str, list(stored)[:5])) or 'none'}",
            hint=f"save model.state_dict(), alone or under one of {', '.join(WRAPPERS[:4])}",
        )
    if others:
        raise WeightsError(f"{path} mixes tensors with {', '.join(others[:3])}", hint="save model.state_dict() alone")
    return stored, tuple(containers), tuple(taken)


def _strip_prefixes(state: Mapping[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    """Take off what wrappers put before every name. A prefix that only some names have is never taken off."""
    while True:
        for prefix in PREFIXES:
            having = [name for name in state if name.startswith(prefix)]
            if len(having) == len(state):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
                break
            if having:
                other = next(name for name in state if not name.startswith(prefix))
                raise WeightsError(
                    f"{path}: {len(having)} of {len(state)} keys begin with {prefix!r} ({having[0]}), the others do not ({other})",
                    hint="two checkpoints may have been mixed; save model.state_dict() again",
                )
        else:
            return state


def _name_dtype(state: Mapping[str, Tensor]) -> str:
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    return "mixed" if len(names) > 1 else names.pop() if names else "float32"


def _check_tensor(name: str, tensor: Tensor, path: Path) -> Tensor:
    """A copy that can be computed with: floating-point values as float32, integers as they are."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout}, {tensor.dtype}".replace("torch.", "")
        raise WeightsError(f"{path}: {name} is {kind}, expected dense real numbers", hint="save the float model's state_dict()")
    copied = tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
    broken = copied.numel() - int(torch.isfinite(copied).sum()) if copied.is_floating_point() else 0
    if broken:
        raise WeightsError(
            f"{path}: {name} holds {broken} of {copied.numel()} values that are NaN or infinite",
            hint="the training run diverged, or the file is damaged; use an earlier checkpoint",
        )
    return copied
