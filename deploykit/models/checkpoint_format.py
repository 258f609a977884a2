"""What a file is before anything in it is loaded: a path in, its kind or a clear refusal out. Nothing is executed. Needs no torch.

A checkpoint of ``torch.save`` is a pickle, a program that may call any function of any installed module. ``torch.load`` with
``weights_only=True`` runs only calls that rebuild tensors (https://docs.pytorch.org/docs/stable/notes/serialization.html); this
module words the refusals, and reads the names that such a program calls off its opcodes (``pickletools``), without running it.
"""

import io
import pickletools
import re
import zipfile
from enum import Enum
from pathlib import Path
from typing import IO

from deploykit.errors import WeightsError

LEGACY_PICKLES = 4  # torch.save before 1.6: magic number, protocol, machine, object; tensors' bytes follow
SAVE_STATE_DICT = "load it in your training code and save the weights alone: torch.save(model.state_dict(), 'weights.pth')"

# Types that hold plain values: rebuilding one runs no code of the file's choosing. Nothing else can be allowed by name.
HARMLESS_TYPES = (
    "argparse.Namespace",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "types.SimpleNamespace",
)

# What weights_only allows by itself. Only the wording of a message depends on this list: torch.load is the judge.
_REBUILDS_TENSORS = re.compile(
    r"torch\.\w+|torch\._utils\._rebuild_\w+|torch\.storage\.\w+|torch\.nn\.parameter\.\w+|torch\.serialization\.\w+|"
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
)
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for", "fetch the file itself: git lfs pull"),
    (b"\x89HDF", "an HDF5 file (Keras)", "give a PyTorch checkpoint"),
    (b"<!DOCTYPE", "a web page", "the download needs a login or another address"),
    (b"<html", "a web page", "the download needs a login or another address"),
    (b"\x93NUMPY", "a numpy array", "give a PyTorch checkpoint"),
    (b"\x08", "an ONNX graph or another protocol buffer", "give the PyTorch checkpoint that it was made from"),
)


class CheckpointFormat(Enum):
    """How a checkpoint is stored."""

    ZIP = "zip"  # torch.save since 1.6
    LEGACY = "legacy"  # torch.save before
    SAFETENSORS = "safetensors"


def find_format(path: Path) -> CheckpointFormat:
    """Tell a checkpoint's format from its content, whatever its name ends in.

    Raises:
        WeightsError: the file does not exist, is empty, cut off, or is something else than a checkpoint.
    """
    if not path.is_file():
        seen = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"{path} {seen}, expected a checkpoint file", hint="give a .pth, .pt, .bin or .safetensors file")
    size = path.stat().st_size
    if size == 0:
        raise WeightsError(f"{path} is empty", hint="copy or download it again")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK"):
        return _check_zip(path, size)
    # A safetensors file opens with the length of its JSON header, 8 bytes, and the header.
    if head[8:9] == b"{":
        return CheckpointFormat.SAFETENSORS
    if head.startswith(b"\x80"):
        return CheckpointFormat.LEGACY
    for magic, name, hint in _OTHER_FORMATS:
        if head.lstrip().startswith(magic):
            raise WeightsError(f"{path} is {name}", hint=hint)
    raise WeightsError(
        f"{path} is not a checkpoint: it begins with {head[:16]!r}",
        hint="give a file written by torch.save or safetensors (.pth, .pt, .bin, .safetensors)",
    )


def _check_zip(path: Path, size: int) -> CheckpointFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise WeightsError(f"{path} is cut off or damaged ({size} bytes)", hint="copy or download it again") from None
    inner = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise WeightsError(f"{path} is a TorchScript archive: a program, not only weights", hint=SAVE_STATE_DICT)
    if "data.pkl" not in inner:
        raise WeightsError(
            f"{path} is a zip archive without a checkpoint: it holds {', '.join(names[:3]) or 'nothing'}",
            hint="give a file written by torch.save, unpacked if need be",
        )
    return CheckpointFormat.ZIP


def explain_refusal(path: Path, file_format: CheckpointFormat, allowed: tuple[str, ...]) -> WeightsError:
    """The error for a file that the safe loader refused, naming what the file calls.

    Only harmless types are ever offered to be allowed. PyTorch's own message offers to allow whatever the file calls, for instance
    ``io.open``: that advice must not reach anyone.

    Args:
        path: the file.
        file_format: as ``find_format`` says.
        allowed: names that were allowed already.
    """
    names = list_globals(path, file_format)
    if any(name.startswith("torch.nn.modules.") for name in names):
        classes = [n for n in names if not n.startswith(("torch.nn.", "torch._C")) and not _REBUILDS_TENSORS.fullmatch(n)]
        kind = f" (class {', '.join(classes[:3])})" if classes else ""
        return WeightsError(f"{path} holds a whole pickled module{kind}, whose code would have to run", hint=SAVE_STATE_DICT)
    refused = [name for name in names if not _REBUILDS_TENSORS.fullmatch(name) and name not in allowed]
    if refused and all(name in HARMLESS_TYPES for name in refused):
        flags = " ".join(f"--allow-type {name}" for name in refused)
        return WeightsError(
            f"{path} holds more than tensors: {', '.join(refused)}",
            hint=f"these types are harmless; allow them by name: {flags}",
        )
    strangers = [name for name in refused if name not in HARMLESS_TYPES]
    called = f"it calls {', '.join(strangers[:5])}" if strangers else "its pickle is not one that torch.save makes of tensors"
    return WeightsError(
        f"{path} needs code to be run, which is refused: {called}",
        hint=f"{SAVE_STATE_DICT}. Only if you trust whoever made the file: --unsafe-pickle runs any code it holds",
    )


def list_globals(path: Path, file_format: CheckpointFormat) -> list[str]:
    """The functions and classes that a checkpoint's pickle names, sorted, read off its opcodes without running any.

    For words in a message only: a pickle can hide a name from this reading, and nothing is allowed or refused by it.
    """
    if file_format is CheckpointFormat.SAFETENSORS:
        return []
    names: set[str] = set()
    if file_format is CheckpointFormat.ZIP:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
            _collect_globals(io.BytesIO(archive.read(member)), names)
    else:
        with path.open("rb") as file:
            for _ in range(LEGACY_PICKLES):
                if not _collect_globals(file, names):
                    break
    return sorted(names)


def _collect_globals(stream: IO[bytes], names: set[str]) -> bool:
    """Add the globals of the pickle at the stream's position; False where it is no whole pickle."""
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                # Protocol 2 writes Python 2's name of the module, which every loader translates.
                names.add(re.sub(r"^__builtin__\.", "builtins.", str(argument).replace(" ", ".")))
            elif opcode.name == "STACK_GLOBAL":  # takes its module and name from the stack: as a rule the last two texts
                names.add(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, IndexError, OverflowError):
        return False
    return True
